// How the system stands, looked at again and again while anybody sees it.

import { status } from "./api.js";
import { $, el, plural } from "./dom.js";
import { WatchingView } from "./watching.js";

export class StatusView extends WatchingView {
  constructor({ notice }) {
    super({ title: "Status", everyMs: 2000, load: status, notice });
  }

  draw({ generations }) {
    $("#generations").replaceChildren(
      ...generations.map((each) => {
        const badge = each.is_live ? "live" : each.state === "building" ? "being built" : "ready";
        const head = el("h2", {}, each.name, " ", el("span", { class: "badge" }, badge));
        return el("article", { class: "generation" }, head, progress(each), facts(each));
      }),
    );
  }
}

function progress(each) {
  const bar = el("progress", { max: each.total || 1, value: each.total ? each.done : 1 });
  bar.setAttribute("aria-label", `Generation ${each.name}: ${each.done} of ${each.total} events read`);
  return el("p", {}, bar, el("span", { class: "hint" }, standing(each)));
}

function standing({ lag, rate, eta_s: eta }) {
  if (!lag) return "up to date with the log";
  const said = [`${plural(lag, "event")} behind`];
  if (rate) said.push(`${rate.toFixed(1)} a second`);
  if (eta !== null) said.push(`${left(eta)} left`);
  return said.join(", ");
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
    ["Events read", `${each.done.toLocaleString("en")} of ${each.total.toLocaleString("en")}`],
    ["Events a second", each.rate === null ? "–" : each.rate.toFixed(1)],
    ["Model", `${each.model}, ${each.dimension} dimensions`],
    ["Created", new Date(each.created_at).toLocaleString()],
  ];
  return el(
    "dl",
    {},
    ...rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value.toLocaleString("en")))),
  );
}
