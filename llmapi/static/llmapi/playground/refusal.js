import { limitOf } from "./limit.js";

// Why there is no answer, or no whole one. `kind` names a sentence of the page's words, `facts` fill it in;
// `said` is the server's own, in English; `param` the field that it is about.
export class Refusal extends Error {
  constructor(kind, { status = 0, message = "", param = null, facts = {} } = {}) {
    super(message || kind);
    Object.assign(this, { kind, status, param, facts, said: message });
  }
}

// A fetch that failed, unless it was the reader who stopped it.
export function unreachable(error) {
  return error.name === "AbortError" ? error : new Refusal("unreachable");
}

export async function refusalOf(answer) {
  let error = {};
  try {
    error = (await answer.json()).error ?? {};
  } catch {
    // A proxy's page, or nothing: the status must do.
  }
  if (answer.status === 429) {
    const { kind, ...rest } = limitOf(answer.headers);
    return new Refusal(kind, { status: answer.status, ...rest });
  }
  const { message, param } = error;
  return new Refusal(kindOf(answer.status), { status: answer.status, message, param });
}

function kindOf(status) {
  if (status === 401) return "key_refused";
  if (status === 502 || status === 503 || status === 504) return "unavailable";
  return status >= 500 ? "failed" : "wrong";
}
