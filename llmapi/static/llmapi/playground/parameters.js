// The form beside the chat: which model, its system prompt, the parameters that the reader set.

export class Parameters {
  constructor(form, drawer, models, parts) {
    this.form = form;
    this.drawer = drawer;
    this.models = models;
    this.parts = parts;
    this.numbers = [...form.querySelectorAll("input[type=number]")];
    this.stopField = form.elements.stop;
    form.elements.model.append(...models.map(({ id }) => new Option(id, id)));
    form.addEventListener("change", () => this.#modelChosen());
    form.addEventListener("input", (event) => event.target.removeAttribute("aria-invalid"));
    form.addEventListener("reset", (event) => this.#reset(event));
    this.#modelChosen();
  }

  get model() {
    return this.form.elements.model.value;
  }

  set model(id) {
    if (this.models.some((model) => model.id === id)) this.form.elements.model.value = id;
    this.#modelChosen();
  }

  get system() {
    return this.form.elements.system.value;
  }

  set system(text) {
    this.form.elements.system.value = text;
  }

  // Whether all that was set may be sent; shows the reader what may not.
  check() {
    const wrong = this.numbers.find((field) => !field.checkValidity());
    if (wrong) this.#point(wrong);
    return !wrong;
  }

  // What the server found wrong, by its name; whether it is in this form.
  pointAt(name) {
    const field = name && this.form.elements[name.split("[")[0]];
    if (field) this.#point(field);
  }

  // The parameters that were set, as the API takes them.
  get values() {
    const set = this.numbers.filter((field) => field.value !== "");
    const values = Object.fromEntries(set.map((field) => [field.name, field.valueAsNumber]));
    const stops = this.stopField.value.split("\n").filter(Boolean);
    if (stops.length) values.stop = stops.map((stop) => stop.replaceAll("\\n", "\n"));
    return values;
  }

  #point(field) {
    this.drawer.open = true;
    field.setAttribute("aria-invalid", "true");
    field.reportValidity?.();
    field.focus();
  }

  // The parameters alone: the model and the system prompt belong to the chat.
  #reset(event) {
    event.preventDefault();
    for (const field of [...this.numbers, this.stopField]) {
      field.value = "";
      field.removeAttribute("aria-invalid");
    }
    this.form.dispatchEvent(new Event("input"));
  }

  #modelChosen() {
    const model = this.models.find(({ id }) => id === this.model);
    if (!model) return;
    for (const field of this.numbers) {
      const known = model.defaults[field.name];
      const isOpen = known === undefined || (field.name === "max_tokens" && known === 0);
      field.placeholder = isOpen ? field.dataset.default : known;
    }
    for (const shown of document.querySelectorAll("[data-model-name]")) shown.textContent = model.id;
    const notes = [this.parts.say("context", { tokens: this.parts.numbers.format(model.context_length) })];
    if (model.alias_of) notes.unshift(this.parts.say("stands_for", { model: model.alias_of }));
    else if (model.parent) notes.unshift(this.parts.say("adapter_of", { model: model.parent }));
    document.getElementById("model-note").textContent = notes.join(" · ");
  }
}
