// The page: pictures that were given, the one that is looked at, and the words of its chosen caption.

import { hideLight, showLight } from "./attention.js";
import { captionsOf, model } from "./captions.js";
import { onFiles } from "./files.js";
import { asCsv, makeRow, percent } from "./table.js";

const at = Object.fromEntries([...document.querySelectorAll("[id]")].map((one) => [one.id, one]));
const TOGETHER = 4; // requests at a time
const MOST = 2000;
const items = [];
let shown = null; // the item that is looked at
let word = -1; // of its caption, -1 for none
let playing = 0;
let running = 0;
let server = { max_bytes: Infinity, attention: false };

onFiles(add, { drop: at.drop, choose: at.choose, files: at.files, takePhoto: at.take, camera: at.camera });
const ready = start();

async function start() {
  try {
    server = await model();
    const looks = server.attention ? "shows where it looked" : "does not show where it looked";
    at.accepted.textContent = `${server.formats.join(", ")}; up to ${Math.floor(server.max_bytes / 1e6)} MB each.`;
    at.model.textContent = `Captioner ${server.version}: ${server.encoder}, ${server.vocabulary} words, ${looks}.`;
  } catch {
    notify("The server does not answer. Is it still running?");
  }
}

function add(files) {
  at.notice.hidden = true;
  const room = MOST - items.length;
  if (files.length > room) notify(`Only the first ${room} of these ${files.length} pictures are taken.`);
  const added = files.slice(0, room).map((file) => ({
    file,
    address: URL.createObjectURL(file),
    state: "waiting",
    answer: null,
    reason: null,
    choice: 0,
    text: "",
    row: null,
  }));
  if (!added.length) return;
  items.push(...added);
  at.drop.classList.add("slim");
  if (items.length > 1) {
    for (const item of items) item.row ??= row(item);
    at.rows.append(...items.map((item) => item.row).filter((one) => !one.isConnected));
  }
  at.many.hidden = items.length < 2;
  look(added[0]);
  count();
  work();
}

function row(item) {
  return makeRow(item, {
    choose: () => {
      look(item);
      at.one.scrollIntoView({ block: "nearest", behavior: "smooth" });
    },
    edit: (text) => {
      item.text = text;
      if (item === shown) at.text.value = text;
    },
  });
}

function work() {
  while (running < TOGETHER) {
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
  try {
    item.answer = await captionsOf(item.file, {
      captions: bounded(at.number),
      beam: at.beam.value === "" ? null : bounded(at.beam),
      length: bounded(at.length),
      attention: server.attention,
      limit: server.max_bytes,
    });
    item.state = "done";
    item.reason = null;
    choose(item, 0);
    say(item);
  } catch (error) {
    item.state = "failed";
    item.reason = error.message;
    say(item);
  }
  update(item);
}

function bounded(input) {
  const value = Math.round(Number(input.value)) || Number(input.defaultValue);
  input.value = Math.min(Math.max(value, Number(input.min)), Number(input.max));
  return input.value;
}

/** For those who do not see the page: what became of a picture, or of all of them. */
function say(item) {
  if (items.length > 1) return;
  const all = item.answer?.captions;
  at.status.textContent =
    item.state === "failed"
      ? `${item.file.name}: ${item.reason}`
      : `${all.length} caption${all.length > 1 ? "s" : ""} for ${item.file.name}. Best: ${all[0].caption}`;
}

function count() {
  const done = items.filter((item) => item.state === "done" || item.state === "failed").length;
  const failed = items.filter((item) => item.state === "failed").length;
  at.progress.max = items.length || 1;
  at.progress.value = done;
  at.progress.hidden = done === items.length;
  at.count.textContent = `${done} of ${items.length}` + (failed ? `, ${failed} could not be captioned` : "");
  if (items.length > 1 && done === items.length) at.status.textContent = `${at.count.textContent} pictures captioned`;
}

function look(item) {
  stop();
  shown?.row?.classList.remove("chosen");
  shown = item;
  item.row?.classList.add("chosen");
  at.picture.hidden = false;
  at["no-preview"].hidden = true;
  at.picture.src = item.address;
  at["one-name"].textContent = item.file.name;
  at.one.hidden = false;
  update(item);
}

at.picture.addEventListener("error", () => {
  at.picture.hidden = true;
  at["no-preview"].hidden = false;
});

function update(item) {
  item.row?.show();
  if (item !== shown) return;
  at.busy.hidden = item.state === "done" || item.state === "failed";
  at.failed.hidden = item.state !== "failed";
  at.found.hidden = item.state !== "done";
  at.reason.textContent = item.reason ?? "";
  at.again.hidden = !/server/i.test(item.reason ?? "");
  at.picture.alt = item.text;
  if (item.state === "done") showCaptions(item);
}

function showCaptions(item) {
  const candidates = item.answer.captions.map((one, number) => {
    const label = document.createElement("label");
    const input = Object.assign(document.createElement("input"), { type: "radio", name: "caption", value: number });
    input.checked = number === item.choice;
    input.addEventListener("change", () => choose(item, number));
    const text = Object.assign(document.createElement("span"), { textContent: one.caption || "(nothing)" });
    const sure = Object.assign(document.createElement("span"), { className: "sure", textContent: percent(one.certainty) });
    sure.title = `How sure the model was of each word, on average. Score ${one.score}`;
    label.append(input, text, sure);
    return label;
  });
  at.candidates.replaceChildren(at.candidates.querySelector("legend"), ...candidates);
  at.text.value = item.text;
  showWords(item);
}

function choose(item, number) {
  item.choice = number;
  item.text = item.answer.captions[number].caption;
  item.row?.show();
  if (item !== shown) return;
  at.text.value = item.text;
  at.picture.alt = item.text;
  if (item.state === "done") showWords(item);
}

function showWords(item) {
  stop();
  const { words, attention } = item.answer.captions[item.choice];
  at.looking.hidden = !attention || at.picture.hidden;
  at.words.replaceChildren(
    ...words.map((text, number) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: text });
      button.setAttribute("aria-pressed", "false");
      button.tabIndex = number === 0 ? 0 : -1;
      button.addEventListener("click", () => {
        stopPlaying();
        step(number === word ? -1 : number);
      });
      return button;
    }),
  );
}

function step(number) {
  word = number;
  const { grid, seen, captions } = shown.answer;
  [...at.words.children].forEach((button, place) => {
    button.setAttribute("aria-pressed", String(place === number));
    button.tabIndex = place === Math.max(number, 0) ? 0 : -1;
  });
  if (number < 0) hideLight(at.light);
  else showLight(at.light, at.picture, captions[shown.choice].attention[number], grid, seen);
}

at.words.addEventListener("keydown", (event) => {
  const last = at.words.children.length - 1;
  const from = [...at.words.children].indexOf(document.activeElement);
  const to = { ArrowRight: Math.min(from + 1, last), ArrowLeft: Math.max(from - 1, 0), Home: 0, End: last }[event.key];
  if (event.key === "Escape") stop();
  if (to === undefined) return;
  event.preventDefault();
  stopPlaying();
  step(to);
  at.words.children[to].focus();
});

at.play.addEventListener("click", () => {
  if (playing) {
    stop();
    return;
  }
  at.play.textContent = "Stop";
  step(0);
  playing = setInterval(() => (word + 1 < at.words.children.length ? step(word + 1) : stop()), 700);
});

function stopPlaying() {
  clearInterval(playing);
  playing = 0;
  at.play.textContent = "Play";
}

function stop() {
  stopPlaying();
  if (shown?.answer && at.words.children.length) step(-1);
  hideLight(at.light);
  word = -1;
}

window.addEventListener("resize", () => word >= 0 && step(word));

at.text.addEventListener("input", () => {
  shown.text = at.text.value;
  at.picture.alt = shown.text;
  shown.row?.show();
});

at.again.addEventListener("click", () => {
  for (const item of items) if (item.state === "failed" && /server/i.test(item.reason)) item.state = "waiting";
  work();
});

at.copy.addEventListener("click", () => copy(shown.text, at.copy));
at["copy-html"].addEventListener("click", () => {
  const image = Object.assign(document.createElement("img"), { alt: shown.text });
  image.setAttribute("src", shown.file.name);
  copy(image.outerHTML, at["copy-html"]);
});

async function copy(text, button) {
  const label = button.dataset.label ?? (button.dataset.label = button.textContent);
  button.textContent = (await written(text)) ? "Copied" : "Select and copy by hand";
  at.status.textContent = button.textContent;
  setTimeout(() => (button.textContent = label), 1600);
}

async function written(text) {
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
  const address = URL.createObjectURL(new Blob([asCsv(items)], { type: "text/csv" }));
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
