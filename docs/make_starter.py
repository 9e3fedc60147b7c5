"""Writes the starter and its card into the package, from a project whose model was trained on Flickr8k:

    python docs/make_starter.py

Run it in the project's folder, after `dvc repro`. The starter has the encoder inside, no training captions, and rounded
weights (pipeline/weight_rounding.py). It captions the project's test images, so the card has its own scores.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from pipeline import paths
from pipeline.datasets.tables import read_captions, read_images
from pipeline.decoders.search import SearchOptions
from pipeline.encoders.spec import sha256_of_tensors
from pipeline.errors import CaptionerError, DataError, ParamsError
from pipeline.files import write_bytes, write_text
from pipeline.inference.captioner import Captioner
from pipeline.inference.model_file import TrainedModel
from pipeline.metrics.evaluation import Evaluation, evaluate
from pipeline.starter import STARTER_FILE
from pipeline.tokens import SPECIAL_TOKENS
from pipeline.weight_rounding import in_float32, round_weights

MAX_BYTES = 20_000_000
DATASET = "Flickr8k"
ENCODER = "tf_efficientnet_lite2"
"""The encoder whose license the card states."""
SEED = 17
"""Seed of the bootstrap, as in `captioner score`."""
_TITLES = {"bleu_1": "BLEU-1", "bleu_4": "BLEU-4", "rouge_l": "ROUGE-L", "cider_d": "CIDEr-D"}
CARD = """# The starter

Captions photos of people and dogs outdoors, and can be the initial weights of a training run. `captioner predict photo.jpg` uses it
where a project has no model of its own; `--model starter` and `train.init_from: starter` select it.

## Data

Trained on {images:,} images of Flickr8k with {captions:,} captions: the train split of Hodosh, Young and Hockenmaier, "Framing
Image Description as a Ranking Task" (JAIR, 2013). The file holds no caption and no image of the dataset. sha256 of the captions
table: `{captions_sha256}`.

## Scores

On {test_images:,} images of the test split, with a beam of {beam}, tokenized and computed as in coco-caption, times
100:

| | score | 95% interval |
|---|---|---|
{scores}

## Model

Decoder `{kind}`, {words:,} words. Encoder `{encoder}` ({source}) at {size} pixels, {regions} regions of {channels} channels, inside
the file. Weights in int8 and float16; {megabytes:.1f} MB.

## Limits

- It describes people, dogs and outdoor scenes, in everyday English. Captions of other images are usually wrong;
  most of them get a warning.
- It repeats the assumptions of its training captions, such as about gender and age. Do not use it for decisions about people.
- For research and education, as the terms of Flickr8k say.

## Licenses

- Encoder: EfficientNet-Lite2 by Google, trained on ImageNet, Apache-2.0 (M. Tan and Q. Le, "EfficientNet", 2019;
  https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite). Changed: converted to timm's names, the
  classifier removed, rounded to int8 and float16.
- Decoder: Apache-2.0, as this program, for research and education as above. The captions of Flickr8k were written by workers of
  Mechanical Turk; the photos belong to their authors on Flickr.
"""


def make_starter(*, output: Path = STARTER_FILE) -> None:
    """Write `output` and its card beside it, from the project in the current folder.

    Raises `DataError` without test images and for weights that cannot be rounded, `ArtefactError` for a missing or damaged
    model, `ParamsError` for another encoder than that of the card, and when the starter would be larger than
    `MAX_BYTES`.
    """
    captioner = Captioner.load(paths.MODEL, device="cpu")
    if captioner.spec.name != ENCODER:
        raise ParamsError(
            f"{paths.MODEL}: has the encoder {captioner.spec.name}, but the card states the license of {ENCODER}; "
            "train with that, or change the card in docs/make_starter.py"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "starter.safetensors"
        without_captions(captioner).save(path, rounded=True)
        content = path.read_bytes()
        if len(content) > MAX_BYTES:
            raise ParamsError(
                f"{paths.MODEL}: the starter would have {len(content) / 1e6:.1f} MB, at most {MAX_BYTES / 1e6:.0f} are "
                "allowed; train a smaller decoder or encoder"
            )
        starter = Captioner.load(path, device="cpu")
    card = render_card(starter, evaluate_test_split(starter), megabytes=len(content) / 1e6)
    write_bytes(output, content)
    write_text(output.with_suffix(".md"), card)


def without_captions(captioner: Captioner) -> TrainedModel:
    """Return the model without stored captions and with its rounded encoder inside.

    Raises `DataError` for weights that cannot be rounded.
    """
    encoder = round_weights({name: tensor.cpu() for name, tensor in captioner.encoder.network.state_dict().items()})
    spec = replace(captioner.spec, weights="file", weights_sha256=sha256_of_tensors(in_float32(encoder)))
    trained_on = {**captioner.trained_on, "dataset": DATASET}
    return replace(captioner.model, spec=spec, encoder_tensors=encoder, trained_on=trained_on, reranker=None)


def evaluate_test_split(captioner: Captioner) -> Evaluation:
    """Caption the project's test images with the default search and evaluate the captions.

    Raises `DataError` when there are fewer than two images, or one cannot be used.
    """
    files = {image.image: image.path for image in read_images(paths.IMAGES) if image.split == "test"}
    if len(files) < 2:
        raise DataError(f"{paths.IMAGES}: {len(files)} images of the test split; the card's intervals need more")
    captions = {}
    for prediction in captioner.stream(files.items()):
        if prediction.error:
            raise DataError(prediction.error)
        captions[prediction.image] = prediction.captions[0].text
    return evaluate(captions, read_captions(paths.CAPTIONS, "test"), seed=SEED)


def render_card(starter: Captioner, evaluation: Evaluation, *, megabytes: float) -> str:
    """Return the card in Markdown."""
    model, scores = starter.model, evaluation.scores
    rows = ((title, scores.corpus[key], *scores.intervals[key]) for key, title in _TITLES.items())
    return CARD.format(
        scores="\n".join(f"| {title} | {value:.1f} | {low:.1f} to {high:.1f} |" for title, value, low, high in rows),
        test_images=scores.images,
        beam=SearchOptions().beam_size,
        images=model.trained_on["images"],
        captions=model.trained_on["captions"],
        captions_sha256=model.trained_on["captions_sha256"],
        kind=model.decoder_params["kind"],
        words=len(starter.vocabulary) - len(SPECIAL_TOKENS),
        encoder=model.spec.name,
        source=model.spec.source,
        size=model.spec.preprocessing.size,
        regions=model.regions,
        channels=model.channels,
        megabytes=megabytes,
    )


if __name__ == "__main__":
    try:
        make_starter()
    except CaptionerError as error:
        sys.exit(f"error: {error}")
