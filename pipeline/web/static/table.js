// The table of several images: one row per image, and the CSV download.

/** A row for an image. `choose` is called to show the image, `edit` with its new text. */
export function makeRow(item, { choose, edit }) {
  const row = document.createElement("tr");
  const button = element("button", { type: "button", className: "thumb" });
  button.append(element("img", { src: item.address, alt: "", loading: "lazy", decoding: "async" }));
  button.setAttribute("aria-label", `Show ${item.file.name}`);
  button.addEventListener("click", choose);
  const text = element("textarea", { rows: 1, hidden: true });
  text.setAttribute("aria-label", `Alt text of ${item.file.name}`);
  text.addEventListener("input", () => edit(text.value));
  const state = element("span", { className: "small", textContent: "waiting" });
  const cells = [cell("", button), cell("file", item.file.name, "th"), cell("text", text), cell("certainty", "")];
  cells[1].scope = "row";
  cells[2].append(state);
  row.append(...cells);
  row.update = () => {
    text.hidden = item.state !== "done";
    const warning = item.state === "done" ? item.result.warning : null;
    state.hidden = item.state === "done" && !warning;
    const waiting = item.state === "busy" ? "captioning…" : "waiting";
    state.textContent = item.state === "failed" ? item.reason : warning ? sentence(warning) : waiting;
    state.classList.toggle("error", item.state === "failed" || warning !== null);
    if (document.activeElement !== text) text.value = item.text;
    cells[3].textContent = item.state === "done" ? percent(item.result.captions[item.choice].certainty) : "";
  };
  row.update();
  return row;
}

export function percent(share) {
  return `${Math.round(share * 100)}%`;
}

/** Words from the server as a sentence. */
export function sentence(words) {
  return `${words.charAt(0).toUpperCase()}${words.slice(1)}.`;
}

export function toCsv(items) {
  const rows = items.map((item) => {
    const caption = item.result?.captions[item.choice];
    const familiarity = item.result?.familiarity ?? "";
    return [item.file.name, item.text, caption ? caption.score : "", familiarity, item.reason ?? ""];
  });
  return [["image", "caption", "score", "familiarity", "error"], ...rows].map((row) => row.map(quoted).join(",") + "\r\n").join("");
}

function quoted(value) {
  const text = String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function cell(className, content, kind = "td") {
  const made = element(kind, { className });
  made.append(content);
  return made;
}

function element(kind, properties) {
  return Object.assign(document.createElement(kind), properties);
}
