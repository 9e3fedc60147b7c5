"""train: trains the decoder on the cached features and writes the model file.

Reads captions.csv, features.h5, vocab.json, encoder.safetensors and the model file that `train.init_from` names.
Writes captioner.safetensors and metrics/training.csv, which is replaced after each epoch.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline import paths
from pipeline.datasets.tables import read_captions
from pipeline.decoders.decoder import Decoder
from pipeline.decoders.registry import make_decoder
from pipeline.device import engine
from pipeline.encoders.spec import EncoderSpec, sha256_of_tensors
from pipeline.errors import ArtefactError, DataError, NumericError
from pipeline.features.feature_file import FeatureFile, remedy
from pipeline.file_signatures import other_content
from pipeline.files import check_writable, read_json, sha256_of, write_csv
from pipeline.fingerprint import fingerprint
from pipeline.inference.familiarity import Familiarity
from pipeline.inference.initial_metadata import with_encoder_params
from pipeline.inference.initial_model import InitialModel
from pipeline.inference.model_file import TrainedModel
from pipeline.metrics.cider import CiderD
from pipeline.text.tokenizers import get_tokenizer, join_tokens
from pipeline.text.vocabulary import Vocabulary
from pipeline.tokens import EOS
from pipeline.training.batches import Batches
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.determinism import deterministic
from pipeline.training.distributed import SINGLE_PROCESS, ProcessGroup
from pipeline.training.feature_source import FeatureSource, StreamedFeatures, chunks, open_features
from pipeline.training.history import EpochMetrics
from pipeline.training.losses import Reward
from pipeline.training.memory import memory_errors
from pipeline.training.trainer import Trainer, TrainingData
from pipeline.training.validation import Validation

if TYPE_CHECKING:
    from pipeline.params import Params

VAL_BATCH = 256
"""Batch size of the val loss, but at least `train.batch_size` and at most four times it."""
NOT_IN_TABLE = {"seconds", "tokens_per_second"}
"""Metrics that differ between equal runs; outputs must not."""


@dataclass(frozen=True)
class TrainFiles:
    """Inputs and outputs of the stage."""

    captions: Path = paths.CAPTIONS
    features: Path = paths.FEATURES
    vocabulary: Path = paths.VOCABULARY
    encoder: Path = paths.ENCODER
    model: Path = paths.MODEL
    metrics: Path = paths.TRAINING
    checkpoints: Path = Path(".cache/training")
    """A folder that outlives the outputs."""


@dataclass(frozen=True)
class TrainReport:
    """How training ended, and the number of training and val images, training captions and decoder parameters."""

    best: EpochMetrics
    by_score: bool
    """Whether CIDEr-D chose the best epoch, not the val loss."""
    epochs: int
    cross_entropy_epochs: int
    """Of these, the epochs before self-critical training."""
    images: int
    val_images: int
    captions: int
    parameters: int
    max_length: int
    """Tokens to which training captions were cut."""
    cut: int
    """Training captions that were longer."""
    tokens: int
    """Size of the vocabulary."""
    known_tokens: int | None
    """Tokens whose weights come from the model that `train.init_from` names; None without one."""
    start: tuple[float, float] | None
    """CIDEr-D and loss of the val split before the first epoch, with `train.init_from`."""
    start_is_best: bool
    """Whether no epoch is better than this start."""
    averaged: int
    """Best epochs whose weights were averaged."""
    mean: tuple[float, float] | None
    """CIDEr-D and loss of their mean, where there are several."""
    mean_is_saved: bool
    """Whether the model has the mean, and not the weights of the best epoch alone."""


def train(
    files: TrainFiles,
    params: "Params",
    *,
    on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
    on_resume: Callable[[int], None] = lambda epochs: None,
    on_missing: Callable[[str, Sequence[str]], None] = lambda split, images: None,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> TrainReport:
    """Train the decoder, or resume an interrupted run with the same params, inputs and code.

    `on_missing` receives the images of a split that have no features, so that they are left out. Of several `processes`
    only the first one writes. Raises `DataError`, `ArtefactError`, `ParamsError` (also if the memory is too small),
    `PeerError`, `DiskError`; `NumericError` if the loss or a weight is not finite, after writing the best model so far.
    """
    if processes.rank == 0:
        check_writable(files.model, files.metrics)
    inputs = _Inputs.read(files)
    for split, images in inputs.without_features.items():
        on_missing(split, images)
    if processes.rank == 0:
        _warn_of_another_encoder(files.features, inputs.features.spec, params)
        _encoder_tensors(files.encoder, inputs.features.spec)  # raises now instead of after the last epoch
    sections = {"seed": params.seed, "decoder": params.decoder.model_dump(), "train": params.train.model_dump()}
    hashes = [sha256_of(files.captions), sha256_of(files.vocabulary), inputs.features.digest()]
    initial = InitialModel.load(params.train.init_from, output=files.model)
    if initial:
        initial.check(inputs.features.spec, params.decoder.model_dump(), inputs.vocabulary)
        hashes.append(initial.sha256)
    processes.expect_equal([sections, hashes])
    with deterministic(params.run.threads), memory_errors():
        decoder = _new_decoder(params, inputs, initial).to(processes.device)
        data, validation = inputs.prepare(decoder, params, processes)
        trainer = Trainer(decoder, data, validation, params.train, seed=params.seed, processes=processes)
        history = trainer.history
        modules = sorted({type(module).__name__ for module in decoder.modules()})  # some only where kernels run
        precision = "bfloat16" if trainer.bfloat16 else "float32"
        computed_by = [engine(processes.device), precision, torch.get_num_threads(), processes.count, modules]
        checkpoint = Checkpoint(
            files.checkpoints,
            {"params": sections, "inputs": hashes, "engine": computed_by, "code": fingerprint("train")},
        )

        def record(metrics: EpochMetrics) -> None:
            if processes.rank == 0:
                _write_metrics(files.metrics, history.epochs)
            on_epoch(metrics)

        def save() -> None:
            if processes.rank == 0:
                _model(files, params, inputs, decoder, sections, history.best.epoch, initial).save(files.model)

        start = trainer.validate(trainer.decoder) if initial else None
        try:
            trainer.run(checkpoint, on_epoch=record, on_resume=on_resume)
        except NumericError as error:
            if not history.epochs:
                raise
            save()
            raise NumericError(f"{error}; {files.model} has the best model so far") from error
        save()
        if processes.rank == 0:
            checkpoint.remove()
    return _report(trainer, inputs, decoder, initial, start)


def _warn_of_another_encoder(features: Path, spec: EncoderSpec, params: "Params") -> None:
    """Warn where `params.encoder` changed after the features were extracted."""
    if not spec.imported and (differences := spec.differences(with_encoder_params(spec, params))):
        names = ", ".join(one.partition(":")[0] for one in differences)
        warnings.warn(
            f"{features} is not of the encoder in params.encoder, which differs in {names}: run `dvc repro`",
            stacklevel=3,
        )


def _report(
    trainer: Trainer,
    inputs: "_Inputs",
    decoder: Decoder,
    initial: InitialModel | None,
    start: tuple[float, float] | None,
) -> TrainReport:
    history, before = trainer.history, trainer.cross_entropy_epochs
    return TrainReport(
        history.best,
        by_score=history.by_score,
        epochs=len(history),
        cross_entropy_epochs=len(history) if before is None else before,
        images=len(inputs.train.images),
        val_images=len(inputs.val.images),
        captions=inputs.train.captions,
        parameters=sum(part.numel() for part in decoder.parameters()),
        max_length=inputs.vocabulary.max_length,
        cut=inputs.train.cut,
        tokens=len(inputs.vocabulary),
        known_tokens=initial.known_tokens(inputs.vocabulary) if initial else None,
        start=start,
        start_is_best=history.as_good_as_best(start),
        averaged=len(history.best_weights),
        mean=trainer.mean_validation,
        mean_is_saved=history.as_good_as_best(trainer.mean_validation),
    )


@dataclass(frozen=True)
class _Split:
    """The images of a split that have features, and their captions."""

    images: list[str]
    references: list[list[str]]
    """The captions of each image as the metrics take them: tokens with single spaces between."""
    encoded: list[list[list[int]]]
    """The token ids of each image's captions, from BOS to EOS, cut to the vocabulary's `max_length`."""
    cut: int
    """Captions that were longer."""

    @classmethod
    def tokenize(cls, captions: Mapping[str, Sequence[str]], vocabulary: Vocabulary) -> "_Split":
        tokenize, limit = get_tokenizer(vocabulary.tokenizer, "the vocabulary"), vocabulary.max_length
        tokens = [[tokenize(text) for text in texts] for texts in captions.values()]
        encoded = iter(vocabulary.encode(caption[:limit] for of_image in tokens for caption in of_image))
        return cls(
            list(captions),
            references=[[join_tokens(caption) for caption in of_image] for of_image in tokens],
            encoded=[list(islice(encoded, len(of_image))) for of_image in tokens],
            cut=sum(len(caption) > limit for of_image in tokens for caption in of_image),
        )

    @property
    def captions(self) -> int:
        return sum(map(len, self.encoded))


@dataclass(frozen=True)
class _Inputs:
    """Features, vocabulary and the captions of the train and val splits."""

    features: FeatureFile
    vocabulary: Vocabulary
    train: _Split
    val: _Split
    without_features: Mapping[str, Sequence[str]]
    """By split, where there are any: the images that have no features."""

    @classmethod
    def read(cls, files: TrainFiles) -> "_Inputs":
        features = FeatureFile.open(files.features)
        vocabulary = _read_vocabulary(files.vocabulary)
        splits: dict[str, _Split] = {}
        missing: dict[str, list[str]] = {}
        for name in ("train", "val"):
            captions = read_captions(files.captions, name)
            known = {image: texts for image, texts in captions.items() if image in features.index}
            if not known:
                raise DataError(
                    f"{files.features}: has no features of images of the {name} split; repair or replace the images "
                    f"that {paths.SKIPPED} lists, then run `dvc repro`"
                )
            splits[name] = _Split.tokenize(known, vocabulary)
            if len(known) < len(captions):
                missing[name] = [image for image in captions if image not in known]
        return cls(features, vocabulary, splits["train"], splits["val"], missing)

    def prepare(self, decoder: Decoder, params: "Params", processes: ProcessGroup) -> tuple[TrainingData, Validation]:
        """The train and the val split as the trainer needs them."""

        size = params.train.batch_size

        def batches(split: _Split, size: int) -> Batches:
            captions = [caption for of_image in split.encoded for caption in of_image]
            images = [index for index, of_image in enumerate(split.encoded) for _ in of_image]
            return Batches(captions, images, batch_size=size, seed=params.seed)

        def features(split: _Split) -> FeatureSource:
            return open_features(self.features, split.images, decoder.pool, processes.device)

        reward = self.reward() if params.train.scst.epochs else None
        val_batches = batches(self.val, max(size, min(VAL_BATCH, 4 * size)))
        validation = Validation(
            features(self.val), val_batches, self.val.references, self.vocabulary, device=processes.device
        )
        return TrainingData(features(self.train), batches(self.train, size), reward), validation

    def stream(self, split: _Split) -> Iterator[Tensor]:
        """The features of a split in chunks (n, R, C) float16."""
        images = split.images
        return StreamedFeatures(self.features, images, torch.device("cpu")).read(chunks(len(images)))

    def reward(self) -> Reward:
        """CIDEr-D against the captions of each training image; EOS counts as a token, so that ending is learned."""
        end = self.vocabulary.tokens[EOS]
        cider = CiderD([[f"{text} {end}" for text in of_image] for of_image in self.train.references])

        def reward(images: Tensor, captions: Sequence[Sequence[int]]) -> Tensor:
            texts = [self.vocabulary.for_metrics(self.vocabulary.decode(caption)) for caption in captions]
            return torch.from_numpy(cider.score_many(images.numpy(), [f"{text} {end}" for text in texts]))

        return reward


def _read_vocabulary(path: Path) -> Vocabulary:
    try:
        content = read_json(path)
    except DataError as error:
        raise DataError(f"{error}; run `dvc repro -f vocab`") from error
    return Vocabulary.from_json(content, str(path))


def _new_decoder(params: "Params", inputs: _Inputs, initial: InitialModel | None) -> Decoder:
    """The decoder as training starts: with random weights, or with those of the initial model."""
    torch.manual_seed(params.seed)
    decoder = make_decoder(
        params.decoder.model_dump(),
        vocabulary=len(inputs.vocabulary),
        regions=inputs.features.regions,
        channels=inputs.features.channels,
        padded=inputs.features.spec.imported,
    )
    if initial:
        initial.initialize(decoder, inputs.vocabulary)
    else:
        decoder.normalize.fit(inputs.stream(inputs.train))
    return decoder


def _model(
    files: TrainFiles,
    params: "Params",
    inputs: _Inputs,
    decoder: Decoder,
    sections: Mapping[str, object],
    epoch: int,
    initial: InitialModel | None,
) -> TrainedModel:
    model = TrainedModel(
        decoder=decoder,
        decoder_params=params.decoder.model_dump(),
        vocabulary=inputs.vocabulary,
        spec=inputs.features.spec,
        regions=inputs.features.regions,
        channels=inputs.features.channels,
        encoder_tensors=_encoder_tensors(files.encoder, inputs.features.spec),
        params=sections,
        trained_on={
            # A label: with its folder's name only, moving the dataset does not change the model file.
            "dataset": "/".join(Path(params.data.captions).parts[-2:]),
            "captions_sha256": sha256_of(files.captions),
            "features_digest": inputs.features.digest(),
            "images": len(inputs.train.images),
            "captions": inputs.train.captions,
            "best_epoch": epoch,
            **(initial.facts() if initial else {}),
        },
        familiarity=Familiarity.fit(*(map(Tensor.numpy, inputs.stream(split)) for split in (inputs.train, inputs.val))),
    )
    if not params.train.store_captions:
        return model
    captions = [[caption[1:-1] for caption in of_image] for of_image in inputs.train.encoded]
    return model.with_reranker(inputs.stream(inputs.train), captions)


def _write_metrics(path: Path, history: Sequence[EpochMetrics]) -> None:
    """Replace the table of metrics: one row per epoch. Raises `DiskError`."""
    names = [field.name for field in fields(EpochMetrics) if field.name not in NOT_IN_TABLE]
    write_csv(path, names, [[f"{getattr(metrics, name):.6g}" for name in names] for metrics in history])


def _encoder_tensors(path: Path, spec: EncoderSpec) -> dict[str, Tensor] | None:
    """The encoder's weights; None if its source publishes them. Raises `ArtefactError`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        problem = other_content(path) or f"not an encoder file: {error}; {remedy(spec)}"
        raise ArtefactError(f"{path}: {problem}") from error
    if tensors and sha256_of_tensors(tensors) != spec.weights_sha256:
        raise ArtefactError(f"{path}: not the weights that computed the features; {remedy(spec)}")
    return tensors or None
