"""ONNX export: the same captions as torch, a folder that works alone, and errors for incomplete or damaged folders."""

import ast
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from encoders.image_files import png_file
from PIL import Image
from support import ROOT, run_command

from pipeline import Captioner
from pipeline.decoders.beam_search import beam_search
from pipeline.decoders.decoder import Decoder, State
from pipeline.decoders.registry import DECODERS, make_decoder
from pipeline.decoders.search import SearchOptions
from pipeline.encoders.encoder import build_encoder
from pipeline.errors import ArtefactError, DiskError, ParamsError
from pipeline.inference.familiarity import Familiarity
from pipeline.inference.model_file import TrainedModel
from pipeline.text.vocabulary import Vocabulary
from pipeline.tokens import EOS, SPECIAL_TOKENS

pytest.importorskip("onnx", reason="needs the extra: pip install -e '.[onnx]'")
pytest.importorskip("onnxruntime", reason="needs the extra: pip install -e '.[onnx]'")

from pipeline.inference.onnx import search as onnx_search
from pipeline.inference.onnx.captioner import OnnxCaptioner
from pipeline.inference.onnx.export import export_onnx
from pipeline.inference.onnx.folder import DESCRIPTION, ENCODER, START, STEP, folder_digest, write_folder

CPU = torch.device("cpu")


def untrained_captioner(*, kind="attention", words=40, **encoder):
    """A captioner with a random decoder whose logits are large, so that captions do not depend on rounding."""
    options = {"weights": "none", "layer": "auto", "grid": 3, "image_size": 64, "fit": "stretch"}
    built = build_encoder(**options | {"precision": "float32", "seed": 3} | encoder, device=CPU)
    vocabulary = Vocabulary((*SPECIAL_TOKENS, *(f"w{n}" for n in range(words))), (0,) * (words + 4), "ptb", 0, 30)
    params = DECODERS[kind].options(kind=kind, embed=24, hidden=32).model_dump()
    torch.manual_seed(5)
    sizes = {"regions": built.regions, "channels": built.channels}
    decoder = make_decoder(params, vocabulary=len(vocabulary), **sizes)
    decoder.normalize.fit([torch.from_numpy(built.encode(random_pixels(built.spec, 4))).float()])
    with torch.no_grad():
        decoder.output.weight *= 12
    facts = {"encoder_tensors": None, "params": {}, "trained_on": {}}
    return Captioner(TrainedModel(decoder.eval(), params, vocabulary, built.spec, **sizes, **facts), built, CPU)


def random_pixels(spec, count):
    size = spec.preprocessing.size
    return np.random.default_rng(7).integers(0, 256, (count, size, size, 3), np.uint8)


def exported(captioner, folder):
    export_onnx(captioner, folder)
    return OnnxCaptioner.load(folder)


def assert_same_captions(captioner, other, pixels, **options):
    ours = captioner.caption_pixels(pixels, captioner.generation_options(**options), captions=3, attention=True)
    theirs = other.caption_pixels(pixels, other.generation_options(**options), captions=3, attention=True)
    assert [[one.text for one in found] for found in ours] == [[one.text for one in found] for found in theirs]
    for one, another in zip(chain(*ours), chain(*theirs), strict=True):
        assert another.score == pytest.approx(one.score, abs=2e-3)
        assert (another.attention is None) == (one.attention is None)
        if one.attention is not None:
            assert np.allclose(another.attention, one.attention, atol=2e-3)


@pytest.fixture(scope="module")
def folder(trained_project, tmp_path_factory):
    """The model of the trained project, exported by the command."""
    out = tmp_path_factory.mktemp("onnx") / "model"
    code, _, message = run_command("export", "--onnx", str(out), cwd=trained_project)
    assert code == 0, message
    assert message.splitlines()[1].startswith(f"export: {out}, ")
    return out


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of the exported folder that a test may change."""
    return shutil.copytree(folder, tmp_path / "copy")


def change_description(folder, change):
    """Change captioner.json and its digest."""
    description = json.loads((folder / DESCRIPTION).read_text())
    change(description)
    parts = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in {".onnx", ".safetensors"}}
    description["digest"] = folder_digest(description, parts)
    (folder / DESCRIPTION).write_text(json.dumps(description))


@pytest.mark.slow
@pytest.mark.parametrize("kind", DECODERS)
def test_every_decoder_exports(tmp_path, kind):
    captioner = untrained_captioner(kind=kind, name="alexnet")
    other = exported(captioner, tmp_path / "onnx")
    assert_same_captions(captioner, other, random_pixels(captioner.spec, 6), beam_size=4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "encoder",
    [
        {"name": "resnet18", "grid": 2, "fit": "crop"},
        {"name": "mobilenet_v2", "grid": 5},
        {"name": "alexnet", "layer": "classifier.4", "grid": 1},
        {"name": "vit_b_32", "image_size": "auto", "grid": 3},
        {"name": "swin_t", "grid": 1},
        {"source": "timm", "name": "test_vit", "image_size": 96},
        {"source": "timm", "name": "test_efficientnet", "layer": "pooled", "grid": 1},
        {"source": "timm", "name": "tf_efficientnet_lite0", "layer": "features", "image_size": 65, "grid": 2},
        {"source": "timm", "name": "test_convnext", "grid": 2},
        {"source": "open_clip", "name": "ViT-S-32-alt", "image_size": "auto"},
        {"source": "open_clip", "name": "RN50", "layer": "layer3", "image_size": 128},
    ],
    ids=lambda encoder: encoder["name"],
)
def test_every_kind_of_encoder_layer_exports(tmp_path, encoder):
    pytest.importorskip(encoder.get("source", "torchvision"))
    captioner = untrained_captioner(**encoder)
    assert_same_captions(captioner, exported(captioner, tmp_path / "onnx"), random_pixels(captioner.spec, 2))


@pytest.mark.slow
def test_captions_of_real_images_are_the_same(tmp_path, shared):
    weights = str(shared / "weights/mobilenet_v2-imagenet.pth")
    captioner = untrained_captioner(name="mobilenet_v2", weights=weights, grid=7, image_size=224, fit="crop")
    other = exported(captioner, tmp_path / "onnx")
    files = sorted((shared / "data/coco-mini/val2017").glob("*.jpg"))
    assert len(files) == 20
    pixels = np.stack([captioner.preprocess(Image.open(path).convert("RGB")) for path in files])
    assert len({one.text for (one,) in captioner.caption_pixels(pixels)}) > 5
    assert_same_captions(captioner, other, pixels)


class Bigram(Decoder):
    """The next token depends on the image and on the latest token only."""

    def __init__(self, table):
        torch.nn.Module.__init__(self)
        self.table = table

    def start(self, features):
        return State((), (features,))

    def step(self, state, tokens):
        return (self.table[tokens] + state.beam[0]).log_softmax(-1), state

    def attention_weights(self, state):
        return state.beam[0].softmax(-1)

    def image_vector(self, state):
        return state.beam[0]

    def advance(self, state, words):
        raise NotImplementedError

    def unroll(self, state, words):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("options", "captions"),
    [
        (SearchOptions(1, 30, 0.7), 1),
        (SearchOptions(3, 4, 0.0), 1),
        (SearchOptions(5, 12, 1.5), 5),
        (SearchOptions(1, 30, 0.7, no_repeat_ngram=1), 1),
        (SearchOptions(3, 20, 1.0, no_repeat_ngram=2), 3),
        (SearchOptions(2, 40, 0.0, no_repeat_ngram=1), 2),
    ],
)
def test_the_numpy_search_equals_the_torch_search(options, captions):
    table = np.random.default_rng(options.beam_size).normal(0, 2, (23, 23)).astype(np.float32)
    features = np.random.default_rng(9).normal(0, 1, (6, 23)).astype(np.float32)
    features[0, EOS] = 50.0  # an empty caption
    if options.no_repeat_ngram == 1:
        features[1, EOS] = -50.0  # a caption that ends only where no other token is allowed
    decoder = Bigram(torch.from_numpy(table))
    expected = beam_search(decoder, torch.from_numpy(features), options, captions=captions, attention=True)

    def step(state, tokens):
        with torch.inference_mode():
            log_probs, following = decoder.step(State((), (torch.from_numpy(state[0]),)), torch.from_numpy(tokens))
        return log_probs.numpy().copy(), [following.beam[0].numpy()], decoder.attention_weights(following).numpy()

    found = onnx_search.beam_search(step, [features], options, captions=captions, attention=True)
    assert [[one.tokens for one in of_image] for of_image in found] == [
        [one.tokens for one in of_image] for of_image in expected
    ]
    for ours, theirs in zip(chain(*found), chain(*expected), strict=True):
        assert ours.log_probability == pytest.approx(theirs.log_probability, abs=1e-4)
        assert ours.score == pytest.approx(theirs.score, abs=1e-4)
        assert len(ours.attention) == len(theirs.attention)
        assert not ours.attention or np.allclose(ours.attention, theirs.attention, atol=1e-6)


def test_predict_prints_the_same_captions_with_both_runtimes(trained_project, folder):
    arguments = ("predict", "data/tiny", "--num-captions", "2", "--no-repeat-ngram", "2")
    _, with_torch, _ = run_command(*arguments, cwd=trained_project)
    code, with_onnx, _ = run_command(*arguments, "--runtime", "onnx", "--model", str(folder), cwd=trained_project)
    assert code == 0
    captions = [line.split("  ")[1] for line in with_torch.splitlines()]
    assert [line.split("  ")[1] for line in with_onnx.splitlines()] == captions
    assert len(captions) == 36


def test_sampling_names_the_runtime_that_can_do_it(trained_project, folder):
    arguments = ("predict", "data/tiny/images/000.png", "--runtime", "onnx", "--model", str(folder), "--sample")
    code, _, message = run_command(*arguments, cwd=trained_project)
    assert code == 2
    assert "use --runtime torch" in message


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


def run_example(folder, *images):
    """Exit code, standard output, standard error of the folder's caption.py."""
    command = [sys.executable, str(folder / "caption.py"), *map(str, images)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def greedy(folder, *images):
    """The output of `predict` with the search of the example."""
    arguments = ("--runtime", "onnx", "--model", str(folder), "--neighbors", "0", "--beam", "1")
    return run_command("predict", *map(str, images), *arguments)[1]


def test_the_example_needs_three_packages_and_prints_the_greedy_captions(images, folder):
    tree = ast.parse((folder / "caption.py").read_text())
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported - set(sys.stdlib_module_names) == {"numpy", "onnxruntime", "PIL"}
    assert run_example(folder, *images[:3]) == (0, greedy(folder, *images[:3]), "")


def unusual_images(folder):
    """One image of each kind with 8 bits per color that is not RGB or gray."""
    folder.mkdir()
    green = np.full((48, 64, 4), (30, 180, 60, 0), np.uint8)
    green[10:30, 20:50, 3] = 130
    Image.fromarray(green).save(folder / "rgba.png")
    gray8 = green[..., 0].copy()
    gray8[10:30, 20:50] = 200
    Image.fromarray(gray8).save(folder / "palette.png", transparency=30)
    orientation = Image.Exif()
    orientation[0x0112] = 6
    Image.fromarray(green[..., :3]).save(folder / "turned.jpg", exif=orientation)
    return sorted(folder.iterdir())


def test_the_example_decodes_every_kind_of_image_as_predict_does(folder, tmp_path):
    import runpy

    from pipeline.inference.base_captioner import open_image

    images = unusual_images(tmp_path / "images")
    assert len(images) == 3
    code, out, message = run_example(folder, *images)
    assert (code, message) == (0, "")
    assert out == greedy(folder, *images)
    captioner, example = OnnxCaptioner.load(folder), runpy.run_path(str(folder / "caption.py"))
    for path in images:
        (pixels,) = example["preprocess"](path)
        assert np.abs(pixels.astype(int) - captioner.preprocess(open_image(path))).max() <= 1, path


def test_the_example_refuses_tiffs_and_more_than_eight_bits(folder, tmp_path):
    gray = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21
    Image.fromarray(gray).save(tmp_path / "gray.png")
    (tmp_path / "rgb.png").write_bytes(png_file(1, 1, depth=16, pixels=bytes(7)))
    for kind in (np.uint8, np.uint16, np.float32):
        Image.fromarray(gray.astype(kind)).save(tmp_path / f"{kind.__name__}.tif")
    images = sorted(tmp_path.iterdir())
    problem = "a TIFF, or more than 8 bits per color; convert it to an 8-bit PNG"
    problems = "".join(f"error: {path}: {problem}\n" for path in images)
    assert (len(images), run_example(folder, *images)) == (5, (1, "", problems))


@pytest.mark.parametrize("shorter_side", [None, 73])
def test_the_example_scales_portrait_images_as_predict_does(folder, tmp_path, shorter_side):
    import runpy

    from pipeline.encoders.images import preprocess_image

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 50, 3), dtype=np.uint8))
    image.save(tmp_path / "portrait.png")
    example = runpy.run_path(str(folder / "caption.py"))
    example["MODEL"]["input"].update(interpolation="bicubic", shorter_side=shorter_side)
    (pixels,) = example["preprocess"](tmp_path / "portrait.png")
    how = replace(OnnxCaptioner.load(folder).spec.preprocessing, interpolation="bicubic", shorter_side=shorter_side)
    assert np.abs(pixels.astype(int) - preprocess_image(image, how)).max() <= 1


def test_the_example_names_images_that_cannot_be_used_and_captions_the_others(images, folder, tmp_path):
    truncated = tmp_path / "truncated.png"
    truncated.write_bytes(images[0].read_bytes()[:900])
    clear = tmp_path / "clear.png"
    Image.new("RGBA", (40, 40), (255, 0, 0, 0)).save(clear)
    unusable = [tmp_path / "gone.png", truncated, folder / "README.md", clear]
    code, out, message = run_example(folder, *unusable[:2], images[0], *unusable[2:])
    assert (code, out) == (1, greedy(folder, images[0]))
    assert [line.split(": ")[:2] for line in message.splitlines()] == [["error", str(path)] for path in unusable]
    code, out, message = run_example(folder)
    assert (code, out) == (1, "")
    assert message.startswith("python caption.py photo.jpg ...: ")


@pytest.mark.parametrize("value", ["skip", "fill"])
def test_an_export_states_whether_truncated_jpegs_are_filled(tmp_path, no_networks, value):
    export_onnx(untrained_captioner(name="alexnet", truncated_jpegs=value), tmp_path / "onnx")
    description = json.loads((tmp_path / "onnx" / DESCRIPTION).read_text())
    assert description["input"]["fill_truncated"] == (value == "fill")


def test_the_example_joins_characters_as_predict_does(images, copy):
    change_description(copy, lambda description: description["vocabulary"].update(tokenizer="character"))
    _, out, _ = run_example(copy, images[0])
    assert out == greedy(copy, images[0])
    assert " " not in out.removeprefix(f"{images[0]}: ")


@pytest.mark.parametrize(("size", "length", "distinct"), [(1, 8, True), (0, 20, False)])
def test_the_example_repeats_no_ngram(images, copy, size, length, distinct):
    change_description(
        copy, lambda description: description["vocabulary"].update(no_repeat_ngram=size, max_length=length)
    )
    example = (copy / "caption.py").read_text()
    endless = example.replace("[0, 1, 3]  # NEVER", "[0, 1, 2, 3]  # NEVER")  # never ends before
    assert endless != example
    (copy / "caption.py").write_text(endless)
    tokens = run_example(copy, images[0])[1].split(": ", 1)[1].split()
    assert len(tokens) == length
    assert (len(set(tokens)) == len(tokens)) == distinct


def test_the_readme_names_all_inputs_and_outputs_and_the_batch_is_dynamic(folder):
    import onnxruntime

    text = (folder / "README.md").read_text()
    assert "{" not in text
    for name in (ENCODER, START, STEP):
        session = onnxruntime.InferenceSession(folder / name)
        for one in [*session.get_inputs(), *session.get_outputs()]:
            assert f"`{one.name.removeprefix('next_')}`" in text
            assert isinstance(one.shape[0], str), f"the batch of {one.name} is fixed"


def test_the_export_reranks_as_the_model_does(captioner, folder):
    pixels = random_pixels(captioner.spec, 3)
    ours, theirs = captioner.caption_pixels(pixels), OnnxCaptioner.load(folder).caption_pixels(pixels)
    assert [one.text for (one,) in theirs] == [one.text for (one,) in ours]
    assert [one.agreement for (one,) in theirs] == pytest.approx([one.agreement for (one,) in ours], abs=0.05)


def test_an_export_without_training_captions_cannot_rerank(copy, captioner):
    change_description(copy, lambda description: description.update(reranker=False))
    (copy / "reranker.safetensors").rename(copy / "README.md")
    change_description(copy, lambda description: None)
    without, pixels = OnnxCaptioner.load(copy), random_pixels(captioner.spec, 3)
    assert [one.agreement for (one,) in without.caption_pixels(pixels)] == [None] * 3
    with pytest.raises(ParamsError, match="does not store its training captions"):
        without.caption_pixels(pixels, without.generation_options(neighbors=2))


@pytest.fixture
def no_networks(monkeypatch):
    """Exports have empty files in place of the networks, which take seconds."""
    monkeypatch.setattr("pipeline.inference.onnx.export._onnx", lambda *_: b"")


def test_an_export_leaves_the_captioner_as_it_was(tmp_path, no_networks):
    captioner = untrained_captioner(name="alexnet")
    parts = (captioner.model.decoder.half().train(), captioner.encoder.network.half().train())
    export_onnx(captioner, tmp_path / "onnx")
    for part in parts:
        assert part.training
        assert {tensor.dtype for tensor in part.parameters()} == {torch.float16}


def test_a_model_without_training_captions_exports_none(captioner, tmp_path, no_networks):
    private = Captioner(replace(captioner.model, reranker=None), captioner.encoder, CPU)
    export_onnx(captioner, tmp_path / "onnx")
    assert (tmp_path / "onnx/reranker.safetensors").exists()
    export_onnx(private, tmp_path / "onnx")
    assert not (tmp_path / "onnx/reranker.safetensors").exists()


def test_an_export_gives_the_same_familiarity_and_is_incomplete_without_it(tmp_path):
    captioner = untrained_captioner(name="alexnet")
    pixels = random_pixels(captioner.spec, 200)
    encoded = captioner.encode(pixels)
    model = replace(captioner.model, familiarity=Familiarity.fit([encoded[:100]], [encoded[100:]]))
    captioner = Captioner(model, captioner.encoder, CPU)
    other = exported(captioner, tmp_path / "onnx")
    ours, theirs = (
        [one.familiarity for (one,) in runtime.caption_pixels(pixels[100:])] for runtime in (captioner, other)
    )
    assert theirs == pytest.approx(ours, abs=0.011)  # one of 100 val images
    assert len(set(ours)) == 100
    (tmp_path / "onnx/familiarity.safetensors").unlink()
    with pytest.raises(ArtefactError, match=r"familiarity\.safetensors: cannot be read"):
        OnnxCaptioner.load(tmp_path / "onnx")


def test_an_export_replaces_an_older_one_as_a_whole(tmp_path):
    write_folder(tmp_path / "onnx", {DESCRIPTION: b"{}", STEP: b"old"})
    write_folder(tmp_path / "onnx", {DESCRIPTION: b"{}"})
    assert [path.name for path in (tmp_path / "onnx").iterdir()] == [DESCRIPTION]
    assert [path.name for path in tmp_path.iterdir()] == ["onnx"]


def test_what_killed_exports_left_is_removed_by_the_next_one(tmp_path):
    for name in (".onnx.unfinished-export", ".onnx.earlier-export", ".onnx.mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / STEP).write_bytes(b"old")
    write_folder(tmp_path / "onnx", {DESCRIPTION: b"{}"})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".onnx.mine", "onnx"]


def test_a_failed_export_leaves_the_older_one(tmp_path, monkeypatch):
    write_folder(tmp_path / "onnx", {DESCRIPTION: b"old"})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DiskError, match=r"No space left on device; an earlier export is unchanged"):
        write_folder(tmp_path / "onnx", {DESCRIPTION: b"new"})
    assert (tmp_path / "onnx" / DESCRIPTION).read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["onnx"]


@pytest.mark.parametrize("name", ["thesis.txt", "README.md"])
def test_a_folder_with_other_files_is_never_replaced(tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(ParamsError, match=rf"holds other files \({name}\)"):
        write_folder(tmp_path, {DESCRIPTION: b"{}"})
    assert (tmp_path / name).read_text() == "precious"


def test_a_self_contained_file_gives_the_same_captions(trained_project, captioner, images, tmp_path):
    path = tmp_path / "alone.safetensors"
    code, _, message = run_command("export", "--self-contained", str(path), cwd=trained_project)
    assert (code, message.splitlines()[1].split(",")[0]) == (0, f"export: {path}")
    alone = Captioner.load(path, device="cpu")
    assert alone.model.encoder_tensors
    assert alone(images[3]) == captioner(images[3])


def test_a_self_contained_file_replaces_only_another_model(trained_project, tmp_path):
    path, model = tmp_path / "alone.safetensors", trained_project / "models/captioner.safetensors"

    def export(output):
        code, _, message = run_command("export", "--self-contained", str(output), cwd=trained_project)
        return code, message

    path.write_text("precious")
    other = f"error: --self-contained {path}: exists and is not a model file of this version; name another file\n"
    assert (export(path), path.read_text()) == ((2, other), "precious")
    path.unlink()
    content = model.read_bytes()
    path.symlink_to(model)
    for output in (model, path):
        problem = f"error: --self-contained {output}: is also an input; name another file\n"
        assert export(output) == (2, problem)
    assert model.read_bytes() == content
    path.unlink()
    path.write_bytes(content)
    before = path.stat().st_ino
    assert export(path)[0] == 0
    assert path.stat().st_ino != before
    (tmp_path / "folder").mkdir()
    code, message = export(tmp_path / "folder")
    assert (code, "model: " in message) == (2, False)


def test_a_self_contained_file_downloads_nothing(tmp_path, monkeypatch):
    captioner = untrained_captioner(name="alexnet")
    named = replace(captioner.spec, weights="IMAGENET1K_V1")
    captioner.model = replace(captioner.model, spec=named)
    captioner.encoder.spec = named
    assert captioner.encoder.tensors_to_embed() == {}
    captioner.save(tmp_path / "alone.safetensors")
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *a, **k: pytest.fail("downloads"))
    alone = Captioner.load(tmp_path / "alone.safetensors", device="cpu")
    pixels = random_pixels(named, 2)
    assert alone.encode(pixels).tobytes() == captioner.encode(pixels).tobytes()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "give --onnx FOLDER, --self-contained FILE, or both"),
        (("--onnx", "x", "--model", "gone"), 4, "gone: no such model file"),
        (("--onnx", "params.yaml"), 5, "params.yaml: cannot be written"),
        (("--onnx", "data"), 2, "holds other files"),
        (("--onnx", "x", "--model", "data"), 2, "data: a folder; name a model file"),
        (("--onnx", "x", "--self-contained", "x/m.st"), 2, "one is inside the other; move one out"),
        (("--onnx", "data", "--self-contained", "m.st"), 2, "holds other files"),
        (("--self-contained", "-"), 2, "--self-contained -: not a file name"),
        (("--int8", "data"), 2, "--int8"),
    ],
)
def test_a_wrong_export_command_is_an_error(trained_project, arguments, code, words):
    found, _, message = run_command("export", *arguments, cwd=trained_project)
    assert found == code
    assert words in message
    assert "Traceback" not in message
    assert not any((trained_project / name).exists() for name in ("x", "m.st", "-"))


def test_a_folder_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DiskError, match="cannot be written"):
        write_folder(tmp_path / "file" / "onnx", {DESCRIPTION: b"{}"})


@pytest.mark.parametrize(
    ("damage", "code", "words"),
    [
        (lambda folder: (folder / DESCRIPTION).unlink(), 4, "no exported model"),
        (lambda folder: (folder / DESCRIPTION).write_text("{}"), 4, "export schema None, this version reads schema 2"),
        (
            lambda folder: (folder / DESCRIPTION).write_bytes(b'{"schema'),
            4,
            "; copy the folder again, or export to a new",
        ),
        (lambda folder: (folder / STEP).write_bytes(b"x"), 4, "do not match the digest in captioner.json"),
        (lambda folder: (folder / ENCODER).unlink(), 4, "encoder.onnx: cannot be read"),
        (lambda folder: (folder / "reranker.safetensors").write_bytes(b"x"), 4, "do not match the digest"),
        (lambda folder: (folder / "reranker.safetensors").unlink(), 4, "reranker.safetensors: cannot be read"),
        (lambda folder: change_description(folder, lambda content: content.pop("state")), 4, "not a complete export"),
    ],
    ids=[
        "no description",
        "other description",
        "cut description",
        "damaged",
        "no encoder",
        "other captions",
        "no captions",
        "no state",
    ],
)
def test_a_damaged_folder_is_refused(trained_project, copy, damage, code, words):
    damage(copy)
    arguments = ("predict", "data/tiny/images/000.png", "--runtime", "onnx", "--model", str(copy))
    found, _, message = run_command(*arguments, cwd=trained_project)
    assert found == code
    assert words in message


def test_an_export_in_a_folder_below_is_named(copy):
    with pytest.raises(ArtefactError, match=f"{copy.parent}: no exported model; give {copy}"):
        OnnxCaptioner.load(copy.parent)


def test_an_export_without_its_description_is_incomplete(copy):
    (copy / DESCRIPTION).unlink()
    with pytest.raises(ArtefactError, match=r"captioner.json is missing; copy the folder again, or export to a new"):
        OnnxCaptioner.load(copy)


def test_a_part_that_onnxruntime_cannot_load_is_named(copy):
    (copy / STEP).write_bytes(b"x")
    change_description(copy, lambda description: None)
    with pytest.raises(ArtefactError, match=r"step\.onnx: cannot be loaded"):
        OnnxCaptioner.load(copy)
