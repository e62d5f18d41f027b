// Which limit refused a request, by the headers of the 429: the kind of a Refusal, and what goes with it. The
// server's own sentence is for programs.
export function limitOf(headers) {
  const [what, numbers] = told(headers.get("x-llmapi-limit") ?? "");
  const seconds = Number.parseInt(headers.get("Retry-After") ?? "", 10);
  const facts = { ...numbers, seconds, left: Math.max(numbers.limit - numbers.used, 0) };
  const kind = kindOf(what, facts);
  const param = ["limit_too_large", "limit_budget"].includes(kind) ? "max_tokens" : null;
  return { kind, facts, param };
}

function kindOf(what, { limit, asked, left, seconds }) {
  if (limit === 0) return "limit_nothing";
  if (what === "concurrent_requests") return "limit_at_once";
  if (what === "requests_per_minute") return "limit_requests";
  if (what === "tokens_per_minute") return asked > limit ? "limit_too_large" : "limit_tokens";
  if (what !== "token_budget") return Number.isNaN(seconds) ? "limited" : "limited_wait";
  if (left >= asked) return "limit_reserved";
  return left ? "limit_budget" : "limit_budget_used";
}

// `tokens_per_minute; whose=account; limit=1000; ...`
function told(header) {
  const [what, ...pairs] = header.split("; ");
  const numbers = pairs.map((pair) => pair.split("=")).filter(([, value]) => /^\d+$/.test(value));
  return [what, Object.fromEntries(numbers.map(([name, value]) => [name, Number(value)]))];
}
