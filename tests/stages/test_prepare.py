"""prepare: from a dataset to two tables, with nothing lost, nothing leaking and nothing read twice."""

import csv
import os
import shutil
import zipfile
from pathlib import Path

import pytest
from conftest import small_params

from pipeline.errors import DataError
from pipeline.stages.prepare import prepare

SPLITS = ("train",) * 6 + ("val",) * 2 + ("test",) * 2


@pytest.fixture
def dataset(tmp_path):
    """Ten pictures a.jpg ... j.jpg of distinct bytes with a caption each, six of them to train on."""
    (tmp_path / "images").mkdir()
    rows = []
    for number, (letter, split) in enumerate(zip("abcdefghij", SPLITS, strict=True)):
        write(tmp_path / f"images/{letter}.jpg", f"picture {letter}".encode())
        rows.append((f"{letter}.jpg", f"caption number {number}", split))
    save(tmp_path, rows)
    return tmp_path


def write(path, content, seconds_ago=100):
    path.write_bytes(content)
    past = path.stat().st_mtime - seconds_ago
    os.utime(path, (past, past))


def save(folder, rows):
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "caption", "split"), *rows])


def rows_of(folder):
    with (folder / "captions.csv").open(newline="", encoding="utf-8") as file:
        return [tuple(row) for row in csv.reader(file)][1:]


def run(folder, **data):
    data = {"format": "table", "captions": str(folder / "captions.csv"), "images": str(folder / "images")} | data
    memory = data.pop("memory", folder / "store/pictures.csv")
    out = folder / "out"
    found = prepare(
        small_params(data=data).data,
        seed=1,
        captions_out=out / "captions.csv",
        images_out=out / "images.csv",
        skipped_out=out / "skipped.csv",
        memory=memory,
    )
    return found, {path.stem: table(path) for path in out.iterdir()}


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_rows_and_pictures_come_out_in_the_order_of_names(dataset):
    save(dataset, rows_of(dataset)[::-1])
    found, out = run(dataset)
    assert found.pictures == {"train": 6, "val": 2, "test": 2}
    assert [row["image"] for row in out["images"]] == [f"{letter}.jpg" for letter in "abcdefghij"]
    assert [row["caption"] for row in out["captions"]] == [f"caption number {number}" for number in range(10)]
    assert Path(out["images"][0]["path"]).read_bytes() == b"picture a"


def test_a_picture_without_captions_is_counted_and_a_caption_without_picture_reported(dataset):
    (dataset / "images/extra.jpg").write_bytes(b"extra")
    save(dataset, [*rows_of(dataset), ("gone.jpg", "a dog", "train"), ("gone.jpg", "a cat", "train")])
    found, out = run(dataset, max_skipped=0.2)
    assert (found.without_captions, found.captions) == (1, 10)
    assert [(row["line"], row["image"], row["reason"]) for row in out["skipped"]] == [
        ("12", "gone.jpg", "no such picture")
    ]


def test_names_that_differ_in_case_are_one_picture(dataset):
    save(dataset, [*rows_of(dataset), ("A.JPG", "said in capitals", "train")])
    found, out = run(dataset)
    assert sum(found.pictures.values()) == 10
    assert [row["caption"] for row in out["captions"] if row["caption"].startswith("said")] == ["said in capitals"]
    assert len({row["image"] for row in out["captions"]}) == 10


def test_a_folder_where_a_picture_should_be_is_reported(dataset):
    (dataset / "images/k.jpg").mkdir()
    save(dataset, [*rows_of(dataset), ("k.jpg", "a dog", "train")])
    found, _ = run(dataset, max_skipped=0.2)
    assert [(one.image, one.reason) for one in found.skipped] == [("k.jpg", "not a file")]


def test_links_out_of_the_folder_are_reported_unread(dataset):
    (dataset / "secret").write_bytes(b"secret")
    (dataset / "images/k.jpg").symlink_to(dataset / "secret")
    save(dataset, [*rows_of(dataset), ("k.jpg", "a dog", "train")])
    found, _ = run(dataset, max_skipped=0.2)
    assert [one.reason for one in found.skipped] == ["the picture's path leaves the image folder"]


def test_too_many_bad_rows_stop_the_run(dataset):
    save(dataset, [*rows_of(dataset), ("a.jpg", "", "train")])
    with pytest.raises(DataError, match=r"1 of 11 caption rows are unusable, more than params.data.max_skipped = 0.05"):
        run(dataset)


def test_a_dataset_without_splits_gets_them(dataset):
    save(dataset, [(image, caption, "train") for image, caption, _ in rows_of(dataset)])
    for number in range(200):
        (dataset / f"images/{number}.jpg").write_bytes(b"picture %d" % number)
    save(dataset, [(f"{number}.jpg", f"number {number}", "") for number in range(200)])
    found, _ = run(dataset)
    assert all(found.pictures[split] > 5 for split in ("val", "test"))
    assert found.notes == ("the dataset has no splits: 80/10/10 drawn from the seed",)


# the leak guard


def test_the_same_picture_in_two_splits_is_refused_also_when_renamed(dataset):
    shutil.copy(dataset / "images/a.jpg", dataset / "images/i.jpg")
    shutil.copy(dataset / "images/g.jpg", dataset / "images/j.jpg")
    with pytest.raises(DataError) as error:
        run(dataset)
    assert str(error.value).splitlines() == [
        "2 pairs of pictures are the same picture in two splits:",
        "  a.jpg (train) and i.jpg (test)",
        "  g.jpg (val) and j.jpg (test)",
        "keep one of each pair, or put both into one split",
    ]
    assert not (dataset / "out").exists()


def test_of_many_leaks_ten_are_shown_and_all_are_counted(dataset):
    rows = rows_of(dataset)
    for number in range(13):
        for side, split in (("x", "train"), ("y", "test")):
            (dataset / f"images/{side}{number:02d}.jpg").write_bytes(b"same %d" % number)
            rows.append((f"{side}{number:02d}.jpg", f"caption {side} {number}", split))
    save(dataset, rows)
    with pytest.raises(DataError) as error:
        run(dataset)
    lines = str(error.value).splitlines()
    assert lines[0].startswith("13 pairs")
    assert lines[10:12] == ["  x09.jpg (train) and y09.jpg (test)", "  and 3 more"]


def test_copies_within_a_split_are_counted_and_kept(dataset):
    shutil.copy(dataset / "images/a.jpg", dataset / "images/b.jpg")
    found, _ = run(dataset)
    assert (found.copies, sum(found.pictures.values())) == (1, 10)


def test_captions_that_the_train_split_has_word_for_word_are_counted(dataset):
    rows = rows_of(dataset)
    known = [
        ("g.jpg", "caption  number 0", "val"),
        ("j.jpg", "caption number 1", "test"),
        ("j.jpg", "caption number 2", "test"),
    ]
    save(dataset, [*rows, *known])
    found, _ = run(dataset)
    assert found.known_captions == {"val": 1, "test": 2}


# what is remembered


def test_a_second_run_reads_no_picture(dataset):
    first, out = run(dataset)
    assert first.hashed == 10
    path = dataset / "images/a.jpg"
    state = path.stat()
    with path.open("r+b") as file:
        file.write(b"PICTURE")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    second, again = run(dataset)
    assert (second.hashed, again) == (0, out)


def test_a_picture_that_changed_is_hashed_again(dataset):
    _, out = run(dataset)
    write(dataset / "images/a.jpg", b"another a", seconds_ago=50)
    found, again = run(dataset)
    assert found.hashed == 1
    assert again["images"][0]["sha256"] != out["images"][0]["sha256"]
    assert again["images"][1:] == out["images"][1:]


def test_a_picture_of_this_very_moment_is_not_remembered(dataset):
    (dataset / "images/a.jpg").write_bytes(b"just now")
    assert run(dataset)[0].hashed == 10
    assert run(dataset)[0].hashed == 1


@pytest.mark.parametrize(
    "damage", [None, b"", b"\xff\xfe rubbish", b"sha256,size,mtime_ns,inode,path\na,b,c\n", "folder"]
)
def test_without_its_memory_prepare_gives_the_same_bytes(dataset, damage):
    run(dataset)
    first = {path.name: path.read_bytes() for path in (dataset / "out").iterdir()}
    memory = dataset / "store/pictures.csv"
    memory.unlink()
    if damage == "folder":
        memory.mkdir()
    elif damage is not None:
        memory.write_bytes(damage)
    assert run(dataset)[0].hashed == 10
    assert {path.name: path.read_bytes() for path in (dataset / "out").iterdir()} == first


def test_what_was_hashed_is_remembered_when_the_run_is_interrupted(dataset):
    class Interrupted(BaseException):
        pass

    def stop_at_four(done, total, note=""):
        if "hashed" in note and done == 4:
            raise Interrupted

    params = small_params(data={"captions": str(dataset / "captions.csv"), "images": str(dataset / "images")}).data
    outs = {name: dataset / "out" / name for name in ("captions_out", "images_out", "skipped_out")}
    with pytest.raises(Interrupted):
        prepare(params, seed=1, **outs, memory=dataset / "store/pictures.csv", progress=stop_at_four)
    assert run(dataset)[0].hashed == 6


def test_pictures_in_an_archive_give_the_same_tables_but_for_their_path(dataset):
    _, loose = run(dataset)
    archive = dataset / "images.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for path in sorted((dataset / "images").iterdir()):
            out.write(path, f"images/{path.name}")
    write(archive, archive.read_bytes())
    shutil.rmtree(dataset / "images")
    found, packed = run(dataset, images=str(archive))
    assert found.hashed == 10
    assert packed["captions"] == loose["captions"]
    assert packed["images"][0]["path"] == f"{archive.as_posix()}::images/a.jpg"
    assert [row | {"path": ""} for row in packed["images"]] == [row | {"path": ""} for row in loose["images"]]
    assert run(dataset, images=str(archive))[0].hashed == 0


def test_a_script_without_spaces_is_noticed(dataset):
    save(
        dataset, [(image, "\u4e00\u53ea\u72d7\u5728\u8dd1 A" + image[0], split) for image, _, split in rows_of(dataset)]
    )
    assert run(dataset)[0].share_without_spaces == 1.0


def test_auto_says_what_it_saw(dataset):
    found, _ = run(dataset, format="auto", captions=str(dataset))
    assert (found.format, found.saw) == ("table", "captions.csv, a table")


def test_auto_knows_the_columns_and_the_encoding_that_params_name(dataset):
    text = (dataset / "captions.csv").read_text().replace("image,caption", "photo,\u00fcberschrift")
    (dataset / "labels.csv").write_bytes(text.encode("cp1252"))
    (dataset / "captions.csv").unlink()
    data = {"format": "auto", "captions": str(dataset / "labels.csv")}
    with pytest.raises(DataError, match=r"name the columns with params.data.image_column and caption_column"):
        run(dataset, **data)
    columns = {"encoding": "cp1252", "image_column": "photo", "caption_column": "\u00fcberschrift"}
    found, out = run(dataset, **data, **columns)
    assert (found.saw, len(out["captions"])) == ("labels.csv, a table", 10)


def test_a_picture_in_the_tables_of_two_splits_is_refused(dataset):
    rows = rows_of(dataset)
    for split in ("train", "val"):
        own = [f"{image},{caption}" for image, caption, its_split in rows if its_split in {split, "test"}]
        (dataset / f"{split}.csv").write_text("\n".join(["image,caption", *own]))
    with pytest.raises(DataError, match=r"val.csv, line 4: i.jpg is in val and also in train"):
        run(dataset, captions=str(dataset))
