// What became of the pictures of an answer: which tokens each layer had, and what that cost.

// The layer to look at first: behind the last drop that kept something, else behind the one that kept nothing.
function first_layer(report) {
  const kept = report.drops.findLast(({ n_kept }) => n_kept > 0);
  const after = kept ? kept.after_layer : report.exit_layer;
  return after === null ? 0 : Math.min(after + 1, report.n_layer - 1);
}

// The tokens of a picture (or of a tile of it) that a layer works on, counted from 0 within the picture.
function tokens_at(report, picture, il) {
  if (report.exit_layer !== null && il > report.exit_layer) return new Set();
  const last = report.drops.findLastIndex(({ after_layer }) => after_layer === null || after_layer < il);
  const all = () => Array.from({ length: picture.rows[1] }, (_, i) => i);
  return new Set(last < 0 ? all() : picture.kept[last]);
}

const vision_at = (report, il) => report.pictures.reduce((sum, picture) => sum + tokens_at(report, picture, il).size, 0);
const rows_at = (report, il) => report.layer_rows.find(([first, last]) => first <= il && il <= last)?.[2] ?? 0;

// Where a picture lies on the grid of its tokens, in cells; null where that is not known.
function picture_on_grid(picture, parts, [columns, lines]) {
  if (parts > 1 || picture.width === 0) return null;
  if (columns !== lines) return { x: 0, y: 0, width: columns, height: lines };
  // a square encoder pads what is not square
  const scale = Math.min(columns / picture.width, lines / picture.height);
  const [width, height] = [picture.width * scale, picture.height * scale];
  return { x: (columns - width) / 2, y: (lines - height) / 2, width, height };
}

// A picture, or a part of it, with the grid of its tokens over it.
class Overlay {
  // `sent`: the picture as it was sent. `part`: what the report says of it.
  constructor(sent, part, parts) {
    this.part = part;
    this.name = parts > 1 ? `${sent.name}, part ${part.tile + 1} of ${parts}` : sent.name;
    this.caption = element("figcaption");
    if (part.grid) {
      this.dropped = element("path", { class: "dropped" });
      this.under = element("path", { class: "under" });
      this.outline = element("path", { class: "outline" });
      this.shown = this.drawing(sent, parts);
    } else {
      this.shown = element("img", { src: sent.url, alt: "" });
    }
    this.figure = element("figure", {}, this.shown, this.caption);
  }

  drawing(sent, parts) {
    const [columns, lines] = this.part.grid;
    const on_grid = picture_on_grid(sent, parts, this.part.grid);
    const stops = (n) => Array.from({ length: n - 1 }, (_, i) => i + 1);
    const grid = stops(columns).map((x) => `M${x} 0V${lines}`).concat(stops(lines).map((y) => `M0 ${y}H${columns}`));
    return element(
      "svg",
      { viewBox: `0 0 ${columns} ${lines}`, role: "img" },
      element("rect", { class: "ground", width: columns, height: lines }),
      on_grid && element("image", { href: sent.url, preserveAspectRatio: "none", ...on_grid }),
      element("path", { class: "lines", d: grid.join("") }),
      this.dropped,
      this.under,
      this.outline,
    );
  }

  show(report, il) {
    const [tokens, n] = [tokens_at(report, this.part, il), this.part.rows[1]];
    const says = tokens.size === n ? `all ${number(n)} tokens` : `${number(tokens.size)} of ${number(n)} tokens`;
    this.caption.textContent = `${this.name}: ${says}${this.part.grid ? "" : ", which form no grid"}`;
    if (!this.part.grid) return;
    this.shown.setAttribute("aria-label", `${this.name} in layer ${il}: ${says}${where_are(tokens, this.part.grid)}`);
    this.dropped.setAttribute("d", cells(this.part.grid, (i) => !tokens.has(i)));
    const edges = tokens.size < n ? outline(tokens, this.part.grid) : "";
    this.under.setAttribute("d", edges);
    this.outline.setAttribute("d", edges);
  }
}

function cells([columns, lines], is_drawn) {
  const all = Array.from({ length: columns * lines }, (_, i) => i).filter(is_drawn);
  return all.map((i) => `M${i % columns} ${Math.floor(i / columns)}h1v1h-1z`).join("");
}

// The edges between tokens that are there and those that are not.
function outline(tokens, [columns, lines]) {
  const is_there = (x, y) => x >= 0 && y >= 0 && x < columns && y < lines && tokens.has(y * columns + x);
  let path = "";
  for (const i of tokens) {
    const [x, y] = [i % columns, Math.floor(i / columns)];
    if (!is_there(x, y - 1)) path += `M${x} ${y}h1`;
    if (!is_there(x, y + 1)) path += `M${x} ${y + 1}h1`;
    if (!is_there(x - 1, y)) path += `M${x} ${y}v1`;
    if (!is_there(x + 1, y)) path += `M${x + 1} ${y}v1`;
  }
  return path;
}

// For those who do not see it: how many of the tokens are in each ninth of the picture.
function where_are(tokens, [columns, lines]) {
  if (tokens.size === 0 || tokens.size === columns * lines) return "";
  const third = (at, n) => Math.min(2, Math.floor((3 * (at + 0.5)) / n));
  const names = ["upper left", "upper middle", "upper right", "middle left", "centre", "middle right", "lower left", "lower middle", "lower right"];
  const counts = names.map(() => 0);
  for (const i of tokens) counts[3 * third(Math.floor(i / columns), lines) + third(i % columns, columns)] += 1;
  return `; ${names.flatMap((name, i) => (counts[i] ? `${name} ${counts[i]}` : [])).join(", ")}`;
}

// All that is shown of one answer.
class RunView {
  constructor(run, title, layer_chosen) {
    this.run = run;
    this.overlays = [];
    this.columns = [];
    this.box = element("article", { class: "run", "aria-label": title ?? "The answer" });
    if (title) this.box.append(element("h3", {}, title));
    if (run.report) this.fill(layer_chosen);
    else this.box.append(this.without_report());
  }

  without_report() {
    const pictures = this.run.pictures.map(({ url, name }) => element("figure", {}, element("img", { src: url, alt: name })));
    const says = element("p", { class: "muted" }, this.run.is_busy ? "The prompt is being read." : "There is nothing to be seen of it.");
    return element("div", {}, element("div", { class: "pictures" }, ...pictures), says);
  }

  fill(layer_chosen) {
    const { report, pictures } = this.run;
    const parts = (i) => report.pictures.filter(({ picture }) => picture === i).length;
    this.overlays = report.pictures.map((part) => new Overlay(pictures[part.picture], part, parts(part.picture)));
    this.costs = element("dl", { class: "costs" });
    this.says = element("p", { class: "says" });
    this.box.append(element("div", { class: "pictures" }, ...this.overlays.map(({ figure }) => figure)), this.strip(layer_chosen), this.costs, this.says);
    this.update();
  }

  strip(layer_chosen) {
    const { report } = this.run;
    const share = (rows) => `${(100 * rows) / report.n_tokens}%`;
    this.columns = Array.from({ length: report.n_layer }, (_, il) => {
      const column = element("span", { title: `layer ${il}: ${count(rows_at(report, il), "row")}` }, element("i", { class: "vision" }), element("i"));
      column.firstChild.style.height = share(rows_at(report, il));
      column.lastChild.style.height = share(rows_at(report, il) - vision_at(report, il));
      column.addEventListener("click", () => layer_chosen(il));
      return column;
    });
    const many = report.n_layer > 48 ? " many" : "";
    return element(
      "div",
      { class: "strip" },
      element("p", { class: "hidden-text" }, `Rows by layer: ${rows_in_words(report)}`),
      element("div", { class: `columns${many}`, "aria-hidden": "true" }, ...this.columns),
      element("div", { class: "axis", "aria-hidden": "true" }, element("span", {}, "layer 0"), element("span", {}, `layer ${report.n_layer - 1}`)),
      element(
        "ul",
        { class: "legend", "aria-hidden": "true" },
        element("li", { class: "vision" }, element("i"), "picture tokens"),
        element("li", {}, element("i"), "text tokens"),
        element("li", { class: "dense" }, element("i"), "without pruning"),
      ),
    );
  }

  // The times are complete when the answer is. `beside`: the run of the same question that it is compared with.
  update(beside = null) {
    const { report } = this.run;
    if (!report) return;
    const cost = (name, part, whole, unit) => [element("dt", {}, name), bar(part, whole, part_of(part, whole, unit))];
    this.costs.replaceChildren(
      ...cost("Rows", report.rows.computed_or_kept, report.rows.dense, ROWS),
      ...cost("Computation", report.flops.actual, report.flops.dense, FLOPS),
      ...cost("KV cache", report.kv_bytes.actual, report.kv_bytes.dense, BYTES),
      ...this.time(beside),
    );
    say(this.says, remarks(report).join(" "));
  }

  time(beside) {
    const { report } = this.run;
    const name = element("dt", {}, "Time");
    const taken = element("dd", {}, times(this.run));
    if (!drops_something(report)) return [name, taken];
    const ms = report.times_ms.prefill;
    const dense_ms = measured_ms(report, beside?.report);
    if (dense_ms !== null) {
      return [name, bar(ms, dense_ms, `prompt ${part_of(ms, dense_ms, TIME)}`), element("dt"), taken];
    }
    // how much an unpruned prompt would have found read before is not known
    if (report.rows.read_before > 0) return [name, taken];
    return [name, taken, element("dt"), element("dd", { class: "muted" }, estimate(report))];
  }

  show(il) {
    const { report } = this.run;
    if (!report) return;
    for (const overlay of this.overlays) overlay.show(report, il);
    this.columns.forEach((column, i) => column.classList.toggle("now", i === il));
  }
}

function bar(part, whole, says) {
  const fill = element("i");
  fill.style.width = `${Math.min(100, (100 * part) / whole)}%`;
  return element("dd", {}, element("span", { class: "bar", "aria-hidden": "true" }, fill), says);
}

const rows_in_words = (report) => report.layer_rows.map(([first, last, rows]) => `${number(rows)} in ${first === last ? `layer ${first}` : `layers ${first} to ${last}`}`).join(", ");

function times({ report, is_busy, timings }) {
  const { encode, prefill, decode } = report.times_ms;
  const reading = `${report.pictures.length > 0 ? `picture ${milliseconds(encode)}, ` : ""}prompt ${milliseconds(prefill)}`;
  return is_busy || !timings ? reading : `${reading}, answer ${milliseconds(decode)}`;
}

// What reading the prompt took without pruning, where that was measured with as much of it read before.
function measured_ms(report, beside) {
  const is_fair = beside && !drops_something(beside) && beside.rows.read_before === report.rows.read_before;
  return is_fair ? beside.times_ms.prefill : null;
}

function estimate(report) {
  const { prefill, policy } = report.times_ms;
  const ms = ((prefill - policy) * report.flops.dense) / report.flops.actual;
  return `Without pruning: prompt about ${milliseconds(ms)}, by its computation.`;
}

const drops_something = (report) => report.drops.length > 0 || report.exit_layer !== null;

function remarks(report) {
  const said = [];
  if (report.not_pruned_because) said.push(`Nothing was dropped: ${report.not_pruned_because}.`);
  if (report.fusion_layer !== null) said.push(`Layer ${report.fusion_layer} reads the picture (fusion).`);
  if (report.exit_layer !== null && report.exit_layer < report.n_layer - 1) said.push(`After layer ${report.exit_layer} none of it is needed (exit).`);
  const before = report.rows.read_before;
  if (before > 0) said.push(`${number(before)} of the prompt's ${count(report.n_tokens, "token")} had been read before.`);
  return said.concat(report.warnings);
}

// The panel: one question at a time, with all its answers under one slider.
class Seen {
  constructor() {
    this.views = [];
    this.turn = null;
    // whether somebody chose the layer of this question
    this.is_chosen = false;
    this.slider = place("layer");
    this.slider.addEventListener("input", () => this.choose(this.slider.valueAsNumber));
  }

  // Shows a question, or null. The layer stays if somebody chose it for this question.
  show(turn) {
    this.is_chosen &&= turn === this.turn;
    this.turn = turn;
    const choose = (il) => this.choose(il);
    this.views = (turn?.runs ?? []).map((run) => new RunView(run, turn.runs.length > 1 ? run.title : null, choose));
    place("seen-runs").replaceChildren(...this.views.map(({ box }) => box));
    place("seen-empty").hidden = turn !== null;
    const reports = this.views.flatMap(({ run }) => run.report ?? []);
    place("seen-layer").hidden = reports.length === 0;
    if (reports.length === 0) return;
    place("seen-question").textContent = turn.question;
    this.slider.max = Math.max(...reports.map(({ n_layer }) => n_layer)) - 1;
    if (!this.is_chosen) this.slider.value = Math.max(...reports.map(first_layer));
    this.update();
    this.show_layer();
  }

  choose(il) {
    this.is_chosen = true;
    this.slider.value = il;
    this.show_layer();
  }

  update() {
    const beside = (view) => this.views.find((other) => other !== view)?.run;
    for (const view of this.views) view.update(beside(view));
  }

  show_layer() {
    const il = this.slider.valueAsNumber;
    for (const view of this.views) view.show(il);
    place("layer-number").textContent = il;
    const counts = this.views.flatMap(({ run: { report, title } }) => {
      if (!report) return [];
      return `${this.views.length > 1 ? `${title}: ` : ""}${count(vision_at(report, il), "picture token")}`;
    });
    this.slider.setAttribute("aria-valuetext", `layer ${il}, ${counts.join("; ")}`);
  }
}
