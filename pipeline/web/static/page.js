// The page: the added images, the one that is shown, and the chosen token of its caption.

import { hideAttention, showAttention } from "./attention.js";
import { captionsOf, getModel } from "./captions.js";
import { onFiles } from "./files.js";
import { makeRow, percent, sentence, toCsv } from "./table.js";

const at = Object.fromEntries([...document.querySelectorAll("[id]")].map((one) => [one.id, one]));
const MAX_REQUESTS = 4; // at a time
const MAX_IMAGES = 2000;
const gentle = window.matchMedia("(prefers-reduced-motion: reduce)");
const items = [];
let shown = null; // the item that is shown
let token = -1; // index in its caption, -1 for none
let playing = 0;
let running = 0;
let server = null; // its answer about the model

onFiles(add, { drop: at.drop, choose: at.choose, files: at.files, photo: at.photo, camera: at.camera });
let ready = start();

async function start() {
  try {
    server = await getModel();
    const attention = server.attention ? "with attention" : "without attention";
    at.accepted.textContent = `${server.formats.join(", ")}; up to ${Math.floor(server.max_bytes / 1e6)} MB each.`;
    at.model.textContent = `Captioner ${server.version}: ${server.encoder}, ${server.vocabulary} tokens, ${attention}.`;
  } catch {
    notify("The server does not answer. Is it still running?");
  }
}

/** Adds images; `unused` counts other files in a dropped folder. */
function add(files, unused = 0) {
  at.notice.hidden = true;
  const room = MAX_IMAGES - items.length;
  const notes = [];
  if (unused) notes.push(`${unused} file${unused > 1 ? "s" : ""} in the folder cannot be read as images.`);
  if (files.length > room) notes.push(`Only the first ${room} of ${files.length} images are added.`);
  if (notes.length) notify(notes.join(" "));
  const added = files.slice(0, room).map((file) => ({
    file,
    address: URL.createObjectURL(file),
    state: "waiting",
    result: null,
    reason: null,
    retry: false,
    choice: 0,
    text: "",
    row: null,
  }));
  if (!added.length) return;
  items.push(...added);
  at.drop.classList.add("slim");
  if (items.length > 1) {
    for (const item of items) item.row ??= rowOf(item);
    at.rows.append(...items.map((item) => item.row).filter((one) => !one.isConnected));
  }
  at.many.hidden = items.length < 2;
  show(added[0]);
  count();
  work();
}

function rowOf(item) {
  return makeRow(item, {
    choose: () => {
      show(item);
      at.one.scrollIntoView({ block: "nearest", behavior: gentle.matches ? "auto" : "smooth" });
    },
    edit: (text) => {
      item.text = text;
      if (item === shown) at.text.value = at.image.alt = text;
    },
  });
}

function work() {
  while (running < MAX_REQUESTS) {
    const item = items.find((one) => one.state === "waiting");
    if (!item) return;
    running += 1;
    caption(item).finally(() => {
      running -= 1;
      count();
      work();
    });
  }
}

async function caption(item) {
  item.state = "busy";
  update(item);
  await ready;
  if (!server) await (ready = start());
  try {
    item.result = await captionsOf(item.file, {
      captions: bounded(at.number),
      beam: at.beam.value === "" ? null : bounded(at.beam),
      length: at.length.value === "" ? null : bounded(at.length),
      attention: server?.attention ?? false,
      limit: server?.max_bytes ?? Infinity,
    });
    item.state = "done";
    item.reason = null;
    choose(item, 0);
  } catch (error) {
    item.state = "failed";
    item.reason = error.message;
    item.retry = Boolean(error.retry);
  }
  if (!items.includes(item)) return; // cleared meanwhile
  announce(item);
  update(item);
}

function bounded(input) {
  const value = Math.round(Number(input.value)) || Number(input.defaultValue);
  input.value = Math.min(Math.max(value, Number(input.min)), Number(input.max));
  return input.value;
}

/** Tells screen readers the result of a single image; `count` does so for several. */
function announce(item) {
  if (items.length > 1) return;
  const captions = item.result?.captions;
  at.status.textContent =
    item.state === "failed"
      ? `${item.file.name}: ${item.reason}`
      : `${captions.length} caption${captions.length > 1 ? "s" : ""} for ${item.file.name}. Best: ${captions[0].caption}` +
        (item.result.warning ? `. ${sentence(item.result.warning)}` : "");
}

function count() {
  const done = items.filter((item) => item.state === "done" || item.state === "failed").length;
  const failed = items.filter((item) => item.state === "failed").length;
  const failures = failed ? `, ${failed} could not be captioned` : "";
  at.progress.max = items.length || 1;
  at.progress.value = done;
  at.progress.hidden = done === items.length;
  at.count.textContent = `${done} of ${items.length}${failures}`;
  if (items.length > 1 && done === items.length) {
    at.status.textContent = `${done - failed} of ${items.length} images captioned${failures}`;
  }
}

function show(item) {
  stop();
  shown?.row?.classList.remove("chosen");
  shown?.row?.removeAttribute("aria-current");
  shown = item;
  item.row?.classList.add("chosen");
  item.row?.setAttribute("aria-current", "true");
  at.image.hidden = false;
  at["no-preview"].hidden = true;
  at.image.src = item.address;
  at["one-name"].textContent = item.file.name;
  at.one.hidden = false;
  update(item);
}

at.image.addEventListener("error", () => {
  at.image.hidden = true;
  at["no-preview"].hidden = false;
  stop();
  at.attention.hidden = true;
});

function update(item) {
  item.row?.update();
  if (item !== shown) return;
  at.busy.hidden = item.state === "done" || item.state === "failed";
  at.failed.hidden = item.state !== "failed";
  at.found.hidden = item.state !== "done";
  at.reason.textContent = item.reason ?? "";
  at.again.hidden = !item.retry;
  at.image.alt = item.text;
  if (item.state === "done") showCaptions(item);
}

function showCaptions(item) {
  const candidates = item.result.captions.map((one, number) => {
    const label = document.createElement("label");
    const input = Object.assign(document.createElement("input"), { type: "radio", name: "caption", value: number });
    input.checked = number === item.choice;
    input.addEventListener("change", () => choose(item, number));
    const text = Object.assign(document.createElement("span"), { textContent: one.caption || "(empty)" });
    const certainty = Object.assign(document.createElement("span"), {
      className: "certainty",
      textContent: percent(one.certainty),
      title: `Geometric mean of the token probabilities. Score ${one.score}`,
    });
    label.append(input, text, certainty);
    return label;
  });
  at.candidates.replaceChildren(at.candidates.querySelector("legend"), ...candidates);
  at.unfamiliar.hidden = !item.result.warning;
  at.unfamiliar.textContent = item.result.warning ? sentence(item.result.warning) : "";
  at.text.value = item.text;
  showTokens(item);
}

function choose(item, number) {
  item.choice = number;
  item.text = item.result.captions[number].caption;
  item.row?.update();
  if (item !== shown) return;
  at.text.value = item.text;
  at.image.alt = item.text;
  if (item.state === "done") showTokens(item);
}

function showTokens(item) {
  stop();
  const { tokens, attention } = item.result.captions[item.choice];
  at.attention.hidden = !attention || at.image.hidden;
  at.tokens.replaceChildren(
    ...tokens.map((text, number) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: text });
      button.setAttribute("aria-pressed", "false");
      button.tabIndex = number === 0 ? 0 : -1;
      button.addEventListener("click", () => {
        stopPlaying();
        step(number === token ? -1 : number);
      });
      return button;
    }),
  );
}

function step(number) {
  token = number;
  const { grid, visible_region: region, captions } = shown.result;
  [...at.tokens.children].forEach((button, place) => {
    button.setAttribute("aria-pressed", String(place === number));
    button.tabIndex = place === Math.max(number, 0) ? 0 : -1;
  });
  if (number < 0) hideAttention(at.overlay);
  else showAttention(at.overlay, at.image, captions[shown.choice].attention[number], grid, region);
}

at.tokens.addEventListener("keydown", (event) => {
  const last = at.tokens.children.length - 1;
  const from = [...at.tokens.children].indexOf(document.activeElement);
  const to = { ArrowRight: Math.min(from + 1, last), ArrowLeft: Math.max(from - 1, 0), Home: 0, End: last }[event.key];
  if (event.key === "Escape") stop();
  if (to === undefined) return;
  event.preventDefault();
  stopPlaying();
  step(to);
  at.tokens.children[to].focus();
});

at.play.addEventListener("click", () => {
  if (playing) {
    stop();
    return;
  }
  at.play.textContent = "Stop";
  step(0);
  playing = setInterval(() => (token + 1 < at.tokens.children.length ? step(token + 1) : stop()), 700);
});

function stopPlaying() {
  clearInterval(playing);
  playing = 0;
  at.play.textContent = "Play";
}

function stop() {
  stopPlaying();
  if (shown?.result && at.tokens.children.length) step(-1);
  hideAttention(at.overlay);
  token = -1;
}

window.addEventListener("resize", () => token >= 0 && step(token));

at.text.addEventListener("input", () => {
  shown.text = at.text.value;
  at.image.alt = shown.text;
  shown.row?.update();
});

at.again.addEventListener("click", () => {
  for (const item of items) if (item.state === "failed" && item.retry) item.state = "waiting";
  at.choose.focus(); // the button disappears
  work();
});

at.copy.addEventListener("click", () => copy(shown.text, at.copy));
at["copy-html"].addEventListener("click", () => {
  // In a document of its own, so that the browser does not load the image.
  const image = document.implementation.createHTMLDocument().createElement("img");
  image.alt = shown.text;
  image.setAttribute("src", encodeURIComponent(shown.file.name));
  copy(image.outerHTML, at["copy-html"]);
});

async function copy(text, button) {
  const label = button.dataset.label ?? (button.dataset.label = button.textContent);
  button.textContent = (await copied(text)) ? "Copied" : "Please select and copy the text";
  at.status.textContent = button.textContent;
  setTimeout(() => (button.textContent = label), 1600);
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Over plain http from another machine there is no clipboard interface; the older way needs a selected field.
    const field = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}

at.save.addEventListener("click", () => {
  const address = URL.createObjectURL(new Blob([toCsv(items)], { type: "text/csv" }));
  Object.assign(document.createElement("a"), { href: address, download: "captions.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
});

at.clear.addEventListener("click", () => {
  stop();
  for (const item of items.splice(0)) URL.revokeObjectURL(item.address);
  shown = null;
  at.rows.replaceChildren();
  at.one.hidden = at.many.hidden = true;
  at.drop.classList.remove("slim");
  at.status.textContent = "";
  at.choose.focus();
});

function notify(text) {
  at.notice.textContent = text;
  at.notice.hidden = false;
}
