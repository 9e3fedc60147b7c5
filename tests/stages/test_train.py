"""The train stage: its outputs, resuming, and what it keeps when the loss is not finite."""

import csv
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from support import small_params

from pipeline import paths
from pipeline.datasets.tables import read_captions
from pipeline.decoders.registry import DECODERS
from pipeline.encoders.spec import imported_spec
from pipeline.errors import ArtefactError, DataError, NumericError, ParamsError
from pipeline.features.feature_file import FeatureFile, write_feature_file
from pipeline.inference.familiarity import Familiarity
from pipeline.inference.model_file import TrainedModel
from pipeline.params_file import read_params
from pipeline.stages.train import TrainFiles, train


class Killed(BaseException):
    """Stands for the death of the process."""


@pytest.fixture
def files(trained_project, tmp_path):
    """Inputs of a prepared project, outputs in an empty folder."""
    inputs = {
        "captions": paths.CAPTIONS,
        "features": paths.FEATURES,
        "vocabulary": paths.VOCABULARY,
        "encoder": paths.ENCODER,
    }
    return TrainFiles(
        **{name: trained_project / path for name, path in inputs.items()},
        model=tmp_path / "captioner.safetensors",
        metrics=tmp_path / "training.csv",
        checkpoints=tmp_path / "checkpoints",
    )


@pytest.fixture
def params(trained_project):
    params = read_params(trained_project / "params.yaml")
    return params.model_copy(update={"train": params.train.model_copy(update={"epochs": 3})})


def epochs_in(path):
    with path.open() as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


def kill_after(epoch):
    def on_epoch(metrics):
        if metrics.epoch == epoch:
            raise Killed

    return on_epoch


def test_the_table_is_complete_after_each_epoch(files, params):
    seen = []
    train(files, params, on_epoch=lambda metrics: seen.append(epochs_in(files.metrics)))
    assert seen == [[1], [1, 2], [1, 2, 3]]
    assert [path.name for path in files.metrics.parent.glob(".training*")] == []


def test_a_killed_run_is_resumed_to_the_same_bytes_and_its_checkpoint_deleted(files, params, tmp_path):
    train(files, params)
    broken = replace(files, model=tmp_path / "other.safetensors", metrics=tmp_path / "other.csv")
    with pytest.raises(Killed):
        train(broken, params, on_epoch=kill_after(2))
    assert [path.suffix for path in files.checkpoints.iterdir()] == [".checkpoint"]
    assert epochs_in(broken.metrics) == [1, 2]
    events = []
    train(broken, params, on_resume=events.append, on_epoch=lambda metrics: events.append(f"epoch {metrics.epoch}"))
    assert events == [2, "epoch 1", "epoch 2", "epoch 3"]
    assert broken.model.read_bytes() == files.model.read_bytes()
    assert broken.metrics.read_bytes() == files.metrics.read_bytes()
    assert list(files.checkpoints.iterdir()) == []


def test_a_checkpoint_of_other_params_code_or_precision_is_not_resumed(files, params, monkeypatch):
    with pytest.raises(Killed):
        train(files, params, on_epoch=kill_after(2))
    resumed = []
    train(files, params.model_copy(update={"seed": params.seed + 1}), on_resume=resumed.append)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.stages.train.fingerprint", lambda stage: f"other code of {stage}")
        train(files, params, on_resume=resumed.append)
    with monkeypatch.context() as patch:  # as `auto` may decide on another machine
        patch.setattr("pipeline.training.trainer.in_bfloat16", lambda precision, device: True)
        train(files, params, on_resume=resumed.append)
    assert resumed == []
    train(files, params, on_resume=resumed.append)
    assert resumed == [2]


def test_the_best_model_is_kept_when_the_loss_is_not_finite(files, params):
    diverging = {"lr": 100.0, "clip": 1e9, "weight_decay": 100.0, "batch_size": 12, "epochs": 30}
    params = params.model_copy(update={"train": params.train.model_copy(update=diverging)})
    with pytest.raises(NumericError, match="has the best model so far"):
        train(files, params)
    assert TrainedModel.load(files.model).trained_on["best_epoch"] in epochs_in(files.metrics)


@pytest.mark.parametrize(
    "place", ["pipeline.stages.train.make_decoder", "pipeline.training.losses.CaptionLoss.forward"]
)
def test_too_little_memory_is_an_error_that_names_the_params_to_lower(files, params, monkeypatch, place):
    monkeypatch.setattr(place, lambda *arguments, **options: torch.empty(2**55))
    with pytest.raises(ParamsError, match=r"too small: lower params.train.batch_size, .*DefaultCPUAllocator"):
        train(files, params)


def test_the_model_records_what_it_was_trained_on(files, params):
    report = train(files, params)
    model = TrainedModel.load(files.model)
    assert model.params == {
        "seed": params.seed,
        "decoder": params.decoder.model_dump(),
        "train": params.train.model_dump(),
    }
    assert model.trained_on["images"] == report.images == 12
    assert model.trained_on["captions"] == report.captions == 24
    assert model.trained_on["best_epoch"] == report.best.epoch
    assert model.reranker is not None
    assert model.familiarity is None  # of too few images


@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign"])
def test_a_wrong_encoder_file_is_refused_before_the_first_epoch(files, params, tmp_path, damage):
    encoder = tmp_path / "encoder.safetensors"
    if damage == "truncated":
        encoder.write_bytes(files.encoder.read_bytes()[:100])
    elif damage == "foreign":
        save_file({"weight": torch.ones(2)}, encoder)
    with pytest.raises(ArtefactError, match=r"encoder.safetensors: not .*; run `dvc repro -f extract`"):
        train(replace(files, encoder=encoder), params, on_epoch=lambda metrics: pytest.fail("an epoch was run"))
    assert not files.metrics.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not an encoder file: .*; run `captioner import-features` again or `dvc checkout -f extract`"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer, not the file itself; run `git lfs pull`"),
    ],
)
def test_the_encoder_file_of_imported_features_is_not_extracted_again(files, params, tmp_path, content, words):
    encoder, features = tmp_path / "encoder.safetensors", tmp_path / "features.h5"
    encoder.write_bytes(content)
    found = FeatureFile.open(files.features)
    shape = (found.regions, found.channels)
    write_feature_file(features, imported_spec("regions", found.channels), found.images, shape, found.load)
    with pytest.raises(ArtefactError, match=f"encoder.safetensors: {words}$"):
        train(replace(files, features=features, encoder=encoder), params)


@pytest.mark.parametrize(("content", "problem"), [(None, "cannot be read"), ("{", "not valid JSON")])
def test_a_missing_or_truncated_vocabulary_is_refused_with_the_remedy(files, params, tmp_path, content, problem):
    vocabulary = tmp_path / "vocab.json"
    if content:
        vocabulary.write_text(content)
    with pytest.raises(DataError, match=rf"vocab.json: {problem}: .*; run `dvc repro -f vocab`"):
        train(replace(files, vocabulary=vocabulary), params)


@pytest.mark.parametrize("kind", DECODERS)
def test_every_decoder_trains(files, kind):
    params = small_params(decoder={"kind": kind}, train={"epochs": 1})
    assert train(files, params).epochs == 1
    assert TrainedModel.load(files.model).decoder_params["kind"] == kind


def test_the_model_keeps_the_familiarity_of_its_val_images(files, params, monkeypatch):
    monkeypatch.setattr("pipeline.inference.familiarity.MIN_IMAGES", 3)
    train(files, params)
    features = FeatureFile.open(files.features)
    splits = [features.load(list(read_captions(files.captions, split))) for split in ("train", "val")]
    stored, expected = TrainedModel.load(files.model).familiarity, Familiarity.fit(*([one] for one in splits))
    assert all((stored.arrays()[name] == array).all() for name, array in expected.arrays().items())
    assert sorted(stored(splits[1])) == pytest.approx([1 / 3, 2 / 3, 1])
