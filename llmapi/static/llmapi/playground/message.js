// One message on the page: who says it, its text, the facts below it and what may be done with it.
import { element } from "./parts.js";
import { AnswerText } from "./text.js";

export class MessageView {
  constructor(parts, role, name) {
    this.parts = parts;
    this.element = element("article", "pg-message");
    this.element.dataset.role = role;
    this.text = element("div", "pg-text");
    this.facts = element("span", "pg-facts");
    this.actions = element("span", "pg-actions");
    this.foot = element("div", "pg-foot");
    this.foot.append(this.facts, this.actions);
    this.element.append(element("h3", role === "user" ? "visually-hidden" : "pg-who", name), this.text, this.foot);
    this.answer = role === "user" ? null : new AnswerText(this.text, parts.codeHead);
  }

  show(text) {
    if (this.answer) this.answer.show(text);
    else this.text.textContent = text;
  }

  set isBusy(busy) {
    this.element.toggleAttribute("data-busy", busy);
  }

  setActions(...buttons) {
    this.actions.replaceChildren(...buttons);
  }

  // facts: texts, and {badge, tone}.
  setFacts(facts) {
    this.facts.replaceChildren(
      ...facts.map((fact) => {
        if (typeof fact === "string") return element("span", "", fact);
        const badge = element("span", "badge", fact.badge);
        badge.dataset.tone = fact.tone;
        return badge;
      }),
    );
  }

  // The text becomes a field; `done(text)` with what it is then, or `done(null)`.
  edit(text, done) {
    const { words } = this.parts;
    const form = element("form", "pg-edit");
    const field = element("textarea", "input");
    field.value = text;
    field.setAttribute("aria-label", words.editing);
    const send = element("button", "button small primary", words.send);
    const cancel = element("button", "button small quiet", words.cancel);
    cancel.type = "button";
    const row = element("div", "row");
    row.append(send, cancel);
    form.append(field, row);
    const end = (result) => {
      form.replaceWith(this.text);
      this.foot.hidden = false;
      done(result);
    };
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (field.value.trim()) end(field.value);
    });
    cancel.addEventListener("click", () => end(null));
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") end(null);
      if (isSend(event)) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    this.text.replaceWith(form);
    this.foot.hidden = true;
    field.focus();
    field.setSelectionRange(text.length, text.length);
  }
}

// Enter alone, and not the one that ends the composition of a Chinese word (229: as some browsers tell it).
export function isSend(event) {
  return event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;
}
