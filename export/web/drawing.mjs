// A pad to draw a character on, and its strokes as an image like the training data's.

import { resizePixels } from "./pixels.mjs";

/**
 * Let the user draw, and pass on an image after each stroke.
 *
 * @param {HTMLCanvasElement} pad
 * @param {{undo: HTMLButtonElement, clear: HTMLButtonElement, dark: ?HTMLInputElement}} controls
 * @param {object} style what the training images look like: see export/web/page.py, Draw.
 * @param {object} contract of the file.
 * @param {(image: ?{width: number, height: number, data: Uint8ClampedArray}) => void} done takes the RGBA image, or null if nothing is drawn.
 */
export function drawing(pad, controls, style, contract, done) {
  const context = pad.getContext("2d");
  const strokes = [];
  const isDark = () => Boolean(controls.dark?.checked);

  const paint = () => {
    context.fillStyle = isDark() ? "#fff" : "#000";
    context.fillRect(0, 0, pad.width, pad.height);
    trace(context, strokes, style.line * pad.width, isDark() ? "#000" : "#fff", (point) => point);
    controls.undo.disabled = controls.clear.disabled = strokes.length === 0;
  };
  const finish = () => {
    paint();
    done(strokes.length ? render(strokes, style, contract, isDark()) : null);
  };
  const position = (event) => {
    const box = pad.getBoundingClientRect();
    return [((event.clientX - box.left) * pad.width) / box.width, ((event.clientY - box.top) * pad.height) / box.height];
  };

  let drawn = null;
  pad.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    pad.setPointerCapture(event.pointerId);
    strokes.push((drawn = [position(event)]));
    paint();
  });
  pad.addEventListener("pointermove", (event) => {
    if (!drawn) return;
    drawn.push(...(event.getCoalescedEvents?.() ?? []).map(position), position(event));
    paint();
  });
  for (const end of ["pointerup", "pointercancel"]) {
    pad.addEventListener(end, () => {
      if (drawn) finish();
      drawn = null;
    });
  }
  controls.undo.addEventListener("click", () => {
    strokes.pop();
    finish();
  });
  controls.clear.addEventListener("click", () => {
    strokes.length = 0;
    finish();
  });
  controls.dark?.addEventListener("change", finish);
  paint();
}

function trace(context, strokes, width, color, move) {
  Object.assign(context, { lineWidth: width, lineCap: "round", lineJoin: "round", strokeStyle: color });
  for (const stroke of strokes) {
    context.beginPath();
    stroke.forEach((point, i) => context[i ? "lineTo" : "moveTo"](...move(point)));
    context.lineTo(...move(stroke[0].length && stroke.length === 1 ? stroke[0] : stroke.at(-1))); // a dot is a line as well
    context.stroke();
  }
}

/** Strokes with the size and position of the training images: lines move, but keep their thickness. */
function render(strokes, style, contract, dark) {
  const fine = 16; // parts of a pixel, averaged below
  const side = style.detail || contract.input.height || 28;
  const line = style.line * side;
  const free = side * (1 - 2 * style.margin) - line;
  const ranges = [0, 1].map((axis) => {
    const values = strokes.flat().map((point) => point[axis]);
    return [Math.min(...values), Math.max(...values)];
  });
  const scale = free / Math.max(...ranges.map(([from, to]) => to - from), 1e-6);
  const factor = Math.min(scale, side); // a dot stays one
  const move = (point) =>
    point.map((value, axis) => fine * (side / 2 + factor * (value - (ranges[axis][0] + ranges[axis][1]) / 2)));

  const canvas = new OffscreenCanvas(side * fine, side * fine);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillRect(0, 0, canvas.width, canvas.height);
  trace(context, strokes, line * fine, "#fff", move);
  const ink = context.getImageData(0, 0, canvas.width, canvas.height).data;

  const small = new Uint8Array(side * side);
  const levels = style.levels || 256;
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      let sum = 0;
      for (let v = 0; v < fine; v++)
        for (let u = 0; u < fine; u++) sum += ink[4 * ((y * fine + v) * side * fine + x * fine + u)];
      const share = Math.round((sum / (255 * fine * fine)) * (levels - 1)) / (levels - 1);
      small[y * side + x] = Math.round(255 * (dark ? 1 - share : share));
    }
  }
  const { height, width } = contract.input;
  const large = resizePixels(
    { width: side, height: side, channels: 1, data: small },
    width ?? side,
    height ?? side,
    "bilinear",
  );
  const data = new Uint8ClampedArray(4 * large.width * large.height).fill(255);
  large.data.forEach((value, i) => data.fill(value, 4 * i, 4 * i + 3));
  return { width: large.width, height: large.height, data };
}
