// The page itself: its head, its views, the search, and the address that says what is shown.

/** A view is what the tree, the map and the panel are of: one save, or the difference of two. */
class View {
  constructor(key, label, forest) {
    Object.assign(this, { key, label, forest, node: forest.roots[0] ?? -1, part: null });
    this.tree = new Tree(forest, (node) => go(this, node));
    const paint = forest === UNION ? (cell) => this.movement(cell) : (cell) => colour(forest.className(cell.node));
    this.map = new Treemap(forest, paint, forest === UNION ? movedLegend() : classLegend(), (...cell) => this.choose(...cell));
    this.panel = h("div", { class: "panel" });
  }
  /** Go to a component, or to a tensor in it; in the difference, a tensor of the address is a change. */
  choose(node, tensor = -1, save = null) {
    go(this, node, tensor >= 0 && this.forest === UNION ? UNION.changeOf(save, tensor) : tensor);
  }
  movement({ node, tensor, save }) {
    const mark = UNION.mark(node)?.kind;
    if (mark === "added" || mark === "removed") return mark;
    if (tensor < 0) return `step-${step(UNION.moved[node])}`;
    const change = UNION.changeOf(save, tensor);
    if (change < 0) return "step-0";
    const kind = word(UNION.changes.kind[change]);
    if (kind === "added" || kind === "removed") return kind;
    const norm = UNION.changes.relative_norm[change];
    return `step-${norm === null ? 5 : step(weight(norm))}`;
  }
  show(node, tensor) {
    this.node = node;
    this.tree.show(node);
    this.map.show(node);
    if (tensor >= 0) this.part = null;
    this.fill();
    if (tensor >= 0) this.content.reveal(tensor);
  }
  fill() {
    const choosePart = (part) => {
      this.part = part;
      this.fill();
      this.panel.querySelector('.chip[aria-pressed="true"]')?.focus();
    };
    this.content = this.forest === UNION ? new Changes(this.node, this.part, choosePart) : new Details(this.key, this.forest, this.node);
    this.panel.replaceChildren(this.content.element);
  }
}

const VIEWS = new Map();
const NAMES = UNION ? { d: "Changes", 0: "Before", 1: "After" } : { 0: "Save" };
let current = null;

function viewOf(key) {
  if (!VIEWS.has(key)) VIEWS.set(key, new View(key, NAMES[key], key === "d" ? UNION : SAVES[Number(key)]));
  return VIEWS.get(key);
}

/** Show something and put it into the address, so that the browser's buttons go back to it. */
function go(view, node, tensor = -1) {
  const address = route(view.key, node, tensor);
  if (location.hash === address) follow();
  else location.hash = address;
}
function follow() {
  const [, key, node, tensor] = /^#v([01d])-c(\d+)(?:-t(\d+))?$/.exec(location.hash) ?? [];
  const first = current === null;
  const view = key in NAMES ? viewOf(key) : (current ?? viewOf(Object.keys(NAMES).includes("d") ? "d" : "0"));
  const chosen = node !== undefined && Number(node) < view.forest.count ? Number(node) : view.node;
  if (view !== current) {
    current = view;
    $("side").replaceChildren(h("h2", { class: "hidden" }, "Components"), view.tree.element);
    $("main").replaceChildren(view.map.element, view.panel);
    for (const button of $("views").children) button.setAttribute("aria-pressed", String(button.value === view.key));
    if ($("search").value) search();
  }
  if (chosen < 0) return;
  view.show(chosen, tensor === undefined ? -1 : Number(tensor));
  const narrow = matchMedia("(max-width: 60rem)").matches;
  if (!first && narrow && tensor === undefined) view.panel.scrollIntoView({ block: "start" });
}

/** The head: what is saved, how it stands, and what it was made with. */
function head() {
  const badges = (save) => {
    const { packed } = save;
    const damaged = packed.damage.length > 0 || save.columns.problem.some((text) => text >= 0);
    const trust = Object.keys(save.columns.trust).length;
    return h("span", { class: "badges" },
      damaged ? badge("bad", "damaged", "Files are damaged or missing") : !packed.whole ? badge("warn", "unchecked", "There is no manifest to compare the files with") : packed.verified ? badge("good", "whole", "Every file is as the manifest says") : badge("plain", "not verified", "The files were not read to be compared with the manifest"),
      trust ? badge("warn", "needs trust", `${plural(trust, "component")} that only a trusting load reads`) : badge("good", "data only", "A load runs no code of it"),
      badge("plain", word(packed.kind) ?? "save", "The container"),
      badge("plain", word(packed.writer) ?? "Flambe", "The writer"),
      packed.protocol >= 0 && badge("plain", `protocol ${word(packed.protocol)}`));
  };
  const root = (save) => save.roots[0] ?? -1;
  const titles = SAVES.map((save) => h("span", { class: "name" }, word(save.packed.path)));
  $("head").append(
    h("div", { class: "title" },
      s("svg", { viewBox: "0 0 16 16", width: 30, height: 30, class: "flame", "aria-hidden": "true" }, s("path", { d: "M8.3 1c.6 3 4.7 4.6 4.7 8.7A4.9 4.9 0 0 1 8 15a4.9 4.9 0 0 1-5-5c0-2 1-3.3 2-4.3 0 1.6.6 2.4 1.3 2.8C6.4 5.5 7.4 3.6 8.3 1z" })),
      h("h1", {}, titles[0], titles[1] && [h("span", { class: "arrow" }, " → "), titles[1]])),
    h("div", { class: "saves" }, SAVES.map((save, at) => {
      const node = root(save);
      if (node < 0) return h("p", {}, "There are no components in it.");
      const { columns, packed } = save;
      const names = [...packed.packages].map(([name, version]) => [word(name), word(version)]);
      return h("div", { class: "save" },
        UNION && h("h2", {}, at ? "After" : "Before"),
        h("p", { class: "figures" },
          h("strong", { class: "mono name" }, save.className(node)),
          [[amount(columns.allParameters[node]), "parameters", whole(columns.allParameters[node])], [size(columns.allBytes[node]), "in tensors", `${whole(columns.allBytes[node])} bytes`], [whole(save.count), save.count === 1 ? "component" : "components"], [whole(columns.allTensors[node]), "tensors"], packed.bytes !== null && [size(packed.bytes), "on disk", `${whole(packed.bytes)} bytes`]]
            .filter(Boolean).map(([number, text, title]) => h("span", { title }, h("b", {}, number), ` ${text}`))),
        badges(save),
        packed.damage.length > 0 && h("details", { class: "note bad", open: packed.damage.length <= 6 }, h("summary", {}, plural(packed.damage.length, "problem")),
          h("ul", {}, packed.damage.slice(0, PAGE_ROWS).map(([place, name, file, problem]) => h("li", {},
            place >= 0 ? h("a", { href: route(at, place), class: "name" }, save.name(place)) : name >= 0 && mono(word(name)), place >= 0 || name >= 0 ? " " : null,
            file >= 0 && [mono(word(file)), ": "], word(problem)))),
          packed.damage.length > PAGE_ROWS && h("p", {}, `… and ${whole(packed.damage.length - PAGE_ROWS)} more.`)),
        h("div", { class: "folds" },
          names.length > 0 && h("details", {}, h("summary", {}, plural(names.length, "package")), h("dl", { class: "packages" }, names.map(([name, version]) => h("div", {}, h("dt", {}, name), h("dd", {}, version ?? "–"))))),
          packed.ties.length > 0 && h("details", {}, h("summary", {}, plural(packed.ties.length, "tie")), h("ul", {}, packed.ties.slice(0, PAGE_ROWS).map((group) => h("li", {}, group.slice(0, PAGE_ROWS).flatMap(([key, tensor], index) => [index ? " = " : null, tensorLink(at, save, word(key), tensor)]))))),
          packed.digest >= 0 && h("details", {}, h("summary", {}, "SHA-256"), h("p", { class: "mono digest" }, word(packed.digest)))));
    })),
  );
}

/** Components and tensors that have each word of the search in their name, class or dtype. */
class Index {
  constructor() { this.lower = STRINGS.map((text) => text.toLowerCase()); }
  find(view, query) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean).slice(0, 8);
    const all = (1 << words.length) - 1;
    const bits = this.lower.map((text) => words.reduce((sum, part, at) => (text.includes(part) ? sum | (1 << at) : sum), 0));
    const dotted = words.some((part) => part.includes("."));
    const of = (place) => (place < 0 ? 0 : bits[place]);
    const { forest } = view;
    const [nodes, tensors] = [[], []];
    for (let node = 0; node < forest.count; node++) {
      const { save, place } = forest.of(node);
      const { columns, tensors: held } = save;
      const name = of(columns.name[place]);
      if ((name | of(columns.class[place]) | of(columns.path[place]) | of(columns.dtypes[place])) === all) nodes.push(node);
      for (let tensor = held.first[place]; tensor < held.first[place + 1]; tensor++) {
        let hit = name | of(held.name[tensor]) | of(held.dtype[tensor]);
        if (hit !== all && dotted) {
          const key = `${this.lower[columns.name[place]]}.${this.lower[held.name[tensor]]}`;
          words.forEach((part, at) => { if (key.includes(part)) hit |= 1 << at; });
        }
        // One word that only the component has is no hit of each tensor in it
        if (hit === all && (name !== all || of(held.name[tensor]) || of(held.dtype[tensor]))) tensors.push([node, tensor, save]);
      }
    }
    return { nodes, tensors };
  }
}

let index = null;
function search() {
  const query = $("search").value.trim();
  $("side").classList.toggle("searching", query !== "");
  $("results")?.remove();
  if (!query) {
    $("found").textContent = "";
    return;
  }
  index ??= new Index();
  const { nodes, tensors } = index.find(current, query);
  const { forest } = current;
  $("found").textContent = nodes.length + tensors.length ? `${plural(nodes.length, "component")}, ${plural(tensors.length, "tensor")}` : "Nothing found";
  const list = (title, items, row) => {
    if (!items.length) return null;
    const rows = h("ul", {}, items.slice(0, PAGE_ROWS).map(row));
    const more = items.length > PAGE_ROWS && h("button", { type: "button", class: "more", click: () => {
      const from = rows.children.length;
      rows.append(...items.slice(from, from + PAGE_ROWS).map(row));
      rows.children[from].querySelector("button").focus();
      more.hidden = rows.children.length === items.length;
    } }, "Show more");
    return [h("h3", {}, title), rows, more];
  };
  const result = (click, dot, name, note, end) => h("li", {}, h("button", { type: "button", class: "row", click }, h("span", { class: `dot ${dot}`, "aria-hidden": "true" }), h("span", { class: "label name" }, name), h("span", { class: "class name" }, note), h("span", { class: "size" }, end)));
  const view = current;
  $("side").append(h("div", { id: "results", class: "results" },
    list("Components", nodes, (node) => result(() => go(view, node), colour(forest.className(node)), forest.name(node), forest.className(node), size(forest.bytes(node)))),
    list("Tensors", tensors, ([node, tensor, save]) => {
      const { name, dtype, bytes } = { name: word(save.tensors.name[tensor]), dtype: word(save.tensors.dtype[tensor]), bytes: save.tensors.bytes[tensor] };
      const key = word(forest.columns.name[node]) ? `${word(forest.columns.name[node])}.${name}` : name;
      return result(() => view.choose(node, tensor, save), colour(forest.className(node)), key, dtype, size(bytes));
    }),
    !nodes.length && !tensors.length && h("p", { class: "muted empty" }, "No component or tensor has all of these words in its name, class or dtype.")));
}

/** Let the search and the results be gone through with the keyboard. */
function keys(event) {
  const field = $("search");
  if (event.key === "/" && !/^(input|textarea)$/i.test(document.activeElement?.tagName ?? "") && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    field.focus();
    field.select();
    return;
  }
  const buttons = [...($("results")?.querySelectorAll(".row") ?? [])];
  const at = buttons.indexOf(document.activeElement);
  if (event.key === "Escape" && (at >= 0 || document.activeElement === field) && field.value) {
    event.preventDefault();
    field.value = "";
    search();
    field.focus();
  } else if (event.key === "ArrowDown" && (at >= 0 || document.activeElement === field) && buttons.length) {
    event.preventDefault();
    buttons[Math.min(at + 1, buttons.length - 1)].focus();
  } else if (event.key === "ArrowUp" && at >= 0) {
    event.preventDefault();
    (buttons[at - 1] ?? field).focus();
  }
}

head();
if (UNION) {
  $("views").hidden = false;
  for (const key of ["d", "0", "1"]) {
    $("views").append(h("button", { type: "button", value: key, "aria-pressed": "false", click: () => go(viewOf(key), viewOf(key).node) }, NAMES[key]));
  }
}
let waiting = 0;
$("search").addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(search, 60);
});
$("skip").addEventListener("click", (event) => {
  event.preventDefault();
  $("main").focus();
});
document.addEventListener("keydown", keys);
addEventListener("hashchange", follow);
follow();
document.documentElement.dataset.ready = "";
