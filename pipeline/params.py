"""Typed, frozen parameters of a run: one section per stage.

Every parameter has a default, so that a file holds only what differs. A decoder has its own options, which
`decoders/registry.py` lists; options of another registered decoder may stay in a file and are ignored, so that
`-S decoder.kind=inject` works with any file. All other unknown keys are refused. `params_file.py` reads files.

`params.schema.json` and `docs/params.md` are generated from these models.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union

from pydantic import AfterValidator, Field, field_validator, model_validator

from pipeline.datasets.registry import FORMATS
from pipeline.decoders.registry import DECODERS, DecoderOptions
from pipeline.encoders.registry import SOURCES
from pipeline.options import Options, RerankOptions
from pipeline.wording import CONTROL


def _printable(text: str) -> str:
    if CONTROL.search(text):
        raise ValueError("must not contain control characters")
    return text


Text = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_printable)]
Fraction = Annotated[float, Field(ge=0, lt=1)]

if TYPE_CHECKING:
    FormatName = str
    SourceName = str
else:
    FormatName = Literal["auto", *FORMATS]
    SourceName = Literal[tuple(SOURCES)]


class DataParams(Options):
    """The dataset (stage `prepare`)."""

    format: FormatName = Field(
        default="table",
        description="Format of the dataset; auto detects it. "
        + "; ".join(f"{name}: {one.description}" for name, one in FORMATS.items()),
    )
    captions: Text = Field(
        default="data/scenes/captions.csv", description="Captions file, or the folder or archive with the captions"
    )
    images: Text = Field(
        default="data/scenes/images",
        description="Folder, .zip or .tar that image names are relative to, or a folder with such archives",
    )
    encoding: Text = Field(
        default="auto",
        description="Text encoding of the captions, e.g. latin-1 or cp1252. auto: UTF-8, UTF-16 or UTF-32",
    )
    image_column: Text = Field(
        default="auto", description="Table column with the image name. auto: the first of image, file_name, ..."
    )
    caption_column: Text = Field(
        default="auto",
        description="Table column with the caption, or a pattern for several columns (`caption_*`). auto: caption, "
        "text, ...",
    )
    split_column: Text = Field(
        default="auto", description="Table column with the split. auto: split, set, ... if present"
    )
    leaks: Literal["refuse", "drop"] = Field(
        default="refuse",
        description="Images in two splits, under one name or as copies with the same bytes. refuse: stop the run; "
        "drop: keep those of test, or else of val, and leave the others out, which skipped.csv lists",
    )
    max_skipped: Fraction = Field(
        default=0.05,
        description="Largest share of images or of captions that may be skipped as unusable before the run stops",
    )


class EncoderParams(Options):
    """The frozen image encoder (stage `extract`)."""

    source: SourceName = Field(
        default="torchvision",
        description=f"Library of the network: {', '.join(SOURCES)}. open_clip needs "
        "`pip install -e '.[open_clip]'` in the checkout",
    )
    name: Text = Field(
        default="vgg11",
        description="The network's name in its source: a torchvision classification model (resnet50, vit_b_16), a timm "
        "model (tf_efficientnet_lite2, vit_small_patch14_dinov2), the image tower of an open_clip model (ViT-B-16)",
    )
    weights: Text = Field(
        default="none",
        description="One of: the name of published weights (torchvision: IMAGENET1K_V2; timm: a1_in1k; open_clip: "
        "openai; DEFAULT for the first two); a file with a state dict; a captioner's model file, or starter, for the "
        "encoder inside; none for random weights from the seed. DVC sees only the path, not the content of the "
        "file: rename the file when it changes",
    )
    layer: Text = Field(
        default="auto",
        description="Layer whose output is used, e.g. layer4 or classifier.4; in timm and open_clip also features, the "
        "last map, and pooled, the vector. auto: the last feature map; with random weights the deepest one of stride "
        "8, because deeper random layers blur",
    )
    grid: int = Field(
        default=7, ge=1, le=256, description="The feature map is averaged to grid x grid regions; 1 gives one vector"
    )
    image_size: Annotated[int, Field(ge=8, le=4096)] | Literal["auto"] = Field(
        default="auto",
        description="Input side in pixels. auto: the size the weights were trained with; 112 without weights",
    )
    fit: Literal["stretch", "crop"] = Field(
        default="stretch",
        description="How an image becomes square. stretch: resize the whole image; crop: take the center, keeping "
        "the aspect ratio",
    )
    truncated_jpegs: Literal["skip", "fill"] = Field(
        default="skip",
        description="JPEG files that end too early, as after a broken download. skip: leave them out and list them, as "
        "other damaged images; fill: use them, gray where pixels are missing, also in predict",
    )
    jpeg_decoder: Literal["pillow", "nvimgcodec"] = Field(
        default="pillow",
        description="What decodes JPEGs in `extract`. nvimgcodec: an NVIDIA GPU; needs `pip install -e '.[gpu]'` in "
        "the checkout. predict always uses Pillow, whose pixels differ by at most 3 of 255. See docs/how-it-works.md",
    )
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        default="auto",
        description="Arithmetic of the encoder. auto: bfloat16, about twice as fast, where the processor supports "
        "it, else float32. Features depend on it: changing it extracts them again",
    )


class VocabParams(Options):
    """The vocabulary (stage `vocab`)."""

    unit: Literal["word", "character"] = Field(
        default="word",
        description="What a token is. character is for languages that do not separate words with spaces",
    )
    min_count: int = Field(
        default=2,
        ge=1,
        le=1_000_000_000,
        description="Tokens with fewer occurrences in the training captions become `<unk>`",
    )
    max_length: Annotated[int, Field(ge=1, le=1000)] | Literal["auto"] = Field(
        default="auto",
        description="Longer training captions are cut to this many tokens, and generated ones are at most as long. "
        "auto: the length of the longest training caption, at most 60 words or 240 characters",
    )


DEFAULT_DECODER = "attention"
DECODER_MODELS: dict[str, type[DecoderOptions]] = {kind: entry.options for kind, entry in DECODERS.items()}

if TYPE_CHECKING:
    DecoderParams = DecoderOptions
else:
    DecoderParams = Annotated[Union[tuple(DECODER_MODELS.values())], Field(discriminator="kind")]  # noqa: UP007


def _default_decoder() -> DecoderOptions:
    return DECODER_MODELS[DEFAULT_DECODER].model_validate({})


class ScstParams(Options):
    """Self-critical sequence training, after the epochs with cross-entropy (Rennie et al., 2017)."""

    epochs: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="Maximum number of epochs that optimize the CIDEr-D of sampled captions; 0 skips them",
    )
    lr: float = Field(default=5e-5, gt=0, le=100, description="Learning rate of these epochs")
    samples: int = Field(
        default=5,
        ge=2,
        le=1000,
        description="Captions sampled per image; the mean reward of the others is a caption's baseline",
    )
    cross_entropy: Fraction = Field(default=0.2, description="Weight of the cross-entropy loss beside the reward")


class TrainParams(Options):
    """Training of the decoder (stage `train`)."""

    epochs: int = Field(
        default=36,
        ge=0,
        le=100_000,
        description="Maximum number of epochs with cross-entropy. 0, for self-critical training alone, needs "
        "train.init_from and train.scst.epochs",
    )
    batch_size: int = Field(default=64, ge=1, le=65_536, description="Captions per step")
    lr: float = Field(default=2e-3, gt=0, le=100, description="Peak learning rate of AdamW")
    schedule: Literal["cosine", "plateau", "constant"] = Field(
        default="cosine",
        description="Learning rate schedule. cosine: falls to a tenth; plateau: halves after two epochs without a "
        "better val score; constant",
    )
    warmup: Fraction = Field(
        default=0.02,
        description="Share of the steps of the cross-entropy epochs in which the learning rate rises from zero",
    )
    weight_decay: float = Field(default=0.01, ge=0, le=100, description="Weight decay of AdamW")
    clip: float = Field(default=5.0, gt=0, le=1e9, description="Maximum norm of the gradient")
    label_smoothing: Fraction = Field(
        default=0.1, description="Share of each target's probability that is spread over the vocabulary"
    )
    bag_of_words: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        description="Weight of a second loss: predict the set of caption words from the image alone",
    )
    scheduled_sampling: Fraction = Field(
        default=0.0,
        description="Probability at the last epoch, rising from 0, that an input token is the decoder's own "
        "prediction. It does not apply in self-critical epochs",
    )
    ema: Fraction = Field(
        default=0.0,
        description="Decay of the moving average of the weights, which is then scored and saved; 0: no average",
    )
    average_best: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="The model is the average of this many best epochs, unless the best one alone validates better",
    )
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        default="auto",
        description="Arithmetic of matrix products. auto: bfloat16 on processors that support it, TF32 on GPUs",
    )
    patience: int = Field(
        default=10,
        ge=1,
        le=100_000,
        description="Early stopping: epochs without a better CIDEr-D of the captions generated for the val split, or "
        "without a lower val loss where the split has fewer than 50 images",
    )
    store_captions: bool = Field(
        default=False,
        description="Store the training captions and an image vector of each training image in the model file, which "
        "score.rerank needs: about 70 bytes per caption, and 2 x decoder.hidden bytes per image",
    )
    init_from: Text = Field(
        default="none",
        description="Trained captioner whose weights training starts from: a model file, or starter. The encoder, "
        "decoder.kind and the decoder's widths must be those of the model; tokens that it does not know start from "
        "random values. DVC sees only the path, not the content of the file: rename the file when it changes",
    )
    scst: ScstParams = Field(default_factory=ScstParams, description="Self-critical sequence training")

    @model_validator(mode="after")
    def _epochs(self) -> Self:
        if not self.epochs and (self.init_from == "none" or not self.scst.epochs):
            raise ValueError("epochs 0 needs a trained captioner in init_from, and scst.epochs of at least 1")
        return self


class ScoreParams(Options):
    """Caption generation and scores (stage `score`)."""

    split: Literal["train", "val", "test"] = Field(default="test", description="Split that is captioned and scored")
    beam_size: int = Field(default=5, ge=1, le=100, description="Hypotheses kept per step; 1 is greedy search")
    max_length: Annotated[int, Field(ge=1, le=1000)] | Literal["auto"] = Field(
        default="auto",
        description="Longest generated caption in tokens. auto: vocab.max_length, the limit of validation in training",
    )
    length_penalty: float = Field(
        default=1.0,
        ge=0,
        le=10,
        description="Log-probabilities are divided by length ** length_penalty; 0 favors short captions",
    )
    no_repeat_ngram: Annotated[int, Field(ge=0, le=1000)] | Literal["auto"] = Field(
        default="auto",
        description="No n-gram of this length occurs twice in a caption; 0 allows all. auto: the shortest of 2 to 4 "
        "that at most 5% of the training captions repeat, else 0",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Arithmetic of matrix products in the search; bfloat16 changes some captions"
    )
    meteor: bool = Field(default=False, description="Compute METEOR too; needs Java and the extra `meteor`")
    rerank: RerankOptions = Field(
        default_factory=RerankOptions, description="Re-ranking by captions of similar training images"
    )


class RunParams(Options):
    """Where and how fast a stage runs; a change re-runs no stage. `device` and `threads` may change last bits."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d{1,4})?)$")] = Field(
        default="auto",
        description="auto, cpu, mps, cuda or cuda:N. auto: CUDA if present. A device given by name must exist",
    )
    threads: int = Field(
        default=1,
        ge=0,
        le=1024,
        description="Training threads; 0: one per core. Small decoders train fastest with one, and the result is then "
        "the same for any number of cores",
    )
    workers: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="Of extract: threads on a CPU, decoding processes for a GPU, or at most this many shards in "
        "progress on Ray; 0: one per core",
    )


class Params(Options):
    """All parameters of a run: the content of params.yaml with its defaults filled in."""

    seed: int = Field(default=17, ge=0, lt=2**31, description="Seed of all random numbers")
    data: DataParams = Field(default_factory=DataParams)
    encoder: EncoderParams = Field(default_factory=EncoderParams)
    vocab: VocabParams = Field(default_factory=VocabParams)
    decoder: DecoderParams = Field(default_factory=_default_decoder)
    train: TrainParams = Field(default_factory=TrainParams)
    score: ScoreParams = Field(default_factory=ScoreParams)
    run: RunParams = Field(default_factory=RunParams)

    @field_validator("decoder", mode="before")
    @classmethod
    def _options_of_its_kind(cls, values: Any) -> Any:
        """Fill in the default kind, and leave out options that only other kinds have."""
        if not isinstance(values, Mapping):
            return values
        kind = values.get("kind", DEFAULT_DECODER)
        if not isinstance(kind, str) or kind not in DECODER_MODELS:
            return {"kind": str(kind)}
        own = DECODER_MODELS[kind].model_fields
        others = {name for model in DECODER_MODELS.values() for name in model.model_fields} - set(own)
        return {"kind": kind} | {name: value for name, value in values.items() if name not in others}

    @model_validator(mode="after")
    def _reranking(self) -> Self:
        if self.score.rerank.neighbors and self.vocab.unit == "character":
            raise ValueError("score.rerank.neighbors needs vocab.unit: word; set it to 0 for characters")
        if self.score.rerank.neighbors and not self.train.store_captions:
            raise ValueError(
                f"score.rerank.neighbors is {self.score.rerank.neighbors}, which needs train.store_captions: true; "
                "or set it to 0"
            )
        return self


def schema() -> dict[str, Any]:
    """Return the JSON schema of params.yaml, for editors. It allows the options of all decoder kinds."""
    found = Params.model_json_schema()
    options: dict[str, Any] = {}
    for model in DECODER_MODELS.values():
        options = model.model_json_schema()["properties"] | options
        del found["$defs"][model.__name__]
    options["kind"] = {
        "title": "Kind",
        "description": "; ".join(f"{kind}: {entry.summary}" for kind, entry in DECODERS.items()),
        "enum": list(DECODERS),
        "default": DEFAULT_DECODER,
    }
    found["properties"]["decoder"] = {
        "title": "DecoderParams",
        "description": "The decoder (stage `train`).",
        "type": "object",
        "properties": options,
        "additionalProperties": False,
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}
