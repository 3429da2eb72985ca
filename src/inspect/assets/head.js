// The head of the report and the strip of stages.

function draw_head() {
  const { policy } = data;
  const pictures = data.images.map((image, i) => {
    const picture = element("img", { alt: `Picture ${i + 1} of ${data.images.length}: ${image.name}`, title: image.name });
    picture.src = picture_urls[i];
    return picture;
  });
  const answers = element("dl", { class: "answers" }, ...answer("dense", data.answer), ...(policy?.answer != null ? answer(policy.label, policy.answer) : []));
  const facts = element(
    "div",
    { class: "facts" },
    element("p", { class: "kicker" }, `${data.model} · ${data.arch} · ${count(data.n_layer, "layer")}`),
    element("h1", {}, data.question),
    answers,
    element("dl", { class: "numbers" }, ...head_numbers()),
    policy?.skipped ? element("p", { class: "muted" }, `Nothing was dropped: ${policy.skipped}`) : null,
  );
  if (data.images.length > 1) place("head").classList.add("several");
  place("head").append(element("div", { class: "pictures" }, ...pictures), facts);
}

function answer(who, text) {
  return [element("dt", {}, who), element("dd", { class: "answer-text" }, text)];
}

function head_numbers() {
  const { policy } = data;
  const fact = (name, value) => element("div", {}, element("dt", {}, name), element("dd", {}, `${value}`));
  const facts = [fact("vision tokens", n_vision)];
  if (policy?.kept) facts.push(fact("kept", policy.kept.length));
  if (policy?.fusion_layer != null) facts.push(fact("fusion layer", policy.fusion_layer));
  if (policy?.exit_layer != null) facts.push(fact("exit layer", policy.exit_layer));
  return facts;
}

function draw_strip() {
  const { policy } = data;
  if (!policy) return place("stages").remove();
  const columns = policy.layers.map(({ stage, n_vision: n }, il) => {
    const bar = element("i");
    bar.style.height = n > 0 ? `max(3px, ${(100 * n) / n_vision}%)` : "0";
    const says = `layer ${il}: ${stage_names[stage]}, ${count(n, "vision token")}`;
    // below, every layer has a button that the keyboard reaches too
    const column = element("button", { type: "button", tabindex: -1, "data-stage": stage, title: says, "aria-label": says }, bar);
    column.addEventListener("click", () => show_layer(il, true));
    return column;
  });
  const grid = `repeat(${data.n_layer}, minmax(0, 1fr))`;
  const bars = element("div", { class: "columns" }, ...columns);
  const every = Math.ceil(data.n_layer / 34);
  const numbers = columns.map((_, il) => element("span", {}, il % every === 0 ? `${il}` : ""));
  const below = element("div", { class: "layer-numbers", "aria-hidden": "true" }, ...numbers);
  bars.style.gridTemplateColumns = below.style.gridTemplateColumns = grid;
  const strip = element("div", { class: "strip" }, bars, flag("fusion", policy.fusion_layer), flag("drop", first_drop(policy)), flag("exit", policy.exit_layer));
  place("strip").append(strip, below, stage_key());
}

// Without a fusion layer: the layer after which some vision tokens went on and others did not.
function first_drop({ fusion_layer, kept_after, exit_layer }) {
  return fusion_layer == null && kept_after !== exit_layer ? kept_after : null;
}

// A name at a layer. Names stand in two rows and turn inwards at the right end, so that they never meet.
function flag(name, il) {
  if (il == null) return null;
  const share = (il + 0.5) / data.n_layer;
  const text = name === "exit" ? "exit: last layer with vision" : `${name}: ${data.policy.kept?.length ?? 0} of ${n_vision} go on`;
  const made = element("div", { class: `flag${share > 0.6 ? " to-left" : ""}${name === "exit" ? " second" : ""}` }, element("span", {}, text));
  made.style.left = `calc(${100 * share}% - 1px)`;
  return made;
}

// The runs of layers of one stage.
function stage_key() {
  const runs = [];
  data.policy.layers.forEach(({ stage }, il) => {
    const last = runs.at(-1);
    if (last?.stage === stage) last.end = il;
    else runs.push({ stage, begin: il, end: il });
  });
  const entries = runs.map(({ stage, begin, end }) => {
    const layers = begin === end ? `layer ${begin}` : `layers ${begin}–${end}`;
    return element("li", { "data-stage": stage }, element("i"), `${stage_names[stage]}, ${layers}`);
  });
  return element("ul", { class: "stage-key" }, ...entries);
}

function draw_prompt() {
  if (!data.prompt) return place("prompt-section").remove();
  const piece = (piece) =>
    piece.image === undefined
      ? element("span", {}, piece.text === "" ? "∅" : piece.text.replaceAll("\n", "↵"))
      : element("span", { class: "image" }, `${data.images[piece.image]?.name ?? `picture ${piece.image}`}`);
  place("prompt").append(...data.prompt.map(piece));
}
