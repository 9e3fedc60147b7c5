"""Writes the starter and its card into the package, from a model trained on Flickr8k and its results on the test split:

    python docs/make_starter.py models/captioner.safetensors data/interim/evaluation.json

The results must be those of a search without re-ranking (`score.rerank.neighbors: 0`), as the starter's is. The starter
has the encoder inside and no training captions. Matrices and kernels become float16; vectors (biases, normalization)
stay float32, because they are small and may have a wide range.
"""

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pipeline.encoders.model_encoder import in_float32
from pipeline.encoders.spec import sha256_of_tensors
from pipeline.errors import CaptionerError, DataError, ParamsError
from pipeline.files import write_bytes, write_text
from pipeline.inference.captioner import Captioner
from pipeline.inference.model_file import TrainedModel
from pipeline.metrics.evaluation_file import EvaluationFile
from pipeline.starter import STARTER_FILE

MAX_BYTES = 20_000_000
DATASET = "Flickr8k"
ENCODER = "tf_efficientnet_lite2"
"""The encoder whose license the card states."""
_TITLES = {"bleu_1": "BLEU-1", "bleu_4": "BLEU-4", "rouge_l": "ROUGE-L", "cider_d": "CIDEr-D"}
CARD = """# The starter

A captioner for photos of people and dogs outdoors, also as initial weights for training. `captioner predict photo.jpg` uses it
where a project has no model of its own; `--model starter` and `train.init_from: starter` select it.

## Data

Trained on {images:,} images of Flickr8k with {captions:,} captions: the train split of Hodosh, Young and Hockenmaier, "Framing
Image Description as a Ranking Task" (JAIR, 2013). The file holds no caption and no image of the dataset. sha256 of the captions
table: `{captions_sha256}`.

## Scores

On {test_images:,} images of the test split, with a beam of {beam}, tokenized and computed as in coco-caption, times 100, before
rounding to float16:

| | score | 95% interval |
|---|---|---|
{scores}

## Model

Decoder `{kind}`, {words:,} words. Encoder `{encoder}` ({source}) at {size} pixels, {regions} regions of {channels} channels, inside
the file. Weights in float16; {megabytes:.1f} MB.

## Limits

- It describes people, dogs and outdoor scenes, in everyday English. It captions any other image too, and is then wrong;
  most of these captions get a warning.
- It repeats the assumptions of its training captions, such as about gender and age. Do not use it for decisions about people.
- For research and education, as the terms of Flickr8k say.

## Licenses

- Encoder: EfficientNet-Lite2 by Google, trained on ImageNet, Apache-2.0 (M. Tan and Q. Le, "EfficientNet", 2019;
  https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite). Changed: converted to timm's names, the
  classifier removed, rounded to float16.
- Decoder: Apache-2.0, as this program, for research and education as above. The captions of Flickr8k were written by workers of
  Mechanical Turk; the photos belong to their authors on Flickr.
"""


def make_starter(model_file: Path, evaluation_file: Path, *, output: Path = STARTER_FILE) -> None:
    """Write `output` and its card beside it.

    Raises `DataError` for a model or results that are not usable, `ArtefactError` for damaged ones, `ParamsError` for
    another encoder than that of the card, and when the starter would be larger than `MAX_BYTES`.
    """
    captioner = Captioner.load(model_file, device="cpu")
    if captioner.spec.name != ENCODER:
        raise ParamsError(
            f"{model_file}: has the encoder {captioner.spec.name}, but the card states the license of {ENCODER}; train "
            "with that, or change the card in docs/make_starter.py"
        )
    evaluation = EvaluationFile.read(evaluation_file)
    _check(evaluation, captioner.model, str(evaluation_file))
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
    card = render_card(starter, evaluation, megabytes=len(content) / 1e6)
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


def render_card(model: TrainedModel, evaluation: EvaluationFile, *, megabytes: float) -> str:
    """Return the card in Markdown. `evaluation` has more than one image."""
    scores = {key: evaluation.scores[key] for key in _TITLES}
    return CARD.format(
        scores="\n".join(
            f"| {_TITLES[key]} | {one.value:.1f} | {one.low:.1f} to {one.high:.1f} |" for key, one in scores.items()
        ),
        test_images=len(evaluation.images),
        beam=evaluation.search["beam_size"],
        images=model.trained_on["images"],
        captions=model.trained_on["captions"],
        captions_sha256=model.trained_on["captions_sha256"],
        kind=model.decoder_params["kind"],
        words=evaluation.model.vocabulary,
        encoder=model.spec.name,
        source=model.spec.source,
        size=model.spec.preprocessing.size,
        regions=model.regions,
        channels=model.channels,
        megabytes=megabytes,
    )


def _check(evaluation: EvaluationFile, model: TrainedModel, place: str) -> None:
    """Raise `DataError` for results of another model, another split or another search than the starter's."""
    if evaluation.model.trained_on != dict(model.trained_on):
        raise DataError(f"{place}: the results of another model; run `dvc repro`")
    if evaluation.split != "test" or len(evaluation.images) < 2:
        raise DataError(f"{place}: the results of {len(evaluation.images)} images of {evaluation.split}; score test")
    if evaluation.search["rerank.neighbors"]:
        raise DataError(
            f"{place}: the results have re-ranking, but the starter stores no captions for it; "
            "score with params.score.rerank.neighbors = 0"
        )


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
        sys.exit("usage: python docs/make_starter.py MODEL EVALUATION")
    try:
        make_starter(Path(sys.argv[1]), Path(sys.argv[2]))
    except CaptionerError as error:
        sys.exit(f"error: {error}")
