// What is different between two saves, for a component and all below it.

const KINDS = ["tensor", "node", "class", "version", "config", "source", "value", "stash", "package"];
const PLURALS = { tensor: "tensors", node: "components", class: "classes", version: "versions", config: "config", source: "source", value: "values", stash: "stash", package: "packages" };

/** The facts of a component `before | after`, marked where the two differ, and its config where that does. */
function sideBySide(node) {
  const places = [UNION.columns.a[node], UNION.columns.b[node]];
  const told = places.map((place, side) => {
    if (place < 0) return null;
    const { columns } = SAVES[side];
    return new Map([
      ["class", word(columns.path[place]) ?? SAVES[side].className(place)],
      ["version", word(columns.version[place]) ?? "–"],
      ...figuresOf(SAVES[side], place),
    ]);
  });
  const terms = [...(told[0] ?? told[1]).keys()];
  const rows = terms.map((term, at) => {
    const cells = told.map((side, index) => {
      if (side) return h("td", { class: "name" }, side.get(term));
      return at === 0 && h("td", { class: "muted", rowspan: terms.length }, index ? "It is gone." : "It was not there.");
    });
    const differs = told[0] && told[1] && told[0].get(term) !== told[1].get(term);
    return h("tr", { class: differs ? "differs" : null }, h("th", { scope: "row" }, term), cells);
  });
  const heads = ["", "Before", "After"].map((text) => (text ? h("th", { scope: "col" }, text) : h("td")));
  const configs = places.map((place, side) => (place < 0 ? -1 : SAVES[side].columns.config[place]));
  return [
    h("div", { class: "compare" }, h("table", {}, h("caption", { class: "hidden" }, "Before and after"), h("thead", {}, h("tr", {}, heads)), h("tbody", {}, rows))),
    configs[0] !== configs[1] && section("Config", h("div", { class: "sides" }, ["before", "after"].map((name, at) =>
      h("div", { class: "side" }, h("h4", {}, name), configs[at] < 0 ? h("p", { class: "muted" }, "There is none.") : code(configs[at], `Config ${name}`))))),
  ];
}

/** What moved from zero has no size to compare with: it comes last. */
function finite(norm) {
  const moved = weight(norm);
  return Number.isFinite(moved) ? moved : -1;
}
/** How far a tensor moved, or what else became of it. */
function movedBar(change) {
  const norm = UNION.changes.relative_norm[change];
  if (norm === null) return kind(change);
  const value = weight(norm);
  const filled = value <= 0 ? 0 : Math.max(0.04, Math.min(1, (Math.log10(value) + 6) / 6));
  return h("span", { class: "moved" }, measured(norm), s("svg", { class: "gauge", viewBox: "0 0 48 6", width: 48, height: 6, "aria-hidden": "true" },
    s("rect", { class: "rail", width: 48, height: 6, rx: 3 }), s("rect", { class: `fill step-${step(value)}`, width: (48 * filled).toFixed(1), height: 6, rx: 3 })));
}

const where = (change) => {
  const node = UNION.changes.node[change];
  if (node < 0) return h("span", { class: "muted name" }, word(UNION.changes.where[change]) ?? "the save");
  return h("a", { href: route("d", node), class: "name" }, UNION.name(node));
};
const whereText = (change) => word(UNION.changes.where[change]) ?? "";
const kind = (change) => {
  const text = word(UNION.changes.kind[change]);
  return badge(["added", "removed"].includes(text) ? text : "changed", text);
};
const kindText = (change) => word(UNION.changes.kind[change]);

function tensorPair(change) {
  const { a, b } = UNION.changes;
  return [[a[change], SAVES[0]], [b[change], SAVES[1]]].map(([place, save]) => (place < 0 ? null : save.tensor(place)));
}

function openedPair(change) {
  const pair = tensorPair(change);
  const drawn = histogram(
    [["ghost", pair[0]], ["bars", pair[1]]].filter(([, tensor]) => tensor?.statistics), 360, 96, "Histograms before, as an outline, and after, filled");
  return h("div", { class: "opened-tensor" },
    drawn && h("figure", {}, drawn, h("figcaption", {}, "outline: before, filled: after")),
    h("div", { class: "sides" }, pair.map((tensor, at) => tensor && h("section", { class: "side" },
      h("h4", {}, at ? "After" : "Before"),
      h("p", { class: "muted" }, `${tensor.dtype}, ${tensor.shape}, ${size(tensor.bytes)}`),
      statisticsOf(tensor),
      h("p", {}, h("a", { href: route(at, tensor.save.holder(tensor.place), tensor.place) }, at ? "Open it in After" : "Open it in Before"))))));
}

/** The type and shape of a tensor, before and after where they differ. */
function typeText(change) {
  const [before, after] = [word(UNION.changes.before[change]), word(UNION.changes.after[change])];
  return h("span", { class: "nowrap" }, before === null || before === after ? after : after === null ? before : `${before} → ${after}`);
}

function movedTable(rows) {
  const { changes } = UNION;
  const measure = (label, name) => ({ label, number: true, cell: (change) => measured(changes[name][change]), sort: (change) => weight(changes[name][change]) });
  return new Table({
    caption: "Tensors, by how far they moved",
    rows,
    sorted: 1,
    expand: openedPair,
    columns: [
      {
        label: "Tensor",
        cell: (change) => h("span", { class: "mono name" }, word(changes.name[change])),
        under: (change) => h("span", { class: "under" }, where(change)),
        sort: (change) => `${whereText(change)}.${word(changes.name[change])}`,
      },
      { label: "Moved", number: true, cell: movedBar, sort: (change) => finite(changes.relative_norm[change]) },
      {
        label: "Values",
        cell: (change) => {
          const pair = tensorPair(change);
          const shown = [["ghost", pair[0]], ["bars", pair[1]]].filter(([, tensor]) => tensor?.statistics);
          return h("span", { class: "values" }, (shown.length && histogram(shown, 96, 22, "Histograms before and after")) || h("span", { class: "muted" }, "–"));
        },
      },
      measure("Largest", "max_abs"),
      measure("Mean", "mean_abs"),
      measure("Cosine", "cosine"),
      { label: "Type", cell: typeText, sort: (change) => word(changes.after[change] < 0 ? changes.before[change] : changes.after[change]) ?? "" },
    ],
  });
}

function otherTable(rows) {
  const { changes } = UNION;
  const text = (column, sign) => (change) => {
    const shown = word(changes[column][change]);
    return shown === null ? h("span", { class: "muted" }, "–") : h("span", { class: `mono pre ${sign}` }, shown);
  };
  return new Table({
    caption: "Other changes",
    rows,
    columns: [
      { label: "What", cell: (change) => h("span", {}, word(changes.part[change]), " ", h("span", { class: "mono name" }, word(changes.name[change]) ?? "")), sort: (change) => `${word(changes.part[change])} ${word(changes.name[change])}` },
      { label: "Component", cell: where, sort: whereText },
      { label: "Kind", cell: kind, sort: kindText },
      { label: "Before", cell: text("before", "minus") },
      { label: "After", cell: text("after", "plus") },
    ],
  });
}

/** The panel of the changes of a component and of what is below it. */
class Changes {
  constructor(node, part, choosePart) {
    const { changes } = UNION;
    const found = UNION.changesBelow(node);
    const counts = new Map();
    for (const change of found) {
      const of = word(changes.part[change]);
      counts.set(of, (counts.get(of) ?? 0) + 1);
    }
    const parts = [...KINDS.filter((of) => counts.has(of)), ...[...counts.keys()].filter((of) => !KINDS.includes(of))];
    if (!counts.has(part)) part = null;
    const rows = part === null ? found : found.filter((change) => word(changes.part[change]) === part);
    const chip = (of, text, count) => h("button", { type: "button", class: "chip", "aria-pressed": String(of === part), click: () => choosePart(of) }, text, h("span", { class: "count" }, whole(count)));
    const tensors = rows.filter((change) => word(changes.part[change]) === "tensor");
    const sources = rows.filter((change) => word(changes.part[change]) === "source" && changes.text[change] >= 0);
    const apart = new Set([...tensors, ...sources]);
    const others = rows.filter((change) => !apart.has(change));
    this.table = tensors.length ? movedTable(tensors) : null;
    const className = UNION.className(node);
    const mark = UNION.mark(node);
    this.element = h(
      "article",
      { class: "details", "aria-labelledby": "details-title" },
      h("header", { class: "details-head" },
        crumbsOf(UNION, "d", node),
        h("h2", { id: "details-title" }, h("span", { class: `dot ${colour(className)}`, "aria-hidden": "true" }), h("span", { class: "name" }, UNION.label(node)), mark && badge(mark.kind, mark.text)),
        h("p", { class: "of" }, h("span", { class: "mono name" }, className)),
      ),
      sideBySide(node),
      h("div", { class: "chips", role: "group", "aria-label": "Show changes of" }, chip(null, "All changes", found.length), parts.map((of) => chip(of, PLURALS[of] ?? of, counts.get(of)))),
      !found.length && h("p", { class: "muted empty" }, "Nothing is different here."),
      this.table && section("Tensors, by how far they moved", this.table.element),
      others.length > 0 && section("Other changes", otherTable(others).element),
      sources.length > 0 && section("Source", sources.slice(0, PAGE_ROWS).map((change) =>
        h("div", { class: "source" }, h("p", {}, where(change), " ", kind(change)), unified(word(changes.text[change]), `Source of ${UNION.changes.node[change] < 0 ? "the save" : UNION.name(UNION.changes.node[change])}`))),
        sources.length > PAGE_ROWS && h("p", { class: "muted" }, `… and ${whole(sources.length - PAGE_ROWS)} more; choose a component to see its own.`)),
    );
  }
  reveal(change) { this.table?.reveal(change); }
}
