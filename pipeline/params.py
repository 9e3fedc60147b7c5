"""params.yaml as typed, frozen objects: one section per stage, every key written down, every mistake named.

Read with YAML 1.2 rules, by which `1e-05` (what `dvc exp run -S train.lr=1e-5` writes) is a number. There are no
defaults in the code: what a run used stands in its params.yaml. `params.schema.json` is made from these models, so
that an editor completes and checks the file.
"""

import difflib
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import ParamsError
from pipeline.files import write_text

PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Text = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """What every section shares: values of the declared type only, no unknown key, no change after reading."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class DataParams(Section):
    """Which pictures and captions (stage `prepare`)."""

    format: Literal["auto", "table", "flickr8k", "flickr30k", "coco", "karpathy", "folder"] = Field(
        description="table: CSV, TSV or JSON lines with columns image,caption[,split]; flickr8k: captions.txt or "
        "Flickr8k.token.txt with split lists; flickr30k: results.csv or results_20130124.token; coco: "
        "captions_*.json; karpathy: dataset_*.json; folder: a .txt beside each picture, or metadata.csv or "
        "metadata.jsonl; auto: found out, and said"
    )
    captions: Text = Field(description="The captions file, or the folder or archive that holds the captions")
    images: Text = Field(
        description="What pictures' names are relative to: a folder, a .zip or .tar, or a folder with such archives"
    )
    encoding: Text = Field(
        description="Of the captions, e.g. latin-1 or cp1252; auto: UTF-8, or UTF-16 where the file says so"
    )
    image_column: Text = Field(description="The table's column with the picture's name; auto: image, file_name, ...")
    caption_column: Text = Field(
        description="The column with the caption, or a pattern for several (caption_*); auto: caption, text, ..."
    )
    split_column: Text = Field(description="The column with the split; auto: split, set, ... where there is one")
    max_skipped: Fraction = Field(description="Stop when a larger share of pictures or of caption rows is unusable")


class EncoderParams(Section):
    """The frozen CNN (stage `extract`)."""

    name: Text = Field(description="A torchvision classification model, e.g. resnet50, vgg16, mobilenet_v2, vit_b_16")
    weights: Text = Field(
        description="A torchvision weights name (IMAGENET1K_V2, DEFAULT), a file with a state dict (under another name "
        "when it changes: dvc goes by the name), or none: random weights made from the seed"
    )
    layer: Text = Field(
        description="The layer of the network whose output is kept, e.g. layer4 or classifier.4. auto: the last feature "
        "map; with random weights, which blur further down, the deepest one of stride 8"
    )
    grid: PositiveInt = Field(description="The map is averaged to grid x grid regions; 1 keeps one vector")
    image_size: Annotated[int, Field(ge=8, le=4096)] | Literal["auto"] = Field(
        description="Side in pixels of the network's input. auto: the size the weights were trained at; 112 without"
    )
    fit: Literal["squash", "crop"] = Field(
        description="squash: the whole picture, made square; crop: the centre, in its own proportions"
    )
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        description="What the network computes in. bfloat16 is about twice as fast where the processor has it; auto "
        "takes it there and float32 elsewhere. Part of what the features are, so changing it encodes anew"
    )


class VocabParams(Section):
    """Which words the decoder knows (stage `vocab`)."""

    unit: Literal["word", "character"] = Field(
        description="What the decoder says one after the other: words, or characters, for languages that do not part "
        "words with spaces (set score.max_length to match)"
    )
    min_count: PositiveInt = Field(
        description="Words (or characters) seen less often in the training captions become <unk>"
    )


class DecoderParams(Section):
    """The LSTM that writes the caption (stage `train`)."""

    kind: Literal["inject", "merge", "attention", "updown"] = Field(
        description="inject: the picture is the LSTM's first input (Show and Tell); merge: picture and text meet "
        "before the softmax; attention: the LSTM looks at the regions before each word (Show, Attend and Tell); "
        "updown: one LSTM looks, another one speaks (Bottom-Up and Top-Down)"
    )
    embed: PositiveInt = Field(description="Width of a word's embedding")
    hidden: PositiveInt = Field(description="Width of the LSTM's state")
    attention: PositiveInt = Field(description="Width of the attention's hidden layer (unused by inject and merge)")
    feature_dropout: Fraction = Field(description="Share of the features set to zero in training")
    embedding_dropout: Fraction = Field(description="Share of the embedded words' values set to zero in training")
    output_dropout: Fraction = Field(description="Share of the values before the output layer set to zero in training")
    tie_weights: bool = Field(description="The output layer has the embedding's weights")
    layer_norm: bool = Field(description="Layer normalisation inside the LSTM")


class ScstParams(Section):
    """Self-critical training, after the epochs on people's captions."""

    epochs: Annotated[int, Field(ge=0)] = Field(
        description="At most this many passes over the training pictures in which the decoder learns from the CIDEr-D "
        "of captions it draws itself; 0 leaves it out"
    )
    lr: PositiveFloat = Field(description="Learning rate of these epochs")
    samples: Annotated[int, Field(ge=2)] = Field(
        description="Captions drawn per picture; each one's baseline is the mean of the others"
    )
    cross_entropy: Fraction = Field(description="Weight of people's captions in the loss beside the drawn ones")


class TrainParams(Section):
    """How the decoder is trained (stage `train`)."""

    epochs: PositiveInt = Field(description="At most this many passes over the training captions")
    batch_size: PositiveInt = Field(description="Captions per step")
    lr: PositiveFloat = Field(description="AdamW's learning rate at its highest")
    schedule: Literal["cosine", "plateau", "constant"] = Field(
        description="How the learning rate goes: cosine falls to a tenth; plateau halves it after two epochs without a "
        "better val score; constant stays"
    )
    warmup: Fraction = Field(description="Share of all steps in which the learning rate rises from zero")
    weight_decay: NonNegativeFloat = Field(description="AdamW's weight decay")
    clip: PositiveFloat = Field(description="Largest norm of the gradient")
    label_smoothing: Fraction = Field(description="Share of each target's probability spread over all words")
    bag_of_words: NonNegativeFloat = Field(
        description="Weight of a second loss: the picture alone says the words of its captions, in no order"
    )
    scheduled_sampling: Fraction = Field(
        description="Probability at the last epoch, rising from 0, that an input word is the decoder's own"
    )
    ema: Fraction = Field(
        description="Decay of the moving average of the weights, which is then what is scored and saved; 0: none"
    )
    average: PositiveInt = Field(description="The model is the mean of so many best epochs")
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        description="What matrix products are computed in; auto takes bfloat16 where the processor has it"
    )
    patience: PositiveInt = Field(
        description="Stop after this many epochs without a better CIDEr-D of captions generated for the val split"
    )
    store_captions: bool = Field(
        description="The model file keeps the training captions, and what the decoder knows of their pictures, so that "
        "score.neighbours can ask them: 2 bytes per decoder.hidden and picture, and about 70 per caption"
    )
    scst: ScstParams


class ScoreParams(Section):
    """How captions are searched for and scored (stage `score`)."""

    split: Literal["train", "val", "test"] = Field(description="The pictures that are scored")
    beam_size: PositiveInt = Field(description="Captions kept in the search; 1 is greedy")
    max_length: PositiveInt = Field(description="Longest caption, in words")
    length_penalty: NonNegativeFloat = Field(
        description="A caption's log-probability is divided by its length to this power: 0 favours short captions"
    )
    min_length: Annotated[int, Field(ge=0)] = Field(description="Shortest caption, in words")
    no_repeat_ngram: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        description="No sequence of so many words twice in one caption; 0 allows all. auto: of 2 to 4 words the "
        "shortest that at most one in twenty of the training captions repeats, else 0"
    )
    neighbours: Annotated[int, Field(ge=0)] = Field(
        description="Of the captions that the search found, the one that agrees best with what people said of so many "
        "training pictures alike (needs train.store_captions; for words, not characters); 0: the likeliest"
    )
    consensus: NonNegativeFloat = Field(description="The weight of that agreement")
    precision: Literal["float32", "bfloat16"] = Field(
        description="What the search computes matrix products in; bfloat16 is faster where the processor has it, and "
        "changes some captions"
    )
    meteor: bool = Field(
        description="METEOR beside the other scores; needs Java and the extra `meteor`, and stops without them"
    )

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        if self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} is more than max_length {self.max_length}")
        return self


class RunParams(Section):
    """Where and how fast it runs; nothing here changes a result, so no stage depends on it."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = Field(
        description="auto takes CUDA where there is one; a device asked for by name must be there"
    )
    threads: Annotated[int, Field(ge=0)] = Field(
        description="Threads for training; 0: as many as there are cores. One is best for small decoders, and its "
        "result does not depend on the number of cores"
    )
    extract_batch: PositiveInt = Field(
        description="Pictures that a thread of the CPU takes at a time; each goes through the encoder by itself. "
        "Other devices take 64 at once, whatever stands here"
    )
    workers: Annotated[int, Field(ge=0)] = Field(
        description="Threads that decode and encode pictures; 0: as many as there are cores"
    )


class Params(Section):
    """The whole of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(description="Every random number follows from it")
    data: DataParams
    encoder: EncoderParams
    vocab: VocabParams
    decoder: DecoderParams
    train: TrainParams
    score: ScoreParams
    run: RunParams

    @model_validator(mode="after")
    def _remembered(self) -> Self:
        if self.score.neighbours and self.vocab.unit == "character":
            raise ValueError("score.neighbours is for words: with vocab.unit: character set it to 0")
        if self.score.neighbours and not self.train.store_captions:
            raise ValueError(
                f"score.neighbours is {self.score.neighbours}, which needs train.store_captions: true (or set it to 0)"
            )
        return self


def read_params(path: Path) -> Params:
    """The checked contents of `path`. Raises `ParamsError` naming each wrong key, what is allowed and what it got."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ParamsError(f"{path}: no such file; run the command in the folder that holds it") from error
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: not UTF-8 at byte {error.start}") from error
    except MarkedYAMLError as error:
        place = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ParamsError(f"{path}{place}: not valid YAML: {error.problem}") from error
    except YAMLError as error:
        raise ParamsError(f"{path}: not valid YAML: {error}") from error
    return check_params(content)


def write_section(path: Path, name: str, values: dict[str, Any]) -> None:
    """Change `values` in section `name` of a params.yaml; its comments and all else stay as they are.

    Nothing is written unless the result is valid. Raises `ParamsError`, `DiskError`.
    """
    from ruamel.yaml import YAML

    read_params(path)
    yaml = YAML()
    yaml.width = 4096
    yaml.preserve_quotes = True
    content = yaml.load(path.read_text(encoding="utf-8"))
    content[name].update(values)
    text = StringIO()
    yaml.dump(content, text)
    check_params(YAML(typ="safe", pure=True).load(text.getvalue()))
    write_text(path, text.getvalue())


def check_params(content: Any) -> Params:
    """`Params` from plain dicts. Raises `ParamsError` with one line per mistake."""
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise ParamsError("\n".join(_lines([dict(mistake) for mistake in error.errors()]))) from error


def _lines(mistakes: list[dict[str, Any]]) -> list[str]:
    """In the user's words: the key, what is allowed, what it got; one line for a value that may be of two kinds."""
    lines: dict[str, str] = {}
    for mistake in mistakes:
        key, allowed, got = _explained(mistake)
        lines[key] = f"{lines[key].removesuffix(got)} or {allowed}{got}" if key in lines else f"{key}: {allowed}{got}"
    return list(lines.values())


def _explained(mistake: dict[str, Any]) -> tuple[str, str, str]:
    """The key, what is allowed there, what it got."""
    location = [
        str(part) for part in mistake["loc"] if part != "literal['auto']" and not str(part).startswith("constr")
    ]
    location = [part for part in location if part != "constrained-int"]
    if location and location[-1] in {"int", "float", "str"}:
        location.pop()
    key = ".".join(["params", *location])
    if mistake["type"] == "extra_forbidden":
        known = _keys_beside(location)
        close = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
        return key, f"unknown parameter; {hint}", ""
    if mistake["type"] == "missing":
        return key, "missing; add it to params.yaml", ""
    message = mistake["msg"].removeprefix("Input ").replace("should ", "must ")
    if mistake["type"] == "value_error":  # between values: each is right by itself
        return key, message.removeprefix("Value error, "), ""
    return key, message, f", got {mistake['input']!r}"


def _keys_beside(location: list[str]) -> list[str]:
    model: type[BaseModel] = Params
    for part in location[:-1]:
        section = model.model_fields[part].annotation
        assert isinstance(section, type)
        assert issubclass(section, BaseModel)
        model = section
    return list(model.model_fields)


def schema() -> dict[str, Any]:
    """The JSON schema of params.yaml, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Params.model_json_schema()}
