// Light over a picture: dark where the decoder did not look for the chosen word.

const DARK = 0.82;

/** Lays `canvas` over `image` and darkens all but what `weights` (grid x grid, over the part `seen`) point at. */
export function showLight(canvas, image, weights, grid, seen) {
  place(canvas, image);
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  context.clearRect(0, 0, width, height);
  const [left, top, right, bottom] = [seen[0] * width, seen[1] * height, seen[2] * width, seen[3] * height];
  context.save();
  context.fillStyle = `rgb(0 0 0 / ${DARK})`;
  context.beginPath();
  context.rect(0, 0, width, height);
  context.rect(left, top, right - left, bottom - top);
  context.fill("evenodd");
  context.beginPath();
  context.rect(left, top, right - left, bottom - top);
  context.clip();
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  // A border of one more cell on each side, so that smoothing does not fade out at the edges.
  const cell = [(right - left) / grid, (bottom - top) / grid];
  context.drawImage(mask(weights, grid), left - cell[0], top - cell[1], right - left + 2 * cell[0], bottom - top + 2 * cell[1]);
  context.restore();
  canvas.classList.add("on");
}

export function hideLight(canvas) {
  canvas.classList.remove("on");
}

function place(canvas, image) {
  const ratio = Math.min(image.clientWidth / image.naturalWidth, image.clientHeight / image.naturalHeight);
  const [width, height] = [image.naturalWidth * ratio, image.naturalHeight * ratio]; // object-fit: contain
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  canvas.style.left = `${image.offsetLeft + (image.clientWidth - width) / 2}px`;
  canvas.style.top = `${image.offsetTop + (image.clientHeight - height) / 2}px`;
  canvas.width = Math.max(1, Math.round(width * devicePixelRatio));
  canvas.height = Math.max(1, Math.round(height * devicePixelRatio));
}

function mask(weights, grid) {
  const side = grid + 2;
  const small = Object.assign(document.createElement("canvas"), { width: side, height: side });
  const pixels = new ImageData(side, side);
  const most = Math.max(...weights, 1e-9);
  const within = (place) => Math.min(Math.max(place - 1, 0), grid - 1);
  for (let y = 0; y < side; y += 1) {
    for (let x = 0; x < side; x += 1) {
      const weight = weights[within(y) * grid + within(x)] / most;
      pixels.data[(y * side + x) * 4 + 3] = 255 * DARK * (1 - weight);
    }
  }
  small.getContext("2d").putImageData(pixels, 0, 0);
  return small;
}
