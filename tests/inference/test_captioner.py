"""The Python interface: kinds of image input, batches, several captions, attention weights."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import ROOT

from pipeline import Captioner, paths
from pipeline.decoders.search import SearchOptions
from pipeline.errors import DataError, ParamsError
from pipeline.inference.base_captioner import open_image
from pipeline.options import RerankOptions


def pixels_of(path):
    return np.asarray(Image.open(path))


def test_an_image_is_a_path_a_string_bytes_an_array_or_a_pillow_image(captioner, images):
    path = images[0]
    image = Image.open(path)
    forms = [path, str(path), path.read_bytes(), image, np.asarray(image)]
    assert len({captioner(form) for form in forms}) == 1
    assert captioner(path)


def test_a_list_of_images_gives_a_list_of_captions(captioner, images):
    assert captioner(images[:3]) == [captioner(path) for path in images[:3]]
    assert captioner([]) == []


def test_a_long_list_is_captioned_in_batches(captioner, images, monkeypatch):
    expected = captioner(images)
    sizes, caption_pixels = [], captioner.caption_pixels

    def record(pixels, *options, **more):
        sizes.append(len(pixels))
        return caption_pixels(pixels, *options, **more)

    monkeypatch.setattr(captioner, "caption_pixels", record)
    monkeypatch.setattr(captioner, "batch_size", 4)
    assert captioner(images) == expected
    assert max(sizes) == 4
    assert sum(sizes) == len(images)


def test_several_captions_are_different_and_best_first(captioner, images):
    (reranked,) = captioner.captions(images[:1], captions=4)
    assert len({caption.text for caption in reranked}) == 4
    ranks = [caption.score + 4.0 * caption.agreement for caption in reranked]
    assert ranks == sorted(ranks, reverse=True)
    (searched,) = captioner.captions(images[:1], captioner.generation_options(neighbors=0), captions=4)
    assert [caption.score for caption in searched] == sorted((caption.score for caption in searched), reverse=True)
    assert all(0 < caption.certainty < 1 for caption in reranked)


def test_attention_weights_are_a_distribution_over_the_regions_for_each_token(captioner, images):
    ((caption,),) = captioner.captions(images[:1], attention=True)
    assert len(caption.attention) == len(caption.tokens) > 1
    for weights in caption.attention:
        assert len(weights) == captioner.spec.grid**2
        assert sum(weights) == pytest.approx(1, abs=1e-5)
    assert captioner.captions(images[:1])[0][0].attention is None


def test_a_stream_keeps_the_order_and_reads_images_as_they_are_needed(captioner, images):
    read = []

    def endless():
        while True:
            read.append(images[len(read) % len(images)])
            yield read[-1]

    predictions = captioner.stream(endless(), batch_size=2)
    names = [next(predictions).image for _ in range(5)]
    predictions.close()
    assert names == [str(path) for path in read[:5]]
    assert len(read) <= 5 + 2 * 2 + 1


def test_with_a_batch_size_of_1_each_prediction_comes_before_the_next_image_is_read(captioner, images):
    read = []
    for number, one in enumerate(captioner.stream((read.append(path) or path for path in images), batch_size=1)):
        assert one.image == str(images[number])
        assert len(read) == number + 1


def test_every_occurrence_of_an_image_has_a_prediction(captioner, images, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no")
    predictions = list(captioner.stream([images[0], broken, images[0], broken]))
    assert [bool(one.error) for one in predictions] == [False, True, False, True]
    assert predictions[0].captions == predictions[2].captions != ()


def test_images_without_a_path_are_numbered(captioner, images):
    opened = Image.open(images[0])
    given = [opened, images[0], ("mine", opened), images[0].read_bytes(), None, np.asarray(opened.convert("RGB"))]
    predictions = list(captioner.stream(given))
    assert [one.image for one in predictions] == ["1", str(images[0]), "mine", "4", "5", "6"]
    assert predictions[4].error == "an image must be a path, bytes, a Pillow image or an array, not NoneType"
    assert len({one.captions[0].text for one in predictions if not one.error}) == 1


def test_a_pillow_image_or_array_that_cannot_be_used_is_an_error_of_its_own(captioner, images):
    buffer = io.BytesIO()
    Image.open(images[0]).convert("RGB").save(buffer, "JPEG")
    truncated = Image.open(io.BytesIO(buffer.getvalue()[:-100]))
    broken = [("cut", truncated), ("empty", np.zeros((0, 5, 3), np.uint8))]
    predictions = list(captioner.stream([images[0], *broken, images[0]]))
    assert [bool(one.error) for one in predictions] == [False, True, True, False]


def test_a_named_image_keeps_its_name(captioner, images):
    (prediction,) = captioner.stream([("mine", images[0].read_bytes())])
    assert prediction.image == "mine"
    assert prediction.captions[0].text == captioner(images[0])


def test_pixels_of_another_type_or_shape_are_refused(captioner, images):
    with Image.open(images[0]) as image:
        pixels = np.stack([captioner.preprocess(image.convert("RGB"))])
    assert captioner.caption_pixels(pixels)[0][0].text == captioner(images[0])
    assert captioner.caption_pixels(pixels[:0]) == []
    for wrong in (pixels / np.float32(255), pixels[:, :-1], pixels[0]):
        with pytest.raises(DataError, match=r"pixels: .*, expected uint8 \(images, 64, 64, 3\), as `preprocess` makes"):
            captioner.caption_pixels(wrong)


def test_the_batch_size_changes_no_caption(captioner, images):
    by_size = [[one.captions[0].text for one in captioner.stream(images, batch_size=size)] for size in (1, 5, 64)]
    assert by_size[0] == by_size[1] == by_size[2]


@pytest.mark.parametrize("form", [str, Path, Path.read_bytes, lambda path: Image.open(path).copy(), pixels_of])
def test_one_image_in_the_place_of_a_list_is_refused(captioner, images, form):
    image = form(images[0])
    for captions in (captioner.captions, lambda one: list(captioner.stream(one))):
        with pytest.raises(DataError, match=r"one image, not a list of images; put it in a list: \[image\]"):
            captions(image)


def test_images_may_be_an_iterator_or_an_array(captioner, images):
    expected = captioner.captions(images[:3])
    arrays = np.stack([pixels_of(path) for path in images[:3]])
    for form in (iter(images[:3]), arrays, np.array([str(path) for path in images[:3]])):
        assert captioner.captions(form) == expected
    gray = np.zeros((2, 24, 24), np.uint8)
    assert captioner.captions(gray) == captioner.captions(list(gray))


def test_options_of_another_type_are_refused(captioner, images):
    for options in ({"beam_size": 2}, {}):
        with pytest.raises(ParamsError, match="options: dict, not GenerationOptions; make them with generation_opt"):
            captioner(images[0], options)


def test_without_the_encoder_images_are_refused(trained_project, images):
    with pytest.raises(ParamsError, match="loaded without its encoder"):
        Captioner.load(trained_project / paths.MODEL, device="cpu", encoder=False)(images[0])


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_the_first_frame_of_an_image_is_captioned(captioner, kind):
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(buffer.getvalue())).n_frames == 2
    opened = np.asarray(open_image(buffer.getvalue()), int)
    assert abs(opened - [255, 0, 0]).max() < 3


@pytest.mark.parametrize("image", ["nowhere.jpg", b"", b"not an image", "nul\0l.jpg", np.zeros((2, 2), np.float32)])
def test_an_image_that_cannot_be_used_is_a_data_error(captioner, image):
    with pytest.raises(DataError):
        captioner(image)


def test_defaults_of_the_search_depend_on_the_model(captioner):
    known = captioner.vocabulary.no_repeat_ngram
    assert known in {2, 3, 4}
    limits = {"no_repeat_ngram": known, "max_length": captioner.vocabulary.max_length}
    default = captioner.generation_options()
    assert default.search == SearchOptions(beam_size=10, length_penalty=1.0, **limits)
    assert default.rerank == RerankOptions(neighbors=60)
    assert captioner.generation_options(beam_size=2).search.beam_size == 2
    assert captioner.generation_options(no_repeat_ngram=0).search.no_repeat_ngram == 0
    without = captioner.generation_options(neighbors=0)
    assert without.search == SearchOptions(**limits)
    assert captioner.sampling_options().search.max_length == captioner.vocabulary.max_length == 6
    assert without.rerank.neighbors == 0


@pytest.mark.parametrize(
    "option",
    [
        {"color": 1},
        {"beam_size": 0},
        {"neighbors": -1},
        {"length_penalty": float("nan")},
    ],
)
def test_an_unknown_or_impossible_option_is_named(captioner, option):
    with pytest.raises(ParamsError, match=next(iter(option))):
        captioner.generation_options(**option)


@pytest.mark.parametrize("count", [0, 150])
def test_more_captions_than_a_beam_holds_are_refused(captioner, images, count):
    for options in (None, captioner.generation_options(neighbors=0), captioner.sampling_options()):
        with pytest.raises(ParamsError, match=f"captions: {count} per image; must be 1 to 100"):
            captioner.captions(images[:1], options, captions=count)


def test_a_model_trained_with_truncated_jpegs_captions_them(captioner, images, monkeypatch):
    buffer = io.BytesIO()
    Image.open(images[0]).convert("RGB").save(buffer, "JPEG")
    truncated = buffer.getvalue()[:-100]
    with pytest.raises(DataError, match="truncated"):
        captioner(truncated)
    preprocessing = replace(captioner.spec.preprocessing, fill_truncated=True)
    monkeypatch.setattr(captioner, "spec", replace(captioner.spec, preprocessing=preprocessing))
    assert captioner(truncated)
    (prediction,) = captioner.stream([("cut", truncated)])
    assert prediction.error is None


def test_a_caption_repeats_no_ngram_that_the_training_captions_do_not_repeat(captioner, images, monkeypatch):
    monkeypatch.setitem(captioner.vocabulary.__dict__, "no_repeat_ngram", 1)

    def repeated(options):
        found = captioner.captions(images, options, captions=10)
        return [one.text for of_image in found for one in of_image if len(set(one.tokens)) < len(one.tokens)]

    assert repeated(captioner.generation_options(no_repeat_ngram=0))
    assert not repeated(captioner.generation_options())


def test_similar_images_have_samples_of_their_own_and_equal_images_the_same(captioner, images):
    pixels = captioner.preprocess(Image.open(images[0]).convert("RGB"))
    similar = pixels.copy()
    similar[0, 0] ^= 8
    assert captioner.encode(np.stack([pixels])).tobytes() != captioner.encode(np.stack([similar])).tobytes()
    options = captioner.sampling_options(temperature=30.0, seed=4)
    first, second, again = captioner.caption_pixels(np.stack([pixels, similar, pixels]), options, captions=8)
    assert [one.text for one in first] == [one.text for one in again]
    assert [one.text for one in first] != [one.text for one in second]


def test_the_python_example_of_the_page_about_predict_runs(trained_project, images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(trained_project / "models")
    for name in ("photo.jpg", "another.png"):
        (tmp_path / name).write_bytes(images[0].read_bytes())
    text = (ROOT / "docs" / "predict.md").read_text(encoding="utf-8")
    (block,) = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    exec(compile(block, "predict.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[-1] == "broken.jpg broken.jpg: cannot be read: No such file or directory"
