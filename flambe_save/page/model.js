// The packed report: a component or tensor is a number, its place in the columns.

const DATA = JSON.parse($("data").textContent);
const STRINGS = DATA.strings;
const word = (place) => (place < 0 ? null : STRINGS[place]);

/** The components of a save, or of two, as a tree. */
class Forest {
  constructor(columns) {
    this.columns = columns;
    this.count = columns.name.length;
    this.children = Array.from({ length: this.count }, () => []);
    this.roots = [];
    columns.parent.forEach((parent, node) => (parent < 0 ? this.roots : this.children[parent]).push(node));
  }
  name(node) { return word(this.columns.name[node]) || "the root"; }
  label(node) { return word(this.columns.label[node]) || "root"; }
  parent(node) { return this.columns.parent[node]; }

  /** The components that hold a component, the outermost first, and itself. */
  path(node) {
    const path = [];
    for (; node >= 0; node = this.parent(node)) path.unshift(node);
    return path;
  }
}

/** One save. */
class Save extends Forest {
  constructor(packed) {
    super(packed.nodes);
    Object.assign(this, { packed, tensors: packed.tensors, ties: new Map() });
    packed.ties.forEach((group) => group.forEach(([, tensor]) => tensor >= 0 && this.ties.set(tensor, group)));
  }
  of(node) { return { save: this, place: node }; }
  className(node) { return word(this.columns.class[node]) ?? ""; }
  bytes(node) { return this.columns.allBytes[node]; }
  mark(node) {
    if (this.columns.problem[node] >= 0) return { kind: "problem", text: "has a problem" };
    return node in this.columns.trust ? { kind: "trust", text: "needs trust" } : null;
  }
  firstTensor(node) { return this.tensors.first[node]; }
  tensorsOf(node) {
    const [first, end] = [this.tensors.first[node], this.tensors.first[node + 1]];
    return Array.from({ length: end - first }, (_, offset) => first + offset);
  }
  tensor(place) {
    const columns = this.tensors;
    const numbers = columns.statistics[place];
    const names = ["count", "minimum", "maximum", "mean", "std", "nan", "inf", "zero", "norm"];
    return {
      place,
      save: this,
      name: word(columns.name[place]),
      dtype: word(columns.dtype[place]),
      shape: word(columns.shape[place]),
      bytes: columns.bytes[place],
      device: word(columns.device[place]),
      statistics: numbers && Object.fromEntries(names.map((name, at) => [name, numbers[at]])),
      histogram: columns.histogram[place],
      tie: this.ties.get(place),
    };
  }
  /** The component that holds a tensor. */
  holder(tensor) {
    let [low, high] = [0, this.count - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.tensors.first[middle] <= tensor) low = middle;
      else high = middle - 1;
    }
    return low;
  }
}

/** Two saves as one: each component as it is after, or, where it is gone, as it was before. */
class Union extends Forest {
  constructor(packed, before, after) {
    super(packed.nodes);
    Object.assign(this, { packed, before, after, changes: packed.changes });
    this.own = Array.from({ length: this.count }, () => []);
    this.general = [];
    this.moved = new Float64Array(this.count).fill(-1);
    this.below = new Uint32Array(this.count);
    this.tensorChange = [new Map(), new Map()];
    const { node, a, b, relative_norm: norms } = this.changes;
    node.forEach((place, change) => {
      (place < 0 ? this.general : this.own[place]).push(change);
      if (a[change] >= 0) this.tensorChange[0].set(a[change], change);
      if (b[change] >= 0) this.tensorChange[1].set(b[change], change);
      const norm = norms[change] === null ? -1 : weight(norms[change]);
      for (; place >= 0; place = this.parent(place)) {
        this.below[place] += 1;
        this.moved[place] = Math.max(this.moved[place], norm);
      }
    });
  }
  of(node) {
    const place = this.columns.b[node];
    return place >= 0 ? { save: this.after, place } : { save: this.before, place: this.columns.a[node] };
  }
  className(node) { const { save, place } = this.of(node); return save.className(place); }
  bytes(node) { const { save, place } = this.of(node); return save.bytes(place); }
  firstTensor(node) { const { save, place } = this.of(node); return save.firstTensor(place); }
  mark(node) {
    const kind = ["same", "added", "removed", "changed"][this.columns.mark[node]];
    if (kind !== "same") return { kind, text: kind };
    return this.below[node] ? { kind: "within", text: "changed below" } : null;
  }
  /** The change of a tensor; -1 for one that stayed, or for none. */
  changeOf(save, tensor) { return this.tensorChange[save === this.after ? 1 : 0].get(tensor) ?? -1; }
  /** The changes of a component and of all below it. */
  changesBelow(node) {
    const found = this.parent(node) < 0 ? [...this.general] : [];
    const left = [node];
    while (left.length) {
      const next = left.pop();
      found.push(...this.own[next]);
      left.push(...this.children[next]);
    }
    return found.sort((one, other) => one - other);
  }
}

const SAVES = DATA.saves.map((packed) => new Save(packed));
const UNION = DATA.difference && new Union(DATA.difference, SAVES[0], SAVES[1]);

/** The colour of a class: the seven that hold most bytes of their own have one each, the others share one. */
const COLOURS = (() => {
  const bytes = new Map();
  for (const save of SAVES) {
    save.columns.class.forEach((name, node) => bytes.set(name, (bytes.get(name) ?? 0) + save.columns.bytes[node]));
  }
  const largest = [...bytes].filter(([, own]) => own > 0).sort((one, other) => other[1] - one[1]).slice(0, 7);
  return new Map(largest.map(([name], place) => [word(name), place + 1]));
})();
const colour = (name) => `colour-${COLOURS.get(name) ?? 0}`;

/** How far a tensor went, in steps of ten: 0 for what stayed, 5 for a tenth of its norm and more. */
function step(norm) {
  if (norm <= 0) return 0;
  return Math.max(1, Math.min(5, 6 + Math.floor(Math.log10(norm))));
}
const STEPS = ["the same", "< 0.0001", "< 0.001", "< 0.01", "< 0.1", "≥ 0.1"];
