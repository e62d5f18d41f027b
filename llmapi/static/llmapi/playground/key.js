// The page's key: fetched when first needed, again before it expires. It is in this object's memory alone,
// in no storage, no element and no address, and goes with the page.
import { Refusal, unreachable } from "./refusal.js";

const EARLY_S = 60;

export class Key {
  #text = null;
  #endsAt = 0;
  #url;
  #token;

  constructor(url, token) {
    this.#url = url;
    this.#token = token;
  }

  // The key; a new one if it is about to expire, or if `fresh`. Throws Refusal.
  async text(signal, fresh = false) {
    if (fresh || Date.now() > this.#endsAt) await this.#renew(signal);
    return this.#text;
  }

  async #renew(signal) {
    let answer;
    let body;
    try {
      answer = await fetch(this.#url, { method: "POST", headers: { "X-CSRFToken": this.#token }, signal });
      body = await answer.json();
    } catch (error) {
      throw answer ? new Refusal("wrong", { status: answer.status }) : unreachable(error);
    }
    if (!answer.ok) {
      const kind = { 401: "signed_out", 403: "old_page" }[answer.status] ?? "wrong";
      throw new Refusal(kind, { status: answer.status, message: body?.error?.message });
    }
    this.#text = body.key;
    this.#endsAt = Date.now() + (body.expires_in - EARLY_S) * 1000;
  }
}
