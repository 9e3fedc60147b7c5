"""models/README.md: what whoever gets the model file must know, made from the model, the metrics and the data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.encoders.spec import EncoderSpec
from pipeline.metrics.scores import NAMES, Scores
from pipeline.text.vocabulary import SPECIAL_TOKENS

_RECOGNISABLE = 1000
"""Training pictures below which a captioner knows little but its dataset."""


@dataclass(frozen=True)
class ModelFacts:
    """What the model file says of itself."""

    spec: EncoderSpec
    decoder: Mapping[str, Any]
    vocabulary: int
    parameters: int
    regions: int
    channels: int
    trained_on: Mapping[str, Any]
    carries_encoder: bool
    """Whether the encoder's weights are in the file."""


def render_model_card(
    *,
    model: ModelFacts,
    card: Scores,
    diversity: Mapping[str, float],
    split: str,
    pictures: Mapping[str, int],
    captions: Mapping[str, int],
    search: Mapping[str, Any],
) -> str:
    """Markdown; `pictures` and `captions` are counts by split."""
    counts = "\n".join(f"| {name} | {count:,} | {captions[name]:,} |" for name, count in pictures.items())
    scores = "\n".join(
        f"| {NAMES[name]} | {value:.1f} | {card.intervals[name][0]:.1f} to {card.intervals[name][1]:.1f} |"
        for name, value in card.scores.items()
    )
    training = {key: value for key, value in model.trained_on.items() if not isinstance(value, Mapping)}
    settings = {
        key: value for part in model.trained_on.values() if isinstance(part, Mapping) for key, value in part.items()
    }
    transform = model.spec.transform
    view = "the whole picture, made square" if transform.shorter_side is None else "the centre of the picture"
    return f"""# Model card of `captioner.safetensors`

Written by `captioner score`; every number below comes from the run that made the model.

An LSTM decoder (`{model.decoder["kind"]}`, {model.parameters:,} parameters, {model.vocabulary - len(SPECIAL_TOKENS):,} words)
that writes one sentence about a picture, in the language of the captions that it was trained on, from the features of a
frozen CNN (`{model.spec.name}`). The file holds the decoder, its vocabulary and the full description of the encoder{
        " with its weights" if model.carries_encoder else "; torchvision fetches the encoder's weights"
    }.

```sh
captioner predict --model captioner.safetensors photo.jpg
```

## Scores

On the {card.pictures:,} pictures of the {split} split, tokenised and computed as coco-caption does, times 100:

| | score | 95% interval |
|---|---|---|
{scores}

BLEU: `{card.signature}`. SearchOptions: {_settings(search)}. The intervals are a bootstrap over pictures; they do not tell how
much another seed of the training would change.

{diversity["distinct_captions"]:.0%} of the captions are distinct; {diversity["ends_in_function_word"]:.0%} end in a
function word and {max(diversity["repeated_word"], diversity["repeated_phrase"]):.0%} repeat themselves. The mean
caption has {diversity["mean_length"]:.1f} words.

## Data

| split | pictures | captions |
|---|---|---|
{counts}

Training: {_settings(training)}; {_settings(settings)}.

## Encoder

`{model.spec.name}`, weights `{model.spec.weights}` (sha256 `{model.spec.weights_sha256}`), read at `{
        model.spec.layer
    }` as
{model.regions} regions of {model.channels} channels. It sees {view}, at {transform.size} x {transform.size} pixels, and
computes in {model.spec.precision}. Digest of the whole description: `{model.spec.digest}`.

## Limits

{_limits(model, card, split)}

## Licences

- Encoder: {_licence(model.spec)}
- Decoder: learned from the captions and pictures above. Their licences say what may be done with it.
"""


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _limits(model: ModelFacts, card: Scores, split: str) -> str:
    trained = model.trained_on.get("pictures")
    low, high = card.intervals["bleu_4"]
    lines = [
        f'It knows {model.vocabulary - len(SPECIAL_TOKENS):,} words and can say nothing else. It has no word for "I do not '
        'know": it captions any picture, also one of a kind that it was never shown.',
        f"Its scores hold for pictures like those of the {split} split, and for these references: compare them with "
        "other captioners' only over the same ones.",
        "What people assumed in the captions (who is a man, who plays, what is normal) it repeats. Do not let it "
        "decide about people.",
    ]
    if model.trained_on["train"].get("store_captions"):
        lines.append(
            "It holds the captions of its training pictures word for word, and chooses among its own by them: do not "
            "pass it on where those must stay private, or train with `train.store_captions: false`."
        )
    if isinstance(trained, int) and trained < _RECOGNISABLE * 10:
        lines.append(f"It was trained on {trained:,} pictures, which is few: expect it to fail on others.")
    if high - low > 4:
        lines.append(
            f"{card.pictures:,} pictures tell its BLEU-4 only to between {low:.1f} and {high:.1f}: smaller differences "
            "than that mean nothing by themselves."
        )
    if model.spec.weights.startswith("random"):
        lines.append("Its encoder has random weights: enough for drawings, not for photographs.")
    return "\n".join(f"- {line}" for line in lines)


def _licence(spec: EncoderSpec) -> str:
    if spec.weights.startswith("random"):
        return "random weights, made from the seed; nobody's."
    if spec.weights == "file":
        return "weights from a file; whoever made the file says under which licence."
    if "SWAG" in spec.weights.upper():
        return "torchvision's SWAG weights: CC-BY-NC 4.0, which excludes commercial use."
    return (
        "torchvision's weights. torchvision itself is BSD-3-Clause, and says that its weights may have terms that "
        "follow from the data they were trained on (here ImageNet, whose pictures are for research): check that for "
        "your use."
    )
