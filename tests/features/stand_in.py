"""An encoder without a network: features follow from the pixels, and it counts the images that it encodes."""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # crash_driver runs this file without pytest

from pipeline.encoders.spec import EncoderSpec, Preprocessing
from pipeline.features.extraction import extract_features
from pipeline.features.image_batches import ImageFile
from pipeline.files import sha256_of

SPEC = EncoderSpec(
    name="net",
    weights="random:1",
    weights_sha256="0" * 64,
    layer="features",
    grid=2,
    preprocessing=Preprocessing(8, None, "bilinear", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), (255, 255, 255)),
    precision="float32",
)


class StandIn:
    """What `extract_features` uses of an encoder."""

    spec = SPEC
    engine = "none"
    device = torch.device("cpu")
    regions, channels = 4, 48

    def __init__(self):
        self.encoded = 0

    def encode(self, pixels):
        self.encoded += len(pixels)
        return (pixels.reshape(len(pixels), 4, 48) / 255).astype(np.float16)


def image_file(path):
    return ImageFile(path.name, path, sha256_of(path))


def draw(folder, count=11):
    """`count` small images of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    for number in range(count):
        path = folder / f"{number:02d}.png"
        pixels = np.random.default_rng(number).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        images.append(image_file(path))
    return images


def extract(images, folder, encoder=None, **options):
    """Write `features.h5` in `folder`, with a store beside it; the report and the file's bytes."""
    options = {"store": folder / "store", "workers": 1} | options
    report = extract_features(images, encoder or StandIn(), folder / "features.h5", **options)
    return report, (folder / "features.h5").read_bytes()
