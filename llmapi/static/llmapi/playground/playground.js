// Puts the page's parts together; what they are is written in their own files.
import { Chat } from "./chat.js";
import { curl, python } from "./code.js";
import { Following } from "./following.js";
import { Key } from "./key.js";
import { isSend } from "./message.js";
import { Parameters } from "./parameters.js";
import { Parts } from "./parts.js";

const byId = (id) => document.getElementById(id);
const config = JSON.parse(byId("playground-config").textContent);
const [page, settings, prompt] = ["playground", "settings", "prompt"].map(byId);
const parts = new Parts(page.dataset.icons, config.words);
const parameters = new Parameters(byId("parameters"), settings, config.models, parts);

const chat = new Chat({
  thread: byId("thread"),
  parts,
  parameters,
  key: new Key(config.key_url, byId("csrf").value),
  chatUrl: config.chat_url,
  following: new Following(byId("down")),
  onChange,
});

// word: what the reader is told of it who does not see the page.
function onChange(word) {
  if (word !== undefined) byId("status").textContent = word && config.words[word];
  byId("empty").hidden = chat.messages.length > 0;
  byId("send").hidden = chat.isBusy;
  byId("stop").hidden = !chat.isBusy;
  byId("send").disabled = !prompt.value.trim() || !config.models.length;
  // So that the page, loaded again, still shows this chat.
  const address = new URL(location.href);
  if (chat.conversation) address.searchParams.set("conversation", chat.conversation);
  else address.searchParams.delete("conversation");
  if (address.href !== location.href) history.replaceState(null, "", address);
}

// ---- the composer ----

function fit() {
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight + 2}px`;
}

function setPrompt(text) {
  prompt.value = text;
  fit();
  onChange();
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (prompt.value.trim() && config.models.length && chat.send(prompt.value)) setPrompt("");
});
prompt.addEventListener("input", () => {
  fit();
  onChange();
});
prompt.addEventListener("keydown", (event) => {
  if (!isSend(event)) return;
  event.preventDefault();
  byId("composer").requestSubmit();
});
byId("stop").addEventListener("click", () => {
  chat.stop();
  prompt.focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.isComposing && !byId("code-dialog").open) chat.stop();
});
for (const idea of page.querySelectorAll("[data-idea]")) {
  idea.addEventListener("click", () => {
    setPrompt(idea.textContent);
    prompt.focus();
  });
}
byId("new-chat").addEventListener("click", () => {
  chat.clear();
  prompt.focus();
});

// ---- the same request in a program ----

byId("show-code").addEventListener("click", () => {
  const body = { ...chat.request(prompt.value), stream: true };
  byId("code-curl").textContent = curl(config.base_url, body);
  byId("code-python").textContent = python(config.base_url, body);
  byId("code-dialog").showModal();
});

// ---- the settings: beside the chat where there is room, else folded above it ----

const isWide = matchMedia("(min-width: 861px)");
const place = () => (settings.open = isWide.matches);
isWide.addEventListener("change", place);
place();

page.hidden = byId("new-chat").hidden = byId("show-code").hidden = false;
if (config.conversation) chat.load(config.conversation);
if (!config.models.length) byId("model-note").textContent = config.words.no_models;
onChange();
