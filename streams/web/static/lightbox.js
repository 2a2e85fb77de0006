// One picture, large, with all that is known of it.

import { image, original, remove, thumbnail } from "./api.js";
import { $, el, titleOf } from "./dom.js";

const LARGE = 1600;

export class Lightbox {
  /** `view` knows the columns; `show` goes to a picture by its id, or to none. */
  constructor({ view, show, notice }) {
    this.view = view;
    this.goto = show;
    this.notice = notice;
    this.dialog = $("#lightbox");
    this.picture = $("#lightbox-picture");
    $(".close", this.dialog).addEventListener("click", () => show(null));
    $(".previous", this.dialog).addEventListener("click", () => this.leaf(-1));
    $(".next", this.dialog).addEventListener("click", () => this.leaf(1));
    $("#lightbox-delete").addEventListener("click", () => this.delete());
    this.dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      show(null);
    });
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && show(null));
    this.dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") this.leaf(-1);
      if (event.key === "ArrowRight") this.leaf(1);
    });
  }

  show(id) {
    if (id === this.id) return;
    const before = this.id;
    this.id = id;
    $("#lightbox-delete").textContent = "Delete";
    if (id) {
      this.refresh();
      return;
    }
    this.dialog.close();
    this.picture.removeAttribute("src");
    this.view.columnOf(before).cardOf(before)?.focus();
  }

  /** Draw what is known of the picture: at once what the results say, then all. */
  async refresh() {
    const { id } = this;
    if (!id) return;
    this.column = this.view.columnOf(id);
    const found = this.column.pictures.find((picture) => picture.image_id === id);
    if (found) this.draw(found);
    try {
      const known = await image(id);
      if (this.id === id) this.draw({ ...found, ...known, similarity: found?.similarity });
    } catch (error) {
      if (this.id !== id) return;
      this.notice(error.message);
      if (!found) this.goto(null);
    }
  }

  draw(picture) {
    if (picture.state && picture.state !== "live") {
      this.notice("This picture isn't in the index any more.");
      this.goto(null);
      return;
    }
    const title = titleOf(picture);
    const source = thumbnail(picture, LARGE);
    if (this.picture.getAttribute("src") !== source) this.picture.src = source;
    this.picture.alt = title;
    this.picture.width = picture.width;
    this.picture.height = picture.height;
    $("#lightbox-title").textContent = title;
    $("#lightbox-tags").replaceChildren(
      ...picture.tags.map((tag) => el("li", {}, el("span", { class: "chip" }, tag))),
    );
    $("#lightbox-like").href = `?${new URLSearchParams({ like: picture.image_id })}`;
    $("#lightbox-original").href = original(picture);
    $("#lightbox-facts").replaceChildren(...facts(picture));
    const at = this.at();
    $(".previous", this.dialog).disabled = at <= 0;
    $(".next", this.dialog).disabled = at < 0 || at >= this.column.pictures.length - 1;
    if (!this.dialog.open) this.dialog.showModal();
  }

  at() {
    return this.column.pictures.findIndex((picture) => picture.image_id === this.id);
  }

  leaf(by) {
    const next = this.column.pictures[this.at() + by];
    if (this.at() >= 0 && next) this.goto(next.image_id, { replace: true });
  }

  /** The first press asks, the second one does it. */
  async delete() {
    const button = $("#lightbox-delete");
    if (button.textContent === "Delete") {
      button.textContent = "Really delete?";
      return;
    }
    const { id, column } = this;
    try {
      await remove(id);
      this.goto(null);
      column.remove(id);
      $("#said").textContent = "Deleted: it leaves the index in a moment.";
    } catch (error) {
      this.goto(null);
      this.notice(error.message);
    }
  }
}

function facts(picture) {
  const size = `${picture.width} × ${picture.height}, ${picture.format}, ${kib(picture.bytes)}`;
  const rows = [
    ["Similarity", picture.similarity?.toFixed(4)],
    ["Size", size],
    ["Added", picture.uploaded_at && new Date(picture.uploaded_at).toLocaleString()],
    ["Id", picture.image_id],
    ...Object.entries(picture.attributes ?? {}).map(([name, value]) => [name, text(value)]),
    ["Model", picture.model],
    ["Generation", picture.generation],
    ["Log", picture.topic && `${picture.topic}, partition ${picture.partition}, offset ${picture.offset}`],
  ];
  return rows
    .filter(([, value]) => value)
    .map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)));
}

const text = (value) => (typeof value === "string" ? value : JSON.stringify(value));
const kib = (bytes) =>
  bytes < 1048576 ? `${Math.ceil(bytes / 1024)} KiB` : `${(bytes / 1048576).toFixed(1)} MiB`;
