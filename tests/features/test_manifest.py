"""A manifest is checked row by row and numbered."""

import csv

import pytest

from pipeline.errors import DataError, ParamsError
from pipeline.features.ray import manifest
from pipeline.features.ray.manifest import number_pictures

pa = pytest.importorskip("pyarrow", reason="manifests need the extra `ray`")
pq = pytest.importorskip("pyarrow.parquet", reason="manifests need the extra `ray`")

ROWS = [("b.png", "photos/b.png", "B" * 64), ("a.png", "s3://bucket/a b.png", ""), ("c/é.png", "x.tar::é.png", "")]


def write_csv(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture
def table(tmp_path):
    return write_csv(tmp_path / "pictures.csv", ("image", "path", "sha256"), ROWS)


def numbered(source, tmp_path):
    number_pictures(source, tmp_path / "numbered.parquet")
    return pq.ParquetFile(tmp_path / "numbered.parquet").read()


def test_pictures_are_numbered_in_their_order_with_64_bits(table, tmp_path):
    found = numbered(table, tmp_path)
    assert found.schema.field("id").type == pa.int64()
    assert found["id"].to_pylist() == [0, 1, 2]
    assert found["image"].to_pylist() == ["b.png", "a.png", "c/é.png"]


def test_paths_are_whole_and_addresses_stay(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert numbered(table, tmp_path)["path"].to_pylist() == [
        f"{tmp_path}/photos/b.png",
        "s3://bucket/a b.png",
        f"{tmp_path}/x.tar::é.png",
    ]


def test_csv_and_parquet_of_one_content_are_one_manifest(table, tmp_path):
    columns = dict(zip(("image", "path", "sha256"), zip(*ROWS, strict=True), strict=True))
    pq.write_table(pa.table({"other": [1, 2, 3], **columns}), tmp_path / "pictures.parquet")
    ours = number_pictures(tmp_path / "pictures.parquet", tmp_path / "out.parquet")
    assert ours == number_pictures(table, tmp_path / "out.parquet")
    assert ours.pictures == 3


def test_the_table_of_prepare_is_a_manifest(tmp_path):
    source = write_csv(tmp_path / "images.csv", ("image", "path", "sha256", "split"), [("a", "a.png", "0", "train")])
    assert numbered(source, tmp_path)["sha256"].to_pylist() == ["0"]


def test_another_content_is_another_manifest(tmp_path, table):
    other = write_csv(tmp_path / "other.csv", ("image", "path", "sha256"), [(*ROWS[0][:2], "C" * 64), *ROWS[1:]])
    out = tmp_path / "out.parquet"
    assert number_pictures(other, out).digest != number_pictures(table, out).digest


def test_a_manifest_is_read_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "_ROWS", 4)
    rows = [(f"{number}.png", f"{number}.png") for number in range(11)]
    found = numbered(write_csv(tmp_path / "many.csv", ("image", "path"), rows), tmp_path)
    assert found["id"].to_pylist() == list(range(11))
    assert found["image"].to_pylist() == [image for image, _ in rows]


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (("image", "file"), [("a", "b")], r"has no column 'path' \(found: image, file\)"),
        (("image", "path"), [], "lists no pictures"),
        (("image", "path"), [("a", "x"), ("", "y")], "row 2 has no image"),
        (("image", "path"), [("a", "x"), ("b", "")], "row 2 has no path"),
        (("image", "path"), [("a", "x"), ("b",)], "line 3: fewer columns"),
        (("image", "path"), [("a", "x"), ("b", "y"), ("a", "z")], "a is listed twice"),
    ],
)
def test_a_manifest_that_cannot_be_used_says_why(tmp_path, header, rows, message):
    source = write_csv(tmp_path / "bad.csv", header, rows)
    with pytest.raises(DataError, match=rf"bad\.csv: .*{message}"):
        number_pictures(source, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_files_that_are_no_tables_are_refused_by_name(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 but no more")
    (tmp_path / "x.csv").write_bytes(b"image,path\n\xff\xfe,a\n")
    for name in ("x.parquet", "x.csv", "missing.csv"):
        with pytest.raises(DataError, match=name):
            number_pictures(tmp_path / name, tmp_path / "out.parquet")
    with pytest.raises(ParamsError, match=r"x\.txt: a manifest is a \.csv or \.parquet"):
        number_pictures(tmp_path / "x.txt", tmp_path / "out.parquet")


def test_addresses_that_cannot_be_opened_are_refused_before_any_work(tmp_path):
    pytest.importorskip("fsspec", reason="addresses need the extra `remote`")
    source = write_csv(tmp_path / "bad.csv", ("image", "path"), [("a", "carrier-pigeon://loft/a.png")])
    with pytest.raises(ParamsError, match="carrier-pigeon:// is no known kind of address"):
        number_pictures(source, tmp_path / "out.parquet")
