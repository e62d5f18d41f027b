// One streamed chat request: yields {text}, {finish}, {usage}, {conversation} as they come.
import { Refusal, refusalOf, unreachable } from "./refusal.js";

// Throws Refusal, or AbortError if `signal` stopped it.
export async function* streamChat(url, key, body, signal) {
  let answer;
  try {
    answer = await fetch(url, {
      method: "POST",
      headers: { Authorization: `Bearer ${key}`, "Content-Type": "application/json" },
      body: JSON.stringify(body),
      credentials: "omit",
      signal,
    });
  } catch (error) {
    throw unreachable(error);
  }
  if (!answer.ok) throw await refusalOf(answer);
  for await (const data of dataOf(answer.body)) {
    if (data === "[DONE]") return;
    yield* eventsOf(JSON.parse(data));
  }
  throw new Refusal("lost");
}

function* eventsOf(chunk) {
  if (chunk.error) throw new Refusal("failed", { message: chunk.error.message });
  const choice = chunk.choices?.[0];
  if (choice?.delta?.content) yield { text: choice.delta.content };
  if (choice?.finish_reason) yield { finish: choice.finish_reason };
  if (chunk.conversation) yield { conversation: chunk.conversation.id };
  if (chunk.usage) yield { usage: chunk.usage };
}

// The `data:` of each server-sent event; comments are left out.
async function* dataOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        throw error.name === "AbortError" ? error : new Refusal("lost");
      });
      if (done) return;
      const events = (buffer + value).split("\n\n");
      buffer = events.pop();
      for (const event of events) {
        if (event.startsWith("data: ")) yield event.slice("data: ".length);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
