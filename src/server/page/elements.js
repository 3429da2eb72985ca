// What all parts share: elements and numbers. Text is only ever set as text.

const place = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "path", "rect", "image"]);

function element(tag, attributes = {}, ...children) {
  const made = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function button(text, attributes, pressed) {
  const made = element("button", { type: "button", ...attributes }, text);
  made.addEventListener("click", pressed);
  return made;
}

// A sentence where there is one to say.
function say(where, text) {
  where.textContent = text;
  where.hidden = text === "";
}

// Three significant digits.
const number = (value) =>
  (Math.abs(value) >= 100 ? Math.round(value) : Number(value.toPrecision(3))).toLocaleString("en");
const count = (n, what) => `${number(n)} ${what}${n === 1 ? "" : "s"}`;
const percent = (share) => `${number(100 * share)} %`;

// A part of a whole, both in the unit that suits the whole.
function part_of(part, whole, { step, names }) {
  let i = 0;
  for (; i + 1 < names.length && whole >= step; i += 1) [part, whole] = [part / step, whole / step];
  return `${number(part)} of ${number(whole)} ${names[i]}, ${percent(part / whole)}`;
}
const BYTES = { step: 1024, names: ["bytes", "KiB", "MiB", "GiB"] };
const FLOPS = { step: 1000, names: ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"] };
const ROWS = { step: Infinity, names: ["rows"] };
const TIME = { step: Infinity, names: ["ms"] };
const milliseconds = (ms) => (ms < 1000 ? `${number(ms)} ms` : `${number(ms / 1000)} s`);
