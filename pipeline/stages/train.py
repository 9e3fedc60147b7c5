"""train: a decoder on the cached features.

Reads captions.csv, features.h5, vocab.json and encoder.safetensors. Writes captioner.safetensors, the one
file that captions pictures, and metrics/training.csv, one row per epoch as soon as it is over.
"""

import csv
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.datasets.tables import read_captions
from pipeline.decoders import make_decoder
from pipeline.device import engine
from pipeline.encoders.spec import EncoderSpec, sha256_of_tensors
from pipeline.errors import ArtefactError, DataError, DiskError, NumericError
from pipeline.features.feature_file import FeatureFile
from pipeline.files import read_json, sha256_of
from pipeline.inference.model_file import TrainedModel
from pipeline.metrics.cider import CiderD
from pipeline.startup import without_compiler
from pipeline.text.tokenizers import MAX_TOKENS, get_tokenizer, join_tokens
from pipeline.text.vocabulary import EOS, Vocabulary
from pipeline.training.batches import Batches
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.determinism import deterministic
from pipeline.training.distributed import ALONE, ProcessGroup
from pipeline.training.loop import Trained, train_decoder
from pipeline.training.losses import Reward
from pipeline.training.trainer import Epoch
from pipeline.training.validation import Validation

if TYPE_CHECKING:
    from pipeline.params import DecoderParams, RunParams, TrainParams

UNSTEADY = {"seconds", "tokens_per_second"}
"""Columns that differ from run to run stay out of the table: an output has the same bytes on every rerun."""


@dataclass(frozen=True)
class Report:
    """How training went."""

    trained: Trained
    pictures: int
    captions: int
    parameters: int


def train(
    params: "TrainParams",
    decoder_params: "DecoderParams",
    run: "RunParams",
    *,
    seed: int,
    captions: Path,
    features: Path,
    vocabulary: Path,
    encoder: Path,
    model_out: Path,
    curve_out: Path,
    checkpoints: Path,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_resume: Callable[[int], None] = lambda epochs: None,
    processes: ProcessGroup = ALONE,
) -> Report:
    """Train, or go on where an interrupted run with the same params and data stopped, by its file in `checkpoints`.

    Of several `processes` the first one alone writes. Raises `DataError`, `ArtefactError`, `PeerError`; `NumericError`
    after saving the best model until then.
    """
    cache = FeatureFile.open(features)
    words = Vocabulary.from_json(read_json(vocabulary), str(vocabulary))
    tokenize = get_tokenizer(words.tokenizer, str(vocabulary))
    known = cache.index()
    train_captions, val_captions = (
        {image: texts for image, texts in read_captions(captions, split).items() if image in known}
        for split in ("train", "val")
    )
    if not train_captions or not val_captions:
        raise DataError(f"{features}: holds no pictures of the train or val split; run `dvc repro`")

    images = list(train_captions)
    rows = torch.from_numpy(cache.load(images))
    limit = MAX_TOKENS[words.tokenizer]
    encoded, val_encoded = (
        [words.encode(tokenize(text)[:limit] for text in texts) for texts in captions_of.values()]
        for captions_of in (train_captions, val_captions)
    )
    batches = _batches(encoded, params.batch_size, seed)
    validation = Validation(
        torch.from_numpy(cache.load(list(val_captions))),
        [[join_tokens(tokenize(text)) for text in texts] for texts in val_captions.values()],
        _batches(val_encoded, params.batch_size, seed),
    )
    device = processes.device(run.device)
    subject = {
        "params": [params.model_dump(), decoder_params.model_dump(), seed],
        "inputs": [sha256_of(captions), sha256_of(vocabulary), cache.digest()],
    }
    processes.expect_equal(subject)
    together = [processes.count] if processes.count > 1 else []
    checkpoint = Checkpoint(
        checkpoints, {**subject, "engine": [engine(device), run.threads or torch.get_num_threads(), *together]}
    )
    with deterministic(run.threads), without_compiler():
        torch.manual_seed(seed)
        decoder = make_decoder(
            decoder_params.model_dump(), vocabulary=len(words), regions=cache.regions, channels=cache.channels
        )
        decoder.standardise.fit(rows)
        done: list[Epoch] = []

        def save() -> None:
            if not processes.first:
                return
            best = max(done, key=lambda epoch: epoch.selection_key)
            model = TrainedModel(
                decoder=decoder,
                decoder_params=decoder_params.model_dump(),
                vocabulary=words,
                spec=cache.spec,
                regions=cache.regions,
                channels=cache.channels,
                encoder_tensors=_encoder_tensors(encoder, cache.spec),
                trained_on={
                    "captions_sha256": sha256_of(captions),
                    "pictures": len(images),
                    "best_epoch": best.epoch,
                    "seed": seed,
                    "train": params.model_dump(),
                },
            )
            if params.store_captions:
                said = [[caption[1:-1] for caption in texts] for texts in encoded]
                model = model.remembering(rows, said)
            model.save(model_out)

        with _curve(curve_out if processes.first else Path(os.devnull), on_epoch, done) as add:
            try:
                trained = train_decoder(
                    decoder,
                    rows,
                    batches,
                    validation,
                    words,
                    params,
                    seed=seed,
                    device=device,
                    on_epoch=add,
                    on_resume=on_resume,
                    reward=_reward(train_captions, words) if params.scst.epochs else None,
                    checkpoint=checkpoint,
                    processes=processes,
                )
            except NumericError as error:
                if not done:
                    raise
                save()
                raise NumericError(f"{error}; the best model until then is kept in {model_out}") from error
        save()
        if processes.first:
            checkpoint.remove()
    return Report(trained, len(images), sum(map(len, encoded)), sum(part.numel() for part in decoder.parameters()))


def _batches(encoded: Sequence[Sequence[Sequence[int]]], size: int, seed: int) -> Batches:
    """The captions of each picture, as token numbers, in batches."""
    rows = [row for row, texts in enumerate(encoded) for _ in texts]
    return Batches([caption for texts in encoded for caption in texts], rows, batch_size=size, seed=seed)


def _reward(train_captions: Mapping[str, Sequence[str]], words: Vocabulary) -> Reward:
    """CIDEr-D against the captions of each training picture; the end counts as a word, so that ending is learnt."""
    end = words.tokens[EOS]
    tokenize = get_tokenizer(words.tokenizer, "the vocabulary")
    references = [[f"{join_tokens(tokenize(text))} {end}" for text in texts] for texts in train_captions.values()]
    cider = CiderD(references)

    def reward(rows: Tensor, captions: Sequence[Sequence[int]]) -> Tensor:
        return torch.from_numpy(
            cider.score_many(rows.numpy(), [f"{words.for_metrics(words.decode(one))} {end}" for one in captions])
        )

    return reward


@contextmanager
def _curve(path: Path, listener: Callable[[Epoch], None], done: list[Epoch]) -> Iterator[Callable[[Epoch], None]]:
    """Adds epochs to `done` and to the table at `path`, each readable as soon as it is over."""
    names = [field.name for field in fields(Epoch) if field.name not in UNSTEADY]

    def write(cells: Sequence[str]) -> None:
        try:
            csv.writer(file, lineterminator="\n").writerow(cells)
            file.flush()
        except OSError as error:
            raise DiskError(f"{path}: cannot be written: {error.strerror}") from error

    def add(epoch: Epoch) -> None:
        done.append(epoch)
        write([f"{getattr(epoch, name):.6g}" for name in names])
        listener(epoch)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w", newline="", encoding="utf-8")
    except OSError as error:
        raise DiskError(f"{path}: cannot be written: {error.strerror}") from error
    with file:
        write(names)
        yield add


def _encoder_tensors(path: Path, spec: EncoderSpec) -> dict[str, Tensor] | None:
    """The weights to embed, None when torchvision can fetch them. Raises `ArtefactError`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ArtefactError(f"{path}: not the encoder's weights: {error}; run `dvc repro -f extract`") from error
    if tensors and sha256_of_tensors(tensors) != spec.weights_sha256:
        raise ArtefactError(f"{path}: not the weights that made the features; run `dvc repro -f extract`")
    return tensors or None
