"""The model file: what is saved is loaded, and a wrong or damaged file is refused before it costs memory."""

import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from make_model_fixture import FOLDER as MODELS
from make_model_fixture import captions_of
from support import small_encoder

from pipeline import Captioner, paths
from pipeline.decoders.registry import DECODERS, make_decoder
from pipeline.encoders.spec import sha256_of_tensors
from pipeline.errors import ArtefactError
from pipeline.features.feature_file import FeatureFile
from pipeline.inference.model_file import TrainedModel
from pipeline.inference.model_metadata import KEY
from pipeline.text.vocabulary import Vocabulary
from pipeline.tokens import SPECIAL_TOKENS
from pipeline.weight_rounding import in_float32, round_weights


@pytest.fixture(scope="module")
def content(trained_project):
    return (trained_project / paths.MODEL).read_bytes()


def parse(content):
    """The header of a safetensors file and its data."""
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def build(header, data):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def sealed(metadata):
    """The text of metadata, with a sha256 that fits them."""
    content = {key: value for key, value in metadata.items() if key != "sha256"}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return json.dumps({**content, "sha256": hashlib.sha256(text.encode()).hexdigest()})


def with_metadata(content, change, *, seal=True):
    header, data = parse(content)
    metadata = json.loads(header["__metadata__"][KEY])
    change(metadata)
    header["__metadata__"][KEY] = sealed(metadata) if seal else json.dumps(metadata)
    return build(header, data)


def set_item(**values):
    return lambda metadata: metadata.update(values)


def set_decoder(**values):
    return lambda metadata: metadata["decoder"].update(values)


@pytest.mark.parametrize("kind", DECODERS)
def test_a_loaded_model_computes_what_the_saved_one_does(kind, tmp_path):
    encoder = small_encoder()
    tokens = (*SPECIAL_TOKENS, "red", "green")
    vocabulary = Vocabulary(tokens, (0,) * len(tokens), "ptb")
    params = DECODERS[kind].options(kind=kind, embed=8, hidden=8).model_dump()
    sizes = {"regions": encoder.regions, "channels": encoder.channels}
    decoder = make_decoder(params, vocabulary=len(vocabulary), **sizes)
    features = torch.from_numpy(np.random.default_rng(0).normal(size=(4, *sizes.values())).astype(np.float32))
    decoder.normalize.fit([features])
    facts = {"params": {"seed": 3}, "trained_on": {"images": 4}}
    model = TrainedModel(decoder, params, vocabulary, encoder.spec, **sizes, encoder_tensors=None, **facts)
    model = model.with_reranker(features.split(2), [[[4, 5]], [[4]], [[5]], [[5, 4]]])
    model.save(tmp_path / "model.safetensors")
    again = TrainedModel.load(tmp_path / "model.safetensors")
    given = torch.tensor([[1, 4, 5]] * 4)
    with torch.inference_mode():
        assert torch.equal(again.decoder(features, given), model.decoder.eval()(features, given))
    assert (again.spec, again.vocabulary, again.decoder_params) == (encoder.spec, vocabulary, params)
    assert (again.params, again.trained_on) == (facts["params"], facts["trained_on"])
    assert again.reranker.arrays().keys() == model.reranker.arrays().keys()
    again.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.safetensors")), ids=lambda path: path.stem)
def test_model_files_of_earlier_versions_generate_the_same_captions(path):
    expected = json.loads((MODELS / f"{path.name.split('-')[0]}.json").read_text())[path.name]
    for ours, theirs in zip(captions_of(TrainedModel.load(path)), expected, strict=True):
        assert [one["tokens"] for one in ours] == [one["tokens"] for one in theirs]
        assert [one["score"] for one in ours] == pytest.approx([one["score"] for one in theirs], abs=1e-3)


def test_the_encoder_in_a_model_file_of_an_earlier_version_is_restored():
    captioner = Captioner.load(MODELS / "0.2.0-attention.safetensors", device="cpu")
    assert captioner(np.zeros((64, 64, 3), np.uint8))


def test_a_missing_file_is_an_artefact_error(tmp_path):
    with pytest.raises(ArtefactError, match=r"gone: no such model file"):
        TrainedModel.load(tmp_path / "gone")
    with pytest.raises(ArtefactError, match=r"no such model file; download the file and give its path"):
        TrainedModel.load(Path("https://example.org/model.safetensors"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_item(schema=1), "schema 1, this version reads schema 2; train again with this version"),
        (set_item(schema="x" * 10_000), "this version reads schema 2"),
        (lambda metadata: metadata.pop("schema"), "not a JSON object with a schema"),
        (lambda metadata: metadata.pop("decoder"), "metadata decoder: Field required"),
        (set_item(more=1), "metadata more: Extra inputs"),
        (set_item(regions=0), "metadata regions"),
        (set_item(channels=1.0), "metadata channels"),
        (set_item(tensors_sha256="0" * 64), "the tensors do not match their sha256"),
        (set_item(spec="{}"), "schema None"),
        (set_item(vocabulary={}), "not a vocabulary"),
        (set_decoder(kind="magic"), "kind"),
        (set_decoder(hidden="32"), "hidden"),
        (set_decoder(hidden=16384), r"tensor decoder\.\S+ is F32 .*, the metadata describe F32 .*16384"),
        (set_decoder(color=1), "color"),
        (set_item(channels=2**20), "tensor decoder"),
    ],
)
def test_wrong_metadata_are_refused(content, tmp_path, change, words):
    path = tmp_path / "model.safetensors"
    path.write_bytes(with_metadata(content, change))
    with pytest.raises(ArtefactError, match=words) as raised:
        TrainedModel.load(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert len(message) < 600
    assert "\n" not in message


@pytest.mark.parametrize(
    "change",
    [
        set_item(params={}),
        set_item(trained_on={"images": 4}),
        set_decoder(feature_dropout=0.5),
        lambda metadata: metadata["vocabulary"]["tokens"].sort(),
        lambda metadata: metadata.pop("sha256"),
        lambda metadata: metadata.update(spec=metadata["spec"].replace("0.4", "0.5")),
    ],
)
def test_changed_metadata_without_their_sha256_are_refused(content, tmp_path, change):
    path = tmp_path / "model.safetensors"
    path.write_bytes(with_metadata(content, change, seal=False))
    with pytest.raises(ArtefactError, match="damaged: the metadata do not match their sha256; copy the file again"):
        TrainedModel.load(path)


@pytest.mark.parametrize(
    "damaged",
    [
        lambda content: b"",
        lambda content: b"no model",
        lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n",
        lambda content: b"PK\3\4, as torch.save writes it",
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: struct.pack("<Q", 2**60) + content[8:],
        lambda content: build({"__metadata__": {"other": "{}"}}, b""),
        lambda content: build({"__metadata__": {KEY: "[" * 100_000}}, b""),
        lambda content: build({"__metadata__": {KEY: "[]"}}, b""),
    ],
)
def test_a_damaged_file_is_refused(content, tmp_path, damaged):
    path = tmp_path / "model.safetensors"
    path.write_bytes(damaged(content))
    with pytest.raises(ArtefactError, match=r"model\.safetensors: .*(train again|not a model file|run `git lfs pull)"):
        TrainedModel.load(path)


def changed_tensors(path, change):
    """Rewrite the tensors of a model file, with a sha256 that fits them."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, framework="pt") as file:
        metadata = json.loads(file.metadata()[KEY])
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    change(tensors)
    metadata["tensors_sha256"] = sha256_of_tensors(tensors)
    save_file(tensors, path, {KEY: sealed(metadata)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors["decoder.output.weight"].fill_(float("nan")), "not finite"),
        (
            lambda tensors: tensors.update({"decoder.output.bias": tensors["decoder.output.bias"].fill_(1e6).half()}),
            r"tensor output\.bias has values that are not finite",
        ),
        (lambda tensors: tensors.pop("decoder.output.weight"), "missing tensor decoder.output.weight"),
        (lambda tensors: tensors.update({"decoder.more": torch.zeros(1)}), "unknown tensor decoder.more"),
        (lambda tensors: tensors.update({"more": torch.zeros(1)}), "unknown tensor more"),
        (lambda tensors: tensors.update({"decoder.output.bias": torch.zeros(3)}), "tensor decoder.output.bias is F32"),
        (
            lambda tensors: tensors.update({"decoder.output.bias": tensors["decoder.output.bias"].double()}),
            "tensor decoder.output.bias is F64",
        ),
        (lambda tensors: tensors.pop("reranker.idf"), "re-ranker"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(content, tmp_path, change, words):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    changed_tensors(path, change)
    with pytest.raises(ArtefactError, match=words):
        TrainedModel.load(path)


def test_a_loaded_model_outlives_a_change_of_its_file(content, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    model = TrainedModel.load(path)
    expected = model.spec.weights_sha256
    path.write_bytes(bytes(len(content)))
    assert sha256_of_tensors(model.encoder_tensors) == expected
    assert all(bool(tensor.any()) for tensor in model.decoder.state_dict().values())


def test_tensors_in_float16_are_loaded_as_float32(content, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    expected = TrainedModel.load(path)

    def halve(tensors):
        for name in tensors:
            if name.startswith("decoder.") or name.endswith("weight"):
                tensors[name] = tensors[name].half()

    changed_tensors(path, halve)
    assert path.stat().st_size < len(content)
    model = TrainedModel.load(path)
    original = expected.decoder.state_dict()
    for name, tensor in model.decoder.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, original[name].half().float())
    weights = {name: tensor for name, tensor in model.encoder_tensors.items() if name.endswith("weight")}
    assert all(torch.equal(weights[name], expected.encoder_tensors[name].half().float()) for name in weights)
    with pytest.raises(ArtefactError, match="the features were made with"):  # by weights that were not rounded
        Captioner.load(path, device="cpu")


@pytest.fixture
def rounded(content, tmp_path, monkeypatch):
    """A model file with the decoder's matrices in int8."""
    monkeypatch.setattr("pipeline.weight_rounding._LARGE", 100)
    path = tmp_path / "rounded.safetensors"
    path.write_bytes(content)
    TrainedModel.load(path).save(path, rounded=True)
    return path


def test_rounded_tensors_are_loaded_as_float32(content, rounded, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    expected = in_float32(round_weights(TrainedModel.load(path).decoder.state_dict()))
    assert rounded.stat().st_size < path.stat().st_size
    decoder = TrainedModel.load(rounded).decoder.state_dict()
    assert all(torch.equal(decoder[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.pop("decoder.output.weight.scale"), "missing tensor decoder.output.weight.scale"),
        (
            lambda tensors: tensors.update({"decoder.output.weight.scale": torch.ones(3)}),
            r"tensor decoder.output.weight.scale is F32 \(3,\)",
        ),
    ],
)
def test_rounded_tensors_without_their_scales_are_refused(rounded, change, words):
    changed_tensors(rounded, change)
    with pytest.raises(ArtefactError, match=words):
        TrainedModel.load(rounded)


def test_a_file_without_the_permission_to_read_it_is_refused_as_such(content, tmp_path, monkeypatch):
    path = tmp_path / "captioner.safetensors"
    path.write_bytes(content)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(ArtefactError, match=r"captioner.safetensors: cannot be read: Permission denied$"):
        TrainedModel.load(path)


def test_an_encoder_that_gives_other_features_is_refused(content, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(with_metadata(content, lambda metadata: metadata.update(regions=4)))
    with pytest.raises(ArtefactError, match=r"model\.safetensors: "):
        Captioner.load(path, device="cpu")


def test_features_of_another_encoder_are_refused_with_all_differences(trained_project):
    model = TrainedModel.load(trained_project / paths.MODEL)
    features = FeatureFile.open(trained_project / paths.FEATURES)
    model.check_features(features)
    with pytest.raises(
        ArtefactError, match=r"layer: .*, other \(features\); grid: 3 \(model\), 5 \(features\); run `dvc repro`"
    ):
        model.check_features(replace(features, spec=replace(model.spec, layer="other", grid=5)))


def test_a_restored_encoder_has_the_values_of_the_file(captioner):
    tensors = captioner.encoder.network.state_dict()
    assert not any(tensor.is_meta for tensor in tensors.values())
    assert sha256_of_tensors(tensors) == captioner.spec.weights_sha256
