// All that is shown of one answer: its pictures, its rows by layer, and its costs beside those without pruning.

const rows_at = (report, il) => report.layer_rows.find(([first, last]) => first <= il && il <= last)?.[2] ?? 0;

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
    const pictures = this.run.pictures.map(({ url, name }) =>
      element("figure", {}, element("img", { src: url, alt: name })),
    );
    const says = element(
      "p",
      { class: "muted" },
      this.run.is_busy ? "The prompt is being read." : "There is nothing to be seen of it.",
    );
    return element("div", {}, element("div", { class: "pictures" }, ...pictures), says);
  }

  fill(layer_chosen) {
    const { report, pictures } = this.run;
    const parts = (i) => report.pictures.filter(({ picture }) => picture === i).length;
    this.overlays = report.pictures.map((part) => new Overlay(pictures[part.picture], part, parts(part.picture)));
    this.costs = element("dl", { class: "costs" });
    this.says = element("p", { class: "says" });
    this.box.append(
      element("div", { class: "pictures" }, ...this.overlays.map(({ figure }) => figure)),
      this.strip(layer_chosen),
      this.costs,
      this.says,
    );
    this.update();
  }

  strip(layer_chosen) {
    const { report } = this.run;
    const share = (rows) => `${(100 * rows) / report.n_tokens}%`;
    this.columns = Array.from({ length: report.n_layer }, (_, il) => {
      const column = element(
        "span",
        { title: `layer ${il}: ${count(rows_at(report, il), "row")}` },
        element("i", { class: "vision" }),
        element("i"),
      );
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
      element(
        "div",
        { class: "axis", "aria-hidden": "true" },
        element("span", {}, "layer 0"),
        element("span", {}, `layer ${report.n_layer - 1}`),
      ),
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
    const estimated_ms = estimate(report);
    if (estimated_ms === null) return [name, taken];
    const says = `Without pruning: prompt about ${milliseconds(estimated_ms)}, by its computation.`;
    return [name, taken, element("dt"), element("dd", { class: "muted" }, says)];
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

const rows_in_words = (report) =>
  report.layer_rows
    .map(
      ([first, last, rows]) => `${number(rows)} in ${first === last ? `layer ${first}` : `layers ${first} to ${last}`}`,
    )
    .join(", ");

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

// The same prompt without pruning, by its computation. Not where a picture was there already: how much of it an unpruned prompt
// would have found is not known.
function estimate(report) {
  if (report.rows.read_before > report.pictures[0].rows[0]) return null;
  const { dense, actual, computed } = report.flops;
  const { prefill, policy } = report.times_ms;
  return ((prefill - policy) * (computed + dense - actual)) / computed;
}

const drops_something = (report) => report.drops.length > 0 || report.exit_layer !== null;

function remarks(report) {
  const said = [];
  if (report.not_pruned_because) said.push(`Nothing was dropped: ${report.not_pruned_because}.`);
  if (report.fusion_layer !== null) said.push(`Layer ${report.fusion_layer} reads the picture (fusion).`);
  if (report.exit_layer !== null && report.exit_layer < report.n_layer - 1)
    said.push(`After layer ${report.exit_layer} none of it is needed (exit).`);
  const before = report.rows.read_before;
  if (before > 0)
    said.push(`${number(before)} of the prompt's ${count(report.n_tokens, "token")} had been read before.`);
  return said.concat(report.warnings);
}
