"""Classes of pictures by an exported network, without PyTorch: python serve.py NETWORK.onnx PICTURE ..."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

network, *pictures = sys.argv[1:]
with open(f"{network}.json") as file:
    about = json.load(file)
_, channels, height, width = about["input"]["shape"]
subtract, divide = np.array(about["normalisation"]["subtract"]), about["normalisation"]["divide"]
session = onnxruntime.InferenceSession(network)
for name in pictures:
    picture = Image.open(name).convert("L" if channels == 1 else "RGB").resize((width, height))
    pixels = np.asarray(picture).reshape(height, width, channels)
    images = ((pixels - subtract) / divide).transpose(2, 0, 1)[None].astype(np.float32)
    (logits,) = session.run(["logits"], {"images": images})
    print(name, about["classes"][logits[0].argmax()])
