"""A manifest is checked before any work, and a folder of shards keeps to the manifest it was begun with."""

import csv
import dataclasses

import pytest
from stand_in import SPEC

from pipeline.errors import ArtefactError, DataError, ParamsError

pa = pytest.importorskip("pyarrow", reason="manifests need the extra `ray`")
pq = pytest.importorskip("pyarrow.parquet", reason="manifests need the extra `ray`")

from pipeline.features.ray.job import Job  # noqa: E402
from pipeline.features.ray.manifest import digest_of, read_manifest  # noqa: E402
from pipeline.params import Params  # noqa: E402
from pipeline.stages.extract import ExtractFiles  # noqa: E402
from pipeline.stages.extract_on_ray import extract_on_ray  # noqa: E402

ROWS = [("b.png", "photos/b.png", "B" * 64), ("a.png", "s3://bucket/a b.png", ""), ("c/é.png", "x.tar::é.png", "")]


def write_csv(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture
def table(tmp_path):
    return write_csv(tmp_path / "images.csv", ("image", "path", "sha256"), ROWS)


def test_paths_become_absolute_and_urls_stay(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = read_manifest(table)
    assert found == [
        ("b.png", f"{tmp_path}/photos/b.png", "b" * 64, ""),
        ("a.png", "s3://bucket/a b.png", "", ""),
        ("c/é.png", f"{tmp_path}/x.tar::é.png", "", ""),
    ]


def test_csv_and_parquet_give_the_same_manifest(table, tmp_path):
    columns = dict(zip(("image", "path", "sha256"), zip(*ROWS, strict=True), strict=True))
    pq.write_table(pa.table({"other": [1, 2, 3], **columns}), tmp_path / "images.parquet")
    assert read_manifest(tmp_path / "images.parquet") == read_manifest(table)


def test_sha256_is_optional_and_other_columns_are_ignored(tmp_path):
    source = write_csv(tmp_path / "images.csv", ("split", "image", "path"), [("train", "007", "a,\n.png")])
    assert read_manifest(source) == [("007", f"{tmp_path.cwd()}/a,\n.png", "", "train")]


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (("image", "file"), [("a", "b")], r"has no column 'path' \(found: image, file\)"),
        (("image", "path"), [], "lists no images"),
        (("image", "path"), [("a", "x"), ("", "y")], "row 2 has no image"),
        (("image", "path"), [("a", "x"), ("b", "")], "row 2 has no path"),
        (("image", "path"), [("a", "x"), ("b",)], "not a readable .csv table: .*Expected 2 columns, got 1"),
        (("image", "path"), [("a", "x"), ("b", "y"), ("a", "z")], "a is listed more than once"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused_with_the_reason(tmp_path, header, rows, message):
    source = write_csv(tmp_path / "bad.csv", header, rows)
    with pytest.raises(DataError, match=rf"bad\.csv: .*{message}"):
        read_manifest(source)


def test_a_file_that_is_not_a_table_is_refused_by_name(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 but no more")
    (tmp_path / "x.csv").write_bytes(b"image,path\n\xff\xfe,a\n")
    for name in ("x.parquet", "x.csv", "missing.csv", "missing.parquet"):
        with pytest.raises(DataError, match=name):
            read_manifest(tmp_path / name)
    with pytest.raises(ParamsError, match=r"x\.txt: a manifest is a \.csv or \.parquet"):
        read_manifest(tmp_path / "x.txt")


def test_a_url_that_cannot_be_opened_is_refused(tmp_path):
    pytest.importorskip("fsspec", reason="URLs need the extra `remote`")
    source = write_csv(tmp_path / "bad.csv", ("image", "path"), [("a", "carrier-pigeon://loft/a.png")])
    with pytest.raises(ParamsError, match="carrier-pigeon:// cannot be read"):
        read_manifest(source)


def a_job(folder, **changes):
    return dataclasses.replace(Job(folder, SPEC, (4, 6), engine="one"), **changes)


@pytest.mark.parametrize(
    ("changes", "shard_images", "message"),
    [
        ({"engine": "two"}, 2, "engine: one, two"),
        ({}, 3, "shard_images: 2, 3"),
        ({"spec": dataclasses.replace(SPEC, grid=1)}, 2, "grid: 2, 1"),
    ],
)
def test_a_folder_begun_with_other_settings_is_refused(table, tmp_path, changes, shard_images, message):
    images = read_manifest(table)
    a_job(tmp_path / "features.h5").begin(images, 2)
    a_job(tmp_path / "features.h5").begin(images, 2)
    with pytest.raises(ArtefactError, match=rf"begun with other settings \(then, now: {message}\); .*--out"):
        a_job(tmp_path / "features.h5", **changes).begin(images, shard_images)


def test_a_folder_begun_with_another_manifest_is_refused(table, tmp_path):
    job = a_job(tmp_path / "features.h5")
    job.begin(read_manifest(table), 2)
    other = write_csv(tmp_path / "other.csv", ("image", "path", "sha256"), [(*ROWS[0][:2], "C" * 64), *ROWS[1:]])
    with pytest.raises(ArtefactError, match=r"begun with other settings \(then, now: manifest: [0-9a-f]{64}, "):
        job.begin(read_manifest(other), 2)


@pytest.mark.parametrize("name", ["index.json", "shards/000000.h5"])
def test_files_of_another_program_are_not_replaced(table, tmp_path, name):
    (tmp_path / "shards").mkdir()
    (tmp_path / name).write_text("mine")
    with pytest.raises(ArtefactError, match=r"holds shards or index\.json, but no settings\.json; name another folder"):
        a_job(tmp_path).begin(read_manifest(table), 2)


def test_images_with_a_known_sha256_may_move(table, tmp_path):
    rows = [("b.png", "new/b.png", "B" * 64), *ROWS[1:]]
    moved = write_csv(tmp_path / "moved.csv", ("image", "path", "sha256"), rows)
    assert digest_of(read_manifest(moved)) == digest_of(read_manifest(table))


def test_a_features_file_in_place_of_the_folder_is_refused(table, tmp_path):
    pytest.importorskip("ray", reason="extraction on a cluster needs the extra `ray`")
    outputs = {name: tmp_path / name for name in ("encoder", "skipped")}
    (tmp_path / "features.h5").write_bytes(b"of the local engine")
    with pytest.raises(DataError, match=r"features\.h5: a features file of the local engine"):
        extract_on_ray(ExtractFiles(images=table, features=tmp_path / "features.h5", **outputs), Params())
    assert (tmp_path / "features.h5").read_bytes() == b"of the local engine"
