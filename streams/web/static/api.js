// The JSON API: every call either gives what was asked for or throws a Failure.

import { $ } from "./dom.js";

/** What the server answered instead, or that it did not answer. */
export class Failure extends Error {
  constructor(message, { code = "", retryable = false, afterS = 2 } = {}) {
    super(message);
    this.code = code;
    this.retryable = retryable;
    this.afterS = afterS;
  }
}

const UNREACHABLE = "pixtide does not answer.";
let signingIn = null;

/** Ask, sign in where that is needed, and ask again. */
export async function call(path, options = {}) {
  const answer = await reach(path, options);
  if (answer.status === 401) {
    signingIn ??= signIn().finally(() => (signingIn = null));
    await signingIn;
    return call(path, options);
  }
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  throw await failureOf(answer);
}

export const search = (request, signal) =>
  call("api/search", { method: "POST", body: JSON.stringify(request), signal });

export const image = (id) => call(`api/images/${encodeURIComponent(id)}`);
export const status = () => call("api/status");
export const remove = (id) =>
  call(`api/images/${encodeURIComponent(id)}`, { method: "DELETE" });

export const letters = () => call("api/dead-letters");
export const retry = (places) =>
  call("api/dead-letters/retry", { method: "POST", body: JSON.stringify({ places }) });
export const letterThumbnail = (letter) =>
  `api/dead-letters/${encodeURIComponent(letter.place)}/thumbnail`;

export function upload(file, tags) {
  const form = new FormData();
  form.set("picture", file);
  form.set("tags", JSON.stringify(tags));
  return call("api/images", { method: "POST", body: form });
}

export const thumbnail = (picture, side) =>
  `thumbnails/${encodeURIComponent(picture.image_id)}?side=${side}&sha256=${picture.sha256}`;

export const original = (picture) =>
  `originals/${encodeURIComponent(picture.image_id)}?sha256=${picture.sha256}`;

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(UNREACHABLE, { retryable: true });
  }
}

async function failureOf(answer) {
  const body = await answer.json().catch(() => ({}));
  const told = body.error || {};
  return new Failure(told.message || UNREACHABLE, {
    code: told.code,
    retryable: told.retryable ?? answer.status >= 500,
    afterS: Number(answer.headers.get("retry-after")) || 2,
  });
}

/** Ask for the token until it is right; the browser keeps a cookie for it. */
async function signIn() {
  const dialog = $("#sign-in");
  const problem = $(".problem", dialog);
  problem.hidden = true;
  for (;;) {
    $("#token").value = "";
    dialog.showModal();
    await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
    const token = $("#token").value;
    const answer = await reach("api/session", { method: "POST", body: JSON.stringify({ token }) });
    if (answer.ok) return;
    problem.textContent = (await failureOf(answer)).message;
    problem.hidden = false;
  }
}
