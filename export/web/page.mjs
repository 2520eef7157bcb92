// The page that `python -m export page` writes: images in, the network's answers out, all in the browser.
// `ort` is onnxruntime-web's global, from ort.wasm.min.js.

import { readContract } from "./contract.mjs";
import { drawing } from "./drawing.mjs";
import { decode, toInput } from "./pixels.mjs";

const config = JSON.parse(find("config").textContent);

/** Side of what a network that takes any size is given at most, pixels. */
const MAX_SIDE = 512;

/** Classes shown at once, and answers kept on the page. */
const SHOWN = 10;
const KEPT = 30;

function find(id) {
  return document.getElementById(id);
}

/** An element with a class and children or text; text is never read as HTML. */
function make(tag, className = "", ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

function say(text, bad = false) {
  find("status").textContent = text;
  find("status").classList.toggle("bad", bad);
}

/** A file of the page: beside it, or inside it (gzip, base64). */
async function load(name) {
  const inside = find(`file-${name}`);
  if (inside) {
    const packed = Uint8Array.from(atob(inside.textContent.trim()), (c) => c.charCodeAt(0));
    inside.remove();
    const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(unpacked).arrayBuffer());
  }
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name} is missing beside this page (${response.status})`);
  return new Uint8Array(await response.arrayBuffer());
}

async function openModel() {
  const runtime = ort.env.wasm;
  runtime.numThreads = 1; // more need headers that a plain file server does not send
  if (config.embedded) {
    runtime.wasmBinary = await load("ort-wasm-simd-threaded.wasm");
    const glue = new Blob([await load("ort-wasm-simd-threaded.mjs")], { type: "text/javascript" });
    runtime.wasmPaths = { mjs: URL.createObjectURL(glue) };
  } else {
    runtime.wasmPaths = new URL("./", document.baseURI).href;
  }
  const file = await load("model.onnx");
  const contract = readContract(file);
  const model = { contract, session: await ort.InferenceSession.create(file, { executionProviders: ["wasm"] }) };
  if (contract.input.width) await run(model, new ImageData(1, 1)); // the first run is slower than the others
  return model;
}

/** All outputs by name, what the network was given, and the time it took. */
async function run({ contract, session }, image) {
  const { data, dims, pixels } = toInput(sized(contract, image), image);
  const start = performance.now();
  const outputs = await session.run({ [contract.input.name]: new ort.Tensor(contract.input.dtype, data, dims) });
  return { outputs, pixels, milliseconds: performance.now() - start };
}

/** The contract, with a size where the network takes any. */
function sized(contract, { width, height }) {
  if (contract.input.width) return contract;
  const factor = Math.min(1, MAX_SIDE / Math.max(width, height));
  const [w, h] = [width, height].map((side) => Math.max(1, Math.round(side * factor)));
  return { ...contract, input: { ...contract.input, width: w, height: h } };
}

/** The tensor of the first output with a meaning. */
function output(contract, outputs, meaning) {
  return outputs[contract.outputs.find((item) => item.meaning === meaning).name];
}

function canvasOf({ width, height, channels, data }) {
  const canvas = make("canvas", width <= 160 ? "small" : "");
  Object.assign(canvas, { width, height });
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = data[i * channels + (channels === 1 ? 0 : c)];
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function figure(pixels, ...caption) {
  const canvas = canvasOf(pixels);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", caption[0]);
  return make("figure", "", canvas, make("figcaption", "", caption.join(" · ")));
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** Sorted bars of all classes. */
function scoreLists(labels, scores) {
  const order = [...scores.keys()].sort((a, b) => scores[b] - scores[a] || a - b);
  const list = (numbers) =>
    make(
      "ol",
      "scores",
      ...numbers.map((number) => {
        const bar = make("i");
        bar.style.setProperty("--share", scores[number]);
        const track = make("span", "bar", bar);
        track.setAttribute("aria-hidden", "true");
        const label = make("span", "label", labels[number] ?? String(number));
        label.dir = "auto";
        const item = make("li", "", label, track, make("span", "value", percent(scores[number])));
        item.dataset.score = scores[number];
        return item;
      }),
    );
  const parts = [list(order.slice(0, SHOWN))];
  if (order.length > SHOWN) {
    parts.push(make("details", "", make("summary", "", `the other ${order.length - SHOWN} classes`), list(order.slice(SHOWN))));
  }
  return { best: labels[order[0]] ?? String(order[0]), share: scores[order[0]], parts };
}

async function answer(model, image, name) {
  const { contract } = model;
  const { outputs, pixels, milliseconds } = await run(model, image);
  const time = `${milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds)} ms`;
  if (contract.task === "colorize") {
    const tensor = output(contract, outputs, "picture");
    const colored = { width: tensor.dims[2], height: tensor.dims[1], channels: 3, data: tensor.data };
    const after = figure(colored, `${name}, colorized`, time);
    const link = make("a", "", "Save");
    link.download = `${name.replace(/\.[^.]*$/, "")}_colorized.png`;
    after.firstChild.toBlob((blob) => {
      link.href = URL.createObjectURL(blob);
    });
    after.lastChild.append(" · ", link);
    return {
      element: make("article", "pair", figure(pixels, name, `${pixels.width}×${pixels.height} pixels`), after),
      text: `${name} is colorized.`,
    };
  }
  const scores = Array.from(output(contract, outputs, "probabilities").data);
  const { best, share, parts } = scoreLists(contract.labels, scores);
  const head = make("h3", "", best);
  head.dir = "auto";
  const seen = figure(pixels, name, `as the network sees it, ${pixels.width}×${pixels.height}`, time);
  return { element: make("article", "", seen, make("div", "", head, ...parts)), text: `${name}: ${best}, ${percent(share)}.` };
}

/** Put an answer at the top of the list; the drawing's answer replaces the one before. */
function show(element, key = "") {
  const results = find("results");
  results.hidden = false;
  element.dataset.key = key;
  if (key) forget(key);
  results.querySelector("h2").after(element);
  [...results.querySelectorAll("article")].slice(KEPT).forEach((old) => old.remove());
}

function forget(key) {
  find("results").querySelector(`article[data-key="${key}"]`)?.remove();
}

async function answerFiles(model, files) {
  for (const [i, file] of files.entries()) {
    const name = file.name ?? "pasted image";
    say(files.length > 1 ? `Picture ${i + 1} of ${files.length} …` : "Looking …");
    try {
      const { element, text } = await answer(model, await decode(file), name);
      show(element);
      say(text);
    } catch (error) {
      show(make("article", "", make("figure", "", make("figcaption", "", name)), make("p", "bad", error.message)));
      say(`${name}: ${error.message}`, true);
    }
    await new Promise(requestAnimationFrame); // let the browser paint between images
  }
}

/** One piece of work after another: a session runs once at a time. */
let queue = Promise.resolve();
function enqueue(work) {
  queue = queue.then(work).catch((error) => say(error.message, true));
}

function listen(model) {
  const give = (list) => {
    const files = [...list]; // now, for the browser empties its list
    enqueue(() => answerFiles(model, files));
  };
  const [input, drop] = [find("files"), find("drop")];
  input.addEventListener("change", () => {
    give(input.files);
    input.value = "";
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    give(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => give(event.clipboardData.files));
  for (const button of document.querySelectorAll(".sample")) {
    button.addEventListener("click", async () => {
      const image = button.querySelector("img");
      const blob = await (await fetch(image.src)).blob();
      give([new File([blob], image.alt)]);
    });
  }
  if (find("pad")) {
    drawing(
      find("pad"),
      { undo: find("undo"), clear: find("clear"), dark: find("dark") },
      config.draw,
      model.contract,
      (image) => {
        enqueue(async () => {
          if (!image) return forget("drawing");
          const { element, text } = await answer(model, image, "your drawing");
          show(element, "drawing");
          say(text);
        });
      },
    );
  }
  for (const element of document.querySelectorAll("#files, .sample")) element.disabled = false;
}

try {
  say("Loading the model …");
  listen(await openModel());
  say("Ready.");
} catch (error) {
  say(`The model cannot be opened here: ${error.message}`, true);
}
