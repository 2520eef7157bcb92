"""Classify pictures with an exported file and ONNX's reference evaluator: ``python classify_reference.py model.onnx picture.png …``.

pip install onnx pillow numpy. One JSON object a picture. Slow: every operator is a few lines of NumPy that say what ONNX means by it.
"""

import json
import sys

import numpy as np
import onnx
import onnx.reference
import onnx.version_converter
from PIL import Image

#: Pictures at once: some operators are loops in Python.
BATCH = 16

path, pictures = sys.argv[1], sys.argv[2:]
model = onnx.load(path)
metadata = {item.key: item.value for item in model.metadata_props}
contract = json.loads(metadata["kerascv_course.contract"])
image = contract["input"]
if image["dtype"] != "uint8":
    sys.exit(f"this example feeds uint8 pixels; {path} takes {image['dtype']}")
mode, filter = {"gray": "L", "RGB": "RGB"}[image["color"]], Image.Resampling[image["resize"].upper()]

opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
if opset < 19 and any(node.op_type == "DequantizeLinear" for node in model.graph.node):
    model = onnx.version_converter.convert_version(model, 19)  # the evaluator has int8's operators from there on
evaluator = onnx.reference.ReferenceEvaluator(model)
print(json.dumps({"runtime": f"onnx.reference {onnx.__version__}"}))
for start in range(0, len(pictures), BATCH):
    names = pictures[start : start + BATCH]
    opened = [Image.open(name).convert(mode).resize((image["width"], image["height"]), filter) for name in names]
    pixels = np.stack([np.asarray(picture, np.uint8).reshape(*picture.size[::-1], image["channels"]) for picture in opened])
    feed = {image["name"]: pixels if image["layout"] == "NHWC" else pixels.transpose(0, 3, 1, 2)}
    for name, logits, probabilities in zip(names, *evaluator.run(["logits", "probabilities"], feed), strict=True):
        answer = {"label": contract["labels"][probabilities.argmax()], "logits": logits.tolist()}
        print(json.dumps({"file": name, **answer, "probabilities": probabilities.tolist()}, ensure_ascii=False))
