// What could not be indexed: why, and another try.

import { letters, letterThumbnail, retry } from "./api.js";
import { $, el, plural } from "./dom.js";
import { WatchingView } from "./watching.js";

const SAID = {
  waiting: "not indexed",
  healed: "indexed since",
  superseded: "a newer record stands",
  orphaned: "its generation is gone",
};

export class LettersView extends WatchingView {
  constructor({ notice }) {
    super({ title: "Dead letters", everyMs: 2500, load: letters, notice });
    $("#retry-all").addEventListener("click", () => this.retry(this.waiting));
  }

  /** Draw only what has changed, so that nobody's focus is lost. */
  draw(found) {
    const drawn = JSON.stringify(found);
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    this.waiting = found.letters.filter((letter) => letter.state === "waiting");
    const focused = document.activeElement?.dataset?.place;
    $("#letters").replaceChildren(...found.letters.map((letter) => this.row(letter)));
    if (focused) $(`#letters [data-place="${CSS.escape(focused)}"]`)?.focus();
    $("#retry-all").hidden = this.waiting.length < 2;
    const total = Object.values(found.counts).reduce((sum, count) => sum + count, 0);
    $("#letters-said").textContent = total
      ? `${plural(total, "letter")}, ${found.counts.waiting ?? 0} not indexed`
      : "None: everything in the log could be indexed.";
  }

  row(letter) {
    const image = el("img", { alt: "", loading: "lazy", src: letterThumbnail(letter) });
    image.addEventListener("error", () => image.classList.add("gone"));
    const why = `${letter.code || "no code"}, at ${letter.stage || "some step"}: ${letter.message}`;
    const name = el("strong", {}, letter.image_id || letter.place);
    const about = el("span", { class: "file" }, name, el("span", {}, why));
    const state = el("span", { class: "state" }, SAID[letter.state]);
    const kind = letter.state === "waiting" ? "bad" : "good";
    const row = el("li", { class: kind }, image, about, state);
    if (letter.state === "waiting") {
      const again = el("button", { type: "button", class: "changes", "data-place": letter.place }, "Try again");
      again.setAttribute("aria-label", `Try ${letter.image_id} again`);
      again.addEventListener("click", () => this.retry([letter]));
      row.append(again);
    }
    return row;
  }

  async retry(some) {
    try {
      const { sent, refused } = await retry(some.map((letter) => letter.place));
      const said = [`${plural(sent, "letter")} on the way again`, ...refused];
      $("#letters-said").textContent = said.join("; ");
    } catch (error) {
      this.notice(error.message);
    }
  }
}
