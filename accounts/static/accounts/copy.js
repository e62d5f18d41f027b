// <button data-copy="ID" data-copied="Copied" hidden>: copies the text of the element ID, or the value of
// a field. Shown only here, for without scripts there is nothing behind it.
const text = (element) => ("value" in element ? element.value : element.textContent);

async function write(source) {
  // Browsers keep the clipboard's API from plain http, except on the machine itself.
  if (navigator.clipboard) return navigator.clipboard.writeText(text(source));
  if ("select" in source) source.select();
  else getSelection().selectAllChildren(source);
  if (!document.execCommand("copy")) throw new Error("refused");
}

for (const button of document.querySelectorAll("button[data-copy]")) {
  const label = button.querySelector("[data-label]") ?? button;
  const before = label.textContent;
  let timer;
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await write(document.getElementById(button.dataset.copy));
    } catch {
      return; // the text stands there, to be marked by hand
    }
    label.textContent = button.dataset.copied;
    button.dataset.done = "";
    clearTimeout(timer);
    timer = setTimeout(() => {
      label.textContent = before;
      delete button.dataset.done;
    }, 2000);
  });
}
