// Results as a justified grid: each picture's place is known before it is loaded.

import { thumbnail } from "./api.js";
import { $, el, titleOf } from "./dom.js";

const WIDEST = 2.6;
const TALLEST = 0.55;

/** One column of results: replaced by a search, grown by more of it. */
export class Results {
  /** `open` is called with a picture; `more` with nothing. */
  constructor(section, { open, more }) {
    this.section = section;
    this.list = $(".grid", section);
    this.none = $(".none", section);
    this.moreRow = $(".more", section);
    this.open = open;
    this.pictures = [];
    $("button", this.moreRow).addEventListener("click", more);
  }

  clear() {
    this.pictures = [];
    this.list.replaceChildren();
    this.none.hidden = true;
    this.moreRow.hidden = true;
  }

  /** Put these after what is there; the first new card gets the focus where `focus` says so. */
  add(pictures, { hasMore, focus = false }) {
    const cards = pictures.map((picture) => this.card(picture));
    this.pictures.push(...pictures);
    this.list.append(...cards);
    this.moreRow.hidden = !hasMore;
    if (focus) $("a", cards[0])?.focus();
  }

  /** Say that there is nothing, with something to do about it. */
  say(...children) {
    this.none.replaceChildren(...children);
    this.none.hidden = false;
  }

  remove(id) {
    this.pictures = this.pictures.filter((picture) => picture.image_id !== id);
    this.cardOf(id)?.closest("li").remove();
  }

  cardOf(id) {
    return [...this.list.querySelectorAll("a")].find((card) => card.dataset.id === id);
  }

  card(picture) {
    const ratio = Math.min(WIDEST, Math.max(TALLEST, picture.width / picture.height || 1));
    const side = window.devicePixelRatio > 1 ? 800 : 400;
    const image = el("img", {
      alt: titleOf(picture),
      loading: "lazy",
      decoding: "async",
      width: picture.width,
      height: picture.height,
      src: thumbnail(picture, side),
    });
    image.addEventListener("error", () => card.classList.add("gone"), { once: true });
    const score = el(
      "span",
      { class: "score" },
      el("span", { class: "unseen" }, " similarity "),
      picture.similarity.toFixed(2),
    );
    const name = el("span", { class: "name", "aria-hidden": "true" }, titleOf(picture));
    const card = el("a", { "data-id": picture.image_id }, image, name, score);
    card.href = hrefWith("image", picture.image_id);
    card.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      this.open(picture);
    });
    const item = el("li", {}, card);
    item.style.setProperty("--ratio", ratio.toFixed(4));
    return item;
  }
}

/** This page's address with one parameter set. */
export function hrefWith(name, value) {
  const params = new URLSearchParams(location.search);
  params.set(name, value);
  return `?${params}`;
}
