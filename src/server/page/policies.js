// The policies that can be chosen, and the fields that each of them is sent with.

// Layers of a model with `n_layer` of them that stand where those of the papers stand among 32.
const layers_like = (n_layer, layers) => ({
  rank_layers: layers.map((il) => Math.max(0, Math.round(((il + 1) * n_layer) / 32) - 1)),
});
const from_layer = (n_layer, il) => Math.max(1, Math.round((il * n_layer) / 32));
const budget = { unit: "% kept", value: 10, max: 100, fields: (amount) => ({ budget: `${amount}%` }) };

// `amount`: what there is to choose. `fields`: those that a model of so many layers needs.
const POLICIES = [
  { name: "", says: "the server's own" },
  { name: "off", says: "off: all tokens stay" },
  { name: "visipruner", says: "visipruner: by what they give" },
  {
    name: "fixed",
    says: "fixed: at given layers",
    amount: { unit: "tokens kept", value: 16, max: 1e6, fields: (amount) => ({ keep: amount }) },
    fields: (n_layer) => ({ fusion_layer: from_layer(n_layer, 15) - 1, exit_from: from_layer(n_layer, 24) }),
  },
  { name: "vtw", says: "vtw: none in the upper half", fields: (n_layer) => ({ exit_from: from_layer(n_layer, 16) }) },
  {
    name: "fastv",
    says: "fastv: by attention, once",
    amount: { unit: "% kept", value: 50, max: 100, fields: (amount) => ({ rank_layers: [1], keep: [`${amount}%`] }) },
  },
  {
    name: "pyramiddrop",
    says: "pyramiddrop: by attention, in steps",
    fields: (n_layer) => ({ ...layers_like(n_layer, [7, 15, 23]), keep: ["50%", "25%", "12.5%"] }),
  },
  {
    name: "sparsevlm",
    says: "sparsevlm: by the question's attention",
    fields: (n_layer) => ({ ...layers_like(n_layer, [2, 6, 15]), keep: ["52%", "35%", "19%"] }),
  },
  { name: "divprune", says: "divprune: those unlike each other", amount: budget },
  { name: "divprune+visipruner", says: "divprune, then visipruner", amount: { ...budget, value: 50 } },
  { name: "uniform", says: "uniform: evenly spaced", amount: budget },
  { name: "random", says: "random: drawn by chance", amount: budget },
];

// One of the places where a policy is chosen.
class PolicyChoice {
  constructor(i, name) {
    this.select = place(`policy-${i}`);
    this.input = place(`amount-${i}`);
    this.select.append(...POLICIES.map(({ name, says }) => element("option", { value: name }, says)));
    this.select.value = name;
    this.select.addEventListener("change", () => this.show());
    this.show();
  }

  get policy() {
    return POLICIES.find(({ name }) => name === this.select.value);
  }

  show() {
    const { amount } = this.policy;
    this.input.parentElement.hidden = !amount;
    // a hidden field that must be filled would keep the question from being sent
    this.input.disabled = !amount;
    if (!amount) return;
    this.input.max = amount.max;
    this.input.value = amount.value;
    this.input.labels[0].textContent = amount.unit;
  }

  // What is sent as `visipruner`, to a model of so many layers if that is known.
  fields(n_layer) {
    const { name, amount, fields } = this.policy;
    if (name === "") return {};
    return {
      policy: name,
      ...(fields && n_layer ? fields(n_layer) : {}),
      ...(amount ? amount.fields(this.input.valueAsNumber) : {}),
    };
  }

  get title() {
    const { name, amount } = this.policy;
    return `${name || this.select.selectedOptions[0].textContent}${amount ? `, ${this.input.value} ${amount.unit}` : ""}`;
  }
}

// The name of the policy that a server without other orders applies.
function name_own(policy) {
  for (const option of document.querySelectorAll('.policy option[value=""]')) {
    option.textContent = policy ? `the server's own (${policy})` : "the server's own";
  }
}
