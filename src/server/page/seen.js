// The panel with what was seen: one question at a time.

// The layer to look at first: behind the last drop that kept something, else behind the one that kept nothing.
function first_layer(report) {
  const kept = report.drops.findLast(({ n_kept }) => n_kept > 0);
  const after = kept ? kept.after_layer : report.exit_layer;
  return after === null ? 0 : Math.min(after + 1, report.n_layer - 1);
}

// All answers to a question are under one slider.
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
