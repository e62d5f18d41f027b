// The page stays at its end while an answer grows, unless the reader went up; a button leads back.
const NEAR_PX = 120;
const html = document.documentElement;

export class Following {
  constructor(button) {
    this.button = button;
    this.isOn = true;
    addEventListener("scroll", () => this.#look(), { passive: true });
    addEventListener("resize", () => this.follow());
    // At the first turn of the wheel, before it has brought the reader far.
    addEventListener("wheel", (event) => event.deltaY < 0 && this.#leave(), { passive: true });
    button.addEventListener("click", () => this.toEnd());
  }

  // After something has grown.
  follow() {
    if (this.isOn) scrollTo({ top: html.scrollHeight, behavior: "instant" });
    this.#show();
  }

  toEnd() {
    this.isOn = true;
    this.follow();
  }

  #leave() {
    if (html.scrollHeight > html.clientHeight) this.isOn = false;
    this.#show();
  }

  #look() {
    const isNear = this.#left < NEAR_PX;
    if (isNear && this.#left < 2) this.isOn = true;
    if (!isNear) this.isOn = false;
    this.#show();
  }

  get #left() {
    return html.scrollHeight - html.clientHeight - html.scrollTop;
  }

  #show() {
    this.button.hidden = this.isOn || this.#left < NEAR_PX;
  }
}
