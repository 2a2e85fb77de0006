// Pictures dropped, pasted or chosen: to search by, or to publish.

import { $ } from "./dom.js";
import { keepExample } from "./query.js";

/** Models look at less than this; what is sent to search by needs no more. */
const SIDE = 768;
/** What isn't understood here is sent as it is, up to this. */
const MOST_BYTES = 600 * 1024;

const pictures = (files) => [...files].filter((file) => !file.type || file.type.startsWith("image/"));

export function watchDrops({ searchBy, publish, notice }) {
  const overlay = $("#drop");
  let depth = 0;
  const ends = () => {
    depth = 0;
    overlay.hidden = true;
  };
  const by = async (file) => {
    try {
      searchBy(keepExample(await exampleFrom(file)));
    } catch (error) {
      notice(error.message);
    }
  };
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");

  document.addEventListener("dragenter", (event) => {
    if (!hasFiles(event)) return;
    depth += 1;
    overlay.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (hasFiles(event) && --depth <= 0) ends();
  });
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    for (const zone of overlay.children) zone.classList.toggle("over", zone === event.target);
  });
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    ends();
    const files = pictures(event.dataTransfer.files);
    const toPublish = event.target.closest("[data-drop=publish], #view-publish") || files.length > 1;
    if (!files.length) notice("That is no picture.");
    else if (toPublish && !document.body.classList.contains("read-only")) publish(files);
    else by(files[0]);
  });
  document.addEventListener("paste", (event) => {
    const [file] = pictures(event.clipboardData?.files ?? []);
    if (!file) return;
    event.preventDefault();
    by(file);
  });
  $("#choose-example").addEventListener("click", () => $("#example-file").click());
  $("#example-file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    event.target.value = "";
    if (file) by(file);
  });
}

/** A picture made small, as base64 and as an address to show it by. */
async function exampleFrom(file) {
  const small = await shrunk(file).catch(() => null);
  if (!small && file.size > MOST_BYTES) {
    throw new Error("This browser can't read that picture, and it is too large to send as it is.");
  }
  const sent = small ?? file;
  return { base64: await base64Of(sent), url: URL.createObjectURL(sent) };
}

async function shrunk(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // as the model's own pictures: what is transparent is white
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
}

function base64Of(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error("The picture can't be read."));
    reader.readAsDataURL(blob);
  });
}
