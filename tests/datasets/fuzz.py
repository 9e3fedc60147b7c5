"""Damages datasets of every format for a while and looks at what the readers do: `python tests/captions/fuzz.py 60`.

A reader may refuse a file with a `CaptionerError`, and nothing else may come out of it; every row it gives can be
written and leads nowhere outside. The first input that breaks this is kept in a file, and the seed repeats it.
"""

import io
import json
import random
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

from pipeline.archives import inside, open_archive, read_image_bytes
from pipeline.datasets.entries import Captions, name_refusal
from pipeline.datasets.formats import detect_format, read_captions
from pipeline.errors import CaptionerError
from pipeline.text import character_tokenizer as characters
from pipeline.text import ptb_tokenizer as tokenizer

SLOW_SECONDS = 10.0
"""For one input of some kilobytes; a sound one takes a millisecond."""
PIECES = [
    b'"',
    b'""',
    b",",
    b"\t",
    b"|",
    b";",
    b"\n",
    b"\r",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xe2\x80\xa8",
]
PIECES += [
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b"null",
    b"1e999",
    b"-",
    b"\\ud800",
    b"../",
    b"..\\",
    b"/",
    b"::",
    b".zip::",
    b"a" * 999,
]


def seeds() -> dict[str, tuple[str, str, bytes]]:
    """A sound file of each format: its name for the report, the format, the file's name, its bytes."""
    rows = [
        (f"{n % 7}.jpg", text) for n, text in enumerate(["a dog, running", 'a "cat"', "caf\u00e9 \u4e00\u53ea"] * 9)
    ]
    images = [{"id": n, "file_name": f"{n}.jpg"} for n in range(7)]
    annotations = [{"image_id": n % 7, "id": n, "caption": text} for n, (_, text) in enumerate(rows)]
    sentences = [{"filename": name, "split": "restval", "sentences": [{"raw": text}]} for name, text in rows]
    quoted = "".join('{},"{}"\n'.format(name, text.replace('"', '""')) for name, text in rows)
    return {
        "csv": ("table", "c.csv", ("image,caption\n" + quoted).encode()),
        "utf-16": ("table", "c.csv", ("image,caption\n" + quoted).encode("utf-16")),
        "jsonl": ("table", "c.jsonl", "\n".join(json.dumps({"image": n, "caption": t}) for n, t in rows).encode()),
        "token": ("flickr8k", "Flickr8k.token.txt", "".join(f"{n}#0\t{t}\n" for n, t in rows).encode()),
        "results": ("flickr30k", "results.csv", "".join(f"{n}| 0| {t}\n" for n, t in rows).encode()),
        "coco": ("coco", "captions.json", json.dumps({"images": images, "annotations": annotations}).encode()),
        "karpathy": ("karpathy", "dataset_x.json", json.dumps({"images": sentences}, ensure_ascii=False).encode()),
        "zip": ("folder", "a.zip", _zip()),
        "tar": ("folder", "a.tar", _tar()),
    }


def _zip() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(5):
            archive.writestr(f"x/{number}.jpg", bytes(200))
            archive.writestr(f"x/{number}.txt", f"picture {number}")
    return content.getvalue()


def _tar() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(5):
            for suffix, data in (("jpg", bytes(200)), ("txt", b"picture")):
                entry = tarfile.TarInfo(f"x\u00e9/{number}.{suffix}")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return content.getvalue()


def damage(content: bytes, chance: random.Random) -> bytes:
    """One to eight bytes changed, pieces put in, parts taken out, repeated or moved."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        start = chance.randrange(len(data) + 1)
        stop = min(len(data), start + chance.choice([1, 2, 8, 64, 512]))
        what = chance.randrange(6)
        if what == 0 and start < len(data):
            data[start] = chance.randrange(256)
        elif what == 1:
            data[start:start] = chance.choice(PIECES)
        elif what == 2:
            del data[start:stop]
        elif what == 3:
            data[start:start] = data[start:stop] * chance.choice([1, 2, 20])
        elif what == 4:
            place = chance.randrange(len(data) + 1)
            data[place:place] = data[start:stop]
        elif chance.random() < 0.2:
            del data[start:]
    return bytes(data)


def check(format: str, path: Path) -> int:
    """Read the file every way that the pipeline does; the number of rows. Raises what must not be raised."""
    captions = Captions()
    try:
        if path.suffix in {".zip", ".tar"}:
            for name in open_archive(path).members:
                try:
                    read_image_bytes(inside(path, name))
                except OSError:
                    continue
        detect_format(path)
    except (CaptionerError, OSError):
        pass
    try:
        captions = Captions.of(read_captions(format, path))
    except CaptionerError as error:
        str(error).encode()
    for row in captions.rows:
        (row.image + row.caption).encode()
        assert name_refusal(row.image) is None, row
        assert row.caption == " ".join(row.caption.split()), row
        tokenizer.tokenize(row.caption)
        characters.tokenize(row.caption)
    for one in captions.skipped:
        (one.image + one.file + one.reason).encode()
    return len(captions.rows)


def fuzz(seconds: float, seed: int, most: int | None = None) -> tuple[int, int]:
    """The inputs tried and the rows read. Raises `AssertionError` with the place of the input that broke a rule."""
    chance = random.Random(seed)
    sound = seeds()
    deadline = time.monotonic() + seconds
    tried = rows = 0
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < deadline and (most is None or tried < most):
            kind = chance.choice(list(sound))
            format, name, content = sound[kind]
            path = Path(folder) / f"{tried}" / name
            path.parent.mkdir()
            path.write_bytes(damage(content, chance))
            began = time.monotonic()
            try:
                rows += check(format, path)
                assert time.monotonic() - began < SLOW_SECONDS, "too slow"
            except Exception as error:
                kept = Path(tempfile.gettempdir()) / f"broken-{seed}-{tried}-{name}"
                kept.write_bytes(path.read_bytes())
                raise AssertionError(f"{kind}, seed {seed}, input {tried}: {error!r}; kept as {kept}") from error
            path.unlink()
            tried += 1
    return tried, rows


if __name__ == "__main__":
    duration = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    start = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(2**32)
    print(f"seed {start}, {duration:.0f} s")
    print("{:,} inputs, {:,} rows read, nothing broke".format(*fuzz(duration, start)))
