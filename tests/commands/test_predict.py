"""`captioner predict`: where pictures come from, what comes out, and what happens to a bad one."""

import csv
import io
import json

import pytest
from conftest import run_command
from PIL import Image

from pipeline.commands import image_inputs as sources
from pipeline.inference.attention_overlay import brightness_map

TINY = "data/tiny/images"


def predict(project, *arguments, stdin=b""):
    return run_command("predict", *arguments, cwd=project, stdin=stdin)


def test_folders_files_and_patterns_are_answered_in_the_order_given(trained_project):
    code, out, said = predict(trained_project, f"{TINY}/003.png", f"{TINY}/00[0-2].png", "data/tiny")
    assert (code, said) == (0, "")
    names = [line.split(": ")[0].rsplit("/", 1)[1] for line in out.splitlines()]
    assert names == ["003.png", "000.png", "001.png", "002.png", *(f"{number:03d}.png" for number in range(18))]


def test_standard_input_is_a_picture_or_a_list(trained_project):
    picture = (trained_project / TINY / "000.png").read_bytes()
    _, named, _ = predict(trained_project, f"{TINY}/000.png", f"{TINY}/001.png")
    code, out, _ = predict(trained_project, "-", stdin=picture)
    assert (code, out) == (0, named.splitlines(keepends=True)[0].replace(f"{TINY}/000.png", "-"))
    code, out, _ = predict(trained_project, "-", stdin=f"{TINY}/000.png\r\n\n{TINY}/001.png".encode())
    assert (code, out) == (0, named)


def test_a_bad_line_of_a_list_is_reported_and_the_others_answered(trained_project):
    code, out, said = predict(trained_project, "--json", "-", stdin=f"gone.png\n{TINY}/001.png\n".encode())
    assert code == 3
    first, second = map(json.loads, out.splitlines())
    assert (first["captions"], first["error"]) == ([], "gone.png: cannot be read: No such file or directory")
    assert second["error"] is None
    assert second["captions"][0]["caption"]
    assert said.endswith("error: 1 of 2 pictures could not be captioned; the lines above say why\n")


def test_a_table_has_a_row_per_caption_and_for_each_bad_picture(trained_project, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    table = tmp_path / "out.csv"
    arguments = (f"{TINY}/000.png", str(tmp_path / "bad.png"), "--csv", str(table), "--num-captions", "2")
    code, out, _ = predict(trained_project, *arguments)
    assert (code, out) == (3, "")
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert [(row["image"].rsplit("/", 1)[1], bool(row["caption"]), bool(row["error"])) for row in rows] == [
        ("000.png", True, False),
        ("000.png", True, False),
        ("bad.png", False, True),
    ]
    assert float(rows[0]["score"]) >= float(rows[1]["score"])


NOTHING = "no picture there; give a file, a folder or a quoted glob pattern"


def test_arguments_that_mean_no_picture_are_reported_and_the_others_answered(trained_project, tmp_path):
    (tmp_path / "empty").mkdir()
    nowhere = ["gone.png", f"{tmp_path}/empty", "gone/*.png"]
    _, alone, _ = predict(trained_project, f"{TINY}/001.png")
    code, out, said = predict(trained_project, nowhere[0], f"{TINY}/001.png", *nowhere[1:])
    assert (code, out) == (3, alone)
    assert said.splitlines() == [
        *(f"error: {name}: {NOTHING}" for name in nowhere),
        "error: 3 of 4 pictures could not be captioned; the lines above say why",
    ]
    arguments = (nowhere[0], f"{TINY}/001.png", "--json", "--csv", str(tmp_path / "out.csv"))
    arguments = (*arguments, "--attention", str(tmp_path / "out"))
    code, out, _ = predict(trained_project, *arguments)
    bad, good = map(json.loads, out.splitlines())
    assert code == 3
    assert bad == {"image": "gone.png", "captions": [], "error": f"gone.png: {NOTHING}"}
    assert (good["error"], good["attention"]) == (None, str(tmp_path / "out/001.png"))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert [(row["image"], row["caption"]) for row in rows] == [
        ("gone.png", ""),
        (f"{TINY}/001.png", good["captions"][0]["caption"]),
    ]
    assert rows[0]["error"] == bad["error"]


def test_where_there_is_no_picture_at_all_no_model_is_needed_to_say_so(tmp_path):
    code, out, said = predict(tmp_path, "gone.png", "--json")
    assert (code, said) == (3, f"error: gone.png: {NOTHING}\n")
    assert json.loads(out) == {"image": "gone.png", "captions": [], "error": f"gone.png: {NOTHING}"}
    code, out, said = predict(tmp_path, "gone.png", "*.jpg", "--csv", "out.csv")
    assert (code, out) == (3, "")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert [(row["image"], row["error"]) for row in rows] == [
        ("gone.png", f"gone.png: {NOTHING}"),
        ("*.jpg", f"*.jpg: {NOTHING}"),
    ]
    assert said.endswith("error: 2 of 2 pictures could not be captioned; the lines above say why\n")


def test_one_bad_picture_alone_is_one_error(trained_project, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    code, out, said = predict(trained_project, str(tmp_path / "bad.png"))
    assert (code, out, said) == (3, "", f"error: {tmp_path}/bad.png: the file is empty\n")


def test_attention_writes_a_picture_per_picture_and_keeps_equal_names_apart(trained_project, tmp_path):
    (tmp_path / "000.png").write_bytes((trained_project / TINY / "001.png").read_bytes())
    arguments = (f"{TINY}/000.png", str(tmp_path / "000.png"), "--json", "--attention", str(tmp_path / "out"))
    code, out, said = predict(trained_project, *arguments)
    assert code == 0, said
    named = [json.loads(line)["attention"] for line in out.splitlines()]
    assert named == [str(tmp_path / "out/000.png"), str(tmp_path / "out/000-2.png")]
    words = len(json.loads(out.splitlines()[0])["captions"][0]["caption"].split())
    with Image.open(named[0]) as sheet:
        columns = min(6, words + 1)
        assert sheet.width == 12 + columns * (224 + 12)


def test_names_that_are_not_utf8_are_answered(trained_project, tmp_path):
    import os

    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(name, "wb") as file:
        file.write((trained_project / TINY / "000.png").read_bytes())
    code, out, _ = predict(trained_project, "--json", str(tmp_path))
    assert code == 0
    assert json.loads(out)["image"].endswith("caf\ufffd.png")


def test_a_longer_beam_and_a_shorter_caption(trained_project):
    code, out, _ = predict(trained_project, f"{TINY}/000.png", "--beam", "5", "--max-length", "2")
    assert code == 0
    assert len(out.split(": ")[1].split()) <= 2


def test_a_decoder_that_does_not_look_says_so(trained_project, tmp_path):
    from conftest import write_project

    write_project(tmp_path, decoder={"kind": "inject"}, train={"epochs": 1})
    for stage in ("prepare", "extract", "vocab", "train"):
        assert run_command(stage, cwd=tmp_path)[0] == 0
    code, _, said = predict(tmp_path, f"{TINY}/000.png", "--attention", "out")
    assert code == 3
    assert "does not look at regions" in said


class Typed(io.BytesIO):
    """A stream that gives one line at a time, as a terminal does, and counts them."""

    lines = 0

    def read1(self, size=-1):
        self.lines += 1
        return self.readline()[: size if size >= 0 else None]


def test_a_list_that_is_typed_is_read_line_by_line():
    typed = Typed(b"a.png\nb.png\nc.png\n")
    found = sources.opened(["-"], typed)
    assert next(found) == "a.png"
    assert typed.lines == 1
    assert list(found) == ["b.png", "c.png"]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_a_picture_of_each_format_is_told_from_a_list(kind):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 200, 13)).save(buffer, kind)
    ((name, content),) = sources.opened(["-"], io.BytesIO(buffer.getvalue()))
    assert (name, content) == ("-", buffer.getvalue())
    assert not sources.is_picture(b"BMW/front.jpg\nRI")


def test_the_light_of_an_overlay_is_brightest_where_the_weight_is():
    import numpy as np

    weights = np.zeros(9)
    weights[5] = 1.0  # second row, third column
    light = brightness_map(weights, 3, (90, 60), (0.0, 0.0, 1.0, 1.0))
    assert light.shape == (60, 90)
    row, column = np.unravel_index(light.argmax(), light.shape)
    assert 20 <= row < 40
    assert column >= 60
    cut = brightness_map(np.full(9, 1 / 9), 3, (90, 60), (1 / 6, 0.0, 5 / 6, 1.0))
    assert cut[:, :14].max() < 0.3 < 0.9 < cut[:, 20:70].min()


def test_samples_follow_the_seed_whatever_the_company(trained_project):
    def drawn(*more):
        arguments = ("predict", *more, "--sample", "--num-captions", "4", "--seed", "3", "--json")
        code, out, said = run_command(*arguments, cwd=trained_project)
        assert (code, said) == (0, "")
        return [json.loads(line)["captions"] for line in out.splitlines()]

    alone, among = drawn(f"{TINY}/003.png"), drawn(f"{TINY}/001.png", f"{TINY}/003.png")
    assert alone[0] == among[1]
    assert len(alone[0]) == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--temperature", "0.5"], "--sample"),
        (["--sample", "--neighbours", "5"], "leave them out with --sample"),
        (["--csv", "-"], "--csv needs the name of a file"),
        (["--min-length", "9", "--max-length", "3"], "min_length 9 is more than max_length 3"),
        (["--model", "data"], "--runtime onnx"),
    ],
)
def test_options_that_do_not_go_together_are_refused(trained_project, options, words):
    code, out, said = predict(trained_project, f"{TINY}/000.png", *options)
    assert (code, out) == (2, "")
    assert words in said


def test_nothing_on_standard_input_is_said(trained_project):
    code, _, said = predict(trained_project, "-")
    assert code == 3
    assert "neither a picture nor the name of one" in said


def test_a_sample_shows_where_the_decoder_looked(trained_project, tmp_path):
    code, _, said = predict(trained_project, f"{TINY}/000.png", "--sample", "--attention", str(tmp_path))
    assert (code, said) == (0, "")
    assert (tmp_path / "000.png").is_file()


def test_options_of_the_search_reach_it(trained_project):
    arguments = ("predict", f"{TINY}/003.png", "--min-length", "9", "--no-repeat-ngram", "1")
    code, out, _ = run_command(*arguments, cwd=trained_project)
    words = out.split(": ", 1)[1].split()
    assert code == 0
    assert len(set(words)) == len(words) >= 9


def test_unless_told_otherwise_nothing_is_repeated_that_people_do_not_repeat(trained_project, monkeypatch):
    from pipeline import Captioner

    captioner = Captioner.load(trained_project / "models/captioner.safetensors", device="cpu")
    known = captioner.vocabulary.no_repeat_ngram
    assert known in {2, 3, 4}
    assert captioner.make_search().no_repeat_ngram == known
    assert captioner.make_search(no_repeat_ngram=0).no_repeat_ngram == 0
    picture = trained_project / f"{TINY}/003.png"
    object.__setattr__(captioner.vocabulary, "no_repeat_ngram", 1)
    words = captioner(picture, captioner.make_search(min_length=9)).split()
    assert len(set(words)) == len(words) >= 9
    seen = []
    monkeypatch.setattr(captioner, "make_search", lambda **options: seen.append(options) or captioner.search_options())
    captioner(picture)
    assert seen == [{}]  # the search of those who give none


def test_a_picture_inside_an_archive_is_answered_like_the_file(trained_project, tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.write(trained_project / TINY / "003.png", "inner/003.png")
    inside = f"{tmp_path / 'photos.zip'}::inner/003.png"
    expected = predict(trained_project, f"{TINY}/003.png")[1].split(": ")[1]
    code, out, _ = predict(trained_project, inside)
    assert (code, out) == (0, f"{inside}: {expected}")
    code, _, said = predict(trained_project, inside.replace("003", "999"))
    assert code == 3
    assert "photos.zip::inner/999.png" in said
