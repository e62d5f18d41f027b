// The page's request as a program would write it: by curl, and with OpenAI's package for Python.
const PLACEHOLDER = "YOUR_API_KEY";
// What the package's own method takes; the rest goes by `extra_body`.
const OPENAI_NAMES = new Set([
  ...["model", "messages", "temperature", "top_p", "max_tokens", "presence_penalty", "frequency_penalty"],
  ...["seed", "stop", "stream"],
]);

export function curl(url, body) {
  const quoted = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  return [
    `curl -N '${url}/chat/completions' \\`,
    `  -H "Authorization: Bearer ${PLACEHOLDER}" \\`,
    `  -H "Content-Type: application/json" \\`,
    `  -d '${quoted}'`,
  ].join("\n");
}

export function python(url, body) {
  const all = Object.entries(body);
  const ours = all.filter(([name]) => !OPENAI_NAMES.has(name));
  const theirs = all.filter(([name]) => OPENAI_NAMES.has(name));
  const given = theirs.map(([name, value]) => `    ${name}=${literal(value, 4)},`);
  if (ours.length) given.push(`    extra_body=${literal(Object.fromEntries(ours), 4)},`);
  return [
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${url}", api_key="${PLACEHOLDER}")`,
    "stream = client.chat.completions.create(",
    ...given,
    ")",
    "for chunk in stream:",
    "    if chunk.choices:",
    '        print(chunk.choices[0].delta.content or "", end="", flush=True)',
  ].join("\n");
}

// A value of JSON as Python writes it, its lines after the first indented by `indent`.
function literal(value, indent) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const isArray = Array.isArray(value);
  const [open, close] = isArray ? "[]" : "{}";
  const inner = indent + 4;
  const items = isArray
    ? value.map((item) => literal(item, inner))
    : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${literal(item, inner)}`);
  const short = `${open}${items.join(", ")}${close}`;
  if (short.length + indent < 88 && !short.includes("\n")) return short;
  const lines = items.map((item) => `${" ".repeat(inner)}${item},\n`).join("");
  return `${open}\n${lines}${" ".repeat(indent)}${close}`;
}
