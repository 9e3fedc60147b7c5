"""Stage `prepare`: complete tables, no image in two splits, no image read twice."""

import csv
import io
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from support import small_params

from pipeline.errors import DataError
from pipeline.progress import no_progress
from pipeline.stages.prepare import PrepareFiles, prepare

SPLITS = ("train",) * 6 + ("val",) * 2 + ("test",) * 2


@pytest.fixture
def dataset(tmp_path):
    """Ten distinct images a.jpg to j.jpg with one caption each, six of them in the train split."""
    (tmp_path / "images").mkdir()
    rows = []
    for number, (letter, split) in enumerate(zip("abcdefghij", SPLITS, strict=True)):
        write(tmp_path / f"images/{letter}.jpg", image(number))
        rows.append((f"{letter}.jpg", f"caption number {number}", split))
    save(tmp_path, rows)
    return tmp_path


def write(path, content, seconds_ago=100):
    path.write_bytes(content)
    past = path.stat().st_mtime - seconds_ago
    os.utime(path, (past, past))


def image(number):
    file = io.BytesIO()
    Image.new("RGB", (1, 1), (number, 0, 0)).save(file, "PNG")
    return file.getvalue()


def save(folder, rows):
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "caption", "split"), *rows])


def rows_of(folder):
    with (folder / "captions.csv").open(newline="", encoding="utf-8") as file:
        return [tuple(row) for row in csv.reader(file)][1:]


def run(folder, progress=no_progress, **data):
    """The report of the stage and its tables."""
    data = {"format": "table", "captions": str(folder / "captions.csv"), "images": str(folder / "images")} | data
    out = folder / "out"
    files = PrepareFiles(out / "captions.csv", out / "images.csv", out / "skipped.csv", folder / "store/hashes.json")
    report = prepare(files, small_params(data=data).model_copy(update={"seed": 1}), progress=progress)
    return report, {path.stem: table(path) for path in out.iterdir()}


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_tables_are_in_the_order_of_names(dataset):
    save(dataset, rows_of(dataset)[::-1])
    found, out = run(dataset)
    assert found.images == {"train": 6, "val": 2, "test": 2}
    assert [row["image"] for row in out["images"]] == [f"{letter}.jpg" for letter in "abcdefghij"]
    assert [row["caption"] for row in out["captions"]] == [f"caption number {number}" for number in range(10)]
    assert Path(out["images"][0]["path"]).read_bytes() == image(0)


def test_images_without_captions_are_counted_and_captions_without_an_image_skipped(dataset):
    (dataset / "images/extra.jpg").write_bytes(b"extra")
    save(dataset, [*rows_of(dataset), ("gone.jpg", "a dog", "train"), ("gone.jpg", "a cat", "train")])
    found, out = run(dataset, max_skipped=0.2)
    assert (found.captions, found.notes) == (10, (f"{dataset}/images: 1 image without a caption is not used",))
    assert [(row["line"], row["image"], row["reason"]) for row in out["skipped"]] == [
        ("12", "gone.jpg", "the image does not exist")
    ]


def test_names_that_differ_in_case_are_one_image(dataset):
    save(dataset, [*rows_of(dataset), ("A.JPG", "name in capitals", "train")])
    found, out = run(dataset)
    assert sum(found.images.values()) == 10
    assert [row["caption"] for row in out["captions"] if row["caption"].startswith("name")] == ["name in capitals"]
    assert len({row["image"] for row in out["captions"]}) == 10


def test_a_folder_with_the_name_of_an_image_is_skipped(dataset):
    (dataset / "images/k.jpg").mkdir()
    save(dataset, [*rows_of(dataset), ("k.jpg", "a dog", "train")])
    found, _ = run(dataset, max_skipped=0.2)
    assert [(one.image, one.reason) for one in found.skipped] == [("k.jpg", "not a file")]


def test_links_to_elsewhere_are_images_and_names_that_climb_out_are_not(dataset):
    (dataset / "elsewhere.jpg").write_bytes(b"elsewhere")
    (dataset / "images/k.jpg").symlink_to(dataset / "elsewhere.jpg")
    (dataset / "images/l.jpg").symlink_to(dataset / "gone.jpg")
    rows = [(name, "a dog", "train") for name in ("k.jpg", "l.jpg", "../elsewhere.jpg")]
    save(dataset, [*rows_of(dataset), *rows])
    found, out = run(dataset, max_skipped=0.2)
    assert out["images"][-1]["image"] == "k.jpg"
    assert [(one.image, one.reason) for one in found.skipped] == [
        ("../elsewhere.jpg", "the image path leads outside the image folder"),
        ("l.jpg", "a broken symbolic link"),
    ]


def test_a_linked_folder_is_read_and_noted_because_dvc_does_not_follow_it(dataset):
    (dataset / "images").rename(dataset / "photos")
    (dataset / "images").mkdir()
    (dataset / "images/more").symlink_to(dataset / "photos")
    save(dataset, [(f"more/{image}", caption, split) for image, caption, split in rows_of(dataset)])
    report, out = run(dataset)
    assert len(out["images"]) == 10
    assert [note.partition(":")[0] for note in report.notes] == [f"{dataset}/images/more"]


def test_names_that_are_numbers_mean_numbered_images_and_are_noted(dataset):
    (dataset / "images/a.jpg").rename(dataset / "images/IMG_0007.jpg")
    save(dataset, [("7", "caption number 0", "train"), *rows_of(dataset)[1:]])
    report, out = run(dataset)
    assert out["images"][0]["path"].endswith("IMG_0007.jpg")
    assert report.notes == ("1 image name matched by number, e.g. 7 to IMG_0007.jpg",)
    with zipfile.ZipFile(dataset / "images/0.zip", "w") as archive:
        archive.writestr("7.jpg", "image 7")
    report, out = run(dataset)
    assert out["images"][0]["path"].endswith("0.zip::7.jpg")
    assert report.notes == (f"{dataset}/images: 1 image without a caption is not used",)


def test_an_image_whose_path_is_not_utf8_is_skipped(dataset):
    folder = os.fsencode(dataset / "images") + b"/gr\xfcn"
    os.mkdir(folder)
    with open(folder + b"/IMG_0007.jpg", "wb") as file:
        file.write(b"image 7")
    save(dataset, [("7", "a dog", "train"), *rows_of(dataset)])
    report, out = run(dataset, max_skipped=0.2)
    assert len(out["images"]) == 10
    ((image, reason),) = [(one.image, one.reason) for one in report.skipped]
    assert image == "7"
    assert reason.startswith("its path ")
    assert reason.endswith("gr\\udcfcn/IMG_0007.jpg' is not UTF-8; rename the file or folder")


def test_too_many_unusable_captions_stop_the_run(dataset):
    save(dataset, [*rows_of(dataset), ("a.jpg", "", "train")])
    with pytest.raises(DataError, match=r"1 of 11 captions are unusable, more than params.data.max_skipped = 0.05"):
        run(dataset)


def test_the_list_of_all_unusable_captions_is_written_before_the_run_stops(dataset):
    save(dataset, [*rows_of(dataset), *[("", f"caption {number}", "train") for number in range(9)]])
    with pytest.raises(DataError, match=r"line 12: \(no name\): (?s:.*)and 4 more, see .*skipped.csv\ncorrect them"):
        run(dataset)
    assert len((dataset / "out/skipped.csv").read_text().splitlines()) == 10


def test_splits_are_drawn_for_a_dataset_without(dataset):
    save(dataset, [(image, caption, "train") for image, caption, _ in rows_of(dataset)])
    for number in range(200):
        (dataset / f"images/{number}.jpg").write_bytes(b"image %d" % number)
    save(dataset, [(f"{number}.jpg", f"number {number}", "") for number in range(200)])
    found, _ = run(dataset)
    assert all(found.images[split] > 5 for split in ("val", "test"))
    assert found.notes[0] == "the dataset has no splits: 80/10/10 drawn from the seed"


# Images in two splits


def test_identical_images_in_two_splits_are_refused(dataset):
    shutil.copy(dataset / "images/a.jpg", dataset / "images/i.jpg")
    shutil.copy(dataset / "images/g.jpg", dataset / "images/j.jpg")
    with pytest.raises(DataError) as error:
        run(dataset)
    assert str(error.value).splitlines() == [
        "2 pairs of images are identical and in two splits:",
        "  a.jpg (train) and i.jpg (test)",
        "  g.jpg (val) and j.jpg (test)",
        "keep one image of each pair, assign both to one split, or set params.data.leaks to drop",
    ]
    assert not (dataset / "out").exists()


def test_identical_files_that_are_no_images_are_skipped(dataset):
    for name in "aij":
        write(dataset / f"images/{name}.jpg", b"<html>not found</html>")
    report, out = run(dataset, max_skipped=0.5)
    assert sum(report.images.values()) == 7
    assert [(row["image"], "web page" in row["reason"]) for row in out["skipped"]] == [
        (f"{name}.jpg", True) for name in "aij"
    ]


@pytest.mark.parametrize("test", ["test", "train/test"])
def test_names_that_are_other_images_in_the_folder_of_each_split_are_refused(dataset, test):
    for folder in ("train", test):
        (dataset / folder).mkdir()
        write(dataset / folder / "a.jpg", folder.encode())
    save(dataset, [*rows_of(dataset), ("a.jpg", "another caption", "test")])
    for leaks in ("refuse", "drop"):
        with pytest.raises(
            DataError, match=rf"a.jpg is in test and also in train, and .*/{test}/a.jpg and .*/train/a.jpg"
        ):
            run(dataset, leaks=leaks)


def test_dropping_leaks_keeps_the_copies_in_test_then_val_and_lists_the_others(dataset):
    shutil.copy(dataset / "images/a.jpg", dataset / "images/i.jpg")
    shutil.copy(dataset / "images/g.jpg", dataset / "images/j.jpg")
    save(dataset, [*rows_of(dataset), ("h.jpg", "also in train", "train")])
    with pytest.raises(DataError, match=r"h.jpg is in train and also in val; .* or set params.data.leaks to drop"):
        run(dataset)
    report, out = run(dataset, leaks="drop", max_skipped=0.0)
    assert report.images == {"train": 5, "val": 1, "test": 2}
    note = "3 images are left out of a split, because another split has the same image; "
    assert report.notes == (f"{note}{dataset}/out/skipped.csv",)
    assert [(one["image"], one["reason"].partition(" (")[0]) for one in out["skipped"]] == [
        ("a.jpg", "the same image is in test, so that it is left out of train"),
        ("g.jpg", "the same image is in test, so that it is left out of val"),
        ("h.jpg", "the same image is in val, so that it is left out of train"),
    ]
    assert not {"a.jpg", "g.jpg"} & {row["image"] for name in ("images", "captions") for row in out[name]}
    assert "also in train" not in {row["caption"] for row in out["captions"]}


def test_ten_of_many_identical_pairs_are_listed(dataset):
    rows = rows_of(dataset)
    for number in range(13):
        for side, split in (("x", "train"), ("y", "test")):
            (dataset / f"images/{side}{number:02d}.jpg").write_bytes(image(100 + number))
            rows.append((f"{side}{number:02d}.jpg", f"caption {side} {number}", split))
    save(dataset, rows)
    with pytest.raises(DataError) as error:
        run(dataset)
    lines = str(error.value).splitlines()
    assert lines[0].startswith("13 pairs")
    assert lines[10:12] == ["  x09.jpg (train) and y09.jpg (test)", "  and 3 more"]


def test_duplicates_within_a_split_are_counted_and_kept(dataset):
    shutil.copy(dataset / "images/a.jpg", dataset / "images/b.jpg")
    found, _ = run(dataset)
    assert sum(found.images.values()) == 10
    assert found.notes == ("1 duplicate of another image in the same split",)


def test_captions_that_are_also_training_captions_are_counted(dataset):
    rows = rows_of(dataset)
    known = [
        ("g.jpg", "caption  number 0", "val"),
        ("j.jpg", "caption number 1", "test"),
        ("j.jpg", "caption number 2", "test"),
    ]
    save(dataset, [*rows, *known])
    found, _ = run(dataset)
    assert found.notes == ("captions that are also, word for word, in the train split: 1 val, 2 test",)


# The hash cache


def test_a_changed_image_is_hashed_again(dataset):
    _, out = run(dataset)
    write(dataset / "images/a.jpg", b"another a", seconds_ago=50)
    found, again = run(dataset)
    assert found.hashed == 1
    assert again["images"][0]["sha256"] != out["images"][0]["sha256"]
    assert again["images"][1:] == out["images"][1:]


def test_an_image_modified_just_now_is_not_cached(dataset):
    write(dataset / "images/a.jpg", b"just now", seconds_ago=-60)  # still now when the stage gets to it
    assert run(dataset)[0].hashed == 10
    assert run(dataset)[0].hashed == 1


def test_hashes_are_kept_when_the_run_is_interrupted(dataset):
    class Interrupted(BaseException):
        pass

    def stop_at_four(done, total, note=""):
        if "hashed" in note and done == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        run(dataset, progress=stop_at_four)
    assert run(dataset)[0].hashed == 6


def test_images_in_an_archive_give_the_same_tables_except_for_the_path(dataset):
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


def test_start_and_end_markers_are_removed_with_a_note(dataset):
    save(dataset, [(image, f"startseq {caption} endseq", split) for image, caption, split in rows_of(dataset)])
    found, out = run(dataset)
    assert out["captions"][0]["caption"] == "caption number 0"
    assert found.notes == ("every caption starts with 'startseq' and ends with 'endseq'; both are removed",)


def test_captions_of_single_words_are_noted(dataset):
    save(dataset, [(image, f"dog{image[0]}", split) for image, _, split in rows_of(dataset)])
    assert run(dataset)[0].notes == (
        "every caption is a single word; if lists hold the words of one caption, join each list to a text",
    )
    save(dataset, [(image, f"一只狗{image[0]}", split) for image, _, split in rows_of(dataset)])
    assert run(dataset)[0].notes == ()


def test_members_that_a_later_one_replaces_are_noted(dataset):
    save(dataset, rows_of(dataset))
    archive = dataset / "photos.tar"
    for mode in ("w", "a"):
        with tarfile.open(archive, mode) as tar:
            tar.add(dataset / "images", "images")
    note = f"{archive}: 10 members replaced by a later one of the same name, such as images/a.jpg"
    assert note in run(dataset, images=str(archive))[0].notes


def test_html_in_captions_is_counted_in_a_note(dataset):
    rows = rows_of(dataset)
    save(dataset, [(image, f"<b>{caption}</b>", split) for image, caption, split in rows])
    note = "10 captions hold HTML, such as <b>, which is kept as text; remove it from the captions file"
    assert run(dataset)[0].notes == (note,)
    save(dataset, [(image, f"a < b & c > d; <unk> {caption}", split) for image, caption, split in rows])
    assert run(dataset)[0].notes == ()
