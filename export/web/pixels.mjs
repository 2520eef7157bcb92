// Pictures to a network's input: from the pixels on bit for bit as Python's Pillow and export/runtime.py do it.

/** Resampling kernels and how far they reach, as Pillow has them (libImaging/Resample.c). */
const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const FILTERS = {
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [
    2,
    (x) => {
      const d = Math.abs(x); // Keys's kernel with a = -0.5
      return d < 1 ? (1.5 * d - 2.5) * d * d + 1 : d < 2 ? ((-0.5 * d + 2.5) * d - 4) * d + 2 : 0;
    },
  ],
  lanczos: [3, (x) => (-3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

/** Weights are whole numbers of 2^-22: the sums then are exact, and rounded as Pillow rounds them. */
const UNIT = 2 ** 22;

/** Larger images are refused, as in kerascv_course/core/images.py. */
const MAX_PIXELS = 100_000_000;

/** RGBA pixels of an image file: upright, without color management, on white, as Pillow reads them. */
export async function decode(blob) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", imageOrientation: "from-image" });
  } catch {
    throw new Error("this is not an image that the browser can read");
  }
  const { width, height } = bitmap;
  if (width * height > MAX_PIXELS) throw new Error(`the image has ${width}×${height} pixels: shrink it`);
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, width, height);
}

/**
 * An image as the network's input.
 *
 * @param {object} contract of the file.
 * @param {{width: number, height: number, data: Uint8ClampedArray}} image RGBA pixels, such as an ImageData; transparency is laid
 *     on white.
 * @returns {{data: Uint8Array | Float32Array, dims: number[], pixels: object}} the tensor of one image, and the pixels in it.
 */
export function toInput(contract, image) {
  const { height, width, channels, dtype, layout, resize } = contract.input;
  const pixels = resizePixels(toChannels(image, channels), width ?? image.width, height ?? image.height, resize);
  const size = pixels.width * pixels.height;
  const data = dtype === "uint8" ? new Uint8Array(size * channels) : new Float32Array(size * channels);
  const { scale, mean, std, channels: order } = contract.preprocessing;
  for (let i = 0; i < size; i++) {
    for (let c = 0; c < channels; c++) {
      let value = pixels.data[i * channels + (order === "BGR" && dtype !== "uint8" ? channels - 1 - c : c)];
      if (dtype !== "uint8") value = (value * scale - mean[c % mean.length]) / std[c % std.length];
      data[layout === "NCHW" ? c * size + i : i * channels + c] = value;
    }
  }
  const sides = [pixels.height, pixels.width];
  return { data, dims: layout === "NCHW" ? [1, channels, ...sides] : [1, ...sides, channels], pixels };
}

/** RGBA pixels on white to gray (ITU-R 601-2 luma in Pillow's whole numbers) or RGB. */
export function toChannels({ width, height, data }, channels) {
  const result = new Uint8Array(width * height * channels);
  for (let i = 0; i < width * height; i++) {
    const alpha = data[4 * i + 3];
    const [r, g, b] = [0, 1, 2].map((c) => Math.round((data[4 * i + c] * alpha + 255 * (255 - alpha)) / 255));
    if (channels === 1) result[i] = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;
    else result.set([r, g, b], 3 * i);
  }
  return { width, height, channels, data: result };
}

/**
 * Resize as Pillow's Image.resize does: rows, then columns (columns first where the height shrinks by more than twice what the width
 * does), whole numbers in between. When shrinking the filter covers the whole source area (antialiasing).
 *
 * @param {{width: number, height: number, channels: number, data: Uint8Array}} image
 * @param {string} filter nearest, bilinear, bicubic or lanczos.
 */
export function resizePixels(image, width, height, filter) {
  if (filter === "nearest") return nearest(image, width, height);
  const [shrunk, narrowed] = [image.height - height, image.width - width];
  const passes = [(pixels) => resizeRows(pixels, width, filter), (pixels) => resizeColumns(pixels, height, filter)];
  if (shrunk > 0 && shrunk > 2 * narrowed) passes.reverse();
  return passes.reduce((pixels, pass) => pass(pixels), image);
}

function resizeRows(image, width, filter) {
  const { height, channels } = image;
  if (width === image.width) return image;
  const table = weights(image.width, width, filter);
  return { width, height, channels, data: resample(image.data, table, height, image.width * channels, channels) };
}

function resizeColumns(image, height, filter) {
  const { width, channels } = image;
  if (height === image.height) return image;
  const row = width * channels;
  const turned = transpose(image.data, image.height, row);
  const data = resample(turned, weights(image.height, height, filter), row, image.height, 1);
  return { width, height, channels, data: transpose(data, row, height) };
}

/** For each output position: where its source pixels begin, and their weights. */
function weights(from, to, name) {
  const [reach, kernel] = FILTERS[name];
  const scale = from / to;
  const stretch = Math.max(scale, 1);
  const support = reach * stretch;
  return Array.from({ length: to }, (_, i) => {
    const center = (i + 0.5) * scale;
    const first = Math.max(Math.trunc(center - support + 0.5), 0);
    const end = Math.min(Math.trunc(center + support + 0.5), from);
    const values = Array.from({ length: end - first }, (_, x) => kernel((x + first - center + 0.5) / stretch));
    const sum = values.reduce((a, b) => a + b, 0);
    return [first, values.map((v) => Math.trunc((v / (sum || 1)) * UNIT + (v < 0 ? -0.5 : 0.5)))];
  });
}

/** Weighted sums along rows of interleaved channels. */
function resample(data, table, rows, stride, channels) {
  const to = table.length;
  const result = new Uint8ClampedArray(rows * to * channels);
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < to; i++) {
      const [first, values] = table[i];
      for (let c = 0; c < channels; c++) {
        let sum = UNIT / 2;
        const start = row * stride + first * channels + c;
        for (let k = 0; k < values.length; k++) sum += data[start + k * channels] * values[k];
        result[(row * to + i) * channels + c] = Math.floor(sum / UNIT);
      }
    }
  }
  return result;
}

function transpose(data, rows, columns) {
  const result = new Uint8ClampedArray(rows * columns);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) result[c * rows + r] = data[r * columns + c];
  return result;
}

function nearest(image, width, height) {
  const { channels } = image;
  const data = new Uint8Array(width * height * channels);
  const columns = steps(image.width, width);
  steps(image.height, height).forEach((row, y) => {
    columns.forEach((column, x) => {
      const from = (row * image.width + column) * channels;
      for (let c = 0; c < channels; c++) data[(y * width + x) * channels + c] = image.data[from + c];
    });
  });
  return { width, height, channels, data };
}

/** The source position of each output position; Pillow adds up the step (libImaging/Geometry.c), and so the rounding is its own. */
function steps(from, to) {
  let at = (from / to) * 0.5;
  return Array.from({ length: to }, () => {
    const position = Math.min(Math.floor(at), from - 1);
    at += from / to;
    return position;
  });
}
