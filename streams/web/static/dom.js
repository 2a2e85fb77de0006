// Elements, made without markup: texts stay texts, whatever is in them.

export const $ = (selector, within = document) => within.querySelector(selector);

/** An element with properties (`class`, `data-…` and `aria-…` as attributes) and children. */
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === false) continue;
    if (name === "class" || name.includes("-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== undefined && child !== ""));
  return made;
}

/** One of the page's icons. */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(space, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** What a person may call a picture: its caption, or its file's name made readable. */
export function titleOf(picture) {
  if (picture.caption) return picture.caption;
  const last = picture.image_id.split("/").pop() || picture.image_id;
  return last.replace(/\.\w{1,5}$/, "").replace(/[-_]+/g, " ").trim() || picture.image_id;
}

/** Words between commas. */
export const split = (text) =>
  (text || "").split(",").map((part) => part.trim()).filter(Boolean);

export const plural = (count, one, many = `${one}s`) =>
  `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
