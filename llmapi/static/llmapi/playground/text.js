// An answer as elements: paragraphs, lists, code, bold. It is a stranger's text, so everything is built as
// nodes with `textContent`; there are no links, no images and no HTML.

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/;
const BULLET = /^\s*[-*+]\s+(.*)$/;
const NUMBER = /^\s*(\d{1,9})[.)]\s+(.*)$/;
// Longer ones are shown as they are: the search for marks takes the square of their length at worst.
const LONGEST_WITH_MARKS = 20_000;
const INLINE = /(`+)([\s\S]*?[^`])\1(?!`)|\*\*(?=\S)([\s\S]*?\S)\*\*/g;

// Shows the text as far as it has come: what did not change since the last time stays as it is, with what
// the reader has marked in it.
export class AnswerText {
  #blocks = [];

  // codeHead(copyText): what stands above a block of code.
  constructor(element, codeHead) {
    this.element = element;
    this.codeHead = codeHead;
  }

  show(text) {
    const blocks = blocksOf(text);
    const same = blocks.findIndex((block, i) => !isSame(block, this.#blocks[i]));
    const first = same === -1 ? Math.min(blocks.length, this.#blocks.length) : same;
    while (this.element.childNodes.length > first) this.element.lastChild.remove();
    this.element.append(...blocks.slice(first).map((block) => this.#node(block)));
    this.#blocks = blocks;
  }

  #node(block) {
    if (block.kind === "code") return codeNode(block, this.codeHead);
    if (block.kind === "text") return inlineInto(document.createElement("p"), block.lines.join("\n"));
    const list = document.createElement(block.kind);
    if (block.kind === "ol") list.start = block.start;
    list.append(...block.lines.map((line) => inlineInto(document.createElement("li"), line)));
    return list;
  }
}

function isSame(block, other) {
  return (
    other !== undefined &&
    block.kind === other.kind &&
    block.start === other.start &&
    block.lines.length === other.lines.length &&
    block.lines.every((line, i) => line === other.lines[i])
  );
}

// [{kind: "text" | "ul" | "ol" | "code", lines, start}]; a fence that nothing closes yet is code to the end.
export function blocksOf(text) {
  const blocks = [];
  let open = null;
  let fence = null;
  const begin = (kind, start) => {
    open = { kind, lines: [], start };
    blocks.push(open);
  };
  for (const line of text.split("\n")) {
    if (fence) {
      if (line.trim().startsWith(fence) && !line.trim().slice(fence.length).trim()) fence = open = null;
      else open.lines.push(line);
      continue;
    }
    const opening = FENCE.exec(line);
    if (opening) {
      fence = opening[1];
      begin("code", opening[2]);
      continue;
    }
    if (!line.trim()) {
      open = null;
      continue;
    }
    const bullet = BULLET.exec(line);
    const number = NUMBER.exec(line);
    if (bullet) {
      if (open?.kind !== "ul") begin("ul");
      open.lines.push(bullet[1]);
    } else if (number) {
      if (open?.kind !== "ol") begin("ol", Number(number[1]));
      open.lines.push(number[2]);
    } else if (open && open.kind !== "text" && /^\s/.test(line)) {
      open.lines[open.lines.length - 1] += `\n${line.trim()}`;
    } else {
      if (open?.kind !== "text") begin("text");
      open.lines.push(line);
    }
  }
  return blocks;
}

function codeNode(block, codeHead) {
  const figure = document.createElement("div");
  figure.className = "code";
  const pre = document.createElement("pre");
  const code = document.createElement("code");
  pre.tabIndex = 0;
  code.textContent = block.lines.join("\n");
  code.translate = false;
  pre.append(code);
  figure.append(codeHead(block.start, () => code.textContent), pre);
  return figure;
}

function inlineInto(element, text) {
  let from = 0;
  for (const match of text.length > LONGEST_WITH_MARKS ? [] : text.matchAll(INLINE)) {
    element.append(text.slice(from, match.index));
    const isCode = match[2] !== undefined;
    const child = document.createElement(isCode ? "code" : "strong");
    child.textContent = isCode ? match[2] : match[3];
    element.append(child);
    from = match.index + match[0].length;
  }
  element.append(text.slice(from));
  return element;
}
