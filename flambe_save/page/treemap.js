// Bytes by component, as nested rectangles: a few hundred at most, from one component downwards.

const MOST_CELLS = 320;
const MOST_PARTS = [180, 60, 24]; // of one component, by its depth; the smallest are put together
const HEADER = 18;
const GAP = 3;

/** Lay out values in a rectangle so that each is as square as can be (Bruls, Huizing and van Wijk, 2000). */
function squarify(values, { x, y, w, h: height }) {
  const total = values.reduce((sum, value) => sum + value, 0);
  const scale = (w * height) / total;
  const places = [];
  const worst = (row, sum, side) => Math.max((side * side * row[0]) / (sum * sum), (sum * sum) / (side * side * row.at(-1)));
  for (let start = 0; start < values.length; ) {
    const side = Math.min(w, height);
    let [row, sum] = [[values[start] * scale], values[start] * scale];
    let end = start + 1;
    for (; end < values.length; end++) {
      const area = values[end] * scale;
      if (worst([...row, area], sum + area, side) > worst(row, sum, side)) break;
      row.push(area);
      sum += area;
    }
    const depth = Math.min(sum / side, Math.max(w, height));
    let along = 0;
    for (const area of row) {
      const length = (area / sum) * side;
      places.push(w >= height ? { x, y: y + along, w: depth, h: length } : { x: x + along, y, w: length, h: depth });
      along += length;
    }
    if (w >= height) [x, w] = [x + depth, Math.max(w - depth, 0)];
    else [y, height] = [y + depth, Math.max(height - depth, 0)];
    start = end;
  }
  return places;
}

class Treemap {
  /** `paint(cell)` gives the class of a cell's colour, `choose(node, tensor, save)` is called when one is chosen. */
  constructor(forest, paint, legend, choose) {
    Object.assign(this, { forest, paint, choose, focus: forest.roots[0] ?? -1, selected: -1, cells: [], width: 0 });
    this.drawing = s("svg", {
      role: "group",
      "aria-label": "Bytes by component. Arrow keys move between rectangles, Enter selects one.",
      click: (event) => this.press(event.target.closest("g")),
      dblclick: (event) => this.zoom(event.target.closest("g")?.cell.node ?? -1),
      keydown: (event) => this.keydown(event),
    });
    this.crumbs = h("div", { class: "crumbs", role: "group", "aria-label": "The treemap shows" });
    this.inside = h("button", { type: "button", class: "quiet", click: () => this.zoom(this.selected) }, "Zoom in");
    this.element = h(
      "section",
      { class: "map", "aria-labelledby": "map-title" },
      h("div", { class: "map-head" }, h("h2", { id: "map-title" }, "Bytes by component"), this.crumbs, this.inside),
      this.drawing,
      legend,
    );
    new ResizeObserver(([entry]) => {
      const width = Math.round(entry.contentRect.width);
      if (width && width !== this.width) this.draw(width);
    }).observe(this.element);
  }

  /** What a component is made of, the largest first. */
  parts(node, most) {
    const { forest } = this;
    const parts = forest.children[node].map((child) => ({ node: child, tensor: -1, bytes: forest.bytes(child) }));
    const { save, place } = forest.of(node);
    for (const tensor of save.tensorsOf(place)) {
      parts.push({ node, tensor, save, bytes: save.tensors.bytes[tensor] });
    }
    const shown = parts.filter((part) => part.bytes > 0).sort((one, other) => other.bytes - one.bytes);
    if (shown.length <= most) return shown;
    const rest = shown.splice(most - 1);
    const bytes = rest.reduce((sum, part) => sum + part.bytes, 0);
    const at = shown.findIndex((part) => part.bytes < bytes);
    shown.splice(at < 0 ? shown.length : at, 0, { node, tensor: -1, rest: rest.length, bytes });
    return shown;
  }

  draw(width = this.width) {
    this.width = width;
    const height = Math.round(Math.max(200, Math.min(360, width * 0.42)));
    const top = { node: this.focus, tensor: -1, bytes: this.forest.bytes(this.focus), x: 0, y: 0, w: width, h: height, depth: 0 };
    const cells = [top];
    const waiting = [top];
    while (waiting.length) {
      const cell = waiting.shift();
      const inner = { x: cell.x + GAP, y: cell.y + HEADER, w: cell.w - 2 * GAP, h: cell.h - HEADER - GAP };
      if (inner.w < 24 || inner.h < 14) continue;
      const parts = this.parts(cell.node, MOST_PARTS[Math.min(cell.depth, 2)]);
      if (!parts.length || cells.length + parts.length > MOST_CELLS) continue;
      if (parts.length === 1 && parts[0].tensor >= 0 && cell.depth > 0) continue;
      cell.frame = true;
      const places = squarify(parts.map((part) => part.bytes), inner);
      parts.forEach((part, at) => {
        const { x, y, w, h: tall } = places[at];
        if (w < 1.5 || tall < 1.5) return;
        const child = { ...part, x, y, w: w - 1, h: tall - 1, depth: cell.depth + 1 };
        cells.push(child);
        if (child.tensor < 0 && !child.rest) waiting.push(child);
      });
      waiting.sort((one, other) => other.w * other.h - one.w * one.h);
    }
    this.cells = cells;
    this.drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.drawing.setAttribute("height", height);
    // The texts lie over all rectangles: what a rectangle is called by assistive technology is whole, not cut to fit
    this.drawing.replaceChildren(...cells.map((cell) => this.cell(cell)), s("g", { class: "texts", "aria-hidden": "true" }, cells.map((cell) => this.text(cell))));
    cells[0].element.setAttribute("tabindex", "0");
    this.crumb();
    this.outline();
  }
  title(cell) {
    const name = this.forest.name(cell.node);
    if (cell.rest) return `${plural(cell.rest, "part")} more of ${name}`;
    return cell.tensor < 0 ? name : `${word(cell.save.tensors.name[cell.tensor])} of ${name}`;
  }
  /** What is written in a rectangle, as far as there is room. */
  text(cell) {
    const { x, y, w, h: height, frame } = cell;
    let text = this.forest.label(cell.node);
    if (cell.rest) text = `${whole(cell.rest)} more`;
    else if (cell.tensor >= 0) text = word(cell.save.tensors.name[cell.tensor]);
    if (frame && w > 110) text += `  ${size(cell.bytes)}`;
    const room = Math.floor((w - 8) / 6.4);
    if (text.length > room) text = room > 2 ? `…${[...text].slice(1 - room).join("")}` : ""; // the end of a name tells most
    return text && height >= 15 && s("text", { class: frame ? "head" : null, x: (x + 5).toFixed(1), y: (y + 13).toFixed(1) }, text);
  }
  cell(cell) {
    const { x, y, w, h: height } = cell;
    const total = this.forest.bytes(this.focus) || 1;
    const title = `${this.title(cell)}, ${size(cell.bytes)}, ${((100 * cell.bytes) / total).toFixed(1)}%`;
    const kind = cell.frame ? `frame depth-${Math.min(cell.depth, 4)}` : cell.rest ? "rest" : this.paint(cell);
    cell.element = s(
      "g",
      { role: "button", tabindex: -1, class: `cell ${kind}`, "aria-label": title },
      s("title", {}, title),
      s("rect", { x: x.toFixed(1), y: y.toFixed(1), width: Math.max(w, 0.5).toFixed(1), height: Math.max(height, 0.5).toFixed(1), rx: cell.frame ? 4 : 2 }),
    );
    cell.element.cell = cell;
    return cell.element;
  }

  crumb() {
    const path = this.forest.path(this.focus);
    const shown = path.length > 5 ? [path[0], null, ...path.slice(-3)] : path;
    this.crumbs.replaceChildren(
      ...shown.map((node) =>
        node === null
          ? h("span", {}, "…")
          : h("button", { type: "button", class: "quiet", "aria-current": node === this.focus ? "true" : null, click: () => this.zoom(node) }, this.forest.label(node)),
      ),
    );
  }
  zoom(node) {
    if (node < 0 || node === this.focus) return;
    const had = this.drawing.contains(document.activeElement);
    this.focus = node;
    this.draw();
    if (had) this.point(this.cells[0]);
  }

  /** Outline a component; where it has no rectangle, go to the one that holds it. */
  show(node) {
    this.selected = node;
    if (this.width && !this.cells.some((cell) => cell.node === node && cell.tensor < 0)) {
      const parent = this.forest.parent(node);
      this.zoom(this.forest.bytes(node) && this.forest.children[node].length ? node : parent < 0 ? node : parent);
    }
    this.outline();
  }
  outline() {
    for (const cell of this.cells) {
      const current = cell.node === this.selected && cell.tensor < 0 && !cell.rest;
      cell.element.classList.toggle("selected", current);
      if (current) cell.element.setAttribute("aria-current", "true");
      else cell.element.removeAttribute("aria-current");
    }
    const hasParts = this.selected >= 0 && this.forest.children[this.selected].length > 0;
    this.inside.hidden = !hasParts || this.selected === this.focus;
  }

  press(element) {
    if (!element) return;
    this.point(element.cell, false);
    this.choose(element.cell.node, element.cell.tensor, element.cell.save);
  }
  point(cell, focus = true) {
    this.drawing.querySelector('[tabindex="0"]')?.setAttribute("tabindex", "-1");
    cell.element.setAttribute("tabindex", "0");
    if (focus) cell.element.focus();
  }
  keydown(event) {
    const cell = event.target.closest("g")?.cell;
    if (!cell || event.altKey || event.ctrlKey || event.metaKey) return;
    const ways = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
    if (event.key === "Enter" || event.key === " ") this.press(cell.element);
    else if (event.key === "Home") this.point(this.cells[0]);
    else if (event.key === "End") this.point(this.cells.at(-1));
    else if (event.key in ways) {
      const next = this.beside(cell, ways[event.key]);
      if (next) this.point(next);
    } else return;
    event.preventDefault();
  }
  /** The nearest rectangle in a direction, measured from where the titles are. */
  beside(cell, [right, down]) {
    const corner = (of) => (of.frame ? [of.x, of.y] : [of.x + 4, of.y + 4]);
    const [x, y] = corner(cell);
    let [best, least] = [null, Infinity];
    for (const other of this.cells) {
      const [across, along] = [corner(other)[0] - x, corner(other)[1] - y];
      const forward = across * right + along * down;
      const sideways = Math.abs(across * down) + Math.abs(along * right);
      const distance = forward + 3 * sideways;
      if (other !== cell && forward > 0.5 && distance < least) [best, least] = [other, distance];
    }
    return best;
  }
}

/** The classes that have a colour of their own, with it. */
function classLegend() {
  const names = [...COLOURS].map(([name, place]) => h("li", {}, h("span", { class: `dot colour-${place}` }), h("span", { class: "name" }, name ?? "–")));
  return h("ul", { class: "legend", "aria-label": "Colours of classes" }, names);
}
function movedLegend() {
  const steps = STEPS.map((text, at) => h("li", {}, h("span", { class: `dot step-${at}` }), text));
  const kinds = ["added", "removed"].map((kind) => h("li", {}, h("span", { class: `dot ${kind}` }), kind));
  return h("ul", { class: "legend", "aria-label": "Colours of how far tensors moved, relative to their norm" }, h("li", { class: "muted" }, "moved by"), steps, kinds);
}
