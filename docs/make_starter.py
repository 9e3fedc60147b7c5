"""Writes the starter and its card into the package, from a model trained on Flickr8k and the scores of its test split:

    python docs/make_starter.py models/captioner.safetensors metrics/scores.json

The starter has the encoder inside and no training captions. Matrices and kernels become float16; vectors (biases,
normalization) stay float32, because they are small and may have a wide range.
"""

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.encoders.model_encoder import in_float32
from pipeline.encoders.spec import sha256_of_tensors
from pipeline.errors import CaptionerError, DataError, ParamsError
from pipeline.files import read_json, write_bytes, write_text
from pipeline.inference.captioner import Captioner
from pipeline.inference.model_file import TrainedModel
from pipeline.starter import STARTER_FILE

MAX_BYTES = 20_000_000
DATASET = "Flickr8k"
ENCODER = "tf_efficientnet_lite2"
"""The encoder whose license the card states."""
_TITLES = {"bleu_1": "BLEU-1", "bleu_4": "BLEU-4", "rouge_l": "ROUGE-L", "cider_d": "CIDEr-D"}
CARD = """# The starter

A captioner for photos of people and dogs outdoors, and a model to start a training from. `captioner predict photo.jpg` uses it
where a project has no model of its own; `--model starter` and `train.init_from: starter` name it.

## Data

Trained on {images:,} images of Flickr8k with {captions:,} captions: the train split of Hodosh, Young and Hockenmaier, "Framing
Image Description as a Ranking Task" (JAIR, 2013). The file holds no caption and no image of the dataset. sha256 of the captions
table: `{captions_sha256}`.

## Scores

On {test_images:,} images of the test split, tokenized and computed as in coco-caption, times 100, before rounding to float16:

| | score | 95% interval |
|---|---|---|
{scores}

## Model

Decoder `{kind}`, {words:,} words. Encoder `{encoder}` ({source}) at {size} pixels, {regions} regions of {channels} channels, inside
the file. Weights in float16; {megabytes:.1f} MB.

## Limits

- It knows people, dogs and outdoor scenes, in everyday English. It captions any other image, too, and is then wrong.
- It repeats the assumptions of its training captions, such as about gender and age. Do not use it for decisions about people.
- For research and education, as the terms of Flickr8k say.

## Licenses

- Encoder: EfficientNet-Lite2 by Google, trained on ImageNet, Apache-2.0 (M. Tan and Q. Le, "EfficientNet", 2019;
  https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite). Changed: converted to timm's names, the
  classifier removed, rounded to float16.
- Decoder: Apache-2.0, as this program, for research and education as above. The captions of Flickr8k were written by workers of
  Mechanical Turk; the photos belong to their authors on Flickr.
"""


def make_starter(model_file: Path, scores_file: Path, *, output: Path = STARTER_FILE) -> None:
    """Write `output` and its card beside it.

    Raises `DataError` for a model that is not usable or scores that are not readable, `ParamsError` for another encoder
    than that of the card, and when the starter would be larger than `MAX_BYTES`.
    """
    captioner = Captioner.load(model_file, device="cpu")
    if captioner.spec.name != ENCODER:
        raise ParamsError(
            f"{model_file}: has the encoder {captioner.spec.name}, but the card states the license of {ENCODER}; train "
            "with that, or change the card in docs/make_starter.py"
        )
    scores = read_json(scores_file)
    starter = rounded(captioner)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "starter.safetensors"
        starter.save(path)
        content = path.read_bytes()
    if len(content) > MAX_BYTES:
        raise ParamsError(
            f"{model_file}: the starter would have {len(content) / 1e6:.1f} MB, at most {MAX_BYTES / 1e6:.0f} are "
            "allowed; train a smaller decoder or encoder"
        )
    card = render_card(starter, scores, megabytes=len(content) / 1e6)
    write_bytes(output, content)
    write_text(output.with_suffix(".md"), card)


def rounded(captioner: Captioner) -> TrainedModel:
    """Return the model without stored captions, with its encoder inside, and with matrices and kernels in float16.

    The decoder's parameters are changed in place. Raises `DataError` when a weight is beyond float16's range.
    """
    model = captioner.model
    encoder = _in_float16({name: tensor.cpu() for name, tensor in captioner.encoder.network.state_dict().items()})
    for name, parameter in model.decoder.named_parameters():
        parameter.data = _in_float16({name: parameter.data})[name]
    spec = replace(
        model.spec,
        weights="file",
        weights_sha256=sha256_of_tensors(in_float32(encoder)),
    )
    trained_on = {**model.trained_on, "dataset": DATASET}
    return replace(model, spec=spec, encoder_tensors=encoder, trained_on=trained_on, reranker=None)


def render_card(model: TrainedModel, scores: Mapping[str, Any], *, megabytes: float) -> str:
    """Return the card in Markdown. Raises `DataError` when the scores lack a number that it shows."""
    try:
        rows = [
            f"| {title} | {scores[key]:.1f} | {scores['intervals'][key][0]:.1f} to {scores['intervals'][key][1]:.1f} |"
            for key, title in _TITLES.items()
        ]
        return CARD.format(
            scores="\n".join(rows),
            test_images=scores["images"],
            images=model.trained_on["images"],
            captions=model.trained_on["captions"],
            captions_sha256=model.trained_on["captions_sha256"],
            kind=model.decoder_params["kind"],
            words=len(model.vocabulary),
            encoder=model.spec.name,
            source=model.spec.source,
            size=model.spec.preprocessing.size,
            regions=model.regions,
            channels=model.channels,
            megabytes=megabytes,
        )
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise DataError(f"the scores or the model lack a value for the card: {error}; run `dvc repro`") from error


def _in_float16(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {
        name: (tensor.half() if tensor.dtype == torch.float32 and tensor.dim() > 1 else tensor).contiguous()
        for name, tensor in tensors.items()
    }
    for name, tensor in found.items():
        if not bool(tensor.isfinite().all()):
            raise DataError(f"{name}: has values beyond float16's range; the model cannot be a starter")
    return found


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python docs/make_starter.py MODEL SCORES")
    try:
        make_starter(Path(sys.argv[1]), Path(sys.argv[2]))
    except CaptionerError as error:
        sys.exit(f"error: {error}")
