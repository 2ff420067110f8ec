// What is different between two saves, for a component and all below it.

const KINDS = ["tensor", "node", "class", "version", "config", "source", "value", "stash", "package"];
const PLURALS = { tensor: "tensors", node: "components", class: "classes", version: "versions", config: "config", source: "source", value: "values", stash: "stash", package: "packages" };

/** One column of `before | after`: each fact, marked where the two differ. */
function sideBySide(node) {
  const places = [UNION.columns.a[node], UNION.columns.b[node]];
  const told = places.map((place, side) => {
    if (place < 0) return null;
    const { columns } = SAVES[side];
    return [
      ["class", SAVES[side].className(place)],
      ["version", word(columns.version[place]) ?? "–"],
      ...figuresOf(SAVES[side], place),
    ];
  });
  const differs = (at) => Boolean(told[0] && told[1] && told[0][at][1] !== told[1][at][1]);
  const configs = places.map((place, side) => (place < 0 ? -1 : SAVES[side].columns.config[place]));
  const side = (at) => {
    const title = at ? "After" : "Before";
    const content = told[at]
      ? h("dl", { class: "facts rows" }, told[at].map(([term, value], row) => h("div", { class: differs(row) ? "differs" : null }, h("dt", {}, term), h("dd", {}, value))))
      : h("p", { class: "muted" }, at ? "It is gone." : "It was not there.");
    return h("section", { class: "side" }, h("h3", {}, title), content,
      configs[at] >= 0 && configs[0] !== configs[1] && code(configs[at], `Config ${title.toLowerCase()}`));
  };
  return h("div", { class: "sides" }, side(0), side(1));
}

function movedBar(norm) {
  if (norm === null) return h("span", { class: "muted" }, "–");
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
      h("p", {}, tensorLink(String(at), tensor.save, at ? "Open it in After" : "Open it in Before", tensor.place))))));
}

function movedTable(rows) {
  const { changes } = UNION;
  const measure = (label, name) => ({ label, number: true, cell: (change) => measured(changes[name][change]), sort: (change) => weight(changes[name][change]) });
  return new Table({
    caption: "Tensors, by how far they moved",
    rows,
    sorted: 3,
    expand: openedPair,
    columns: [
      { label: "Tensor", cell: (change) => h("span", { class: "mono name" }, word(changes.name[change])), sort: (change) => word(changes.name[change]) },
      { label: "Component", cell: where, sort: whereText },
      { label: "Kind", cell: kind, sort: kindText },
      { label: "Moved", number: true, cell: (change) => movedBar(changes.relative_norm[change]), sort: (change) => weight(changes.relative_norm[change]) },
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
      { label: "Before", cell: (change) => h("span", { class: "nowrap" }, word(changes.before[change]) ?? "–") },
      { label: "After", cell: (change) => h("span", { class: "nowrap" }, word(changes.after[change]) ?? "–") },
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
