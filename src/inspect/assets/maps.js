// Attention beside contribution: one layer large, and all layers small.

const statistics = [
  { key: "attention", name: "Attention", unit: "weight, mean over heads", show: percent },
  { key: "norm", name: "Contribution", unit: "‖c‖, value-aware", show: number },
];
const greatest = (values) => values.reduce((most, value) => Math.max(most, value), 0);
for (const statistic of statistics) {
  statistic.per_layer = data.layers.map((layer) => greatest(layer[statistic.key]));
  statistic.overall = greatest(statistic.per_layer);
}

// The layer in which one vision token matters most.
function layer_of_most() {
  const least = data.layers.map(({ cos }) => Math.min(...cos));
  return least.indexOf(Math.min(...least));
}

// What is shown now. The large maps have a colour scale of their own unless the common one of the small maps is asked for.
const shown = { il: data.policy?.kept_after ?? layer_of_most(), common_scale: false, token: null };
const large_maps = [];
const small_maps = [];
const multiples = [];

const top_of_large = (statistic, il) => (shown.common_scale ? statistic.overall : statistic.per_layer[il]);

function paint_layer(box, i, statistic, il, top) {
  const values = data.layers[il][statistic.key];
  paint_map(box, i, (token) => heat(top > 0 ? values[token] / top : 0));
}

function draw_large() {
  const pair = element("div", { class: "pair" }, ...statistics.map(large_figure));
  place("large").append(controls(), pair, element("p", { class: "readout", id: "readout", "aria-live": "polite" }));
}

function controls() {
  const slider = element("input", { type: "range", min: 0, max: data.n_layer - 1, step: 1, id: "slider", "aria-label": "layer" });
  slider.addEventListener("input", () => show_layer(Number(slider.value)));
  const check = (text, is_on, change) => {
    const box = element("input", { type: "checkbox" });
    box.checked = is_on;
    box.addEventListener("change", () => change(box.checked));
    return element("label", {}, box, text);
  };
  const outlines = kept.size ? check("outline kept tokens", true, (on) => document.body.classList.toggle("no-outline", !on)) : null;
  const scale = check("one colour scale for all layers", shown.common_scale, (on) => {
    shown.common_scale = on;
    show_layer(shown.il);
  });
  const layer = element("div", { class: "layer" }, element("output", { id: "layer-name", for: "slider" }), slider);
  return element("div", { class: "controls" }, layer, outlines, scale);
}

function large_figure(statistic) {
  const boxes = maps((i) => {
    const box = map(i, { grey: true, outlined: kept, label: `${statistic.name} over ${data.images[i].name}` });
    box.tabIndex = 0;
    large_maps.push({ box, i, statistic });
    listen(box, i);
    return box;
  });
  const bar = element("i");
  const stops = Array.from({ length: 17 }, (_, k) => `rgb(${colour(k / 16).join(" ")})`);
  bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  statistic.top = element("span");
  const caption = element("figcaption", {}, `${statistic.name} `, element("span", {}, statistic.unit));
  return element("figure", {}, caption, boxes, element("div", { class: "scale", "aria-hidden": "true" }, "0", bar, statistic.top));
}

// The cell below the pointer, or moved by arrow keys.
function listen(box, i) {
  const { n_cols, n_rows, first_token } = data.images[i];
  const clamp = (at, n) => Math.min(Math.max(at, 0), n - 1);
  const cell = (x, y) => first_token + clamp(y, n_rows) * n_cols + clamp(x, n_cols);
  box.addEventListener("pointermove", (event) => {
    const area = box.getBoundingClientRect();
    const x = Math.floor(((event.clientX - area.left) / area.width) * n_cols);
    const y = Math.floor(((event.clientY - area.top) / area.height) * n_rows);
    show_token(cell(x, y));
  });
  box.addEventListener("pointerleave", () => show_token(null));
  box.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    const is_here = shown.token !== null && shown.token >= first_token && shown.token < first_token + n_cols * n_rows;
    const t = is_here ? shown.token - first_token : null;
    show_token(t === null ? cell(n_cols >> 1, n_rows >> 1) : cell((t % n_cols) + step[0], Math.floor(t / n_cols) + step[1]));
  });
}

function show_token(token) {
  shown.token = token;
  for (const { box, i } of large_maps) {
    box.querySelector(".cursor")?.remove();
    const { n_cols, n_rows, first_token } = data.images[i];
    const t = token - first_token;
    if (token === null || t < 0 || t >= n_cols * n_rows) continue;
    const d = `M${t % n_cols} ${Math.floor(t / n_cols)}h1v1h-1z`;
    box.append(over(n_cols, n_rows, "cursor", element("path", { class: "below", d }), element("path", { class: "here", d })));
  }
  place("readout").replaceChildren(...readout(token));
}

function readout(token) {
  if (token === null) return [element("span", { class: "muted" }, "Point at a cell for its numbers; ← and → change the layer.")];
  const layer = data.layers[shown.il];
  const says = [
    `attention ${percent(layer.attention[token])}`,
    `contribution ${number(layer.norm[token])}`,
    `cosine ${layer.cos[token].toFixed(5)}`,
    `value norm ${number(layer.value_l1[token])}`,
  ];
  if (kept.has(token)) says.push("kept");
  if (derived.sinks[shown.il].includes(token)) says.push("value norm far from the others");
  return [element("b", {}, `Vision token ${token}`), `: ${says.join(" · ")}`];
}

function draw_multiples() {
  data.layers.forEach((_, il) => {
    const boxes = data.images.flatMap((_, i) =>
      statistics.map((statistic) => {
        const box = map(i, { grey: true, small: true });
        small_maps.push({ box, i, statistic, il });
        return box;
      }),
    );
    const note = layer_note(il);
    const name = element("span", { class: "name", "data-stage": stage_of(il) }, data.policy ? element("i") : null, element("b", {}, `${il}`), note);
    const multiple = element("button", { type: "button", class: "multiple", "aria-label": `show layer ${il} large${note ? `, ${note}` : ""}` }, name, element("span", { class: "maps" }, ...boxes));
    multiple.addEventListener("click", () => show_layer(il, true));
    multiples.push(multiple);
  });
  place("multiples").append(...multiples);
}

function paint_small() {
  for (const { box, i, statistic, il } of small_maps) paint_layer(box, i, statistic, il, statistic.overall);
}

// Shows a layer large; on request, moves there.
function show_layer(il, go = false) {
  shown.il = il;
  const note = layer_note(il);
  place("slider").value = il;
  place("slider").setAttribute("aria-valuetext", `layer ${il}${note ? `, ${note}` : ""}`);
  place("layer-name").textContent = `Layer ${il}${note ? ` · ${note}` : ""}`;
  for (const { box, i, statistic } of large_maps) paint_layer(box, i, statistic, il, top_of_large(statistic, il));
  for (const statistic of statistics) statistic.top.textContent = statistic.show(top_of_large(statistic, il));
  multiples.forEach((multiple, other) => multiple.setAttribute("aria-pressed", other === il));
  show_token(shown.token);
  if (go) place("maps").scrollIntoView({ block: "start" });
}

// Arrow keys change the layer wherever they have no other meaning.
function listen_to_keys() {
  document.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey || event.target.tagName === "INPUT") return;
    event.preventDefault();
    show_layer(Math.min(Math.max(shown.il + step, 0), data.n_layer - 1));
  });
}
