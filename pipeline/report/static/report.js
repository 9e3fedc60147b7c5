// Sorts, filters and searches the cards, and draws attention weights over the images. Without this script the page shows
// all cards. Captions only ever reach `textContent`, so they cannot become markup.
"use strict";
document.documentElement.classList.add("live");
const LEVELS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_";
const PAGE = 12;
const list = document.querySelector(".cards");
const count = document.querySelector(".bar output");
const more = document.querySelector(".more");
const filter = document.querySelector("#filter");
const metric = document.querySelector("#metric");
const search = document.querySelector("#search");
const tabs = [...document.querySelectorAll(".bar [data-view]")];
const cards = [...list.children].map((element, index) => ({
  element,
  index,
  rank: Number(element.dataset.rank),
  scores: element.dataset.scores.split(" ").map(Number),
  flags: element.dataset.flags.split(" "),
  text: [...element.querySelectorAll(".caption, .reference, li, .file")]
    .map((one) => one.textContent)
    .join(" ")
    .toLowerCase(),
}));
let view = "worst";
let shown = PAGE;

const orders = {
  worst: (a, b) => a.scores[metric.value] - b.scores[metric.value],
  best: (a, b) => b.scores[metric.value] - a.scores[metric.value],
  random: (a, b) => a.rank - b.rank,
  all: () => 0,
};

function update() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const kept = cards.filter(
    (card) =>
      (!filter.value || card.flags.includes(filter.value)) && words.every((word) => card.text.includes(word)),
  );
  kept.sort((a, b) => orders[view](a, b) || a.index - b.index);
  list.replaceChildren(...kept.slice(0, shown).map((card) => card.element));
  count.textContent = `${Math.min(shown, kept.length)} of ${kept.length}`;
  more.style.display = kept.length > shown ? "block" : "none";
  for (const tab of tabs) tab.setAttribute("aria-pressed", tab.dataset.view === view);
}

function restart() {
  shown = PAGE;
  update();
}

for (const tab of tabs) {
  tab.addEventListener("click", () => {
    view = tab.dataset.view;
    restart();
  });
}
for (const field of [metric, filter]) field.addEventListener("change", restart);
search.addEventListener("input", restart);
more.addEventListener("click", () => {
  shown += PAGE;
  update();
});

// A canvas that darkens the regions with low attention weights for one word; the browser interpolates between regions.
function attentionMask(image, number) {
  const grid = Number(image.dataset.grid);
  const [left, top, right, bottom] = image.dataset.region.split(" ").map(Number);
  const levels = image.dataset.attention.split(" ")[number];
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = grid;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(grid, grid);
  for (let region = 0; region < grid * grid; region++) {
    pixels.data[4 * region + 3] = 205 * (1 - LEVELS.indexOf(levels[region]) / 63);
  }
  context.putImageData(pixels, 0, 0);
  Object.assign(canvas.style, {
    left: `${100 * left}%`,
    top: `${100 * top}%`,
    width: `${100 * (right - left)}%`,
    height: `${100 * (bottom - top)}%`,
  });
  return canvas;
}

function showAttention(card, number) {
  const image = card.querySelector(".image");
  image.querySelector("canvas")?.remove();
  card.querySelectorAll(".caption button").forEach((word, index) => word.classList.toggle("on", index === number));
  if (number !== null) image.append(attentionMask(image, number));
}

for (const kind of ["pointerover", "focusin", "click"]) {
  list.addEventListener(kind, (event) => {
    const word = event.target.closest(".caption button");
    if (word) showAttention(word.closest("article"), [...word.parentNode.children].indexOf(word));
  });
}
for (const kind of ["pointerout", "focusout"]) {
  list.addEventListener(kind, (event) => {
    const word = event.target.closest(".caption button");
    if (word && event.pointerType !== "touch" && document.activeElement !== word) {
      showAttention(word.closest("article"), null);
    }
  });
}
list.addEventListener(
  "toggle",
  (event) => {
    const strip = event.target;
    if (!strip.matches("details.strip") || !strip.open || strip.lastElementChild.children.length) return;
    const card = strip.closest("article");
    const image = card.querySelector(".image");
    card.querySelectorAll(".caption button").forEach((word, number) => {
      const figure = document.createElement("figure");
      const label = document.createElement("figcaption");
      const copy = image.cloneNode(false);
      copy.style.width = "100%";
      copy.append(image.querySelector("img").cloneNode(), attentionMask(image, number));
      label.textContent = word.textContent;
      figure.append(copy, label);
      strip.lastElementChild.append(figure);
    });
  },
  true,
);
update();
