// Classify pictures with an exported file in Node: `node classify_node.mjs model.onnx picture.png …`.
//
// npm install onnxruntime-node pngjs, in the folder where this is called. One JSON object a picture. onnxruntime-node does not show
// the file's metadata; contract.mjs reads it from the file itself.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { readContract } from "../../export/web/contract.mjs";
import { toInput } from "../../export/web/pixels.mjs";

const require = createRequire(`${process.cwd()}/`);
const ort = require("onnxruntime-node");
const { PNG } = require("pngjs");

const [path, ...pictures] = process.argv.slice(2);
const contract = readContract(readFileSync(path));
const session = await ort.InferenceSession.create(path);
console.log(JSON.stringify({ runtime: `onnxruntime-node ${ort.env.versions.node}` }));
for (const file of pictures) {
  const { data, dims } = toInput(contract, PNG.sync.read(readFileSync(file)));
  const outputs = await session.run({ [contract.input.name]: new ort.Tensor(contract.input.dtype, data, dims) });
  const [logits, probabilities] = [outputs.logits.data, outputs.probabilities.data].map((values) => Array.from(values));
  const label = contract.labels[probabilities.indexOf(Math.max(...probabilities))];
  console.log(JSON.stringify({ file, label, logits, probabilities }));
}
