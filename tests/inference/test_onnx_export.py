"""An exported model says what the trained one says: with ONNX Runtime, by the example alone, and as one file."""

import ast
import json
import shutil
import subprocess
import sys
from itertools import chain

import numpy as np
import pytest
import torch
from conftest import ROOT, run_command
from PIL import Image

from pipeline import Captioner, paths
from pipeline.decoders import KINDS, make_decoder
from pipeline.decoders import beam_search as torch_search
from pipeline.decoders.decoder import State
from pipeline.encoders.encoder import build
from pipeline.encoders.spec import Preprocessing
from pipeline.inference.model_file import TrainedModel
from pipeline.text.vocabulary import SPECIAL_TOKENS, Vocabulary

pytest.importorskip("onnx", reason="needs the extra: pip install 'captioner[onnx]'")
pytest.importorskip("onnxruntime", reason="needs the extra: pip install 'captioner[onnx]'")

CPU = torch.device("cpu")


def captioner_of(*, kind="attention", words=40, **encoder):
    """A captioner with an untrained decoder, whose opinions are made strong enough not to depend on rounding."""
    given = {"weights": "none", "layer": "auto", "grid": 3, "image_size": 64, "fit": "squash", "precision": "float32"}
    built = build(**given | {"seed": 3} | encoder, device=CPU)
    vocabulary = Vocabulary((*SPECIAL_TOKENS, *(f"w{n}" for n in range(words))), (0,) * (words + 4), "ptb")
    dropouts = dict.fromkeys(("feature_dropout", "embedding_dropout", "output_dropout"), 0.0)
    params = {
        "kind": kind,
        "embed": 24,
        "hidden": 32,
        "attention": 16,
        **dropouts,
        "tie_weights": False,
        "layer_norm": True,
    }
    torch.manual_seed(5)
    sizes = {"regions": built.regions, "channels": built.channels}
    decoder = make_decoder(params, vocabulary=len(vocabulary), **sizes)
    features = torch.from_numpy(built.encode(pixels_for(built.spec.transform, 4))).float()
    decoder.standardise.fit(features)
    with torch.no_grad():
        decoder.output.weight *= 12
    model = TrainedModel(decoder.eval(), params, vocabulary, built.spec, **sizes, encoder_tensors=None, trained_on={})
    return Captioner(model, built, CPU)


def pixels_for(transform: Preprocessing, count: int):
    return np.random.default_rng(7).integers(0, 256, (count, transform.size, transform.size, 3), np.uint8)


def exported(captioner, folder):
    from pipeline.inference.onnx.captioner import OnnxCaptioner
    from pipeline.inference.onnx.export import export_onnx

    export_onnx(captioner, folder)
    return OnnxCaptioner.load(folder)


def assert_same(captioner, other, pixels, **options):
    ours = captioner.describe(pixels, captioner.make_search(**options), captions=3, attention=True)
    theirs = other.describe(pixels, other.make_search(**options), captions=3, attention=True)
    assert [[one.text for one in found] for found in ours] == [[one.text for one in found] for found in theirs]
    for mine, one in zip(chain(*ours), chain(*theirs), strict=True):
        assert one.score == pytest.approx(mine.score, abs=2e-3)
        if mine.attention is not None:
            assert np.allclose(one.attention, mine.attention, atol=2e-3)


@pytest.fixture(scope="module")
def folder(trained_project, tmp_path_factory):
    """The trained project's model, exported by the command."""
    out = tmp_path_factory.mktemp("onnx") / "model"
    code, _, said = run_command("export", "--onnx", str(out), cwd=trained_project)
    assert code == 0, said
    assert said.startswith(f"export: {out}, ")
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "encoder",
    [
        {"name": "alexnet"},
        {"name": "resnet18", "grid": 2, "fit": "crop"},
        {"name": "mobilenet_v2", "grid": 5},
        {"name": "alexnet", "layer": "classifier.4", "grid": 1},
    ],
    ids=lambda encoder: encoder["name"],
)
def test_every_decoder_and_kind_of_node_exports(tmp_path, encoder, kind):
    captioner = captioner_of(kind=kind, **encoder)
    other = exported(captioner, tmp_path)
    assert_same(captioner, other, pixels_for(captioner.spec.transform, 6), beam_size=4)


@pytest.mark.parametrize(
    "encoder",
    [{"name": "vit_b_32", "image_size": "auto", "grid": 3}, {"name": "swin_t", "grid": 1}],
    ids=lambda e: e["name"],
)
def test_transformers_export(tmp_path, encoder):
    captioner = captioner_of(**encoder)
    assert_same(captioner, exported(captioner, tmp_path), pixels_for(captioner.spec.transform, 2))


def test_captions_of_real_pictures_are_the_same(tmp_path, shared):
    captioner = captioner_of(
        name="mobilenet_v2",
        weights=str(shared / "weights/mobilenet_v2-imagenet.pth"),
        grid=7,
        image_size=224,
        fit="crop",
    )
    other = exported(captioner, tmp_path)
    pictures = sorted((shared / "data/coco-mini/val2017").glob("*.jpg"))
    assert len(pictures) == 20
    pixels = np.stack([captioner.pixels(path) for path in pictures])
    assert np.array_equal(pixels, np.stack([other.pixels(path) for path in pictures]))
    assert len({one.text for (one,) in captioner.describe(pixels)}) > 5
    assert_same(captioner, other, pixels)


@pytest.mark.parametrize(
    ("beam", "captions", "length", "penalty", "no_repeat"),
    [(1, 1, 30, 0.7, 0), (3, 1, 4, 0.0, 0), (5, 5, 12, 1.5, 0), (1, 1, 30, 0.7, 1), (3, 3, 20, 1.0, 2)],
)
def test_the_two_searches_are_one(beam, captions, length, penalty, no_repeat):
    """On the same steps: tokens, scores and attention."""
    from pipeline.inference.onnx import search as onnx_search

    table = torch.from_numpy(np.random.default_rng(beam).normal(0, 2, (23, 23)).astype(np.float32))

    class Latest(torch_search.Decoder):
        """The next word depends on the picture and on the latest word alone."""

        def __init__(self):
            torch.nn.Module.__init__(self)

        def start(self, features):
            return State((), (features,))

        def picture(self, state):
            return state.beam[0]

        def read(self, words):
            return words

        def advance(self, state, read):
            return read, state

        def step(self, state, tokens):
            return (table[tokens] + state.beam[0]).log_softmax(-1), state

        def attention_weights(self, state):
            return state.beam[0].softmax(-1)

    features = torch.from_numpy(np.random.default_rng(9).normal(0, 1, (6, 23)).astype(np.float32))
    features[0, torch_search.EOS] = 50.0  # a caption without words
    search = torch_search.SearchOptions(beam, length, penalty, no_repeat_ngram=no_repeat)
    decoder = Latest()
    expected = torch_search.beam_search(decoder, features, search, captions=captions, attention=True)

    def step(state, tokens):
        with torch.inference_mode():
            log_probs, following = decoder.step(State((), (torch.from_numpy(state[0]),)), torch.from_numpy(tokens))
        return log_probs.numpy().copy(), [following.beam[0].numpy()], decoder.attention_weights(following).numpy()

    options = onnx_search.SearchOptions(beam, length, penalty, no_repeat)
    found = onnx_search.beam_search(step, [features.numpy()], options, captions=captions, attention=True)
    assert [[one.tokens for one in of] for of in found] == [[one.tokens for one in of] for of in expected]
    for ours, theirs in zip(chain(*found), chain(*expected), strict=True):
        assert ours.log_probability == pytest.approx(theirs.log_probability, abs=1e-5)
        assert ours.score == pytest.approx(theirs.score, abs=1e-5)
        assert (ours.attention is None) == (theirs.attention is None)
        if ours.attention:
            assert np.allclose(ours.attention, theirs.attention, atol=1e-6)


def test_predict_says_the_same_in_both_runtimes(trained_project, folder):
    with_torch = run_command("predict", "data/tiny", "--num-captions", "2", cwd=trained_project)
    arguments = ("predict", "data/tiny", "--num-captions", "2", "--runtime", "onnx", "--model", str(folder))
    with_onnx = run_command(*arguments, cwd=trained_project)
    assert with_onnx[0] == 0
    strip = [line.split("  ")[1] for line in with_torch[1].splitlines()]
    assert [line.split("  ")[1] for line in with_onnx[1].splitlines()] == strip
    assert len(strip) == 36


def test_the_onnx_runtime_does_not_import_torch(trained_project, folder):
    program = (
        "import sys; from pipeline.cli import app; "
        f"app(['predict', 'data/tiny/images/000.png', '--runtime', 'onnx', '--model', {str(folder)!r}], "
        "standalone_mode=False); sys.exit('torch' in sys.modules)"
    )
    environment = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=trained_project, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_example_in_the_folder_needs_three_packages_and_says_the_greedy_caption(trained_project, folder):
    pictures = [f"data/tiny/images/{number:03d}.png" for number in range(3)]
    tree = ast.parse((folder / "caption.py").read_text())
    imported = {
        (layer.module if isinstance(layer, ast.ImportFrom) else layer.names[0].name).split(".")[0]
        for layer in ast.walk(tree)
        if isinstance(layer, ast.Import | ast.ImportFrom)
    }
    assert imported - set(sys.stdlib_module_names) == {"numpy", "onnxruntime", "PIL"}
    done = subprocess.run(
        [sys.executable, str(folder / "caption.py"), *pictures],
        cwd=trained_project,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == run_command("predict", "--beam", "1", *pictures, cwd=trained_project)[1]


def run_example(folder, *pictures):
    """Exit code, standard output, standard error."""
    command = [sys.executable, str(folder / "caption.py"), *map(str, pictures)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def greedy(folder, *pictures):
    """What `predict` says that searches as the example does."""
    arguments = ("--runtime", "onnx", "--model", str(folder), "--neighbours", "0", "--beam", "1")
    return run_command("predict", *map(str, pictures), *arguments)


def unusual_pictures(folder):
    """One of each kind that is not 8-bit RGB or grey, each of another colour if read in another way."""
    folder.mkdir()
    green = np.full((48, 64, 4), (30, 180, 60, 0), np.uint8)
    green[10:30, 20:50, 3] = 130
    Image.fromarray(green).save(folder / "rgba.png")
    grey = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21
    Image.fromarray(grey).save(folder / "grey16.png")
    Image.fromarray(grey.astype(np.int32)).save(folder / "grey32.tif")
    Image.fromarray((grey >> 8).astype(np.float32)).save(folder / "float.tif")
    Image.fromarray(green[..., 0]).save(folder / "palette.png", transparency=30)
    orientation = Image.Exif()
    orientation[0x0112] = 6
    Image.fromarray(green[..., :3]).save(folder / "turned.jpg", exif=orientation)
    return sorted(folder.iterdir())


def test_the_example_reads_every_kind_of_picture_as_predict_does(folder, tmp_path):
    import runpy

    from pipeline.inference.onnx.captioner import OnnxCaptioner

    pictures = unusual_pictures(tmp_path / "pictures")
    assert len(pictures) == 6
    code, out, said = run_example(folder, *pictures)
    assert (code, said) == (0, "")
    assert out == greedy(folder, *pictures)[1]
    captioner, example = OnnxCaptioner.load(folder), runpy.run_path(str(folder / "caption.py"))
    for path in pictures:
        (pixels,) = example["pixels_of"](path)
        assert np.abs(pixels.astype(int) - captioner.pixels(path)).max() <= 1, path


def test_the_example_names_bad_pictures_and_answers_the_others(trained_project, folder, tmp_path):
    good = trained_project / "data/tiny/images/000.png"
    cut = tmp_path / "cut.png"
    cut.write_bytes(good.read_bytes()[:900])
    code, out, said = run_example(folder, tmp_path / "gone.png", cut, good, folder / "README.md")
    assert (code, out) == (1, greedy(folder, good)[1])
    assert [line.split(": ")[:2] for line in said.splitlines()] == [
        ["error", str(path)] for path in (tmp_path / "gone.png", cut, folder / "README.md")
    ]


def test_the_example_without_a_picture_says_how_it_is_used(folder):
    assert run_example(folder) == (2, "", "usage: python caption.py photo.jpg ...\n")


def test_the_example_joins_characters_as_predict_does(trained_project, folder, tmp_path):
    changed = shutil.copytree(folder, tmp_path / "changed")
    description = json.loads((changed / "captioner.json").read_text())
    description["vocabulary"]["tokenizer"] = "character"
    (changed / "captioner.json").write_text(json.dumps(description))
    picture = trained_project / "data/tiny/images/000.png"
    _, out, _ = run_example(changed, picture)
    assert out == greedy(changed, picture)[1]
    assert " " not in out.removeprefix(f"{picture}: ")


@pytest.mark.parametrize(("no_repeat", "repeats_nothing"), [(1, True), (0, False)])
def test_the_example_repeats_nothing_that_people_do_not_repeat(
    trained_project, folder, tmp_path, no_repeat, repeats_nothing
):
    changed = shutil.copytree(folder, tmp_path / "changed")
    description = json.loads((changed / "captioner.json").read_text())
    description["vocabulary"]["no_repeat_ngram"] = no_repeat
    (changed / "captioner.json").write_text(json.dumps(description))
    endless = (folder / "caption.py").read_text().replace("[0, 1, 3], 30", "[0, 1, 2, 3], 8")  # goes on for eight words
    (changed / "caption.py").write_text(endless)
    command = [sys.executable, str(changed / "caption.py"), "data/tiny/images/000.png"]
    done = subprocess.run(command, cwd=trained_project, capture_output=True, text=True, check=True)
    words = done.stdout.split(": ", 1)[1].split()
    assert len(words) == 8
    assert (len(set(words)) == len(words)) == repeats_nothing


def test_the_folder_says_what_is_in_it(folder):
    import onnxruntime

    text = (folder / "README.md").read_text()
    assert "@" not in text
    for name in ("encoder", "start", "step"):
        session = onnxruntime.InferenceSession(folder / f"{name}.onnx")
        for one in [*session.get_inputs(), *session.get_outputs()]:
            assert f"`{one.name.removeprefix('next_')}`" in text
            assert isinstance(one.shape[0], str), f"the batch of {one.name} is fixed"
    assert json.loads((folder / "captioner.json").read_text())["schema"] == 1


def test_the_folder_remembers_what_the_model_does(trained_project, tmp_path):
    from dataclasses import replace

    from pipeline.errors import ParamsError

    captioner = Captioner.load(trained_project / paths.MODEL, device="cpu")
    remembering = exported(captioner, tmp_path)
    pixels = pixels_for(captioner.spec.transform, 3)
    ours, theirs = captioner.describe(pixels), remembering.describe(pixels)
    assert [one.text for (one,) in theirs] == [one.text for (one,) in ours]
    assert [one.agreement for (one,) in theirs] == pytest.approx([one.agreement for (one,) in ours], abs=0.05)

    captioner.model = replace(captioner.model, consensus=None)
    captioner.consensus = None
    forgetful = exported(captioner, tmp_path)  # over the other
    assert not (tmp_path / "consensus.safetensors").exists()
    (tmp_path / "consensus.safetensors").write_bytes(b"another export's")
    assert [one.agreement for (one,) in forgetful.describe(pixels)] == [None] * 3
    with pytest.raises(ParamsError, match="does not store_captions"):
        forgetful.describe(pixels, forgetful.make_search(neighbours=2))


def test_one_file_with_the_encoder_inside_says_the_same(trained_project, tmp_path):
    path = tmp_path / "alone.safetensors"
    code, _, said = run_command("export", "--self-contained", str(path), cwd=trained_project)
    assert (code, said.split(",")[0]) == (0, f"export: {path}")
    picture = trained_project / "data/tiny/images/003.png"
    alone = Captioner.load(path, device="cpu")
    assert alone.model.encoder_tensors
    assert alone(picture) == Captioner.load(trained_project / paths.MODEL, device="cpu")(picture)


def test_weights_that_torchvision_could_fetch_are_embedded_all_the_same(tmp_path, monkeypatch):
    from dataclasses import replace

    captioner = captioner_of(name="alexnet")
    named = replace(captioner.spec, weights="IMAGENET1K_V1")
    captioner.model = replace(captioner.model, spec=named)
    captioner.encoder.spec = named
    assert captioner.encoder.tensors_to_embed() == {}
    captioner.save(tmp_path / "alone.safetensors")
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *a, **k: pytest.fail("downloads"))
    alone = Captioner.load(tmp_path / "alone.safetensors", device="cpu")
    pixels = pixels_for(named.transform, 2)
    assert alone.encode(pixels).tobytes() == captioner.encode(pixels).tobytes()


def test_an_8_bit_encoder_is_kept_only_where_captions_stay(trained_project, folder):
    arguments = ("export", "--onnx", str(folder), "--int8", "data/tiny")
    code, _, said = run_command(*arguments, "--min-agreement", "0", cwd=trained_project)
    assert code == 0, said
    assert "of 9 captions are the same" in said
    assert (folder / "encoder-int8.onnx").stat().st_size < (folder / "encoder.onnx").stat().st_size / 2
    arguments = ("predict", "data/tiny/images/000.png", "--model", str(folder), "--runtime", "onnx-int8")
    assert run_command(*arguments, cwd=trained_project)[0] == 0


def test_an_8_bit_encoder_that_changes_captions_is_refused(tmp_path, monkeypatch):
    from pipeline.inference.onnx import quantisation

    captioner = captioner_of(name="alexnet")
    exported(captioner, tmp_path)
    pictures = []
    for number, pixels in enumerate(pixels_for(captioner.spec.transform, 16)):
        pictures.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(pictures[-1])
    different = iter(range(1000))
    monkeypatch.setattr(quantisation, "_texts", lambda captioner, pixels: [str(next(different)) for _ in pixels])
    result = quantisation.quantise_encoder(tmp_path, pictures, agreement=0.5)
    assert (result.kept, result.agreement, result.compared) == (False, 0.0, 8)
    assert not (tmp_path / "encoder-int8.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "say what to write: --onnx FOLDER, --self-contained FILE"),
        (("--int8", "data/tiny", "--self-contained", "x"), 2, "needs --onnx FOLDER"),
        (("--onnx", "x", "--int8", "nowhere"), 3, "nowhere: no picture there"),
        (("--onnx", "x", "--model", "gone"), 3, "gone: no such model"),
        (("--onnx", "params.yaml/x"), 5, "cannot be written"),
    ],
)
def test_a_wrong_export_says_what_is_wrong(trained_project, arguments, code, words):
    found, _, said = run_command("export", *arguments, cwd=trained_project)
    assert found == code
    assert words in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("damage", "code", "words"),
    [
        (lambda folder: (folder / "captioner.json").unlink(), 3, "no exported model"),
        (lambda folder: (folder / "captioner.json").write_text("{}"), 4, "not an export of this version"),
        (lambda folder: (folder / "step.onnx").write_bytes(b"x"), 4, "step.onnx: cannot be loaded"),
        (lambda folder: (folder / "encoder.onnx").unlink(), 4, "encoder.onnx: cannot be loaded"),
        (lambda folder: (folder / "consensus.safetensors").write_bytes(b"x"), 4, "not of this export; export again"),
        (lambda folder: (folder / "consensus.safetensors").unlink(), 4, "consensus.safetensors: cannot be read"),
    ],
    ids=["no description", "other description", "damaged step", "no encoder", "other memory", "no memory"],
)
def test_a_damaged_folder_is_named(trained_project, folder, tmp_path, damage, code, words):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    damage(copy)
    arguments = ("predict", "data/tiny/images/000.png", "--runtime", "onnx", "--model", str(copy))
    found, _, said = run_command(*arguments, cwd=trained_project)
    assert found == code
    assert words in said
