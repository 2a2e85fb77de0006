// Pictures on their way: sent, in the log, and then what became of them.

import { image, upload } from "./api.js";
import { $, el, plural, split } from "./dom.js";

const SIDE_BY_SIDE = 2;
const SAID = {
  indexed: "searchable",
  replaced: "searchable, in place of another",
  unchanged: "was there already",
  superseded: "replaced by a newer one meanwhile",
  deleted: "deleted",
};
const STATES = { live: "indexed", dead_lettered: "dead_lettered", deleted: "deleted" };

export class PublishView {
  constructor() {
    this.waiting = [];
    this.sending = 0;
    this.pending = new Map();
    this.done = 0;
    this.total = 0;
    $("#publish-files").addEventListener("change", (event) => {
      this.add(event.target.files);
      event.target.value = "";
    });
  }

  show() {
    document.title = "Add pictures · pixtide";
  }

  add(files) {
    const tags = split($("#publish-tags").value);
    for (const file of files) {
      const said = el("span", { class: "state" }, "waiting");
      const preview = el("img", { alt: "", src: URL.createObjectURL(file) });
      preview.addEventListener("error", () => preview.classList.add("gone"));
      const row = el("li", {}, preview, el("span", { class: "file" }, file.name), said);
      $("#uploads").prepend(row);
      this.waiting.push({ file, tags, row, said });
      this.total += 1;
    }
    this.listen();
    this.work();
  }

  work() {
    while (this.sending < SIDE_BY_SIDE && this.waiting.length) {
      this.sending += 1;
      this.send(this.waiting.shift()).finally(() => {
        this.sending -= 1;
        this.work();
      });
    }
    this.tell();
  }

  async send(item) {
    item.said.textContent = "sending";
    for (;;) {
      try {
        const accepted = await upload(item.file, item.tags);
        item.said.textContent = "in the log";
        this.pending.set(accepted.image_id, { ...item, ...accepted });
        await this.settle(accepted.image_id);
        return;
      } catch (error) {
        if (!error.retryable) {
          this.finish(item, error.message, "bad");
          return;
        }
        item.said.textContent = `${error.message} Trying again.`;
        await new Promise((resolve) => setTimeout(resolve, error.afterS * 1000));
      }
    }
  }

  /** Hear the outcomes; what came while nobody listened is looked up. */
  listen() {
    if (this.events && this.events.readyState !== EventSource.CLOSED) return;
    this.events = new EventSource("api/outcomes");
    this.events.addEventListener("outcome", (event) => this.heard(JSON.parse(event.data)));
    this.events.addEventListener("open", () => {
      for (const id of this.pending.keys()) this.settle(id);
    });
  }

  heard(outcome) {
    const item = this.pending.get(outcome.image_id);
    if (!item || outcome.partition !== item.partition || outcome.offset < item.offset) return;
    this.pending.delete(outcome.image_id);
    const bad = outcome.outcome === "dead_lettered";
    const words = bad ? `${outcome.reason}: ${outcome.message}` : SAID[outcome.outcome];
    this.finish(item, words, bad ? "bad" : "good", outcome.image_id);
  }

  /** Look whether the outcome is in the index already, since it may have come before we knew. */
  async settle(id) {
    const item = this.pending.get(id);
    const row = await image(id).catch(() => null);
    if (!item || !row || row.partition !== item.partition || row.offset < item.offset) return;
    this.heard({ ...row, outcome: STATES[row.state], message: "see the dead letters" });
  }

  finish(item, words, kind, id) {
    item.row.classList.add(kind);
    item.said.textContent = words;
    if (kind === "good") {
      const like = `?${new URLSearchParams({ image: id, like: id })}`;
      item.row.append(el("a", { class: "button", href: like }, "Show"));
    }
    this.done += 1;
    this.tell();
  }

  tell() {
    $("#publish-said").textContent = this.total
      ? `${this.done} of ${plural(this.total, "picture")} finished`
      : "";
  }
}
