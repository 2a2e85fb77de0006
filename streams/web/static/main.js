// The page: which view the address asks for, and what may be done everywhere.

import { status } from "./api.js";
import { $ } from "./dom.js";
import { watchDrops } from "./drops.js";
import { LettersView } from "./letters.js";
import { Lightbox } from "./lightbox.js";
import { PublishView } from "./publish.js";
import { fromForm } from "./query.js";
import { SearchView } from "./search.js";
import { StatusView } from "./status.js";

const VIEWS = ["search", "publish", "letters", "status"];
let shown = null;

const parameters = () => new URLSearchParams(location.search);

function navigate(params, { replace = false } = {}) {
  const to = `${location.pathname}${params.size ? `?${params}` : ""}`;
  history[replace ? "replaceState" : "pushState"](null, "", to);
  render();
}

function notice(message) {
  const place = $("#notice");
  if (message !== null && place.textContent !== message) place.textContent = message;
  place.hidden = message === null;
}

function showPicture(id, options) {
  const params = parameters();
  if (id) params.set("image", id);
  else params.delete("image");
  navigate(params, options);
}

const searchView = new SearchView({
  navigate,
  notice,
  open: (picture) => showPicture(picture.image_id),
  found: () => lightbox.refresh(),
});
const publishView = new PublishView();
const lettersView = new LettersView({ notice });
const statusView = new StatusView({ notice });
const lightbox = new Lightbox({ view: searchView, show: showPicture, notice });

function render() {
  const params = parameters();
  const view = VIEWS.includes(params.get("view")) ? params.get("view") : "search";
  if (view !== shown) {
    for (const name of VIEWS) $(`#view-${name}`).hidden = name !== view;
    for (const link of document.querySelectorAll("nav a")) {
      if (link.dataset.view === view) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    statusView.hide();
    lettersView.hide();
    if (shown !== null) $("#main").focus({ preventScroll: true });
    shown = view;
    searchView.current = null;
  }
  if (view === "status") statusView.show();
  else if (view === "publish") publishView.show();
  else if (view === "letters") lettersView.show();
  else searchView.show(params);
  lightbox.show(view === "search" ? params.get("image") : null);
}

$("#search").addEventListener("submit", (event) => {
  event.preventDefault();
  const params = fromForm(event.target, parameters());
  $("#filters").open = false;
  if (params.toString() === location.search.slice(1)) searchView.run();
  else navigate(params);
});
$("#compare").addEventListener("change", () => $("#search").requestSubmit());
$("#clear-filters").addEventListener("click", () => {
  for (const field of $("#filters").querySelectorAll("input, select")) field.value = "";
  $("#search").requestSubmit();
});

// Links within the page change the address, and nothing is loaded anew.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href]");
  const plain = !event.defaultPrevented && event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey;
  if (!link || !plain || link.target || link.hash) return;
  if (link.pathname !== location.pathname) return;
  event.preventDefault();
  navigate(new URLSearchParams(link.search));
});
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, textarea, dialog");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    $("#text").focus();
  }
  if (event.key === "Escape") $("#filters").open = false;
});
window.addEventListener("popstate", render);

watchDrops({
  notice,
  searchBy: (number) => navigate(new URLSearchParams({ by: number })),
  publish: (files) => {
    navigate(new URLSearchParams({ view: "publish" }));
    publishView.add(files);
  },
});
render();
status()
  .then(({ read_only }) => document.body.classList.toggle("read-only", read_only))
  .catch(() => {}); // whoever needs the server says that it doesn't answer
