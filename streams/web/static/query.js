// What is searched for: between the address, the form and the request.

import { split } from "./dom.js";

export const PAGE = 30;
const AWAY = -0.6;
const FIELDS = ["q", "not", "tag", "shape", "min", "from", "until", "sort"];

/** Pictures to search by, as base64. They live as long as the page; the address has their number. */
const examples = new Map();

export function keepExample(example) {
  const number = String(examples.size + 1);
  examples.set(number, example);
  return number;
}

export const exampleOf = (params) => examples.get(params.get("by"));

/** The address's parameters that say what is searched for, without what is merely looked at. */
export function searched(params) {
  const kept = new URLSearchParams(params);
  for (const name of ["image", "view"]) kept.delete(name);
  return kept;
}

export const isSearch = (params) => ["q", "like", "by"].some((name) => params.get(name));

/** The parameters that the form spells; `like` and `by` stay as they are in the address. */
export function fromForm(form, current) {
  const params = new URLSearchParams();
  const data = new FormData(form);
  for (const name of FIELDS) {
    const value = String(data.get(name) ?? "").trim();
    if (value) params.set(name, value);
  }
  for (const name of ["like", "by"]) if (current.get(name)) params.set(name, current.get(name));
  if (form.elements.compare.checked) params.set("compare", "1");
  return params;
}

export function toForm(form, params) {
  for (const name of FIELDS) form.elements[name].value = params.get(name) ?? "";
  form.elements.compare.checked = params.has("compare");
}

/** A SearchRequest. The word search takes the text alone, with the same filters. */
export function toRequest(params, mode, cursor) {
  const request = {
    text: params.get("q") ?? "",
    mode,
    limit: PAGE,
    filters: filters(params),
    sort: params.get("sort") || "relevance",
  };
  if (mode === "meaning") {
    request.terms = terms(params);
    // who shows a picture asks for the nearest to it, however near that is
    request.cutoff = params.has("all") || hasPicture(params) ? "none" : "auto";
  }
  if (cursor) request.cursor = cursor;
  return request;
}

const hasPicture = (params) => Boolean(params.get("like") || params.get("by"));

function terms(params) {
  const found = split(params.get("not")).map((text) => ({ text, weight: AWAY }));
  if (params.get("like")) found.push({ image_id: params.get("like") });
  const example = exampleOf(params);
  if (example) found.push({ data_base64: example.base64 });
  return found;
}

function filters(params) {
  const set = {};
  const tags = split(params.get("tag"));
  if (tags.length) set.tags_all = tags;
  if (params.get("shape")) set.orientations = [params.get("shape")];
  const least = Number(params.get("min"));
  if (least > 0) set.min_width = set.min_height = Math.floor(least);
  if (params.get("from")) set.uploaded_after = midnight(params.get("from"), 0);
  if (params.get("until")) set.uploaded_before = midnight(params.get("until"), 1);
  return set;
}

/** The start of a day here, some days later, in UTC. */
function midnight(day, later) {
  const [year, month, date] = day.split("-").map(Number);
  return new Date(year, month - 1, date + later).toISOString();
}

/** What narrows the search, in words, each with the parameters that it would be without. */
export function narrowings(params) {
  const said = {
    not: (value) => `not ${value}`,
    tag: (value) => `tagged ${value}`,
    shape: (value) => value,
    min: (value) => `at least ${value} px`,
    from: (value) => `from ${value}`,
    until: (value) => `until ${value}`,
    sort: () => "newest first",
    like: (value) => `like ${value.split("/").pop()}`,
    all: () => "weak matches too",
  };
  return Object.entries(said)
    .filter(([name]) => params.get(name))
    .map(([name, words]) => {
      const without = searched(params);
      without.delete(name);
      return { words: words(params.get(name)), without };
    });
}
