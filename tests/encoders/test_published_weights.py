"""Published weights come through the libraries. The files are real, in the caches of the libraries: no download."""

import json
import os
import shutil
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys, torch
from pipeline.encoders.encoder import build_encoder

source, name, published, file = sys.argv[1:]
made = [
    build_encoder(
        source=source, name=name, weights=weights, layer="auto", grid=7, image_size="auto", fit="stretch",
        precision="float32", seed=1, device=torch.device("cpu"),
    )
    for weights in (published, file)
]
print(json.dumps([[one.spec.weights, one.spec.weights_sha256, len(one.tensors_to_embed())] for one in made]))
"""


@pytest.mark.parametrize(
    ("source", "name", "published", "file", "cached"),
    [
        (
            *("torchvision", "mobilenet_v2", "IMAGENET1K_V1", "mobilenet_v2-imagenet.pth"),
            "torch/hub/checkpoints/mobilenet_v2-b0353104.pth",
        ),
        (
            *("timm", "tf_efficientnet_lite2", "in1k", "tf_efficientnet_lite2-timm.safetensors"),
            "hf/hub/models--timm--tf_efficientnet_lite2.in1k/snapshots/0/model.safetensors",
        ),
    ],
    ids=["torchvision", "timm"],
)
def test_published_weights_are_those_of_the_file(shared, tmp_path, source, name, published, file, cached):
    weights = shared / "weights" / file
    place = tmp_path / cached
    place.parent.mkdir(parents=True)
    shutil.copy(weights, place)
    if source == "timm":
        (refs := place.parent.parent.parent / "refs").mkdir()
        (refs / "main").write_text("0")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, source, name, published, str(weights)],
        env={
            **os.environ,
            "TORCH_HOME": str(tmp_path / "torch"),
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    by_name, from_file = json.loads(done.stdout)
    assert by_name == [published, from_file[1], 0]
    assert from_file[0] == "file"
    assert from_file[2] > 0
