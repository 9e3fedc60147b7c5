"""The report's script: which cards are seen and in which order, and the attention over the pictures.

Without it the page shows all cards. It makes no markup from captions: words come out of the page and go into
`textContent`.
"""

SCRIPT = """
"use strict";
document.documentElement.classList.add("live");
const LEVELS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_", PAGE = 12;
const list = document.querySelector(".cards"), count = document.querySelector(".bar output");
const more = document.querySelector(".more"), sign = document.querySelector("#sign");
const by = document.querySelector("#by"), search = document.querySelector("#search");
const tabs = [...document.querySelectorAll(".bar [data-view]")];
const cards = [...list.children].map((layer, place) => ({
  layer, place, chance: +layer.dataset.chance, scores: layer.dataset.scores.split(" ").map(Number),
  signs: layer.dataset.signs.split(" "), text: layer.textContent.toLowerCase() }));
let view = "worst", shown = PAGE;

const orders = {
  worst: (a, b) => a.scores[by.value] - b.scores[by.value],
  best: (a, b) => b.scores[by.value] - a.scores[by.value],
  random: (a, b) => a.chance - b.chance,
  all: () => 0 };

function update() {
  const words = search.value.toLowerCase().split(/\\s+/).filter(Boolean);
  const kept = cards.filter(card => (!sign.value || card.signs.includes(sign.value))
    && words.every(word => card.text.includes(word)));
  kept.sort((a, b) => orders[view](a, b) || a.place - b.place);
  list.replaceChildren(...kept.slice(0, shown).map(card => card.layer));
  count.textContent = `${Math.min(shown, kept.length)} of ${kept.length}`;
  more.style.display = kept.length > shown ? "block" : "none";
  for (const tab of tabs) tab.setAttribute("aria-pressed", tab.dataset.view === view);
}
function restart() { shown = PAGE; update(); }
for (const tab of tabs) tab.addEventListener("click", () => { view = tab.dataset.view; restart(); });
for (const field of [by, sign]) field.addEventListener("change", restart);
search.addEventListener("input", restart);
more.addEventListener("click", () => { shown += PAGE; update(); });

// What the decoder did not look at is darkened, softly between the regions.
function veil(picture, number) {
  const grid = +picture.dataset.grid, [left, top, width, height] = picture.dataset.box.split(" ").map(Number);
  const levels = picture.dataset.looks.split(" ")[number], canvas = document.createElement("canvas");
  canvas.width = canvas.height = grid;
  const context = canvas.getContext("2d"), pixels = context.createImageData(grid, grid);
  for (let place = 0; place < grid * grid; place++)
    pixels.data[4 * place + 3] = 205 * (1 - LEVELS.indexOf(levels[place]) / 63);
  context.putImageData(pixels, 0, 0);
  Object.assign(canvas.style, { left: 100 * left + "%", top: 100 * top + "%",
    width: 100 * width + "%", height: 100 * height + "%" });
  return canvas;
}
function look(card, number) {
  const picture = card.querySelector(".picture"), words = [...card.querySelectorAll(".caption button")];
  picture.querySelector("canvas")?.remove();
  words.forEach((word, place) => word.classList.toggle("on", place === number));
  if (number !== null) picture.append(veil(picture, number));
}
for (const kind of ["pointerover", "focusin", "click"]) list.addEventListener(kind, event => {
  const word = event.target.closest(".caption button");
  if (word) look(word.closest("article"), [...word.parentNode.children].indexOf(word));
});
for (const kind of ["pointerout", "focusout"]) list.addEventListener(kind, event => {
  const word = event.target.closest(".caption button");
  if (word && event.pointerType !== "touch" && document.activeElement !== word) look(word.closest("article"), null);
});
list.addEventListener("toggle", event => {
  const strip = event.target;
  if (!strip.matches("details.strip") || !strip.open || strip.lastElementChild.children.length) return;
  const card = strip.closest("article"), picture = card.querySelector(".picture");
  card.querySelectorAll(".caption button").forEach((word, number) => {
    const figure = document.createElement("figure"), name = document.createElement("figcaption");
    const copy = picture.cloneNode(false);
    copy.style.width = "100%";
    copy.append(picture.querySelector("img").cloneNode(), veil(picture, number));
    name.textContent = word.textContent;
    figure.append(copy, name);
    strip.lastElementChild.append(figure);
  });
}, true);
update();
"""
