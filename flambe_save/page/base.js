// Elements and numbers. Text gets into the page as text only: there is no markup made of strings anywhere in here.

const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);

/** Make an element; attributes that are null or false are left out, functions become listeners. */
function make(element, attributes, ...children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}
const h = (tag, attributes, ...children) => make(document.createElement(tag), attributes, ...children);
const s = (tag, attributes, ...children) => make(document.createElementNS(SVG, tag), attributes, ...children);

const WHOLE = new Intl.NumberFormat("en");
const whole = (count) => WHOLE.format(count);
const plural = (count, one, many = `${one}s`) => `${whole(count)} ${count === 1 ? one : many}`;

/** A number in thousands, millions and so on, with three digits: 1,234,567 is "1.23" and the unit at 2. */
function scaled(number, units) {
  let unit = 0;
  while (number >= 999.5 && unit < units.length - 1) [number, unit] = [number / 1000, unit + 1];
  return `${unit ? number.toPrecision(3) : whole(number)}${units[unit]}`;
}
const size = (bytes) => (bytes === null ? "unknown" : scaled(bytes, [" B", " kB", " MB", " GB", " TB", " PB", " EB"]));
const amount = (count) => scaled(count, ["", " k", " M", " G", " T"]);

/** A measured number, or the "nan", "inf" and "-inf" that stand for those that JSON has not. */
function measured(value) {
  if (value === null || value === undefined) return "–";
  if (value === "inf") return "∞";
  if (value === "-inf") return "−∞";
  if (typeof value === "string") return "NaN";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e6) return whole(value).replace("-", "−");
  const text = size >= 1e5 || size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  return text.replaceAll("-", "−").replace("e+", "e");
}

/** What to sort by: NaN before infinity before all numbers, and what was not measured after them. */
function weight(value) {
  if (value === null || value === undefined) return -Infinity;
  if (typeof value === "string") return { inf: 1e308, "-inf": -1e308 }[value] ?? Infinity;
  return value;
}
