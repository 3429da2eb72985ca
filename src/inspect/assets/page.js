"use strict";
// What all figures share: the data, elements, numbers, and pictures with something over them.

const read = (id) => JSON.parse(document.getElementById(id).textContent);
const data = read("data");
const derived = read("derived");
const n_vision = data.layers[0].attention.length;
const kept = new Set(data.policy?.kept ?? []);

const place = (id) => document.getElementById(id);

// An element with attributes and children; text is only ever set as text.
function element(tag, attributes = {}, ...children) {
  const is_svg = tag === "svg" || tag === "path";
  const made = is_svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

// Three significant digits, without an exponent where that is readable.
function number(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-4 || size >= 1e6) return value.toExponential(2).replace("-", "−");
  return Number(value.toPrecision(3)).toString();
}
const percent = (share) => `${number(100 * share)} %`;
const count = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;

const stage_of = (il) => data.policy?.layers[il].stage ?? "dense";
const stage_names = { dense: "not pruned", shallow: "shallow", middle: "middle", deep: "deep", text: "text only" };

// What a layer is known for, in a word or two.
function layer_note(il) {
  if (il === data.policy?.fusion_layer) return "fusion";
  if (il === data.policy?.exit_layer) return "exit";
  if (il === data.policy?.kept_after) return "drop";
  return data.policy ? stage_names[stage_of(il)] : "";
}

// The pictures, decoded once.
const picture_urls = data.images.map(({ png }) => {
  const bytes = Uint8Array.from(atob(png), (c) => c.charCodeAt(0));
  return URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
});

// A picture, with a canvas of one pixel per token over it. `outlined`: the tokens to draw a border around.
function map(i, { grey = false, small = false, label = "", outlined = null } = {}) {
  const image = data.images[i];
  const canvas = element("canvas", { width: image.n_cols, height: image.n_rows });
  const picture = element("img", { alt: "" });
  picture.src = picture_urls[i];
  const box = element("div", { class: `map${grey ? " grey" : ""}${small ? " small" : ""}` }, picture, canvas);
  if (label) {
    box.setAttribute("role", "img");
    box.setAttribute("aria-label", label);
  }
  box.style.aspectRatio = `${image.width} / ${image.height}`;
  if (outlined?.size) box.append(outline(image, outlined));
  return box;
}

// Fills a map's canvas: `paint(token)` gives red, green, blue (0 to 255) and opacity (0 to 1).
function paint_map(box, i, paint) {
  const { n_cols, n_rows, first_token } = data.images[i];
  const context = box.querySelector("canvas").getContext("2d");
  const pixels = context.createImageData(n_cols, n_rows);
  for (let t = 0; t < n_cols * n_rows; t++) {
    const [red, green, blue, opacity] = paint(first_token + t);
    pixels.data.set([red, green, blue, Math.round(255 * opacity)], 4 * t);
  }
  context.putImageData(pixels, 0, 0);
}

// The borders between tokens of the set and others, white on black so that they show on any picture.
function outline({ n_cols, n_rows, first_token }, tokens) {
  const has = (x, y) => x >= 0 && y >= 0 && x < n_cols && y < n_rows && tokens.has(first_token + y * n_cols + x);
  let path = "";
  for (let y = 0; y < n_rows; y++) {
    for (let x = 0; x < n_cols; x++) {
      if (!has(x, y)) continue;
      if (!has(x, y - 1)) path += `M${x} ${y}h1`;
      if (!has(x, y + 1)) path += `M${x} ${y + 1}h1`;
      if (!has(x - 1, y)) path += `M${x} ${y}v1`;
      if (!has(x + 1, y)) path += `M${x + 1} ${y}v1`;
    }
  }
  return over(n_cols, n_rows, "kept-outline", element("path", { class: "below", d: path }), element("path", { class: "above", d: path }));
}

// A drawing over a map, in cells.
function over(n_cols, n_rows, name, ...paths) {
  const view = { viewBox: `0 0 ${n_cols} ${n_rows}`, preserveAspectRatio: "none", class: name, "aria-hidden": "true" };
  return element("svg", view, ...paths);
}

// The colour map: straight lines between its anchors.
function colour(share) {
  const anchors = derived.colours;
  const at = Math.min(Math.max(share, 0), 1) * (anchors.length - 1);
  const [below, above] = [anchors[Math.floor(at)], anchors[Math.ceil(at)]];
  return below.map((channel, i) => Math.round(channel + (at - Math.floor(at)) * (above[i] - channel)));
}
const opacity = (share) => 0.1 + 0.9 * share ** 0.6;
const heat = (share) => [...colour(share), opacity(share)];

// Maps of all pictures, side by side.
function maps(make) {
  const several = data.images.length > 1 ? " several" : "";
  return element("div", { class: `maps${several}` }, ...data.images.map((_, i) => make(i)));
}
