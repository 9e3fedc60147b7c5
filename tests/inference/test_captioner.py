"""The Python interface: what a picture may be, batches, several captions, attention."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from pipeline import paths
from pipeline.decoders.beam_search import SearchOptions
from pipeline.encoders.spec import Preprocessing
from pipeline.errors import DataError, ParamsError
from pipeline.inference.base_captioner import part_seen

TRANSFORM = {"interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.2,) * 3, "background": (255, 255, 255)}


def test_a_picture_is_a_path_a_string_bytes_pixels_or_a_pillow_picture(captioner, pictures):
    path = pictures[0]
    picture = Image.open(path)
    forms = [path, str(path), path.read_bytes(), picture, np.asarray(picture)]
    assert len({captioner(form) for form in forms}) == 1
    assert captioner(path)


def test_a_list_of_pictures_gives_a_list_of_captions(captioner, pictures):
    assert captioner(pictures[:3]) == [captioner(path) for path in pictures[:3]]
    assert captioner([]) == []


def test_several_captions_are_different_and_best_first(captioner, pictures):
    (found,) = captioner.captions(pictures[:1], captions=4)
    assert len({caption.text for caption in found}) == 4
    together = [caption.score + 4.0 * caption.agreement for caption in found]
    assert together == sorted(together, reverse=True)
    (likeliest,) = captioner.captions(pictures[:1], captioner.make_search(neighbours=0), captions=4)
    assert [caption.score for caption in likeliest] == sorted((caption.score for caption in likeliest), reverse=True)
    assert all(0 < caption.certainty < 1 for caption in found)


def test_attention_has_a_distribution_over_the_regions_for_each_word(captioner, pictures):
    ((caption,),) = captioner.captions(pictures[:1], attention=True)
    assert len(caption.attention) == len(caption.words) > 1
    for weights in caption.attention:
        assert len(weights) == captioner.spec.grid**2
        assert sum(weights) == pytest.approx(1, abs=1e-5)
    assert captioner.captions(pictures[:1])[0][0].attention is None


def test_answers_keep_the_order_and_take_pictures_as_they_are_needed(captioner, pictures):
    taken = []

    def endless():
        while True:
            taken.append(pictures[len(taken) % len(pictures)])
            yield taken[-1]

    answers = captioner.answers(endless(), batch_size=2)
    seen = [next(answers).image for _ in range(5)]
    answers.close()
    assert seen == [str(path) for path in taken[:5]]
    assert len(taken) <= 5 + 2 * 2 + 1


def test_with_a_batch_of_one_each_answer_comes_before_the_next_picture_is_asked_for(captioner, pictures):
    given = []
    for number, answer in enumerate(captioner.answers((given.append(path) or path for path in pictures), batch_size=1)):
        assert answer.image == str(pictures[number])
        assert len(given) == number + 1


def test_one_picture_several_times_is_answered_as_often_also_when_it_is_bad(captioner, pictures, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no")
    answers = list(captioner.answers([pictures[0], broken, pictures[0], broken]))
    assert [bool(answer.error) for answer in answers] == [False, True, False, True]
    assert answers[0].captions == answers[2].captions != ()


def test_pictures_with_names_of_their_own_are_answered_under_them(captioner, pictures):
    (answer,) = captioner.answers([("mine", pictures[0].read_bytes())])
    assert answer.image == "mine"
    assert answer.captions[0].text == captioner(pictures[0])


def test_batches_change_no_caption(captioner, pictures):
    by_size = [
        [answer.captions[0].text for answer in captioner.answers(pictures, batch_size=size)] for size in (1, 5, 64)
    ]
    assert by_size[0] == by_size[1] == by_size[2]


@pytest.mark.parametrize("picture", ["nowhere.jpg", b"", b"not a picture", "nul\0l.jpg", np.zeros((2, 2), np.float32)])
def test_a_bad_picture_is_a_data_error(captioner, picture):
    with pytest.raises(DataError):
        captioner(picture)


def test_an_unknown_search_option_is_named(captioner):
    known = captioner.vocabulary.no_repeat_ngram
    asking = {"no_repeat_ngram": known, "neighbours": 60, "length_penalty": 1.0}
    assert captioner.make_search() == SearchOptions(beam_size=10, **asking)
    assert captioner.make_search(beam_size=2) == SearchOptions(beam_size=2, **asking)
    assert captioner.make_search(neighbours=0) == SearchOptions(beam_size=3, no_repeat_ngram=known)
    with pytest.raises(ParamsError, match="colour"):
        captioner.make_search(colour=1)


def test_the_part_that_is_seen_is_the_whole_or_the_centre():
    assert part_seen(Preprocessing(size=224, shorter_side=None, **TRANSFORM), 400, 300) == (0, 0, 1, 1)
    left, top, right, bottom = part_seen(Preprocessing(size=224, shorter_side=256, **TRANSFORM), 400, 300)
    side = 300 * 224 / 256
    assert (right - left) * 400 == pytest.approx(side)
    assert (bottom - top) * 300 == pytest.approx(side)
    assert left + right == pytest.approx(1)


def test_loading_does_not_import_the_compiler_and_leaves_nothing_behind(trained_project):
    program = (
        "import sys, torch; from pipeline import Captioner; "
        f"Captioner.load({str(trained_project / paths.MODEL)!r}, device='cpu'); "
        "assert 'torch._dynamo' not in sys.modules, 'compiler'; import torch._dynamo.utils; "
        "assert torch._dynamo.utils.__file__; "
        ""
        "r = sys.modules['torchvision.ops.roi_align']; assert r.is_compile_supported('cpu') in (True, False)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_restored_encoder_has_the_values_of_the_file_not_those_it_was_born_with(captioner):
    assert not any(tensor.is_meta for tensor in captioner.encoder.network.state_dict().values())


def test_the_python_of_the_page_about_captions_runs(trained_project, pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(trained_project / "models")
    for name in ("photo.jpg", "another.png"):
        (tmp_path / name).write_bytes(pictures[0].read_bytes())
    text = (ROOT / "docs" / "predict.md").read_text(encoding="utf-8")
    (block,) = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    exec(compile(block, "predict.md", "exec"), {})
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 5
    assert said[-1] == "broken.jpg broken.jpg: cannot be read: No such file or directory"


def test_pictures_that_are_alike_draw_captions_of_their_own(captioner, pictures):
    from pipeline.inference.captioner import SamplingOptions

    pixels = captioner.prepare(Image.open(pictures[0]).convert("RGB"))
    alike = pixels.copy()
    alike[0, 0] ^= 8
    assert captioner.encode(np.stack([pixels])).tobytes() != captioner.encode(np.stack([alike])).tobytes()
    wild = SamplingOptions(temperature=30.0, seed=4)
    first, second, again = captioner.describe(np.stack([pixels, alike, pixels]), wild, captions=8)
    assert [one.text for one in first] == [one.text for one in again]
    assert [one.text for one in first] != [one.text for one in second]
