"""Training from a trained captioner: what is copied, what is refused, and what is recorded."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import run_command, set_param

from pipeline import paths
from pipeline.decoders.registry import DECODERS, make_decoder
from pipeline.encoders.encoder import build_encoder
from pipeline.encoders.spec import imported_spec
from pipeline.errors import ArtefactError, ParamsError
from pipeline.files import sha256_of
from pipeline.inference.initial_model import InitialModel
from pipeline.inference.model_file import TrainedModel
from pipeline.params_file import read_params
from pipeline.stages.train import TrainFiles, train
from pipeline.text.vocabulary import Vocabulary
from pipeline.tokens import SPECIAL_TOKENS

OUTPUT = Path("output.safetensors")


@pytest.fixture(scope="module")
def initial(trained_project):
    return InitialModel.load(str(trained_project / paths.MODEL), output=OUTPUT)


@pytest.fixture
def files(trained_project, tmp_path):
    """Inputs of the trained project, outputs in an empty folder."""
    return TrainFiles(
        captions=trained_project / paths.CAPTIONS,
        features=trained_project / paths.FEATURES,
        vocabulary=trained_project / paths.VOCABULARY,
        encoder=trained_project / paths.ENCODER,
        model=tmp_path / "captioner.safetensors",
        metrics=tmp_path / "training.csv",
        checkpoints=tmp_path / "checkpoints",
    )


def params_from(trained_project, init_from, **changes):
    params = read_params(trained_project / "params.yaml")
    values = {"init_from": str(init_from), "epochs": 2, **changes}
    return params.model_copy(update={"train": params.train.model_copy(update=values)})


def vocabulary_of(*tokens):
    tokens = (*SPECIAL_TOKENS, *tokens)
    return Vocabulary(tokens, (0,) * len(tokens), "ptb")


def decoder_for(vocabulary, model, **options):
    given = {**model.decoder_params, **options}
    torch.manual_seed(0)
    return make_decoder(given, vocabulary=len(vocabulary), regions=model.regions, channels=model.channels)


@pytest.mark.parametrize("kind", DECODERS)
def test_rows_are_matched_by_token_and_everything_else_is_copied(kind, initial):
    old, new = vocabulary_of("red", "green", "gone"), vocabulary_of("green", "new", "red")
    params = DECODERS[kind].options(kind=kind, embed=8, hidden=8).model_dump()
    model = replace(initial.model, vocabulary=old, decoder_params=params)
    trained = decoder_for(old, model)
    trained.normalize.mean += 3
    start = replace(initial, model=replace(model, decoder=trained))
    decoder = decoder_for(new, model)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.fill_(7)
    start.initialize(decoder, new)

    ours, theirs = decoder.state_dict(), trained.state_dict()
    assert start.known_tokens(new) == 6
    for name in ("embedding.weight", "output.weight", "output.bias"):
        for row, token in enumerate(new.tokens):
            expected = theirs[name][old.tokens.index(token)] if token in old.tokens else torch.tensor(7.0)
            assert torch.equal(ours[name][row], expected.expand_as(ours[name][row])), (name, token)
    for name in ours.keys() - {"embedding.weight", "output.weight", "output.bias"}:
        assert torch.equal(ours[name], theirs[name]), name


def test_the_file_that_training_writes_is_refused(files, trained_project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (files.model.name, files.model):
        with pytest.raises(ParamsError, match=r"captioner\.safetensors is the output of the stage train"):
            train(files, params_from(trained_project, name))


def test_dropout_rates_and_the_name_of_the_weights_may_differ(initial):
    model = initial.model
    given = {**model.decoder_params, "feature_dropout": 0.5, "embedding_dropout": 0.5, "output_dropout": 0.5}
    initial.check(replace(model.spec, weights="file"), given, model.vocabulary)


def test_another_encoder_is_refused_with_params_that_give_the_models(initial):
    model = initial.model
    with pytest.raises(ArtefactError) as raised:
        initial.check(replace(model.spec, grid=5, weights_sha256="0" * 64), model.decoder_params, model.vocabulary)
    message = str(raised.value)
    assert "another encoder: weights_sha256: " in message
    assert "; grid: 3 (model), 5 (features); set params.encoder to source: torchvision" in message
    told = message.split("set params.encoder to ")[1].split(" and run `dvc repro`")[0]
    values = dict(value.split(": ") for value in told.split(", "))
    assert values.pop("weights") == "none (seed 17)"
    numbers = {key: int(values.pop(key)) for key in ("grid", "image_size")}
    made = build_encoder(**values, **numbers, weights="none", seed=17, device=torch.device("cpu"))
    assert made.spec == model.spec


def test_imported_features_need_a_model_that_was_trained_on_them(initial):
    model = initial.model
    with pytest.raises(ArtefactError, match="imported features need a model that was trained on them; set"):
        initial.check(imported_spec("detector", model.channels), model.decoder_params, model.vocabulary)


def test_imported_features_of_another_width_are_refused(initial):
    model = replace(initial.model, spec=imported_spec("detector", 12))
    decoder = decoder_for(model.vocabulary, replace(model, channels=12))
    with pytest.raises(
        ArtefactError, match=r"tensor normalize\.mean of shape \(\d+,\), the features here need \(12,\)"
    ):
        initial.initialize(decoder, model.vocabulary)


def test_training_starts_with_the_skill_of_the_model_and_records_it(files, trained_project):
    fresh, tuned = [], []
    train(files, params_from(trained_project, "none"), on_epoch=fresh.append)
    model = trained_project / paths.MODEL
    report = train(files, params_from(trained_project, model), on_epoch=tuned.append)
    assert tuned[0].val_loss < 0.5 * fresh[0].val_loss
    assert report.known_tokens == report.tokens
    trained_on = TrainedModel.load(files.model).trained_on
    assert trained_on["init_from"] == model.name
    assert trained_on["init_from_sha256"] == sha256_of(model)


def test_a_checkpoint_from_another_content_of_the_file_is_not_resumed(files, trained_project, tmp_path):
    start = tmp_path / "start.safetensors"
    start.write_bytes((trained_project / paths.MODEL).read_bytes())
    params = params_from(trained_project, start)

    def stop(metrics):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(files, params, on_epoch=stop)
    changed = TrainedModel.load(start)
    replace(changed, params={}).save(start)
    resumed = []
    train(files, params, on_resume=resumed.append)
    assert resumed == []
    with pytest.raises(KeyboardInterrupt):
        train(files, params, on_epoch=stop)
    train(files, params, on_resume=resumed.append)
    assert resumed == [1]


def test_a_project_is_tuned_from_the_starter_with_its_encoder(project, trained_project, monkeypatch):
    monkeypatch.setattr("pipeline.starter.STARTER_FILE", trained_project / paths.MODEL)
    text = (project / "data/tiny/captions.csv").read_text()
    (project / "data/tiny/captions.csv").write_text(text.replace("nothing else", "nothing more"))
    set_param(project, "encoder.weights", "starter")
    set_param(project, "train.init_from", "starter")
    for stage in ("prepare", "extract", "vocab", "train"):
        code, _, err = run_command(stage)
        assert code == 0, err
    known = len(TrainedModel.load(trained_project / paths.MODEL).vocabulary)
    assert f"train: started from starter, which has {known - 1} of the {known} tokens; it had val CIDEr-D " in err
    assert "warning: no epoch has a better val loss than the model that training started from" not in err
    code, _, err = run_command("predict", "data/tiny/images/000.png")
    assert err == f"model: {paths.MODEL}, trained on 12 images of tiny/captions.csv, starting from starter\n"


WRONG = [
    ("gone.safetensors", 2, "no such model file", {}),
    (
        "truncated.safetensors",
        4,
        "truncated.safetensors: not a model file of captioner: [^;]*; replace the file, or set init_from to none",
        {},
    ),
    ("pointer.safetensors", 4, "a Git LFS pointer, not the file itself; run `git lfs pull`; replace", {}),
    (
        "model.safetensors",
        4,
        "another encoder: .*name: alexnet .model., vgg11 .features.; set",
        {"encoder.name": "vgg11"},
    ),
    ("model.safetensors", 4, "another encoder: .*grid: 3 .model., 2 .features.; set", {"encoder.grid": 2}),
    ("model.safetensors", 4, "another encoder: .*size: 64 .model., 96 .features.; set", {"encoder.image_size": 96}),
    (
        "model.safetensors",
        2,
        r"another decoder: kind attention \(here updown\), hidden 32 \(here 48\);",
        {"decoder.kind": "updown", "decoder.hidden": 48},
    ),
    ("model.safetensors", 2, "uses the tokenizer ", {"vocab.unit": "character", "score.rerank": {"neighbors": 0}}),
]


@pytest.fixture
def prepared_project(project, trained_project):
    """A project whose images are listed and not yet encoded, with a model of the same params beside them."""
    (project / "model.safetensors").write_bytes((trained_project / paths.MODEL).read_bytes())
    (project / "truncated.safetensors").write_bytes((trained_project / paths.MODEL).read_bytes()[:-50])
    (project / "pointer.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert run_command("prepare")[0] == 0
    return project


@pytest.mark.parametrize(("name", "code", "words", "changes"), WRONG)
@pytest.mark.parametrize("stage", ["prepare", "extract"])
def test_a_wrong_model_is_found_before_the_long_work(stage, name, code, words, changes, prepared_project):
    for file in (prepared_project / paths.CAPTIONS, prepared_project / paths.IMAGES):
        if stage == "prepare":
            file.unlink()
    for key, value in {"train.init_from": name, **changes}.items():
        set_param(prepared_project, key, value)
    found, _, err = run_command(stage)
    assert (found, bool(re.search(rf"params\.train\.init_from: .*{words}", err))) == (code, True), err
    output = paths.CAPTIONS if stage == "prepare" else paths.FEATURES
    assert not (prepared_project / output).exists()


def test_other_weights_are_found_when_the_encoder_is_built(prepared_project):
    set_param(prepared_project, "train.init_from", "model.safetensors")
    set_param(prepared_project, "seed", 18)
    assert run_command("prepare")[0] == 0
    code, _, err = run_command("extract")
    assert (code, "another encoder: weights_sha256: " in err) == (4, True)
    assert not (prepared_project / paths.FEATURES).exists()


def test_a_model_of_imported_features_needs_other_features_than_those_of_extract(prepared_project, initial):
    replace(initial.model, spec=imported_spec("detector", initial.model.channels)).save(Path("imported.safetensors"))
    set_param(prepared_project, "train.init_from", "imported.safetensors")
    assert run_command("prepare")[0] == 0
    code, _, err = run_command("extract")
    assert (code, "import the features of detector with `captioner import-features`" in err) == (4, True)
