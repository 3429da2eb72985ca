// Puts the parts together: which model, which key, what a press of a button does.

const spoken = new Spoken();
const talk = new Talk(new Seen(), spoken);
const pictures = new Pictures();
const choices = [new PolicyChoice(0, ""), new PolicyChoice(1, "off")];
let models = [];

const model = () => models.find(({ id }) => id === place("models").value) ?? models[0];

// The models that there are. The one chosen stays chosen.
async function load_models() {
  const chosen = place("models").value;
  models = (await get("v1/models")).data;
  place("models").replaceChildren(...models.map(({ id }) => element("option", { value: id }, id)));
  place("models").value = models.some(({ id }) => id === chosen) ? chosen : (models[0]?.id ?? "");
  place("models").hidden = models.length < 2;
  place("only-model").textContent = models.length === 1 ? models[0].id : "";
  await show_model();
}

async function show_model() {
  const known = model();
  pictures.allow(known?.architecture?.input_modalities?.includes("image") ?? true);
  const props = await get("props");
  name_own(props.model_alias === known?.id ? props.policy?.policy : null);
  const cannot = known?.meta?.can_be_pruned === false;
  place("model-state").textContent = cannot ? "(this model cannot be pruned)" : "";
}

// Waits until the model is there.
async function wait_for_model() {
  for (;;) {
    const response = await fetch(`${BASE}health`, { cache: "no-store" }).catch(() => null);
    if (response === null) throw new Failure("The server cannot be reached. Is it still running?");
    if (response.ok) return;
    const body = await response.json().catch(() => ({}));
    if (body.progress === undefined)
      throw new Failure(body.error?.message ?? `The server answers with status ${response.status}.`);
    place("model-state").textContent = `is being loaded: ${percent(body.progress)}`;
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

async function begin() {
  say(place("ask-says"), "");
  try {
    await wait_for_model();
    place("model-state").textContent = "";
    await load_models();
    place("key-form").hidden = true;
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    if (error.status === 401) want_key();
    else say(place("ask-says"), error.message);
  }
}

function want_key() {
  if (sessionStorage.getItem(KEY)) place("key-says").textContent = "The server does not know this key.";
  sessionStorage.removeItem(KEY);
  place("key-form").hidden = false;
  place("key").focus();
}

function show_busy(is_busy) {
  const has_focus = document.activeElement === place("send") || document.activeElement === place("stop");
  place("send").hidden = is_busy;
  place("stop").hidden = !is_busy;
  if (has_focus) place(is_busy ? "stop" : "question").focus();
}

function settings() {
  const value = (id) => (place(id).value === "" ? {} : { [id.replace("-", "_")]: place(id).valueAsNumber });
  return { ...(model() ? { model: model().id } : {}), ...value("temperature"), ...value("max-tokens") };
}

async function ask() {
  const question = place("question").value.trim();
  if (talk.is_busy) return;
  if (question === "") {
    place("question").focus();
    return;
  }
  say(place("ask-says"), "");
  spoken.clear();
  const used = place("compare").checked ? choices : choices.slice(0, 1);
  const n_layer = model()?.meta?.n_layer;
  const policies = used.map((choice) => ({ title: choice.title, fields: choice.fields(n_layer) }));
  const asked = pictures.take();
  place("question").value = "";
  const answering = talk.ask({
    question,
    pictures: asked,
    policies,
    system: place("system").value.trim(),
    settings: settings(),
  });
  show_busy(true);
  const { is_open, statuses } = await answering;
  show_busy(false);
  // a question without an answer goes back to where it can be changed
  if (is_open && place("question").value === "" && pictures.attached.length === 0) {
    place("question").value = question;
    pictures.put(...asked);
  }
  if (statuses.includes(401)) want_key();
  // which models are loaded by now; what is wrong with that is told by the next question
  else if (!is_open) await load_models().catch(() => {});
}

place("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
place("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  place("ask").requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !place("camera").open) talk.stop();
});
place("stop").addEventListener("click", () => talk.stop());
place("new-talk").addEventListener("click", () => {
  talk.clear();
  spoken.clear();
  place("question").focus();
});
place("compare").addEventListener("change", ({ target }) => {
  place("second").hidden = place("second").disabled = !target.checked;
});
place("models").addEventListener("change", () => show_model().catch((error) => say(place("ask-says"), error.message)));
place("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, place("key").value);
  place("key").value = "";
  begin();
});
begin();
