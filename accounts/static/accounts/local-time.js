// Times come in UTC; they become the reader's own, and keep UTC as their title. `localise(root)` for what is
// added later.
const format = new Intl.DateTimeFormat(document.documentElement.lang || undefined, {
  dateStyle: "medium",
  timeStyle: "short",
});

export function localise(root) {
  for (const element of root.querySelectorAll("time[datetime]:not([title])")) {
    const at = new Date(element.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    element.title = element.textContent;
    element.textContent = format.format(at);
  }
}

localise(document);
for (const note of document.querySelectorAll("[data-time-zone]")) note.hidden = false;
