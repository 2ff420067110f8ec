// Parts that several views are made of: tables, texts in colours, histograms, badges.

const PAGE_ROWS = 200;

const badge = (kind, text, title) => h("span", { class: `badge ${kind}`, title }, text);
const mono = (text) => h("span", { class: "mono" }, text ?? "–");
const section = (title, ...content) => h("section", { class: "block" }, h("h3", {}, title), ...content);

/** Facts as pairs of a term and what it is. */
function facts(pairs, kind = "facts") {
  return h("dl", { class: kind }, pairs.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))));
}

/** A text cut into runs of one colour each. */
function code(place, label) {
  const runs = DATA.texts[place].map(([kind, text]) => (kind ? h("span", { class: `code-${kind}` }, text) : text));
  return h("pre", { class: "code", tabindex: 0, role: "region", "aria-label": label }, h("code", {}, runs));
}

/** A unified diff, line by line. */
function unified(text, label) {
  const kinds = { "+": "plus", "-": "minus", "@": "hunk" };
  const lines = text.replace(/\n$/, "").split("\n");
  const shown = lines.slice(0, 5000).map((line) => {
    const kind = /^(---|\+\+\+) /.test(line) ? "file" : (kinds[line[0]] ?? "context");
    return h("span", { class: `line ${kind}` }, line || " ");
  });
  const rest = lines.length > shown.length && h("span", { class: "line hunk" }, `… and ${whole(lines.length - shown.length)} lines more`);
  return h("pre", { class: "code", tabindex: 0, role: "region", "aria-label": label }, h("code", {}, shown, rest));
}

/** The outline of a histogram whose bins span low to high, where the drawing spans `range`. */
function outline(histogram, low, high, range, width, height) {
  const digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_";
  const at = (value) => ((value - range[0]) / (range[1] - range[0])) * width;
  const wide = low < high;
  const [left, right] = wide ? [at(low), at(high)] : [width * 0.47, width * 0.53];
  const across = (right - left) / histogram.length;
  let path = `M${left.toFixed(1)} ${height}`;
  [...histogram].forEach((digit, bin) => {
    const y = (height - (digits.indexOf(digit) / 63) * height).toFixed(1);
    path += `V${y}H${(left + across * (bin + 1)).toFixed(1)}`;
  });
  return `${path}V${height}Z`;
}

/** Histograms over one axis: `shown` is a list of [class, tensor]. */
function histogram(shown, width, height, label) {
  const drawn = shown.filter(([, tensor]) => tensor.histogram && Number.isFinite(tensor.statistics.minimum) && Number.isFinite(tensor.statistics.maximum));
  if (!drawn.length) return null;
  const low = Math.min(...drawn.map(([, tensor]) => tensor.statistics.minimum));
  const high = Math.max(...drawn.map(([, tensor]) => tensor.statistics.maximum));
  const range = low < high ? [low, high] : [low - 0.5, high + 0.5];
  const zero = ((0 - range[0]) / (range[1] - range[0])) * width;
  return s(
    "svg",
    { class: "histogram", viewBox: `0 0 ${width} ${height}`, width, height, preserveAspectRatio: "none", role: "img", "aria-label": label },
    s("path", { class: "axis", d: `M0 ${height - 0.5}H${width}` }),
    drawn.map(([kind, tensor]) => {
      const { minimum, maximum } = tensor.statistics;
      return s("path", { class: kind, d: outline(tensor.histogram, minimum, maximum, range, width, height) });
    }),
    zero > 1 && zero < width - 1 && s("path", { class: "zero", d: `M${zero.toFixed(1)} 0V${height}` }),
  );
}
const spread = (tensor) => `Histogram of ${tensor.name} from ${measured(tensor.statistics.minimum)} to ${measured(tensor.statistics.maximum)}`;

/** A table that sorts, opens rows, and makes only as many rows as are looked at. */
class Table {
  /**
   * columns: {label, cell(row), under(row)?, sort(row)?, number?}, where `cell` gives text or an element;
   * expand(row), if given, makes what a row opens to.
   */
  constructor({ caption, columns, rows, sorted = -1, expand = null, key = null }) {
    Object.assign(this, { columns, rows: [...rows], expand, key, shown: 0, made: new Map() });
    this.headings = columns.map((column, at) => {
      const button = column.sort && h("button", { type: "button", class: "sort", click: () => this.sort(at) }, column.label);
      return h("th", { scope: "col", class: column.number ? "number" : null }, button || column.label);
    });
    this.body = h("tbody");
    this.more = h("button", { type: "button", class: "more", click: () => this.show(this.shown + PAGE_ROWS, true) });
    const table = h("table", {}, h("caption", { class: "hidden" }, caption), h("thead", {}, h("tr", {}, this.headings)), this.body);
    this.element = h("div", {}, h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, table), this.more);
    if (sorted >= 0) this.sort(sorted);
    else this.show(PAGE_ROWS);
  }
  sort(at) {
    const { sort, number } = this.columns[at];
    const first = number ? "descending" : "ascending";
    const now = this.headings[at].getAttribute("aria-sort");
    const order = now === null ? first : now === "ascending" ? "descending" : "ascending";
    this.headings.forEach((heading) => heading.removeAttribute("aria-sort"));
    this.headings[at].setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const keyed = this.rows.map((row) => [sort(row), row]);
    // What has no number stays at the end in either order
    keyed.sort(([one], [other]) => {
      if (one === other) return 0;
      if (one === -Infinity || other === -Infinity) return one === -Infinity ? 1 : -1;
      return one < other ? -sign : sign;
    });
    this.rows = keyed.map(([, row]) => row);
    this.body.replaceChildren();
    this.made.clear();
    const shown = Math.max(this.shown, PAGE_ROWS);
    this.shown = 0;
    this.show(shown);
  }
  show(end, focus = false) {
    const first = this.shown;
    this.shown = Math.min(end, this.rows.length);
    this.body.append(...this.rows.slice(first, this.shown).map((row) => this.row(row)));
    const left = this.rows.length - this.shown;
    this.more.hidden = left === 0;
    this.more.textContent = `Show ${whole(Math.min(PAGE_ROWS, left))} more of ${whole(left)}`;
    if (focus && left === 0) this.body.children[first]?.querySelector("button")?.focus();
  }
  row(row) {
    const cells = this.columns.map((column, at) => {
      let content = column.cell(row);
      if (at === 0 && this.expand) {
        const button = h("button", { type: "button", class: "opens", "aria-expanded": "false", click: () => this.toggle(row) }, content);
        content = [button, column.under?.(row)];
      }
      return h(at === 0 ? "th" : "td", { scope: at === 0 ? "row" : null, class: column.number ? "number" : null }, content);
    });
    const element = h("tr", {}, cells);
    this.made.set(this.key ? this.key(row) : row, element);
    return element;
  }
  toggle(row, open = null) {
    const element = this.made.get(this.key ? this.key(row) : row);
    const button = element.querySelector(".opens");
    const is = button.getAttribute("aria-expanded") === "true";
    if (open === is) return;
    button.setAttribute("aria-expanded", String(!is));
    if (is) element.nextElementSibling.remove();
    else element.after(h("tr", { class: "opened" }, h("td", { colspan: this.columns.length }, this.expand(row))));
  }
  /** Bring a row into view, open, with the focus on it. */
  reveal(key) {
    const at = this.rows.findIndex((row) => (this.key ? this.key(row) : row) === key);
    if (at < 0) return;
    if (at >= this.shown) this.show(Math.ceil((at + 1) / PAGE_ROWS) * PAGE_ROWS);
    if (this.expand) this.toggle(this.rows[at], true);
    const element = this.made.get(key);
    element.classList.add("target");
    element.scrollIntoView({ block: "center" });
    element.querySelector("button, a")?.focus({ preventScroll: true });
  }
}
