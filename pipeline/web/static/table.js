// Many pictures: a row for each, and the whole as CSV.

/** A row for a picture. `choose` is called when it is to be looked at, `edit` with its new text. */
export function makeRow(item, { choose, edit }) {
  const row = document.createElement("tr");
  const button = element("button", { type: "button", className: "thumb" });
  button.append(element("img", { src: item.address, alt: "", loading: "lazy", decoding: "async" }));
  button.setAttribute("aria-label", `Look at ${item.file.name}`);
  button.addEventListener("click", choose);
  const text = element("textarea", { rows: 1, hidden: true });
  text.setAttribute("aria-label", `Alt text of ${item.file.name}`);
  text.addEventListener("input", () => edit(text.value));
  const state = element("span", { className: "small", textContent: "waiting" });
  const cells = [cell("", button), cell("file", item.file.name, "th"), cell("text", text), cell("sure", "")];
  cells[1].scope = "row";
  cells[2].append(state);
  row.append(...cells);
  row.show = () => {
    text.hidden = item.state !== "done";
    state.hidden = item.state === "done";
    state.textContent = item.state === "failed" ? item.reason : item.state === "busy" ? "looking…" : "waiting";
    state.classList.toggle("wrong", item.state === "failed");
    if (document.activeElement !== text) text.value = item.text;
    cells[3].textContent = item.state === "done" ? percent(item.answer.captions[item.choice].certainty) : "";
  };
  row.show();
  return row;
}

export function percent(share) {
  return `${Math.round(share * 100)}%`;
}

export function asCsv(items) {
  const rows = items.map((item) => {
    const chosen = item.answer?.captions[item.choice];
    return [item.file.name, item.text, chosen ? chosen.score : "", item.reason ?? ""];
  });
  return [["image", "caption", "score", "error"], ...rows].map((row) => row.map(quoted).join(",") + "\r\n").join("");
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
