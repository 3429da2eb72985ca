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
const number = (value) => (Math.abs(value) >= 100 ? Math.round(value) : Number(value.toPrecision(3))).toLocaleString("en");
const count = (n, what) => `${number(n)} ${what}${n === 1 ? "" : "s"}`;
const percent = (share) => `${number(100 * share)} %`;

function scaled(value, step, units) {
  let i = 0;
  for (; i + 1 < units.length && value >= step; i += 1) value /= step;
  return `${number(value)} ${units[i]}`;
}
const bytes = (n) => scaled(n, 1024, ["bytes", "KiB", "MiB", "GiB"]);
const flops = (n) => scaled(n / 1e6, 1000, ["MFLOP", "GFLOP", "TFLOP", "PFLOP"]);
const milliseconds = (ms) => (ms < 1000 ? `${number(ms)} ms` : `${number(ms / 1000)} s`);
