// Why there is no answer, or no whole one. `kind` names a sentence of the page's words; `message` is the
// server's own, in English; `param` the field that it names; `waitS` how long to wait, in seconds.
export class Refusal extends Error {
  constructor(kind, { status = 0, message = "", param = null, waitS = null } = {}) {
    super(message || kind);
    Object.assign(this, { kind, status, param, waitS, said: message });
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
  const wait = Number.parseInt(answer.headers.get("Retry-After") ?? "", 10);
  const waitS = Number.isNaN(wait) ? null : wait;
  const { message, param } = error;
  return new Refusal(kindOf(answer.status, error.code, waitS), { status: answer.status, message, param, waitS });
}

function kindOf(status, code, waitS) {
  if (status === 401) return "key_refused";
  if (status === 429 && code === "insufficient_quota") return "quota";
  if (status === 429) return waitS === null ? "limited" : "limited_wait";
  if (status === 502 || status === 503 || status === 504) return "unavailable";
  return status >= 500 ? "failed" : "wrong";
}
