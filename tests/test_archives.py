"""Images inside archives: read at random from any thread; damage is reported."""

import io
import random
import struct
import tarfile
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.archives import Archive, archive_of, inside, open_archive, read_image_bytes

CONTENT = {f"folder {n % 3}/{n:03d}.jpg": random.Random(n).randbytes(1000 + 37 * n) for n in range(60)}


def make_zip(path, method=zipfile.ZIP_STORED, content=CONTENT):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def make_tar(path, mode="w", **options):
    with tarfile.open(path, mode, **options) as archive:
        for name, data in CONTENT.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


@pytest.fixture(params=["stored zip", "deflated zip", "pax tar", "gnu tar", "ustar tar"])
def archive(request, tmp_path):
    kind, suffix = request.param.split()
    path = tmp_path / f"images.{suffix}"
    if suffix == "zip":
        return make_zip(path, zipfile.ZIP_STORED if kind == "stored" else zipfile.ZIP_DEFLATED)
    return make_tar(path, format=getattr(tarfile, f"{kind.upper()}_FORMAT"))


def test_every_member_is_read_from_many_threads_at_once(archive):
    assert set(open_archive(archive).members) == set(CONTENT)
    names = list(CONTENT) * 20
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: read_image_bytes(inside(archive, name)), names))
    assert found == [CONTENT[name] for name in names]


def test_the_last_member_of_a_name_counts_and_the_others_are_named(tmp_path):
    path = make_tar(tmp_path / "a.tar")
    make_tar(path, mode="a")
    assert open_archive(path).repeated == list(CONTENT)
    assert open_archive(make_zip(tmp_path / "a.zip")).repeated == []


def test_an_archive_is_indexed_once_until_it_changes(tmp_path):
    path = make_zip(tmp_path / "a.zip")
    first = open_archive(path)
    assert open_archive(path) is first
    make_zip(path, content={"new.jpg": b"new"})
    assert read_image_bytes(inside(path, "new.jpg")) == b"new"


def test_a_plain_path_is_a_plain_file(tmp_path):
    (tmp_path / "odd.zip::name.jpg").write_bytes(b"plain")
    assert read_image_bytes(tmp_path / "odd.zip::name.jpg") == b"plain"
    assert archive_of(tmp_path / "odd.zip::name.jpg") is None
    with pytest.raises(FileNotFoundError):
        read_image_bytes(tmp_path / "gone.zip::a.jpg")


def test_a_missing_member_is_named(archive):
    with pytest.raises(FileNotFoundError, match=r"no such image in .*images"):
        read_image_bytes(inside(archive, "gone.jpg"))


def test_names_outside_the_archive_and_macos_resource_forks_are_ignored(tmp_path):
    names = ("../up.jpg", "/root.jpg", "a/../../up.jpg", "__MACOSX/._a.jpg", "x/._a.jpg", "..\\up.jpg", "good/a.jpg")
    path = make_zip(tmp_path / "a.zip", content=dict.fromkeys(names, b"x"))
    assert set(open_archive(path).members) == {"good/a.jpg"}


def test_unmarked_utf_8_names_are_read(tmp_path):
    path = make_zip(tmp_path / "a.zip", content={"caf\u00e9.jpg": b"x"})
    raw = path.read_bytes()
    for signature, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # clear the flag in both headers
        at = raw.index(signature) + place
        raw = raw[:at] + struct.pack("<H", struct.unpack_from("<H", raw, at)[0] & ~0x800) + raw[at + 2 :]
    path.write_bytes(raw)
    assert read_image_bytes(inside(path, "caf\u00e9.jpg")) == b"x"


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression_methods_are_refused_with_a_remedy(tmp_path, method):
    path = make_zip(tmp_path / "a.zip", method)
    with pytest.raises(OSError, match=r"a.zip: compressed with zip method \d+; make the archive with `zip -0`"):
        read_image_bytes(inside(path, next(iter(CONTENT))))


def test_a_compressed_tar_is_refused(tmp_path):
    path = make_tar(tmp_path / "a.tar", "w:gz")
    with pytest.raises(OSError, match="compressed with gzip; unpack it with"):
        open_archive(path)


def test_a_zip_bomb_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.archives.MAX_BYTES", 1 << 20)
    path = make_zip(tmp_path / "a.zip", zipfile.ZIP_DEFLATED, {"bomb.jpg": bytes(2 << 20)})
    assert path.stat().st_size < 1 << 16
    with pytest.raises(OSError, match="more than the limit"):
        read_image_bytes(inside(path, "bomb.jpg"))


def test_no_more_is_unpacked_than_the_declared_size(tmp_path):
    path = make_zip(tmp_path / "a.zip", zipfile.ZIP_DEFLATED, {"a.jpg": bytes(200 << 20)})
    raw = bytearray(path.read_bytes())
    struct.pack_into("<I", raw, raw.index(b"PK\1\2") + 24, 10)
    path.write_bytes(raw)
    tracemalloc.start()
    with pytest.raises(OSError, match=r"in .*a.zip: Bad CRC-32 for file 'a.jpg'"):
        read_image_bytes(inside(path, "a.jpg"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_whose_bytes_changed_is_refused(tmp_path, method):
    path = make_zip(tmp_path / "a.zip", method, {"a.jpg": bytes(range(256)) * 40})
    assert read_image_bytes(inside(path, "a.jpg"))
    raw = bytearray(path.read_bytes())
    raw[60] ^= 1
    path.write_bytes(raw)
    with pytest.raises(OSError, match=r"in .*a.zip: (Bad CRC-32 for file|Error -3 while decompressing)"):
        read_image_bytes(inside(path, "a.jpg"))


def test_an_encrypted_member_is_refused(tmp_path):
    path = make_zip(tmp_path / "a.zip", content={"a.jpg": b"x"})
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(OSError, match=r"in .*a.zip: encrypted; make the archive without a password"):
        read_image_bytes(inside(path, "a.jpg"))


def test_an_archive_that_becomes_shorter_is_refused(archive):
    opened = Archive(archive)
    with archive.open("r+b") as file:
        file.truncate(600)
    with pytest.raises(OSError, match=r"in .*images"):
        opened.read(list(CONTENT)[-1])


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_truncated_archive_is_refused(tmp_path, keep):
    for path in (make_zip(tmp_path / "a.zip"), make_tar(tmp_path / "a.tar")):
        raw = path.read_bytes()
        path.write_bytes(raw[: int(len(raw) * keep)])
        with pytest.raises(OSError, match=f"not a complete {path.suffix[1:]} archive"):
            open_archive(path)


def test_a_damaged_tar_header_is_not_mistaken_for_the_end(tmp_path):
    path = make_tar(tmp_path / "a.tar", format=tarfile.USTAR_FORMAT)
    raw = bytearray(path.read_bytes())
    place = raw.index(b"./folder 1/031.jpg")
    raw[place] ^= 1
    path.write_bytes(raw)
    with pytest.raises(OSError, match=f"not a complete tar archive: damaged at byte {place}"):
        open_archive(path)


def test_a_hard_link_in_a_tar_is_the_file_that_it_leads_to(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        entry = tarfile.TarInfo("a.jpg")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"image"))
        for name, target in (("b.jpg", "./a.jpg"), ("c.jpg", "gone.jpg")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.LNKTYPE, target
            archive.addfile(link)
    assert set(open_archive(tmp_path / "a.tar").members) == {"a.jpg", "b.jpg"}
    assert read_image_bytes(inside(tmp_path / "a.tar", "b.jpg")) == b"image"
