// The tree of components, after the tree pattern of WAI-ARIA: rows of one list that know their level.

class Tree {
  constructor(forest, select) {
    Object.assign(this, { forest, select, rows: new Map(), opened: new Set(), limits: new Map(), selected: -1, typed: "" });
    this.element = h("div", {
      class: "tree",
      role: "tree",
      "aria-label": "Components",
      click: (event) => this.click(event),
      keydown: (event) => this.keydown(event),
    });
    this.element.append(...this.build(-1));
    // As many levels as fit on a screen
    let level = [...forest.roots];
    for (let shown = level.length; level.length; ) {
      const next = level.flatMap((node) => forest.children[node]);
      shown += next.length;
      if (level !== forest.roots && shown > 40 && this.opened.size) break;
      level.slice(0, PAGE_ROWS).forEach((node) => this.rows.has(node) && this.open(node));
      level = next.length > PAGE_ROWS ? [] : next;
    }
    this.focusable = this.element.firstElementChild;
    this.focusable?.setAttribute("tabindex", "0");
  }

  kin(parent) { return parent < 0 ? this.forest.roots : this.forest.children[parent]; }
  level(row) { return Number(row.getAttribute("aria-level")); }

  /** The rows of what a component holds, and of what is open in there. */
  build(parent) {
    const kin = this.kin(parent);
    const level = parent < 0 ? 1 : this.level(this.rows.get(parent)) + 1;
    const limit = this.limits.get(parent) ?? PAGE_ROWS;
    const rows = [];
    kin.slice(0, limit).forEach((node, at) => {
      rows.push(this.row(node, level, at, kin.length));
      if (this.opened.has(node)) rows.push(...this.build(node));
    });
    if (kin.length > limit) rows.push(this.moreRow(parent, level, kin.length - limit));
    return rows;
  }
  row(node, level, at, count) {
    const { forest } = this;
    const mark = forest.mark(node);
    const row = h(
      "div",
      {
        role: "treeitem",
        class: "row",
        tabindex: -1,
        "aria-level": level,
        "aria-posinset": at + 1,
        "aria-setsize": count,
        "aria-expanded": forest.children[node].length ? String(this.opened.has(node)) : null,
        "aria-selected": String(node === this.selected),
        title: `${forest.name(node)} · ${forest.className(node)}`,
      },
      h("span", { class: "twisty", "aria-hidden": "true" }),
      h("span", { class: `dot ${colour(forest.className(node))}`, "aria-hidden": "true" }),
      h("span", { class: "label name" }, forest.label(node)),
      h("span", { class: "class name" }, forest.className(node)),
      mark && h("span", { class: `mark ${mark.kind}` }, h("span", { class: "hidden" }, mark.text)),
      h("span", { class: "size" }, size(forest.bytes(node))),
    );
    row.style.setProperty("--level", Math.min(level - 1, 12));
    this.rows.set(node, row);
    row.node = node;
    return row;
  }
  moreRow(parent, level, left) {
    const row = h(
      "div",
      { role: "treeitem", class: "row rest", tabindex: -1, "aria-level": level, "aria-selected": "false" },
      h("span", { class: "label" }, `Show ${whole(Math.min(PAGE_ROWS, left))} more of ${whole(left)}`),
    );
    row.style.setProperty("--level", Math.min(level - 1, 12));
    row.more = parent;
    return row;
  }

  open(node) {
    if (!this.forest.children[node].length || this.opened.has(node)) return;
    this.opened.add(node);
    const row = this.rows.get(node);
    row.setAttribute("aria-expanded", "true");
    row.after(...this.build(node));
  }
  close(node) {
    if (!this.opened.delete(node)) return;
    const row = this.rows.get(node);
    row.setAttribute("aria-expanded", "false");
    this.clear(row);
    if (!this.focusable.isConnected) this.point(row);
  }
  /** Take away the rows below one. */
  clear(row) {
    const level = this.level(row);
    for (let next = row.nextElementSibling; next && this.level(next) > level; next = row.nextElementSibling) {
      this.rows.delete(next.node);
      next.remove();
    }
  }
  /** Show more of what a component holds. */
  grow(parent, limit) {
    const kin = this.kin(parent);
    const before = Math.min(this.limits.get(parent) ?? PAGE_ROWS, kin.length);
    if (limit <= before) return;
    this.limits.set(parent, limit);
    if (parent < 0) this.element.replaceChildren(...this.build(-1));
    else {
      const row = this.rows.get(parent);
      this.clear(row);
      row.after(...this.build(parent));
    }
    return this.rows.get(kin[before]);
  }

  /** Select a component and bring it into view. */
  show(node) {
    for (const [at, above] of this.forest.path(node).entries()) {
      const parent = this.forest.parent(above);
      if (at) this.open(parent);
      if (!this.rows.has(above)) this.grow(parent, Math.ceil((this.kin(parent).indexOf(above) + 1) / PAGE_ROWS) * PAGE_ROWS);
    }
    this.rows.get(this.selected)?.setAttribute("aria-selected", "false");
    this.selected = node;
    const row = this.rows.get(node);
    row.setAttribute("aria-selected", "true");
    const had = this.element.contains(document.activeElement);
    this.point(row, had);
    this.scrollTo(row);
  }
  scrollTo(row) {
    // Only the list itself is scrolled, never the page
    const list = this.element.parentElement;
    if (!list) return;
    const [inner, outer] = [row.getBoundingClientRect(), list.getBoundingClientRect()];
    if (inner.top < outer.top + 40) list.scrollTop -= outer.top + 40 - inner.top;
    else if (inner.bottom > outer.bottom - 20) list.scrollTop += inner.bottom - outer.bottom + 20;
  }
  point(row, focus = true) {
    this.focusable?.setAttribute("tabindex", "-1");
    this.focusable = row;
    row.setAttribute("tabindex", "0");
    if (focus) row.focus();
  }

  press(row) {
    if (row.more !== undefined) {
      const first = this.grow(row.more, (this.limits.get(row.more) ?? PAGE_ROWS) + PAGE_ROWS);
      if (first) this.point(first);
    } else this.select(row.node);
  }
  click(event) {
    const row = event.target.closest(".row");
    if (!row) return;
    if (event.target.closest(".twisty") && row.hasAttribute("aria-expanded")) this.toggle(row.node);
    else {
      this.point(row);
      if (row.node !== undefined && row.node === this.selected) this.toggle(row.node);
      this.press(row);
    }
  }
  toggle(node) {
    if (this.opened.has(node)) this.close(node);
    else this.open(node);
  }
  keydown(event) {
    const row = event.target.closest(".row");
    if (!row || event.altKey || event.ctrlKey || event.metaKey) return;
    const expanded = row.getAttribute("aria-expanded");
    const moves = {
      ArrowDown: () => row.nextElementSibling,
      ArrowUp: () => row.previousElementSibling,
      Home: () => this.element.firstElementChild,
      End: () => this.element.lastElementChild,
      ArrowRight: () => (expanded === "false" ? this.open(row.node) : expanded && row.nextElementSibling),
      ArrowLeft: () => (expanded === "true" ? this.close(row.node) : this.above(row)),
      Enter: () => this.press(row),
      " ": () => this.press(row),
    };
    if (event.key in moves) {
      event.preventDefault();
      const next = moves[event.key]();
      if (next) this.point(next);
    } else if (event.key.length === 1 && event.key !== "/") this.type(event.key, row);
  }
  above(row) {
    const level = this.level(row);
    let above = row.previousElementSibling;
    while (above && this.level(above) >= level) above = above.previousElementSibling;
    return above;
  }
  /** Go to the next row whose name begins with what was typed within a second. */
  type(key, row) {
    const now = performance.now();
    this.typed = now - (this.typedAt ?? 0) < 1000 ? this.typed + key.toLowerCase() : key.toLowerCase();
    this.typedAt = now;
    const rows = [...this.element.children];
    const from = rows.indexOf(row) + (this.typed.length === 1 ? 1 : 0);
    const found = [...rows.slice(from), ...rows.slice(0, from)].find(
      (other) => other.node !== undefined && this.forest.label(other.node).toLowerCase().startsWith(this.typed),
    );
    if (found) this.point(found);
  }
}
