// The chat: its messages, and the one answer that may be under way.
import { MessageView } from "./message.js";
import { Refusal } from "./refusal.js";
import { streamChat } from "./stream.js";
import { element } from "./parts.js";

export class Chat {
  // messages: [{role, content, name, text, view}], without the system prompt. `content` is what is sent.
  messages = [];
  conversation = null;
  #notice = null;
  #running = null;
  #opening = null;

  constructor({ thread, parts, parameters, key, chatUrl, following, onChange }) {
    Object.assign(this, { thread, parts, parameters, key, chatUrl, following, onChange });
  }

  get isBusy() {
    return this.#running !== null;
  }

  // ---- what the reader does ----

  send(text) {
    if (this.isBusy || !this.parameters.check()) return false;
    this.#add({ role: "user", content: text, text });
    this.following.toEnd();
    this.#answer();
    return true;
  }

  stop() {
    this.#running?.abort();
  }

  clear() {
    this.stop();
    this.#running = null; // what still comes of that answer is nobody's
    this.thread.setAttribute("aria-busy", "false");
    this.#cut(0);
    this.conversation = null;
    this.#opening = null;
    this.onChange();
  }

  // A conversation of the server's: {id, model, messages}.
  load({ id, model, messages }) {
    this.conversation = id;
    if (model) this.parameters.model = model;
    const isOpening = ["system", "developer"].includes(messages[0]?.role);
    if (isOpening) {
      this.#opening = messages[0];
      this.parameters.system = messages[0].text;
    }
    for (const message of isOpening ? messages.slice(1) : messages) {
      this.#add(message);
      if (message.told) message.view.setFacts(this.#facts(message.told));
    }
    this.#offerActions();
    this.onChange();
    this.following.toEnd();
  }

  // The messages as they would be sent, with `draft` as a further one.
  asked(draft = "") {
    const said = this.messages.map(({ role, name, content }) => (name ? { role, name, content } : { role, content }));
    if (draft) said.push({ role: "user", content: draft });
    const system = this.parameters.system;
    if (!system.trim()) return said;
    // Of a conversation that was loaded, exactly what it began with: so its history is recognised.
    const begin = this.#opening;
    const opening = begin?.text === system ? { role: begin.role, content: begin.content } : { role: "system", content: system };
    return [opening, ...said];
  }

  request(draft) {
    return { model: this.parameters.model, messages: this.asked(draft), ...this.parameters.values };
  }

  // ---- an answer ----

  async #answer() {
    const body = { ...this.request(), stream: true, stream_options: { include_usage: true }, store: true };
    const answer = this.#add({ role: "assistant", content: "", text: "", model: body.model });
    const told = { began: performance.now() };
    this.#begin(answer);
    let refusal = null;
    try {
      for await (const event of this.#ask(body, this.#running.signal)) this.#hear(answer, event, told);
    } catch (error) {
      if (error.name === "AbortError") told.isStopped = true;
      else refusal = error instanceof Refusal ? error : new Refusal("failed", { message: error.message });
    }
    this.#end(answer, told, refusal);
  }

  // A key that ended meanwhile (revoked, or this machine slept) is renewed, once.
  async *#ask(body, signal) {
    for (const fresh of [false, true]) {
      const key = await this.key.text(signal, fresh);
      try {
        yield* streamChat(this.chatUrl, key, body, signal);
        return;
      } catch (error) {
        if (fresh || error.status !== 401) throw error;
      }
    }
  }

  #hear(answer, event, told) {
    if (!this.messages.includes(answer)) return; // a new chat was begun meanwhile
    if (event.text !== undefined) {
      told.lastAt = performance.now();
      told.firstAt ??= told.lastAt;
      answer.content += event.text;
      this.#draw(answer);
    }
    if (event.finish) told.finish = event.finish;
    if (event.usage) told.usage = event.usage;
    if (event.conversation) this.conversation = event.conversation;
  }

  // At most once a frame, whatever comes.
  #draw(answer) {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      answer.view.show(answer.content);
      this.following.follow();
    });
  }

  #begin(answer) {
    this.#running = new AbortController();
    this.#say(null);
    for (const message of this.messages) message.view.setActions();
    this.thread.setAttribute("aria-busy", "true");
    answer.view.isBusy = true;
    this.onChange("answering");
    this.following.follow();
  }

  #end(answer, told, refusal) {
    if (!this.messages.includes(answer)) return; // a new chat was begun meanwhile
    cancelAnimationFrame(this.frame);
    this.frame = null;
    this.#running = null;
    answer.text = answer.content;
    answer.view.isBusy = false;
    answer.view.show(answer.content);
    told.isInterrupted = refusal !== null;
    answer.view.setFacts(this.#facts(told));
    if (!answer.content && (refusal || told.isStopped)) this.#cut(this.messages.length - 1);
    this.#offerActions();
    if (refusal) this.#explain(refusal);
    else if (!answer.content) this.#say(told.isStopped ? "stopped_early" : "empty_answer", "warn");
    this.thread.setAttribute("aria-busy", "false");
    this.onChange(refusal || told.isStopped ? "" : "answered");
    this.following.follow();
  }

  // Of an answer that was loaded there are no times.
  #facts({ usage, finish, began, firstAt, lastAt, isStopped, isInterrupted }) {
    const { parts } = this;
    const facts = [];
    if (isStopped) facts.push({ badge: parts.say("stopped"), tone: "warn" });
    if (isInterrupted) facts.push({ badge: parts.say("interrupted"), tone: "warn" });
    if (finish === "length") facts.push({ badge: parts.say("cut"), tone: "warn" });
    if (usage) {
      const { prompt_tokens: prompt, completion_tokens: answer } = usage;
      facts.push(parts.say("tokens", { prompt: parts.numbers.format(prompt), answer: parts.numbers.format(answer) }));
      const seconds = (lastAt - firstAt) / 1000;
      if (answer > 1 && seconds > 0) facts.push(parts.say("rate", { rate: parts.numbers.format((answer - 1) / seconds) }));
    }
    if (firstAt) facts.push(parts.say("first", { seconds: parts.seconds.format((firstAt - began) / 1000) }));
    return facts;
  }

  // ---- the messages on the page ----

  #add(message) {
    const name = message.role === "user" ? this.parts.words.you : message.model || this.parts.words.model;
    message.view = new MessageView(this.parts, message.role, name);
    message.view.show(message.text);
    this.messages.push(message);
    this.thread.append(message.view.element);
    this.onChange();
    return message;
  }

  // Keeps the first `count` messages.
  #cut(count) {
    for (const message of this.messages.splice(count)) message.view.element.remove();
    this.#say(null);
  }

  #offerActions() {
    this.messages.forEach((message, place) => {
      const { view } = message;
      const buttons = [this.parts.copyButton(() => message.text)];
      if (message.role === "user") {
        buttons.push(this.parts.button("edit", "edit", () => this.#edit(message, place)));
        const isLast = place === this.messages.length - 1;
        if (isLast) buttons.push(this.parts.button("again", "retry", () => this.#from(place + 1)));
      } else if (this.messages[place - 1]?.role === "user") {
        buttons.push(this.parts.button("again", "again", () => this.#from(place)));
      }
      view.setActions(...buttons);
    });
  }

  // Answers anew after the first `count` messages.
  #from(count) {
    if (this.isBusy || !this.parameters.check()) return;
    this.#cut(count);
    this.following.toEnd();
    this.#answer();
  }

  #edit(message, place) {
    if (this.isBusy) return;
    message.view.edit(message.text, (text) => {
      if (text === null || this.isBusy || !this.parameters.check()) return;
      Object.assign(message, { content: text, text });
      message.view.show(text);
      this.#from(place + 1);
    });
  }

  // ---- what went wrong ----

  #explain(refusal) {
    const { kind, said, param, facts } = refusal;
    const isServers = said && !["signed_out", "old_page"].includes(kind);
    this.#say(kind, "bad", this.parts.written(facts), isServers ? said : "");
    this.parameters.pointAt(param);
  }

  // One notice at most, below the messages; null: none.
  #say(word, tone, values, said) {
    this.#notice?.remove();
    this.#notice = null;
    if (word === null) return;
    this.#notice = element("div", "notice pg-notice", this.parts.say(word, values));
    this.#notice.dataset.tone = tone;
    if (said) this.#notice.append(element("p", "small-text", this.parts.say("server_says", { message: said })));
    this.thread.append(this.#notice);
  }
}
