// Sources of images: drag and drop (folders too), paste, the file dialog, and the camera.

const IMAGE_NAME = /\.(avif|bmp|gif|hei[cf]|hif|jfif|jpe?g?|png|tiff?|webp)$/i; // a browser may not know the type

/** Calls `add` with a list of Files from any source, and the number of files in a dropped folder that are not used. */
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
    const found = await dropped(event.dataTransfer);
    add(found.images, found.unused);
  });
  window.addEventListener("paste", (event) => {
    const pasted = [...event.clipboardData.files];
    const isText = event.target.closest?.("textarea, input") && event.clipboardData.types.includes("text/plain");
    if (!pasted.length || isText) return; // office programs copy an image beside the text
    event.preventDefault();
    add(pasted);
  });
}

function carriesFiles(event) {
  return [...event.dataTransfer.types].includes("Files");
}

async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const found = { images: [...transfer.files], unused: 0 };
  if (!entries.some((entry) => entry.isDirectory)) return found;
  found.images = [];
  for (const entry of entries) await walk(entry, found);
  return found;
}

async function walk(entry, found) {
  if (entry.isFile) {
    const file = await new Promise((done) => entry.file(done, () => done(null)));
    if (file?.type.startsWith("image/") || (file?.type === "" && IMAGE_NAME.test(file.name))) found.images.push(file);
    else if (!entry.name.startsWith(".")) found.unused += 1;
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((done) => reader.readEntries(done, () => done(null)));
    if (!some) found.unused += 1; // the rest of the folder cannot be listed
    if (!some?.length) return; // at most 100 come at a time
    for (const child of some) await walk(child, found);
  }
}
