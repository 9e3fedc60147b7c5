"""`captioner predict`: the images that arguments name, the output, and images that cannot be used."""

import csv
import io
import json
import os
import re
import signal
import zipfile
from dataclasses import replace

import pytest
from PIL import Image
from support import run_command

from pipeline import paths
from pipeline.cli import Stopped
from pipeline.commands.image_inputs import NOT_A_LIST, read_inputs
from pipeline.file_signatures import IMAGE_START
from pipeline.inference.model_file import TrainedModel
from pipeline.text.vocabulary import Vocabulary

TINY = "data/tiny/images"
MODEL = "model: models/captioner.safetensors, trained on 12 images of tiny/captions.csv\n"
OLDER = "image,caption,score,familiarity,error\n"
ONE_ROW = OLDER + "a.png,a dog,-1.0,,\n"
NO_IMAGE = "no image found; give a file, a folder or a quoted glob pattern"
NO_FONT = (
    "note: no font with all letters of the captions was found; boxes in the attention maps stand for missing letters"
)


def predict(project, *arguments, stdin=b""):
    """The exit code, standard output, and standard error without the line that names the model."""
    code, out, message = run_command("predict", *arguments, cwd=project, stdin=stdin)
    return code, out, message.replace(MODEL, "", 1)


def read_table(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_files_patterns_and_folders_are_captioned_in_the_order_given(trained_project):
    code, out, message = predict(trained_project, f"{TINY}/003.png", f"{TINY}/00[0-2].png", "data/tiny")
    assert (code, message) == (0, "")
    names = [line.split(": ")[0].rsplit("/", 1)[1] for line in out.splitlines()]
    assert names == ["003.png", "000.png", "001.png", "002.png", *(f"{number:03d}.png" for number in range(18))]


def test_files_of_a_folder_that_are_no_images_are_counted_by_suffix(trained_project, tmp_path):
    content = (trained_project / TINY / "000.png").read_bytes()
    for name in ("a.jfif", "captions.csv", "._a.jfif", "b.CR2", "sub/c.cr2", "sub/d.mov"):
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content)
    code, out, err = predict(trained_project, str(tmp_path / "folder"))
    assert (code, len(out.splitlines())) == (0, 1)
    assert err == f"note: {tmp_path}/folder: files that are not images: 2 .cr2, 1 .mov\n"


def test_standard_input_is_an_image_or_a_list_of_paths(trained_project):
    image = (trained_project / TINY / "000.png").read_bytes()
    _, expected, _ = predict(trained_project, f"{TINY}/000.png", f"{TINY}/001.png")
    code, out, _ = predict(trained_project, "-", stdin=image)
    assert (code, out) == (0, expected.splitlines(keepends=True)[0].replace(f"{TINY}/000.png", "-"))
    code, out, _ = predict(trained_project, "-", stdin=f"\ufeff{TINY}/000.png\r\n\n{TINY}/001.png".encode())
    assert (code, out) == (0, expected)


def test_an_empty_argument_is_not_the_current_folder(trained_project):
    code, out, err = predict(trained_project, "")
    assert (code, out) == (3, "")
    assert NO_IMAGE in err


def test_an_empty_or_closed_standard_input_is_an_error(trained_project, monkeypatch):
    problem = "error: standard input: no image and no path; pipe an image or a list of paths\n"
    assert predict(trained_project, "-") == (3, "", problem)
    monkeypatch.setattr("io.TextIOWrapper", lambda *a, **k: None)  # the standard input of run_command
    assert predict(trained_project, "-") == (3, "", problem)


@pytest.mark.parametrize(
    "content",
    [
        b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
        b"<!DOCTYPE html>\n<html>\n<title>404</title>\n",
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00 and\nmore\nlines\n",
        b"photos/some-long-name.jpg".ljust(100, b"\0") + b"0000644\0\n\n\n",  # a tar file
        "photo.jpg\nother.jpg\n".encode("utf-16"),
        b"a.png\0b.png\0",  # find -print0
        bytes(200_000),
        b"\x1b[31mred\x07\n",
    ],
)
def test_bytes_that_are_neither_an_image_nor_a_list_give_one_line(trained_project, content):
    code, out, message = predict(trained_project, "-", stdin=content)
    assert (code, out, message) == (3, "", f"error: {NOT_A_LIST}\n")


def test_a_damaged_image_on_standard_input_is_named(trained_project):
    image = (trained_project / TINY / "000.png").read_bytes()
    code, out, message = predict(trained_project, "-", stdin=image[:200])
    assert (code, out) == (3, "")
    assert message.startswith("error: standard input: damaged")
    assert message.count("\n") == 1


def test_a_second_image_on_standard_input_is_not_dropped(trained_project):
    images = b"".join((trained_project / TINY / name).read_bytes() for name in ("000.png", "001.png"))
    problem = "error: standard input: holds more than one image; give one at a time\n"
    assert predict(trained_project, "-", stdin=images) == (3, "", problem)


def test_an_address_gets_the_command_that_downloads_it(trained_project):
    address = "https://example.org/a b/photo[1].jpg?width=500&x=1"
    command = f"curl -gfL -o 'photo[1].jpg' '{address.replace(' ', '%20')}'"
    hint = f"{address}: a URL, not a file; download it first: {command}"
    assert predict(trained_project, address) == (3, "", f"error: {hint}\n")
    _, _, message = predict(trained_project, "-", stdin=f"{TINY}/000.png\n{address}\n".encode())
    assert message.splitlines()[0] == f"error: {hint}"


@pytest.mark.parametrize("option", ["--beam", "--num-captions", "--max-length"])
def test_a_search_too_large_to_end_is_refused(tmp_path, option):
    code, out, message = predict(tmp_path, "photo.jpg", option, "100000")
    assert (code, out) == (2, "")
    assert f"Invalid value for '{option}'" in message


def test_a_bad_line_of_a_list_is_reported_and_the_others_are_captioned(trained_project):
    paths = f"gone.png\n{TINY}/001.png\n".encode()
    code, out, message = predict(trained_project, "--json", "-", stdin=paths)
    assert code == 3
    first, second = map(json.loads, out.splitlines())
    assert (first["captions"], first["error"]) == ([], "gone.png: cannot be read: No such file or directory")
    assert second["error"] is None
    assert second["captions"][0]["caption"]
    assert message.endswith("error: 1 of 2 images could not be captioned; the reasons are above\n")
    _, out, message = predict(trained_project, "--json", "-", stdin=paths + f"a\x01.png\n{TINY}/000.png\n".encode())
    assert [bool(json.loads(line)["captions"]) for line in out.splitlines()] == [False, True, False, True]
    assert message.endswith("error: 2 of 4 images could not be captioned; the reasons are above\n")


def test_a_table_has_a_row_per_caption_and_per_bad_image(trained_project, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    table = tmp_path / "out.csv"
    arguments = (f"{TINY}/000.png", str(tmp_path / "bad.png"), "--csv", str(table), "--num-captions", "2")
    code, out, _ = predict(trained_project, *arguments)
    assert (code, out) == (3, "")
    rows = read_table(table)
    assert [(row["image"].rsplit("/", 1)[1], bool(row["caption"]), bool(row["error"])) for row in rows] == [
        ("000.png", True, False),
        ("000.png", True, False),
        ("bad.png", False, True),
    ]
    assert float(rows[0]["score"]) >= float(rows[1]["score"])


@pytest.mark.parametrize("rows_before_the_disk_is_full", [0, 1])
def test_a_full_disk_keeps_an_older_table(trained_project, tmp_path, monkeypatch, rows_before_the_disk_is_full):
    table = tmp_path / "out.csv"
    table.write_text(OLDER)

    class FullDisk:
        def __init__(self, file, **options):
            self.rows = 0

        def writerow(self, cells):
            if self.rows > rows_before_the_disk_is_full:
                raise OSError(28, "No space left on device")
            self.rows += 1

    monkeypatch.setattr("pipeline.commands.predict.csv.writer", FullDisk)
    code, _, message = predict(trained_project, f"{TINY}/000.png", f"{TINY}/001.png", "--csv", str(table))
    assert code == 5
    assert f"{table}: cannot be written: No space left on device" in message
    assert table.read_text() == OLDER
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_an_interruption_keeps_the_rows_so_far(trained_project, tmp_path, monkeypatch):
    table = tmp_path / "out.csv"

    def interrupted(files, problems):
        yield from list(files)[:2]
        raise Stopped(signal.SIGINT)

    monkeypatch.setattr("pipeline.commands.predict.read_inputs", interrupted)
    code, _, message = predict(trained_project, TINY, "--batch-size", "1", "--csv", str(table))
    assert (code, message) == (130, "interrupted\n")
    assert [row["image"] for row in read_table(table)] == [f"{TINY}/000.png", f"{TINY}/001.png"]


def test_an_error_before_the_first_row_keeps_an_older_table(trained_project, tmp_path):
    table, model = tmp_path / "out.csv", tmp_path / "without_captions.safetensors"
    replace(TrainedModel.load(trained_project / paths.MODEL), reranker=None).save(model)
    table.write_text(ONE_ROW)
    arguments = (TINY, "--neighbors", "5", "--model", str(model), "--csv", str(table))
    code, _, message = predict(trained_project, *arguments)
    assert (code, "this model does not store its training captions" in message) == (2, True)
    assert predict(trained_project, "-", "--csv", str(table))[0] == 3  # an empty standard input
    assert table.read_text() == ONE_ROW
    assert set(tmp_path.iterdir()) == {table, model}


def test_arguments_that_name_no_image_leave_an_older_table(tmp_path):
    table = tmp_path / "out.csv"
    assert predict(tmp_path, "smal", "--csv", "out.csv")[0] == 3
    assert [row["image"] for row in read_table(table)] == ["smal"]
    table.write_text(ONE_ROW)
    code, out, message = predict(tmp_path, "smal", "--csv", "out.csv")
    assert (code, out) == (3, "")
    note = "note: out.csv is unchanged: no argument names an image\n"
    assert message == f"{note}error: smal: {NO_IMAGE}\n"
    assert table.read_text() == ONE_ROW


def test_a_table_keeps_its_symbolic_link_and_its_mode(trained_project, tmp_path):
    (tmp_path / "tables").mkdir()
    table, link = tmp_path / "tables" / "own.csv", tmp_path / "out.csv"
    link.symlink_to(table)
    assert predict(trained_project, f"{TINY}/000.png", "--csv", str(link))[0] == 0
    assert (link.readlink(), len(read_table(table))) == (table, 1)
    table.chmod(0o600)
    assert predict(trained_project, f"{TINY}/00[0-2].png", "--csv", str(link))[0] == 0
    assert (table.stat().st_mode & 0o777, len(read_table(table))) == (0o600, 3)


def test_arguments_that_name_no_image_are_reported_and_the_others_captioned(trained_project, tmp_path):
    (tmp_path / "empty").mkdir()
    nowhere = ["gone.png", f"{tmp_path}/empty", "gone/*.png"]
    _, alone, _ = predict(trained_project, f"{TINY}/001.png")
    code, out, message = predict(trained_project, nowhere[0], f"{TINY}/001.png", *nowhere[1:])
    assert (code, out) == (3, alone)
    assert message.splitlines() == [
        *(f"error: {name}: {NO_IMAGE}" for name in nowhere),
        "error: 3 of 4 images could not be captioned; the reasons are above",
    ]
    arguments = (nowhere[0], f"{TINY}/001.png", "--json", "--csv", str(tmp_path / "out.csv"))
    code, out, _ = predict(trained_project, *arguments, "--attention", str(tmp_path / "maps"))
    bad, good = map(json.loads, out.splitlines())
    assert code == 3
    assert bad == {"image": "gone.png", "captions": [], "familiarity": None, "error": f"gone.png: {NO_IMAGE}"}
    assert (good["error"], good["attention"]) == (None, str(tmp_path / "maps/001.attention.png"))
    rows = read_table(tmp_path / "out.csv")
    assert [(row["image"], row["caption"], row["error"]) for row in rows] == [
        ("gone.png", "", bad["error"]),
        (f"{TINY}/001.png", good["captions"][0]["caption"], ""),
    ]


def test_a_single_bad_image_is_a_single_error(trained_project, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    code, out, message = predict(trained_project, str(tmp_path / "bad.png"))
    assert (code, out, message) == (3, "", f"error: {tmp_path}/bad.png: the file is empty\n")
    assert predict(trained_project, "gone.png") == (3, "", f"error: gone.png: {NO_IMAGE}\n")


def test_attention_writes_an_image_per_image_and_distinguishes_equal_names(trained_project, tmp_path):
    (tmp_path / "000.png").write_bytes((trained_project / TINY / "001.png").read_bytes())
    arguments = (f"{TINY}/000.png", str(tmp_path / "000.png"), "--attention", str(tmp_path / "maps"))
    code, _, message = predict(trained_project, *arguments)
    assert code == 0
    names = ["000-2.attention.png", "000.attention.png"]
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == names
    for path in (tmp_path / "maps").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
    assert f"note: the attention map of {tmp_path}/000.png is {tmp_path}/maps/000-2.attention.png" in message


def test_attention_maps_in_a_folder_of_images_are_not_captioned(trained_project, tmp_path):
    (tmp_path / "photo.png").write_bytes((trained_project / TINY / "001.png").read_bytes())
    arguments = (str(tmp_path), "--attention", str(tmp_path))
    code, first, message = predict(trained_project, *arguments)
    assert (code, "attention maps" in message) == (0, False)
    code, again, message = predict(trained_project, *arguments)
    assert (code, again) == (0, first)
    assert f"note: {tmp_path}: attention maps that are not captioned: 1" in message


def test_an_attention_map_beside_its_image_leaves_the_image_alone(trained_project, tmp_path):
    image, drawn = tmp_path / "photo.png", tmp_path / "photo.attention.png"
    image.write_bytes((trained_project / TINY / "000.png").read_bytes())
    drawn.write_bytes(b"old")
    before = image.read_bytes()
    assert predict(trained_project, str(image), "--attention", str(tmp_path))[::2] == (0, "")
    assert drawn.read_bytes().startswith(b"\x89PNG")
    assert image.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_replaced(trained_project, tmp_path):
    pipe = tmp_path / "table.csv"
    os.mkfifo(pipe)
    image = str(trained_project / TINY / "000.png")
    code, out, message = predict(tmp_path, image, "--csv", "table.csv", "--model", "gone")
    assert (code, out) == (2, "")
    assert "table.csv: a pipe, a socket or a device" in message
    assert pipe.is_fifo()


def test_a_long_name_of_an_attention_map_is_cut(trained_project, tmp_path):
    letter = "\u56fe"  # of three bytes
    long = tmp_path / (80 * letter + ".png")
    long.write_bytes((trained_project / TINY / "001.png").read_bytes())
    code, _, message = predict(trained_project, str(long), "--attention", str(tmp_path / "maps"))
    assert (code, [path.name for path in (tmp_path / "maps").iterdir()]) == (0, [66 * letter + ".attention.png"])
    assert "its own name is taken or too long" in message


def test_file_names_that_are_not_utf_8_remain_different(trained_project, tmp_path):
    for name in (b"caf\xe8.png", b"caf\xe9.png"):
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
            file.write((trained_project / TINY / "000.png").read_bytes())
    names = [f"{tmp_path}/caf\\udce8.png", f"{tmp_path}/caf\\udce9.png"]
    code, out, _ = predict(trained_project, "--json", str(tmp_path))
    assert (code, [json.loads(line)["image"] for line in out.splitlines()]) == (0, names)
    predict(trained_project, "--csv", str(tmp_path / "out.csv"), str(tmp_path))
    assert [row["image"] for row in read_table(tmp_path / "out.csv")] == names
    _, out, _ = predict(trained_project, str(tmp_path))
    assert [line.split(": ")[0] for line in out.splitlines()] == names


def test_an_empty_caption_is_a_warning(trained_project, monkeypatch):
    monkeypatch.setattr(Vocabulary, "decode", lambda self, tokens: "")
    code, out, message = predict(trained_project, f"{TINY}/000.png")
    assert (code, out) == (0, f"{TINY}/000.png: \n")
    assert message == f"warning: {TINY}/000.png: the caption is empty\n"


def test_options_of_the_search(trained_project):
    _, out, _ = predict(trained_project, f"{TINY}/000.png", "--beam", "5", "--max-length", "2")
    assert len(out.split(": ")[1].split()) <= 2
    _, out, _ = predict(trained_project, "data/tiny", "--num-captions", "10", "--no-repeat-ngram", "1", "--json")
    captions = [caption["caption"].split() for line in out.splitlines() for caption in json.loads(line)["captions"]]
    assert len(captions) > 100
    assert all(len(set(tokens)) == len(tokens) for tokens in captions)


class Typed(io.BytesIO):
    """Standard input that gives one line per read, as a terminal does, and counts the reads."""

    reads = 0

    def readinto(self, buffer):
        self.reads += 1
        line = self.readline(len(buffer))
        buffer[: len(line)] = line
        return len(line)


@pytest.fixture
def typed(monkeypatch):
    def typed(content):
        raw = Typed(content)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(raw)))
        return raw

    return typed


def test_a_list_is_read_line_by_line(typed):
    stdin, inputs = typed(b"a.png\nb.png\nc.png\n"), read_inputs(["-"], {})
    assert (next(inputs), stdin.reads) == ("a.png", 1)
    assert list(inputs) == ["b.png", "c.png"]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_an_image_of_each_format_is_distinguished_from_a_list(typed, kind):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 200, 13)).save(buffer, kind)
    typed(buffer.getvalue())
    assert list(read_inputs(["-"], {})) == [("-", buffer.getvalue())]
    assert not IMAGE_START.match(b"BMW/front.jpg\nRI")


def test_an_image_whose_first_bytes_come_alone_is_an_image(typed, monkeypatch):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 200, 13)).save(buffer, "JPEG")
    stdin = typed(buffer.getvalue())
    monkeypatch.setattr(stdin, "readline", lambda size: stdin.read(2), raising=False)
    assert list(read_inputs(["-"], {})) == [("-", buffer.getvalue())]


def test_a_webp_whose_size_holds_the_end_of_a_line_is_an_image(typed):
    content = b"RIFF\n\n\0\0WEBPVP8 " + bytes(20)
    typed(content)  # gives "RIFF\n" first
    assert list(read_inputs(["-"], {})) == [("-", content)]


def test_an_archive_gets_advice(trained_project, tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.write(trained_project / TINY / "000.png", "000.png")
    code, out, message = predict(trained_project, str(tmp_path / "photos.zip"))
    assert (code, out) == (3, "")
    assert "photos.zip: an archive; unpack it and give the folder, or give an image in it as " in message


def test_samples_depend_on_the_seed_and_not_on_the_other_images(trained_project):
    def sampled(*images, seed="3"):
        arguments = (*images, "--sample", "--num-captions", "4", "--seed", seed, "--temperature", "5", "--json")
        code, out, message = predict(trained_project, *arguments)
        assert (code, message) == (0, "")
        return [json.loads(line)["captions"] for line in out.splitlines()]

    alone, among = sampled(f"{TINY}/003.png"), sampled(f"{TINY}/001.png", f"{TINY}/003.png")
    assert alone[0] == among[1]
    assert len(alone[0]) == 4
    assert sampled(f"{TINY}/003.png", seed="4") != alone


def test_letters_that_no_font_has_are_noted_once(trained_project, tmp_path, monkeypatch):
    arguments = (f"{TINY}/000.png", f"{TINY}/001.png", "--attention", str(tmp_path))
    assert predict(trained_project, *arguments)[::2] == (0, "")
    monkeypatch.setattr("pipeline.inference.attention_overlay._FONTS", ("",))
    monkeypatch.setattr(Vocabulary, "decode", lambda self, tokens: "\u043a\u043e\u0442")
    code, _, message = predict(trained_project, *arguments)
    assert (code, message.splitlines()) == (0, [NO_FONT])


def test_a_sample_has_an_attention_map(trained_project, tmp_path):
    code, _, message = predict(trained_project, f"{TINY}/000.png", "--sample", "--attention", str(tmp_path))
    assert (code, message) == (0, "")
    assert (tmp_path / "000.attention.png").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--temperature", "0.5"], "need --sample"),
        (["--sample", "--neighbors", "5"], "leave them out with --sample"),
        (["--sample", "--no-repeat-ngram", "2"], "leave them out with --sample"),
        (["--length-penalty", "inf"], "length_penalty: must be a finite number"),
        (["--csv", "-"], "--csv -: not a file name"),
        (["--model", "data"], "data: a folder; name a model file"),
        (["--features", "x.h5", "--attention", "maps"], "--features: not with --runtime onnx, --attention or -"),
        (["--attention", "params.yaml"], "--attention params.yaml: a file; name a folder"),
        (["--runtime", "onnx", "--device", "cuda"], "--device cuda: the onnx runtime computes on the CPU"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(trained_project, options, words):
    code, out, message = predict(trained_project, f"{TINY}/000.png", *options)
    assert (code, out) == (2, "")
    assert words in message


@pytest.mark.parametrize(
    ("options", "limit"),
    [(["--batch-size", "99999999999999999999"], "10000"), (["--sample", "--temperature", "1e39"], "100")],
)
def test_a_value_beyond_its_limit_is_refused_with_the_limit(trained_project, options, limit):
    code, out, message = predict(trained_project, f"{TINY}/000.png", *options)
    assert (code, out) == (2, "")
    assert re.search(rf"'{options[-2]}': .*\b{limit}\b", message)


def test_an_image_in_an_archive_is_captioned_like_the_file(trained_project, tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.write(trained_project / TINY / "003.png", "inner/003.png")
    member = f"{tmp_path / 'photos.zip'}::inner/003.png"
    expected = predict(trained_project, f"{TINY}/003.png")[1].split(": ")[1]
    assert predict(trained_project, member)[:2] == (0, f"{member}: {expected}")
    code, _, message = predict(trained_project, member.replace("003", "999"))
    assert code == 3
    assert "photos.zip::inner/999.png" in message


@pytest.mark.parametrize("arguments", [("b.jpg", "--csv", "a.jpg"), ("a.jpg", "--model", "m.st", "--csv", "m.st")])
def test_a_file_that_is_no_table_of_captions_is_not_replaced(tmp_path, arguments):
    for name in ("a.jpg", "b.jpg", "m.st"):
        (tmp_path / name).write_bytes(b"\xff\xd8\xff other content")
    code, out, message = predict(tmp_path, *arguments)
    assert (code, out) == (2, "")
    assert message.startswith(f"error: --csv {arguments[-1]}: exists and is not a table of this command")
    assert (tmp_path / arguments[-1]).read_bytes() == b"\xff\xd8\xff other content"


def test_a_table_of_captions_is_replaced_unless_it_is_an_input(trained_project, tmp_path):
    table = tmp_path / "out.csv"
    table.write_text(OLDER)
    code, _, message = predict(trained_project, str(table), "--csv", str(table))
    assert code == 2
    assert f"--csv {table}: is also an input" in message
    assert table.read_text() == OLDER
    table.write_bytes(b"\xef\xbb\xbf" + OLDER.encode().replace(b"\n", b"\r\n"))  # saved by a spreadsheet
    assert predict(trained_project, f"{TINY}/000.png", "--csv", str(table))[0] == 0
    assert len(read_table(table)) == 1
