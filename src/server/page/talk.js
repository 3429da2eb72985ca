// The conversation: questions, their answers as they come, and what is sent of it.

// One answer to a question.
class Run {
  // `fields`: what is sent as `visipruner`. `pictures`: all that the conversation has by then, in the order of its messages.
  constructor(title, fields, pictures) {
    Object.assign(this, {
      title,
      fields,
      pictures,
      answer: "",
      is_busy: true,
      report: null,
      timings: null,
      error: "",
      note: "",
    });
    this.words = element("p", { class: "words" });
    this.progress = element("progress", { "aria-label": "The prompt is being read", max: 1, hidden: true });
    this.foot = element("p", { class: "foot" }, "waiting");
    this.wrong = element("p", { class: "error", role: "alert", hidden: true });
  }

  take(chunk) {
    if (chunk.prompt_progress) {
      const { processed, total } = chunk.prompt_progress;
      this.progress.hidden = processed === total;
      this.progress.value = total > 0 ? processed / total : 0;
      this.foot.textContent = `reading the prompt: ${number(processed)} of ${count(total, "token")}`;
    }
    const is_told = Boolean(chunk.visipruner);
    if (is_told) {
      this.report = chunk.visipruner;
      this.progress.hidden = true;
    }
    this.timings = chunk.timings ?? this.timings;
    const [choice] = chunk.choices ?? [];
    this.answer += choice?.delta?.content ?? "";
    this.words.textContent = this.answer.trim();
    if (choice?.finish_reason === "length")
      this.note = "cut off: it reached the number of tokens that an answer may have";
    if (this.report) this.foot.textContent = this.said();
    return is_told;
  }

  end() {
    this.is_busy = false;
    this.progress.hidden = true;
    this.foot.textContent = this.said();
    say(this.wrong, this.error);
  }

  said() {
    const said = [];
    if (this.report && this.report.pictures.length > 0) said.push(kept_in_words(this.report));
    if (this.timings) {
      const { predicted_n, predicted_per_second } = this.timings;
      said.push(
        `answer of ${count(predicted_n, "token")}${predicted_n > 1 ? `, ${number(predicted_per_second)} per second` : ""}`,
      );
    }
    return said.concat(this.note || []).join(" · ");
  }
}

// How much of the pictures went on after the last drop that left something.
function kept_in_words(report) {
  const n = report.pictures.reduce((sum, { rows }) => sum + rows[1], 0);
  const kept = report.drops.findLast(({ n_kept }) => n_kept > 0)?.n_kept;
  if (kept !== undefined) return `${number(kept)} of ${count(n, "picture token")} went on`;
  return report.exit_layer === null
    ? `all ${count(n, "picture token")} went on`
    : `all ${count(n, "picture token")} up to layer ${report.exit_layer}`;
}

class Talk {
  constructor(seen, spoken) {
    Object.assign(this, { seen, spoken, turns: [], abort: null });
  }

  get is_busy() {
    return this.abort !== null;
  }

  // The turns that the model is told of, each with the answer that this place among the answers got.
  past(i) {
    const answered = this.turns.filter(({ runs }) => runs.some(({ answer }) => answer !== ""));
    return answered.map((turn) => ({
      turn,
      answer: turn.runs[i]?.answer || turn.runs.find(({ answer }) => answer !== "").answer,
    }));
  }

  messages(past, system, question, pictures) {
    const asked = (text, pictures) =>
      pictures.length === 0
        ? text
        : [...pictures.map(({ url }) => ({ type: "image_url", image_url: { url } })), { type: "text", text }];
    const before = past.flatMap(({ turn, answer }) => [
      { role: "user", content: asked(turn.question, turn.pictures) },
      { role: "assistant", content: answer },
    ]);
    const told = system === "" ? [] : [{ role: "system", content: system }];
    return [...told, ...before, { role: "user", content: asked(question, pictures) }];
  }

  // Asks under each of the policies, one after the other, so that they do not slow each other down. `is_open`: the question
  // still waits for an answer. `statuses`: those of refusals.
  async ask({ question, pictures, policies, system, settings }) {
    const pasts = policies.map((_, i) => this.past(i));
    const runs = policies.map(
      ({ title, fields }, i) => new Run(title, fields, [...pasts[i].flatMap(({ turn }) => turn.pictures), ...pictures]),
    );
    const turn = { question, pictures, runs };
    this.turns.push(turn);
    this.draw(turn);
    this.select(turn);
    this.abort = new AbortController();
    for (const [i, run] of runs.entries()) {
      const body = {
        ...settings,
        messages: this.messages(pasts[i], system, question, pictures),
        visipruner: run.fields,
      };
      await this.run(turn, run, body);
    }
    this.abort = null;
    const has_answer = runs.some(({ answer }) => answer !== "");
    turn.asked.classList.toggle("unanswered", !has_answer);
    return { is_open: !has_answer && this.turns.includes(turn), statuses: runs.map(({ status }) => status) };
  }

  async run(turn, run, body) {
    try {
      this.abort.signal.throwIfAborted();
      for await (const chunk of chunks(
        "v1/chat/completions",
        { ...body, stream: true, return_progress: true },
        this.abort.signal,
      )) {
        if (run.take(chunk)) this.shown(turn);
        this.spoken.hear(run.answer);
        this.follow();
      }
    } catch (error) {
      if (error.name === "AbortError") run.note = "stopped";
      else if (error instanceof Failure) [run.error, run.status] = [error.message, error.status];
      else {
        console.error(error);
        run.error = `This page met an error: ${error.message}`;
      }
    } finally {
      run.end();
      this.spoken.end(run, turn.runs.length > 1);
      this.shown(turn);
      this.follow();
    }
  }

  stop() {
    this.abort?.abort();
  }

  clear() {
    this.stop();
    this.turns = [];
    place("turns").replaceChildren(place("welcome"));
    place("welcome").hidden = false;
    this.select(null);
  }

  draw(turn) {
    place("welcome").hidden = true;
    const thumbnails = turn.pictures.map(({ url, name }) => element("li", {}, element("img", { src: url, alt: name })));
    turn.asked = element("div", { class: "question" });
    if (thumbnails.length > 0) turn.asked.append(element("ul", { class: "thumbnails" }, ...thumbnails));
    turn.asked.append(element("p", { class: "words" }, turn.question));
    turn.look = button("Show what was seen", { class: "plain" }, () => this.select(turn));
    const answers = turn.runs.map((run) => {
      const title = turn.runs.length > 1 ? element("h3", {}, run.title) : null;
      return element("div", { class: "answer" }, title, run.words, run.progress, run.wrong, run.foot);
    });
    answers.at(-1).append(turn.look);
    turn.box = element(
      "article",
      { class: "turn", "aria-label": `Question ${this.turns.length}` },
      turn.asked,
      element("div", { class: "answers" }, ...answers),
    );
    place("turns").append(turn.box);
    this.follow(true);
  }

  // Which question the panel is about.
  select(turn) {
    this.selected = turn;
    for (const other of this.turns) other.look.hidden = other === turn;
    document.querySelector("main").classList.toggle("compares", (turn?.runs.length ?? 0) > 1);
    this.seen.show(turn);
  }

  shown(turn) {
    if (turn === this.selected) this.seen.show(turn);
  }

  // The end of the conversation stays in sight for those who were there.
  follow(always = false) {
    const turns = place("turns");
    const is_near = turns.scrollHeight - turns.scrollTop - turns.clientHeight < 120;
    if (always || is_near) turns.scrollTop = turns.scrollHeight;
  }
}

// Reads answers out, sentence by sentence: single words as they come would interrupt each other.
class Spoken {
  constructor() {
    this.said = 0;
  }

  hear(answer) {
    const sentences = /^[^]*[.!?\n](?=\s)/.exec(answer.slice(this.said))?.[0];
    if (sentences) this.speak(answer, sentences.length);
  }

  end(run, has_several) {
    this.speak(run.answer, run.answer.length - this.said);
    if (run.note) this.put(run.note);
    if (has_several) this.put(`That was ${run.title}.`);
    this.said = 0;
  }

  speak(answer, length) {
    this.put(answer.slice(this.said, this.said + length));
    this.said += length;
  }

  put(text) {
    if (text.trim() === "") return;
    place("spoken").append(element("span", {}, `${text.trim()} `));
  }

  clear() {
    place("spoken").replaceChildren();
  }
}
