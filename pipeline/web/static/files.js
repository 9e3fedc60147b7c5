// Sources of images: drag and drop (folders too), paste, the file dialog, and the camera.

/** Calls `add` with a list of Files from any source. */
export function onFiles(add, { drop, choose, files, photo, camera }) {
  choose.addEventListener("click", () => files.click());
  photo.addEventListener("click", () => camera.click());
  for (const input of [files, camera]) {
    input.addEventListener("change", () => {
      add([...input.files]);
      input.value = ""; // so that the same file can be chosen again
    });
  }
  let depth = 0; // dragenter and dragleave come for each child
  const over = (change) => {
    depth = Math.max(0, depth + change);
    drop.classList.toggle("over", depth > 0);
  };
  window.addEventListener("dragenter", (event) => carriesFiles(event) && over(1));
  window.addEventListener("dragleave", (event) => carriesFiles(event) && over(-1));
  window.addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
  window.addEventListener("drop", async (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    depth = 0;
    over(0);
    add(await dropped(event.dataTransfer));
  });
  window.addEventListener("paste", (event) => {
    const pasted = [...event.clipboardData.files];
    if (!pasted.length) return;
    event.preventDefault();
    add(pasted);
  });
}

function carriesFiles(event) {
  return [...event.dataTransfer.types].includes("Files");
}

async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
  const found = [];
  for (const entry of entries) await walk(entry, found);
  return found;
}

async function walk(entry, found) {
  if (entry.isFile) {
    const file = await new Promise((done) => entry.file(done, () => done(null)));
    if (file?.type.startsWith("image/")) found.push(file);
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((done) => reader.readEntries(done, () => done([])));
    if (!some.length) return; // at most 100 come at a time
    for (const child of some) await walk(child, found);
  }
}
