// What one component of one save holds.

const route = (view, node, tensor = -1) => `#v${view}-c${node}${tensor < 0 ? "" : `-t${tensor}`}`;

/** A link to a tensor of a save, or its key where there is no such tensor. */
function tensorLink(view, save, key, tensor) {
  if (tensor < 0) return mono(key);
  return h("a", { href: route(view, save.holder(tensor), tensor), class: "mono name" }, key);
}

/** What is odd about a tensor's values. */
function oddities(statistics) {
  if (!statistics) return null;
  return [
    weight(statistics.nan) > 0 && badge("bad", `${whole(statistics.nan)} NaN`),
    weight(statistics.inf) > 0 && badge("bad", `${whole(statistics.inf)} inf`),
    statistics.count > 1 && statistics.zero === statistics.count && badge("plain", "all zero"),
  ].filter(Boolean);
}

function statisticsOf(tensor) {
  const { statistics } = tensor;
  if (!statistics) return h("p", { class: "muted" }, "Its values were not read.");
  return facts([
    ["elements", whole(statistics.count)],
    ["minimum", measured(statistics.minimum)],
    ["maximum", measured(statistics.maximum)],
    ["mean", measured(statistics.mean)],
    ["std", measured(statistics.std)],
    ["norm", measured(statistics.norm)],
    ["zero", `${whole(statistics.zero)}${statistics.count ? ` (${((100 * statistics.zero) / statistics.count).toFixed(1)}%)` : ""}`],
    ["NaN", whole(statistics.nan)],
    ["infinite", whole(statistics.inf)],
  ], "facts small");
}

function opened(view, tensor) {
  const { statistics, tie, save } = tensor;
  const drawn = statistics && histogram([["bars", tensor]], 360, 96, spread(tensor));
  return h(
    "div",
    { class: "opened-tensor" },
    drawn && h("figure", {}, drawn, h("figcaption", {}, h("span", {}, measured(statistics.minimum)), h("span", {}, measured(statistics.maximum)))),
    statisticsOf(tensor),
    h("p", { class: "muted" }, `On ${tensor.device ?? "no device"}, ${whole(tensor.bytes)} bytes.`),
    tie && h("p", {}, "One tensor with ", tie.filter(([, other]) => other !== tensor.place).map(([key, other], at) => [at ? ", " : "", tensorLink(view, save, word(key), other)]).flat(), "."),
  );
}

/** The table of a component's tensors. */
function tensorTable(view, save, node) {
  const measure = (label, name) => ({
    label,
    number: true,
    cell: (tensor) => measured(tensor.statistics?.[name]),
    sort: (tensor) => weight(tensor.statistics?.[name]),
  });
  return new Table({
    caption: "Tensors",
    rows: save.tensorsOf(node).map((place) => save.tensor(place)),
    key: (tensor) => tensor.place,
    expand: (tensor) => opened(view, tensor),
    columns: [
      { label: "Name", cell: (tensor) => h("span", { class: "mono name" }, tensor.name), sort: (tensor) => tensor.name },
      { label: "Shape", cell: (tensor) => h("span", { class: "nowrap" }, tensor.shape) },
      { label: "Dtype", cell: (tensor) => tensor.dtype, sort: (tensor) => tensor.dtype },
      { label: "Size", number: true, cell: (tensor) => size(tensor.bytes), sort: (tensor) => tensor.bytes },
      { label: "Values", cell: (tensor) => h("span", { class: "values" }, (tensor.statistics && histogram([["bars", tensor]], 96, 22, spread(tensor))) || h("span", { class: "muted" }, "–")) },
      measure("Mean", "mean"),
      measure("Std", "std"),
      measure("Min", "minimum"),
      measure("Max", "maximum"),
      { label: "Notes", cell: (tensor) => h("span", { class: "notes" }, oddities(tensor.statistics), tensor.tie && badge("plain", "tied")) },
    ],
  });
}

function simpleTable(caption, labels, rows) {
  const columns = labels.map((label, at) => ({
    label,
    cell: (row) => h("span", { class: "mono pre" }, word(row[at]) ?? "–"),
    sort: (row) => word(row[at]) ?? "",
  }));
  return new Table({ caption, columns, rows }).element;
}

function crumbsOf(forest, view, node) {
  const path = forest.path(node).slice(0, -1);
  const shown = path.length > 6 ? [...path.slice(0, 2), null, ...path.slice(-3)] : path;
  if (!path.length) return null;
  return h("p", { class: "path" }, shown.flatMap((above) => [above === null ? "…" : h("a", { href: route(view, above), class: "name" }, forest.label(above)), " / "]).slice(0, -1));
}

/** The own and the whole of a component, in figures. */
function figuresOf(save, node) {
  const columns = save.columns;
  const below = save.children[node].length > 0;
  const pair = (own, all, show) => (!below ? show(own) : own ? `${show(all)} (${show(own)} its own)` : show(all));
  return [
    ["parameters", pair(columns.parameters[node], columns.allParameters[node], whole)],
    ["bytes", pair(columns.bytes[node], columns.allBytes[node], size)],
    ["tensors", pair(columns.tensors[node], columns.allTensors[node], whole)],
    ["dtypes", word(columns.dtypes[node]) || "–"],
    ["devices", word(columns.devices[node]) || "–"],
  ];
}

/** The panel of a component. */
class Details {
  constructor(view, save, node) {
    const columns = save.columns;
    const trust = columns.trust[node];
    const problem = word(columns.problem[node]);
    const damage = save.packed.damage.filter(([where]) => where === node);
    const table = columns.tensors[node] || save.tensorsOf(node).length ? tensorTable(view, save, node) : null;
    this.table = table;
    const version = word(columns.version[node]);
    this.element = h(
      "article",
      { class: "details", "aria-labelledby": "details-title" },
      h("header", { class: "details-head" },
        crumbsOf(save, view, node),
        h("h2", { id: "details-title" }, h("span", { class: `dot ${colour(save.className(node))}`, "aria-hidden": "true" }), h("span", { class: "name" }, save.label(node))),
        h("p", { class: "of" }, h("span", { class: "mono name" }, word(columns.path[node]) ?? save.className(node)), version && badge("plain", `version ${version}`)),
      ),
      (problem || damage.length > 0) &&
        h("div", { class: "note bad" }, h("h3", {}, "Damaged"), h("ul", {}, [...new Set([problem, ...damage.map(([, , file, text]) => [word(file), word(text)].filter(Boolean).join(": "))].filter(Boolean))].map((text) => h("li", {}, text)))),
      trust && h("div", { class: "note warn" }, h("h3", {}, "Only a trusting load reads"), h("ul", {}, trust.map((text) => h("li", {}, word(text))))),
      facts(figuresOf(save, node)),
      table && table.rows.length > 0 && section("Tensors", table.element),
      node in columns.values && section("Values", simpleTable("Values", ["Name", "Type", "Value"], columns.values[node])),
      node in columns.stash && section("Stash", simpleTable("Stash", ["Name", "Type"], columns.stash[node])),
      columns.config[node] >= 0 && section("Config", code(columns.config[node], "Config")),
      columns.source[node] >= 0 && section("Source", code(columns.source[node], "Source")),
    );
  }
  reveal(tensor) { this.table?.reveal(tensor); }
}
