"""The starter: made from a trained model, used without a project, and named on standard error."""

import contextlib
import importlib.util

import numpy as np
import pytest
import torch
from safetensors import safe_open
from support import ROOT, run_command

import pipeline
from pipeline import Captioner, paths
from pipeline.datasets.tables import IMAGE_COLUMNS, read_captions, read_images
from pipeline.errors import DataError, ParamsError
from pipeline.files import write_csv
from pipeline.inference.model_file import TrainedModel
from pipeline.metrics.evaluation import evaluate
from pipeline.starter import STARTER_FILE
from pipeline.weight_rounding import in_float32, round_weights

IMAGE = "data/tiny/images/001.png"


@pytest.fixture(scope="module", autouse=True)
def small_is_large():
    """Some matrices of the small trained model become int8."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.weight_rounding._LARGE", 100)
        yield


@pytest.fixture(scope="module")
def script():
    """docs/make_starter.py as a module."""
    spec = importlib.util.spec_from_file_location("make_starter", ROOT / "docs/make_starter.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.ENCODER = "alexnet"  # of the small trained model
    return module


@pytest.fixture(scope="module")
def starter(script, trained_project, tmp_path_factory):
    """A starter made from the small trained model."""
    folder = tmp_path_factory.mktemp("starter")
    with contextlib.chdir(trained_project):
        script.make_starter(output=folder / "starter.safetensors")
    return folder / "starter.safetensors"


@pytest.fixture
def installed(starter, monkeypatch):
    """The small starter in the place of the real one."""
    monkeypatch.setattr("pipeline.starter.STARTER_FILE", starter)
    return starter


@pytest.fixture
def not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.starter.STARTER_FILE", tmp_path / "starter.safetensors")


@pytest.fixture
def photo(trained_project, tmp_path):
    """An image in a folder without any project."""
    (tmp_path / "photo.png").write_bytes((trained_project / IMAGE).read_bytes())
    return tmp_path / "photo.png"


def test_the_starter_holds_rounded_weights_and_no_captions(starter):
    with safe_open(starter, framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        types = {name: (one.get_dtype(), len(one.get_shape())) for name, one in slices.items()}
    assert {types["decoder.output.weight"], types["decoder.output.bias"]} == {("I8", 2), ("F32", 1)}
    encoder = {kind for name, kind in types.items() if name.startswith("encoder.")}
    assert encoder == {("I8", 4), ("F32", 1)}
    assert ("F16", 2) in types.values()
    assert not any(name.startswith("reranker.") for name in types)


def test_the_starter_gives_the_captions_of_the_model(starter, trained_project):
    model, small = Captioner.load(trained_project / paths.MODEL), Captioner.load(starter)
    greedy = {"beam_size": 1, "neighbors": 0}
    images = sorted((trained_project / "data/tiny/images").glob("*.png"))
    expected = model(images, model.generation_options(**greedy))
    assert small(images, small.generation_options(**greedy)) == expected


def test_the_starter_encodes_with_its_rounded_weights_in_float32(starter, trained_project):
    original = Captioner.load(trained_project / paths.MODEL, device="cpu").encoder.network.state_dict()
    expected = in_float32(round_weights(original))
    for name, tensor in Captioner.load(starter, device="cpu").encoder.network.state_dict().items():
        assert torch.equal(tensor, expected[name])
        assert tensor.dtype == torch.float32


def test_the_card_has_the_data_the_scores_the_limits_and_the_licenses(starter, trained_project):
    images = {image.image: image.path for image in read_images(trained_project / paths.IMAGES) if image.split == "test"}
    texts = Captioner.load(starter)([trained_project / path for path in images.values()])
    captions = dict(zip(images, texts, strict=True))
    scores = evaluate(captions, read_captions(trained_project / paths.CAPTIONS, "test"), seed=17).scores
    low, high = scores.intervals["cider_d"]
    card = " ".join(starter.with_suffix(".md").read_text().split())
    for words in (
        "Trained on 12 images of Flickr8k with 24 captions",
        "On 3 images of the test split, with a beam of 5,",
        f"| CIDEr-D | {scores.corpus['cider_d']:.1f} | {low:.1f} to {high:.1f} |",
        "For research and education",
        "EfficientNet-Lite2 by Google, trained on ImageNet, Apache-2.0",
    ):
        assert words in card


@pytest.fixture
def in_project(trained_project, monkeypatch):
    monkeypatch.chdir(trained_project)


@pytest.mark.usefixtures("in_project")
def test_a_starter_that_is_too_large_is_not_written(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "MAX_BYTES", 10_000)
    with pytest.raises(ParamsError, match=r"the starter would have 0\.\d MB, at most 0 are allowed"):
        script.make_starter(output=tmp_path / "starter.safetensors")
    assert not list(tmp_path.glob("starter*"))


@pytest.mark.usefixtures("in_project")
def test_an_encoder_whose_license_the_card_does_not_state_is_refused(script, starter, monkeypatch):
    monkeypatch.setattr(script, "ENCODER", "tf_efficientnet_lite2")
    with pytest.raises(ParamsError, match="has the encoder alexnet, but the card states the license of tf_"):
        script.make_starter(output=starter)


@pytest.mark.parametrize(
    ("split", "words"), [("train", "0 images of the test split"), ("test", "absent.png: cannot be read")]
)
def test_test_images_that_are_missing_are_an_error(script, starter, tmp_path, monkeypatch, split, words):
    monkeypatch.chdir(tmp_path)
    rows = [(f"{number}", "absent.png", f"{number:064x}", split) for number in range(3)]
    write_csv(paths.IMAGES, IMAGE_COLUMNS, rows)
    with pytest.raises(DataError, match=words):
        script.evaluate_test_split(Captioner.load(starter))


def test_a_photo_is_captioned_without_a_project(installed, photo):
    code, out, err = run_command("predict", "photo.png", cwd=photo.parent)
    assert (code, err) == (0, "model: starter, trained on 12 images of Flickr8k\n")
    assert out.startswith("photo.png: ")
    assert sorted(path.name for path in photo.parent.iterdir()) == ["photo.png"]


def test_the_projects_own_model_comes_before_the_starter(installed, trained_project):
    code, _, err = run_command("predict", IMAGE, cwd=trained_project)
    assert (code, err) == (0, f"model: {paths.MODEL}, trained on 12 images of tiny/captions.csv\n")


def test_a_project_without_a_model_uses_the_starter(installed, project):
    code, _, err = run_command("predict", IMAGE)
    assert (code, err.split(",")[0]) == (0, "model: starter")


def test_the_starter_can_be_named_in_a_project(installed, trained_project, tmp_path, monkeypatch):
    code, _, err = run_command("predict", "--model", "starter", IMAGE, cwd=trained_project)
    assert (code, err.split(",")[0]) == (0, "model: starter")
    out = tmp_path / "alone.safetensors"
    code, _, err = run_command("export", "--model", "starter", "--self-contained", str(out), cwd=trained_project)
    assert (code, err.split(",")[0]) == (0, "model: starter")
    assert TrainedModel.load(out).trained_on["dataset"] == "Flickr8k"
    monkeypatch.setattr("pipeline.commands.serve._run", lambda server, listening: listening.close())
    code, _, err = run_command("serve", "--model", "starter", "--port", "0", cwd=trained_project)
    assert (code, err.split(",")[0]) == (0, "model: starter")


def test_the_onnx_runtime_needs_an_export_of_the_starter(installed, photo):
    code, _, err = run_command("predict", "--runtime", "onnx", "--model", "starter", "photo.png", cwd=photo.parent)
    assert code == 2
    assert "`captioner export --model starter --onnx FOLDER` writes one" in err


@pytest.mark.usefixtures("not_installed")
def test_an_installation_without_a_starter_says_so(photo):
    code, _, err = run_command("predict", "--model", "starter", "photo.png", cwd=photo.parent)
    assert (code, err) == (4, "error: starter: this installation has no starter model; name a model file instead\n")
    code, _, err = run_command("predict", "photo.png", cwd=photo.parent)
    assert (code, err.split(";")[0]) == (4, f"error: {paths.MODEL}: no such model file")


def test_python_opens_the_starter_without_a_path(installed, photo):
    expected = Captioner.load(installed, device="cpu")(photo)
    assert Captioner.load(device="cpu")(photo) == Captioner.load("starter", device="cpu")(photo) == expected


def test_the_module_of_the_distributions_name_has_the_same_names(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    module = importlib.import_module("captioner")
    assert module.Captioner is pipeline.Captioner
    assert set(module.__all__) == set(pipeline.__all__)
    assert module.__version__ == pipeline.__version__
    with pytest.raises(AttributeError, match="'captioner' has no attribute 'other'"):
        _ = module.other


def test_the_starter_in_this_checkout_captions_an_image_and_is_small_enough(script):
    if not STARTER_FILE.is_file():
        pytest.skip("this checkout has no starter yet; docs/make_starter.py writes it")
    assert STARTER_FILE.stat().st_size <= script.MAX_BYTES
    captioner = Captioner.load(device="cpu")
    assert captioner(np.zeros((64, 64, 3), np.uint8))
    assert (captioner.reranker, captioner.trained_on["dataset"]) == (None, "Flickr8k")
