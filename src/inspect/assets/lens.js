// What the last token would say after each layer.

function draw_lens() {
  const has_words = data.layers.some((layer) => layer.top.length || layer.value_top.length);
  if (!has_words) return place("lens-section").remove();
  const says = derived.answer ? [lens_says(derived.answer)] : [];
  const tables = element("div", { class: "lenses" }, lens_table("Logit lens", "top", true), lens_table("Value-output lens", "value_top", false));
  place("lens").append(...says, tables);
}

function lens_says({ word, first, settled }) {
  const since = settled > first ? `, and leads without a break from layer ${settled} on` : " and keeps the lead";
  return element("p", { class: "lens-says" }, element("b", {}, `“${visible(word)}”`), " first leads after ", element("b", {}, `layer ${first}`), `${since}.`);
}

// A word with its blanks made visible where there is nothing else to see.
function visible(word) {
  const shown = word.replaceAll("▁", " ").replaceAll("\n", "↵").replaceAll("\t", "⇥").trim();
  return shown === "" ? (word === "" ? "∅" : "␣") : shown;
}

function lens_table(name, key, marks_first) {
  const n_words = Math.min(greatest(data.layers.map((layer) => layer[key].length)), 5);
  const rows = data.layers.map((layer, il) => {
    const is_first = marks_first && il === derived.answer?.first;
    const words = Array.from({ length: n_words }, (_, rank) => word_cell(layer[key][rank]));
    return element("tr", { class: is_first ? "first" : null }, element("th", { scope: "row" }, `${il}`), ...words);
  });
  return element("table", { class: "lens" }, element("caption", {}, name), element("tbody", {}, ...rows));
}

function word_cell(entry) {
  if (!entry) return element("td");
  const [word, probability] = entry;
  const is_answer = word === derived.answer?.word;
  const cell = element("td", { class: is_answer ? "answer" : null, title: `${JSON.stringify(word)}, ${percent(probability)}` }, element("bdi", {}, visible(word)));
  cell.style.setProperty("--p", probability);
  return cell;
}
