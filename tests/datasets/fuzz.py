"""Fuzzes the readers with damaged files of every format: `python tests/datasets/fuzz.py SECONDS [SEED]`.

A reader may raise a `CaptionerError` and nothing else; every entry can be encoded and leads nowhere outside the image
folder. The first input that violates this is kept in a file, and the seed repeats it.
"""

import json
import random
import sys
import tempfile
import time
from pathlib import Path

from reading import pack

from pipeline.archives import inside, open_archive, read_image_bytes
from pipeline.datasets.caption_files import read_caption_file, read_reference_file
from pipeline.datasets.detection import detect_format, read_dataset
from pipeline.datasets.entries import DatasetEntries, check_image_name
from pipeline.errors import CaptionerError
from pipeline.text import character_tokenizer, ptb_tokenizer

SLOW_SECONDS = 10.0
"""The limit for one input of some kilobytes; an undamaged one takes a millisecond."""
PIECES = (
    *b'" "" , | ; \r \0 \xff \xef\xbb\xbf \xff\xfe \xe2\x80\xa8 { } [ ] :'.split(b" "),
    *b"null 1e999 - \\ud800 ../ ..\\ / :: .zip::".split(b" "),
    *(b"\t", b"\n", b"a" * 999),
)


def seeds() -> dict[str, tuple[str, str, bytes]]:
    """A valid file of each format: format, file name and bytes, by a name for the report."""
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
        "zip": ("folder", "a.zip", _packed("a.zip")),
        "tar": ("folder", "a.tar", _packed("a.tar")),
    }


def _packed(name: str) -> bytes:
    files = {
        f"x\u00e9/{number}.{suffix}": content
        for number in range(5)
        for suffix, content in (("jpg", bytes(200)), ("txt", b"an image"))
    }
    with tempfile.TemporaryDirectory() as folder:
        return pack(Path(folder) / name, files).read_bytes()


def damage(content: bytes, rng: random.Random) -> bytes:
    """Change, insert, delete, repeat or move one to eight parts."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        start = rng.randrange(len(data) + 1)
        stop = min(len(data), start + rng.choice([1, 2, 8, 64, 512]))
        what = rng.randrange(6)
        if what == 0 and start < len(data):
            data[start] = rng.randrange(256)
        elif what == 1:
            data[start:start] = rng.choice(PIECES)
        elif what == 2:
            del data[start:stop]
        elif what == 3:
            data[start:start] = data[start:stop] * rng.choice([1, 2, 20])
        elif what == 4:
            place = rng.randrange(len(data) + 1)
            data[place:place] = data[start:stop]
        elif rng.random() < 0.2:
            del data[start:]
    return bytes(data)


def check(format: str, path: Path) -> int:
    """Read the file in every way the pipeline does; returns the number of captions. Raises what must not be raised."""
    entries = DatasetEntries()
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
    for read in (read_caption_file, read_reference_file):
        try:
            read(path)
        except CaptionerError as error:
            str(error).encode()
    try:
        entries = DatasetEntries.collect(read_dataset(format, path))
    except CaptionerError as error:
        str(error).encode()
    for row in entries.captions:
        (row.image + row.caption).encode()
        assert check_image_name(row.image) is None, row
        assert row.caption == " ".join(row.caption.split()), row
        ptb_tokenizer.tokenize(row.caption)
        character_tokenizer.tokenize(row.caption)
    for one in entries.skipped:
        (one.image + one.file + one.reason).encode()
    return len(entries.captions)


def fuzz(seconds: float, seed: int, most: int | None = None) -> tuple[int, int]:
    """Returns the number of inputs and of captions. Raises `AssertionError` with the place of the failing input."""
    rng = random.Random(seed)
    valid = seeds()
    deadline = time.monotonic() + seconds
    tried = rows = 0
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < deadline and (most is None or tried < most):
            kind = rng.choice(list(valid))
            format, name, content = valid[kind]
            path = Path(folder) / f"{tried}" / name
            path.parent.mkdir()
            path.write_bytes(damage(content, rng))
            began = time.monotonic()
            try:
                rows += check(format, path)
                assert time.monotonic() - began < SLOW_SECONDS, "too slow"
            except Exception as error:
                kept = Path(tempfile.gettempdir()) / f"fuzz-{seed}-{tried}-{name}"
                kept.write_bytes(path.read_bytes())
                raise AssertionError(f"{kind}, seed {seed}, input {tried}: {error!r}; kept as {kept}") from error
            path.unlink()
            tried += 1
    return tried, rows


if __name__ == "__main__":
    duration = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    start = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(2**32)
    print(f"seed {start}, {duration:.0f} s")
    print("{:,} inputs, {:,} rows read, no failure".format(*fuzz(duration, start)))
