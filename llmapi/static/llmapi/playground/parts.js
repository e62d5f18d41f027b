// Small parts of the page that its script makes: icons, buttons, and what is copied.
const SVG = "http://www.w3.org/2000/svg";

export function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

export class Parts {
  constructor(icons, words) {
    this.icons = icons;
    this.words = words;
    this.numbers = new Intl.NumberFormat(document.documentElement.lang, { maximumFractionDigits: 1 });
    this.times = new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: "medium", timeStyle: "short" });
    this.seconds = new Intl.NumberFormat(document.documentElement.lang, { maximumFractionDigits: 2 });
  }

  // The sentence of that name, with its {names} filled in.
  say(name, values = {}) {
    return this.words[name].replaceAll(/\{(\w+)\}/g, (_, key) => values[key]);
  }

  // Numbers as the reader writes them; `until`, in Unix seconds, as a time.
  written({ until, ...facts }) {
    const values = Object.entries(facts).map(([name, value]) => [name, this.numbers.format(value)]);
    return { ...Object.fromEntries(values), until: until && this.times.format(until * 1000) };
  }

  icon(name) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("class", "icon");
    svg.setAttribute("aria-hidden", "true");
    const use = document.createElementNS(SVG, "use");
    use.setAttribute("href", `${this.icons}#${name}`);
    svg.append(use);
    return svg;
  }

  // A quiet button with an icon and a word.
  button(icon, word, action) {
    const button = element("button", "button small quiet");
    button.type = "button";
    button.append(this.icon(icon), element("span", "", this.words[word]));
    button.addEventListener("click", () => action(button));
    return button;
  }

  copyButton(text) {
    return this.button("copy", "copy", async (button) => {
      if (!(await copied(text()))) return; // it stands there, to be marked by hand
      const was = [...button.childNodes];
      button.replaceChildren(this.icon("check"), element("span", "", this.words.copied));
      button.dataset.done = "";
      setTimeout(() => {
        button.replaceChildren(...was);
        delete button.dataset.done;
      }, 2000);
    });
  }

  // What stands above a block of code.
  codeHead = (language, text) => {
    const head = element("div", "code-head");
    head.append(element("span", "", language || this.words.code), this.copyButton(text));
    return head;
  };
}

async function copied(text) {
  try {
    // Browsers keep the clipboard's API from plain http, except on the machine itself.
    if (navigator.clipboard) {
      await navigator.clipboard.writeText(text);
      return true;
    }
  } catch {
    return false;
  }
  const field = element("textarea", "visually-hidden");
  field.value = text;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}
