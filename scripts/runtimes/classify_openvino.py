"""Classify pictures with an exported file and OpenVINO: ``python classify_openvino.py model.onnx picture.png …``.

pip install openvino onnx pillow numpy. One JSON object a picture. OpenVINO does not show the file's metadata; onnx does.
"""

import json
import sys

import numpy as np
import onnx
import openvino
from PIL import Image

path, pictures = sys.argv[1], sys.argv[2:]
metadata = {item.key: item.value for item in onnx.load(path, load_external_data=False).metadata_props}
contract = json.loads(metadata["kerascv_course.contract"])
image = contract["input"]
if image["dtype"] != "uint8":
    sys.exit(f"this example feeds uint8 pixels; {path} takes {image['dtype']}")
mode, filter = {"gray": "L", "RGB": "RGB"}[image["color"]], Image.Resampling[image["resize"].upper()]

# without the hint OpenVINO computes in bfloat16 where the processor can, and answers change
model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
print(json.dumps({"runtime": f"OpenVINO {openvino.get_version().split('-')[0]}"}))
for picture in pictures:
    pixels = np.asarray(Image.open(picture).convert(mode).resize((image["width"], image["height"]), filter), np.uint8)
    pixels = pixels.reshape(1, *pixels.shape[:2], image["channels"])
    outputs = model(pixels if image["layout"] == "NHWC" else pixels.transpose(0, 3, 1, 2).copy())
    logits, probabilities = (outputs[name][0].tolist() for name in ("logits", "probabilities"))
    label = contract["labels"][int(np.argmax(probabilities))]
    print(json.dumps({"file": picture, "label": label, "logits": logits, "probabilities": probabilities}, ensure_ascii=False))
