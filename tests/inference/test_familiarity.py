"""Familiarity: the distance is a Mahalanobis distance, the share is that of the val images, and captions, `predict` and
the model file state it."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from support import run_command, small_encoder

from pipeline import Captioner, paths
from pipeline.errors import ArtefactError
from pipeline.inference.familiarity import MAX_DISTANCES, MIN_IMAGES, Familiarity, describe_unfamiliar
from pipeline.inference.model_file import TrainedModel

CHANNELS = 12
WARNING = "unlike the training images (familiarity 0.0%): the caption is probably wrong"


def features(images, *, seed=0, channels=CHANNELS, regions=3):
    """Random features (N, R, C) whose channels correlate."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(channels, channels))
    return (random.normal(size=(images, regions, channels)) @ mixing + 4).astype(np.float16)


def unit_vectors(given):
    means = given.astype(np.float64).mean(1)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def mahalanobis(train, given):
    """Squared distances from the sample mean with the inverse of the whole covariance."""
    vectors = unit_vectors(train)
    offsets = unit_vectors(given) - vectors.mean(0)
    inverse = np.linalg.inv(np.cov(vectors.T, bias=True))
    return np.einsum("nc,cd,nd->n", offsets, inverse, offsets)


def familiar(train=400, val=200):
    return Familiarity.fit([features(train, seed=1)], [features(val, seed=2)])


def test_the_familiarity_is_the_share_of_val_images_at_least_as_far_by_mahalanobis_distance():
    train, val = features(400, seed=1), features(200, seed=2)
    given = np.concatenate([features(30, seed=3), features(10, seed=4) * np.float16(-1)])
    known, asked = mahalanobis(train, val), mahalanobis(train, given)
    expected = [(known >= distance).mean() for distance in asked]
    assert Familiarity.fit([train], [val])(given) == pytest.approx(expected, abs=1e-9)
    assert 0.3 < np.mean(expected[:30]) < 0.7
    assert expected[30:] == [0.0] * 10


def test_with_many_channels_the_variance_outside_the_principal_directions_is_one_number():
    train, val, given = (features(count, seed=count, channels=80) for count in (300, 60, 20))
    fitted = Familiarity.fit([train], [val])
    vectors = unit_vectors(train)
    values, axes = np.linalg.eigh(np.cov(vectors.T, bias=True))
    kept = len(fitted.directions)
    values[:-kept] = values[:-kept].mean()
    offsets = unit_vectors(given) - vectors.mean(0)
    expected = (np.square(offsets @ axes) / values).sum(1)
    assert fitted.squared_distances(given) == pytest.approx(expected, rel=1e-4)


def test_the_length_of_a_vector_and_regions_of_zeros_do_not_matter():
    given = features(20, seed=5)
    padded = np.concatenate([given, np.zeros((20, 4, CHANNELS), np.float16)], axis=1)
    shares = familiar()(given)
    assert familiar()(padded) == familiar()(given * np.float16(2)) == shares
    assert len(set(shares)) > 10


def test_an_image_alone_has_the_familiarity_that_it_has_in_a_batch():
    given, fitted = features(64, seed=6), familiar()
    assert [fitted(one[None])[0] for one in given] == fitted(given)


def test_features_of_zeros_are_unfamiliar():
    assert familiar()(np.zeros((1, 3, CHANNELS), np.float16)) == [0.0]


def test_one_thread_computes_the_directions_so_that_they_do_not_depend_on_the_number_of_cores(monkeypatch):
    threads, eigh = [], torch.linalg.eigh

    def observed(matrix):
        threads.append(torch.get_num_threads())
        return eigh(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", observed)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        familiar()
        assert (threads, torch.get_num_threads()) == ([1], 3)
    finally:
        torch.set_num_threads(before)


def test_the_principal_directions_have_a_positive_largest_entry():
    directions = familiar().directions
    assert (directions[np.arange(len(directions)), np.abs(directions).argmax(1)] > 0).all()


def test_of_many_val_images_quantiles_are_stored():
    val = [features(500, seed=seed) for seed in range(5)]
    train = [features(400, seed=100)]
    fitted, given = Familiarity.fit(train, val), features(50, seed=200)
    known = mahalanobis(*train, np.concatenate(val))
    expected = [(known >= distance).mean() for distance in mahalanobis(*train, given)]
    assert len(fitted.distances) == MAX_DISTANCES
    assert fitted(given) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    ("train", "val"),
    [
        (features(MIN_IMAGES - 1), features(100)),
        (features(100), features(MIN_IMAGES - 1)),
        (np.repeat(features(1), 100, axis=0), features(100)),
        (features(100, channels=1), features(100, channels=1)),
    ],
    ids=["few train images", "few val images", "equal train images", "one channel"],
)
def test_there_is_none_where_no_distribution_can_be_estimated(train, val):
    assert Familiarity.fit([train], [val]) is None
    assert Familiarity.fit([features(100)], [features(100)]) is not None


def test_a_low_familiarity_is_described_in_words():
    assert describe_unfamiliar(0.0) == WARNING
    assert describe_unfamiliar(0.0099)
    assert describe_unfamiliar(0.01) is describe_unfamiliar(None) is None


def changed(name, value):
    def change(arrays):
        arrays[name] = value(arrays[name].copy())

    return change


def with_item(index, item):
    def value(array):
        array[index] = item
        return array

    return value


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays.pop("mean"),
        lambda arrays: arrays.update(more=arrays["mean"]),
        changed("mean", lambda array: array[:-1]),
        changed("mean", lambda array: array.astype(np.float64)),
        changed("directions", lambda array: array[:-1]),
        changed("directions", with_item((0, 0), np.nan)),
        changed("variances", with_item(0, 0)),
        changed("variances", with_item(-1, np.inf)),
        changed("distances", lambda array: array[:0]),
        changed("distances", lambda array: array[::-1]),
        changed("distances", with_item(0, -1)),
    ],
)
def test_wrong_arrays_are_refused(change):
    arrays = familiar().arrays()
    Familiarity.from_arrays(arrays, "model", channels=CHANNELS)
    change(arrays)
    with pytest.raises(ArtefactError, match="model: the arrays of the familiarity"):
        Familiarity.from_arrays(arrays, "model", channels=CHANNELS)


@pytest.fixture(scope="module")
def known_images(images):
    """120 variants (B, S, S, 3) of the images that the small model was trained on."""
    spec = small_encoder().spec
    random = np.random.default_rng(0)
    size = (spec.preprocessing.size,) * 2
    pixels = np.stack([np.asarray(Image.open(path).resize(size)) for path in images]).astype(np.int16)
    variants = np.concatenate([pixels + random.integers(-9, 10, (*pixels.shape[:3], 1)) for _ in range(7)])
    return variants[:120].clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def model(trained_project, known_images, tmp_path_factory):
    """The file of the small model, with the familiarity of its images."""
    captioner = Captioner.load(trained_project / paths.MODEL, device="cpu")
    encoded = captioner.encode(known_images)
    path = tmp_path_factory.mktemp("familiarity") / "model.safetensors"
    familiarity = Familiarity.fit([encoded[::2]], [encoded[1::2]])
    replace(captioner.model, familiarity=familiarity).save(path)
    return path


@pytest.fixture
def folder(tmp_path, images):
    """An image like those of the small model, and one of stripes."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/known.png").write_bytes(images[0].read_bytes())
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::4] = 255
    Image.fromarray(stripes).save(tmp_path / "in/stripes.png")
    return tmp_path / "in"


def test_a_model_file_keeps_it_and_refuses_a_wrong_one(model, tmp_path):
    loaded = TrainedModel.load(model)
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == model.read_bytes()
    wrong = replace(loaded.familiarity, distances=loaded.familiarity.distances[::-1].copy())
    replace(loaded, familiarity=wrong).save(tmp_path / "wrong.safetensors")
    with pytest.raises(ArtefactError, match=r"wrong\.safetensors: the arrays of the familiarity are not"):
        TrainedModel.load(tmp_path / "wrong.safetensors")


def test_a_model_without_it_gives_none(captioner, images):
    assert captioner.model.familiarity is None
    assert captioner.captions(images[:1])[0][0].familiarity is None


def test_captions_and_predictions_have_the_familiarity_of_their_image(model, folder):
    captioner = Captioner.load(model, device="cpu")
    known, stripes = captioner.captions(sorted(folder.iterdir()), captions=2)
    assert [one.familiarity for one in stripes] == [0.0, 0.0]
    assert known[0].familiarity == known[1].familiarity > 0.01
    streamed = captioner.stream([*sorted(folder.iterdir()), folder / "gone.png"])
    assert [one.familiarity for one in streamed] == [known[0].familiarity, 0.0, None]
    sampled = captioner.captions([folder / "stripes.png"], captioner.sampling_options())
    assert sampled[0][0].familiarity == 0.0


def test_predict_warns_beside_the_caption_of_an_unfamiliar_image(model, folder):
    code, out, err = run_command("predict", str(folder), "--model", str(model))
    assert (code, len(out.splitlines())) == (0, 2)
    assert f"warning: {folder}/stripes.png: {WARNING}\n" in err
    assert "known.png" not in err


def test_tables_and_json_have_the_familiarity_and_one_line_counts_unfamiliar_images(model, folder, tmp_path):
    summary = (
        "warning: 1 of 2 images is unlike the training images (familiarity below 1%); their captions are "
        "probably wrong\n"
    )
    table = tmp_path / "captions.csv"
    code, _, err = run_command("predict", str(folder), "--model", str(model), "--csv", str(table))
    assert (code, err.count("warning")) == (0, 1)
    assert summary in err
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    code, out, err = run_command("predict", str(folder), "--model", str(model), "--json")
    assert summary in err
    shares = [json.loads(line)["familiarity"] for line in out.splitlines()]
    assert shares[0] > shares[1] == 0.0
    assert [float(row["familiarity"]) for row in rows] == shares
