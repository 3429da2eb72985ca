// Which of a picture's tokens a layer works on, drawn over the picture.

// The tokens of a picture (or of a tile of it) that a layer works on, counted from 0 within the picture.
function tokens_at(report, picture, il) {
  if (report.exit_layer !== null && il > report.exit_layer) return new Set();
  const last = report.drops.findLastIndex(({ after_layer }) => after_layer === null || after_layer < il);
  const all = () => Array.from({ length: picture.rows[1] }, (_, i) => i);
  return new Set(last < 0 ? all() : picture.kept[last]);
}

const vision_at = (report, il) =>
  report.pictures.reduce((sum, picture) => sum + tokens_at(report, picture, il).size, 0);

// Where a picture lies on the grid of its tokens, in cells; null where that is not known.
function picture_on_grid({ covers, grid: [columns, lines] }) {
  if (!covers) return null;
  const [left, top, width, height] = covers;
  return { x: (-left / width) * columns, y: (-top / height) * lines, width: columns / width, height: lines / height };
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
      this.shown = this.drawing(sent);
    } else {
      this.shown = element("img", { src: sent.url, alt: "" });
    }
    this.figure = element("figure", {}, this.shown, this.caption);
  }

  drawing(sent) {
    const [columns, lines] = this.part.grid;
    const on_grid = picture_on_grid(this.part);
    const stops = (n) => Array.from({ length: n - 1 }, (_, i) => i + 1);
    const grid = stops(columns)
      .map((x) => `M${x} 0V${lines}`)
      .concat(stops(lines).map((y) => `M0 ${y}H${columns}`));
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
    this.dropped.setAttribute(
      "d",
      cells(this.part.grid, (i) => !tokens.has(i)),
    );
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
  const names = [
    "upper left",
    "upper middle",
    "upper right",
    "middle left",
    "centre",
    "middle right",
    "lower left",
    "lower middle",
    "lower right",
  ];
  const counts = names.map(() => 0);
  for (const i of tokens) counts[3 * third(Math.floor(i / columns), lines) + third(i % columns, columns)] += 1;
  return `; ${names.flatMap((name, i) => (counts[i] ? `${name} ${counts[i]}` : [])).join(", ")}`;
}
