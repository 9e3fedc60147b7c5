// Attention weights as an overlay: the image is dark where the weight of the chosen token is low.

const DARK = 0.82;

/** Covers `image` with `canvas`. `weights` are grid x grid over `region`; all outside of it is dark. */
export function showAttention(canvas, image, weights, grid, region) {
  place(canvas, image);
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  context.clearRect(0, 0, width, height);
  const [left, top, right, bottom] = [region[0] * width, region[1] * height, region[2] * width, region[3] * height];
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

export function hideAttention(canvas) {
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
  const highest = Math.max(...weights, 1e-9);
  const inner = (place) => Math.min(Math.max(place - 1, 0), grid - 1);
  for (let y = 0; y < side; y += 1) {
    for (let x = 0; x < side; x += 1) {
      const weight = weights[inner(y) * grid + inner(x)] / highest;
      pixels.data[(y * side + x) * 4 + 3] = 255 * DARK * (1 - weight);
    }
  }
  small.getContext("2d").putImageData(pixels, 0, 0);
  return small;
}
