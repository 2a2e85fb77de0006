// How the system stands, looked at again and again while anybody sees it.

import { status } from "./api.js";
import { $, el, plural } from "./dom.js";

const EVERY_MS = 2000;

export class StatusView {
  constructor({ notice }) {
    this.notice = notice;
    this.visible = false;
  }

  show() {
    document.title = "Status · pixtide";
    this.visible = true;
    this.look();
  }

  hide() {
    this.visible = false;
    clearTimeout(this.next);
  }

  async look() {
    clearTimeout(this.next);
    if (!this.visible) return;
    try {
      if (!document.hidden) this.draw((await status()).generations);
      this.notice(null);
    } catch (error) {
      this.notice(`${error.message} Trying again by itself.`);
    }
    if (this.visible) this.next = setTimeout(() => this.look(), EVERY_MS);
  }

  draw(generations) {
    $("#generations").replaceChildren(
      ...generations.map((each) => {
        const head = el("h2", {}, each.name, " ", each.is_live ? el("span", { class: "badge" }, "live") : "");
        return el("article", { class: "generation" }, head, progress(each), facts(each));
      }),
    );
  }
}

function progress(each) {
  const done = each.live + each.dead_lettered + each.deleted;
  const bar = el("progress", { max: done + each.lag || 1, value: each.lag ? done : done || 1 });
  bar.setAttribute("aria-label", `Generation ${each.name}: ${done} of ${done + each.lag}`);
  return el("p", {}, bar, el("span", { class: "hint" }, standing(each)));
}

function standing({ lag, rate }) {
  if (!lag) return "up to date with the log";
  const behind = `${plural(lag, "record")} behind`;
  return rate ? `${behind}, ${rate.toFixed(1)} a second, ${left(lag / rate)} left` : behind;
}

function left(seconds) {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function facts(each) {
  const rows = [
    ["Pictures", each.live],
    ["Dead letters", each.dead_lettered],
    ["Deleted", each.deleted],
    ["Behind the log", each.lag],
    ["Outcomes a second", each.rate.toFixed(1)],
    ["Model", `${each.model}, ${each.dimension} dimensions`],
    ["Created", new Date(each.created_at).toLocaleString()],
  ];
  return el(
    "dl",
    {},
    ...rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value.toLocaleString("en")))),
  );
}
