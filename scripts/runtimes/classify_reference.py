"""Classify pictures with an exported file and ONNX's reference evaluator: ``python classify_reference.py model.onnx picture.png …``.

pip install onnx pillow numpy. One JSON object a picture. Slow: every operator is a few lines of NumPy that say what ONNX means by it.
"""

import json
import sys

import numpy as np
import onnx
import onnx.reference
from PIL import Image

path, pictures = sys.argv[1], sys.argv[2:]
model = onnx.load(path)
metadata = {item.key: item.value for item in model.metadata_props}
contract = json.loads(metadata["kerascv_course.contract"])
image = contract["input"]
if image["dtype"] != "uint8":
    sys.exit(f"this example feeds uint8 pixels; {path} takes {image['dtype']}")
mode, filter = {"gray": "L", "RGB": "RGB"}[image["color"]], Image.Resampling[image["resize"].upper()]

evaluator = onnx.reference.ReferenceEvaluator(model)
print(json.dumps({"runtime": f"onnx.reference {onnx.__version__}"}))
for picture in pictures:
    pixels = np.asarray(Image.open(picture).convert(mode).resize((image["width"], image["height"]), filter), np.uint8)
    pixels = pixels.reshape(1, *pixels.shape[:2], image["channels"])
    feed = {image["name"]: pixels if image["layout"] == "NHWC" else pixels.transpose(0, 3, 1, 2)}
    logits, probabilities = (output[0].tolist() for output in evaluator.run(["logits", "probabilities"], feed))
    label = contract["labels"][int(np.argmax(probabilities))]
    print(json.dumps({"file": picture, "label": label, "logits": logits, "probabilities": probabilities}, ensure_ascii=False))
