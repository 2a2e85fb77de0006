// The search view: runs what the address says, and again by itself once the service is back.

import { search, status } from "./api.js";
import { $, el, icon, plural } from "./dom.js";
import { Results } from "./grid.js";
import { exampleOf, isSearch, narrowings, searched, toForm, toRequest } from "./query.js";

const SUGGESTIONS = ["a cat", "a castle", "musical instruments", "a vehicle", "a building by the water"];
const RETRY_MS = 2000;
const SLOW_MS = 1000;

export class SearchView {
  /**
   * `navigate` goes to other parameters; `open` shows a picture; `found` hears that there are new
   * results; `notice` says what is wrong.
   */
  constructor({ navigate, open, found, notice }) {
    this.found = found;
    this.navigate = navigate;
    this.notice = notice;
    this.form = $("#search");
    this.said = $("#said");
    this.current = null;
    const column = (selector, mode) => {
      const results = new Results($(selector), { open, more: () => this.more(results) });
      results.mode = mode;
      return results;
    };
    this.meaning = column("#meaning", "meaning");
    this.words = column("#words", "keyword");
    $("#suggestions").append(...SUGGESTIONS.map((words) => el("li", {}, this.link(words))));
  }

  /** The pictures that the lightbox leafs through: those of the column that has this one. */
  columnOf(id) {
    return [this.meaning, this.words].find((column) => column.cardOf(id)) ?? this.meaning;
  }

  show(params) {
    const wanted = searched(params).toString();
    if (wanted === this.current) return;
    this.current = wanted;
    this.params = searched(params);
    toForm(this.form, this.params);
    this.showExample();
    this.showNarrowings();
    const searching = isSearch(this.params);
    $("#welcome").hidden = searching;
    $("#bar").hidden = $("#columns").hidden = !searching;
    document.body.classList.toggle("searching", searching);
    if (searching) this.run();
    else this.welcome();
  }

  /** Search again, as after a change of the index. */
  async run() {
    this.stop?.abort();
    this.stop = new AbortController();
    clearTimeout(this.retry);
    const { params, stop } = this;
    const compare = params.has("compare") && Boolean(params.get("q"));
    this.words.section.hidden = !compare;
    $("#columns").classList.toggle("two", compare);
    document.title = `${params.get("q") || "Like a picture"} · pixtide`;
    if (params.get("by") && !exampleOf(params)) {
      this.lostExample();
      return;
    }
    $("#columns").setAttribute("aria-busy", "true");
    this.said.textContent = ""; // so that the same words are said again, of new results
    const columns = compare ? [this.meaning, this.words] : [this.meaning];
    for (const column of columns) column.none.hidden = true;
    const began = performance.now();
    const slow = setTimeout(() => (this.said.textContent = "Searching…"), SLOW_MS);
    try {
      const replies = await Promise.all(
        columns.map((column) => search(toRequest(params, column.mode), stop.signal)),
      );
      if (stop.signal.aborted) return;
      this.notice(null);
      columns.forEach((column, at) => this.fill(column, replies[at]));
      this.tell(replies, performance.now() - began);
      this.found();
    } catch (error) {
      if (!stop.signal.aborted) this.failed(error);
    } finally {
      clearTimeout(slow);
      if (!stop.signal.aborted) $("#columns").removeAttribute("aria-busy");
    }
  }

  async more(column) {
    const { params, stop } = this;
    try {
      const reply = await search(toRequest(params, column.mode, column.cursor), stop.signal);
      this.notice(null);
      column.cursor = reply.next_cursor;
      column.add(reply.results, { hasMore: Boolean(reply.next_cursor), focus: true });
      this.said.textContent = `${plural(column.pictures.length, "picture")} shown`;
    } catch (error) {
      if (error.code === "CURSOR_EXPIRED") this.run();
      else if (error.name !== "AbortError") this.notice(error.message);
    }
  }

  fill(column, reply) {
    column.clear();
    column.cursor = reply.next_cursor;
    column.add(reply.results, { hasMore: Boolean(reply.next_cursor) });
    if (reply.results.length) return;
    if (column.mode === "keyword") {
      column.say("No caption and no tag has these words.");
    } else if (this.params.has("all")) {
      column.say("No picture meets these filters.");
    } else {
      const all = new URLSearchParams(this.params);
      all.set("all", "1");
      const anyway = el("a", { href: `?${all}`, class: "button" }, "Show the nearest anyway");
      column.say(el("strong", {}, "No good match."), " No picture stands out from the others for it. ", anyway);
    }
  }

  tell([reply, byWords], tookMs) {
    const some = byWords ? `${count(reply)} by meaning, ${count(byWords)} by words` : count(reply);
    this.said.textContent = `${some} · ${Math.round(tookMs)} ms · generation ${reply.generation}`;
  }

  failed(error) {
    if (!error.retryable) {
      this.notice(null);
      this.meaning.clear();
      this.meaning.say(error.message);
      this.said.textContent = "";
      return;
    }
    this.notice(`${error.message} Trying again by itself.`);
    this.retry = setTimeout(() => this.run(), Math.max(RETRY_MS, error.afterS * 1000));
  }

  async welcome() {
    this.stop?.abort();
    clearTimeout(this.retry);
    document.title = "pixtide";
    try {
      const { generations } = await status();
      this.notice(null);
      const live = generations.find((generation) => generation.is_live);
      $("#welcome-count").textContent = live
        ? `${plural(live.live, "picture")} to search, understood by the model ${live.model}.`
        : "No index is live yet.";
    } catch (error) {
      this.notice(`${error.message} Trying again by itself.`);
      this.retry = setTimeout(() => this.welcome(), RETRY_MS);
    }
  }

  showNarrowings() {
    const chips = narrowings(this.params).map(({ words, without }) =>
      el("li", {}, el("a", { href: `?${without}`, class: "chip", title: "Remove" }, words, icon("close"))),
    );
    $("#chips").replaceChildren(...chips);
    $("#chips").hidden = chips.length === 0;
  }

  showExample() {
    const example = exampleOf(this.params);
    const place = $("#example");
    place.hidden = !example;
    if (!example) return;
    const drop = el("button", { type: "button", class: "quiet", title: "Without this picture" }, icon("close"));
    drop.setAttribute("aria-label", "Search without this picture");
    drop.addEventListener("click", () => {
      const without = new URLSearchParams(this.params);
      without.delete("by");
      this.navigate(without);
    });
    place.replaceChildren(el("img", { src: example.url, alt: "The picture searched by" }), drop);
  }

  lostExample() {
    this.meaning.clear();
    this.said.textContent = "";
    this.meaning.say("That picture isn't at hand any more: drop or choose it again.");
  }

  link(words) {
    return el("a", { class: "chip", href: `?${new URLSearchParams({ q: words })}` }, words);
  }
}

const count = (reply) =>
  `${plural(reply.results.length, "picture")}${reply.next_cursor ? " and more" : ""}`;
