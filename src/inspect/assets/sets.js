// Sets of tokens on the picture: sinks, and what each policy kept.

const dark = [10, 13, 17];

function draw_sinks() {
  const times = new Array(n_vision).fill(0);
  for (const tokens of derived.sinks) for (const token of tokens) times[token]++;
  const sinks = times.map((n, token) => ({ n, token })).filter(({ n }) => n > 0).sort((a, b) => b.n - a.n);
  if (!sinks.length) return place("sinks").append(element("p", {}, "No vision token stands apart in any layer."));
  const most = sinks[0].n;
  const boxes = maps((i) => {
    const box = map(i, { grey: true, outlined: new Set(sinks.filter(({ n }) => 2 * n > data.n_layer).map(({ token }) => token)), label: `Tokens with outlying value norms on ${data.images[i].name}: ${count(sinks.length, "token")}` });
    paint_map(box, i, (token) => (times[token] ? [...colour(0.35 + (0.65 * times[token]) / most), 0.95] : [...dark, 0.35]));
    return box;
  });
  const caption = element("figcaption", { class: "muted" }, "The brighter, the more layers in which the token is an outlier; outlined: in more than half of them.");
  place("sinks").append(element("figure", {}, boxes, caption), element("div", { class: "list" }, sink_table(sinks)));
}

// The tokens that are outliers most often, with the attention that they draw.
function sink_table(sinks) {
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / Math.max(values.length, 1);
  const rows = sinks.slice(0, 8).map(({ n, token }) => {
    const layers = data.layers.filter((_, il) => derived.sinks[il].includes(token));
    const cells = [`${n} of ${data.n_layer}`, percent(mean(layers.map((layer) => layer.attention[token]))), number(mean(layers.map((layer) => layer.norm[token])))];
    return element("tr", {}, element("th", { scope: "row" }, `vision token ${token}`), ...cells.map((cell) => element("td", {}, cell)));
  });
  const heads = ["", "outlier in layers", "attention there", "contribution there"].map((text) => element("th", { scope: "col" }, text));
  const more = sinks.length > rows.length ? ` (${rows.length} of ${sinks.length})` : "";
  return element("table", {}, element("caption", {}, `Vision tokens that stand apart most often${more}; means over those layers`), element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows));
}

function draw_kept() {
  const { policy } = data;
  const sets = [...data.others];
  if (policy?.kept) sets.unshift({ policy: policy.label, kept: policy.kept, after_layer: policy.kept_after, answer: policy.answer });
  if (!sets.length) return place("kept-section").remove();
  place("kept").append(...sets.map(kept_figure));
}

function kept_figure({ policy, kept, after_layer, answer }) {
  const tokens = new Set(kept);
  const boxes = maps((i) => {
    const box = map(i, { outlined: tokens, label: `Tokens of ${data.images[i].name} kept by ${policy}: ${kept.length} of ${n_vision}` });
    box.querySelector(".kept-outline")?.classList.remove("kept-outline");
    paint_map(box, i, (token) => [...dark, tokens.has(token) ? 0 : 0.78]);
    return box;
  });
  const from = after_layer == null ? 0 : after_layer + 1;
  const caption = element(
    "figcaption",
    {},
    element("b", {}, policy),
    element("span", {}, `${kept.length} of ${n_vision} tokens (${percent(kept.length / n_vision)})`),
    element("span", {}, `kept from layer ${from} on`),
    answer == null ? null : element("span", {}, `answer: ${answer}`),
  );
  return element("figure", {}, boxes, caption);
}
