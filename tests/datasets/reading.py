"""How the tests of the readers look at what was read."""

from pipeline.datasets.entries import Captions
from pipeline.datasets.formats import read_captions


def read(format, path, **options):
    return Captions.of(read_captions(format, path, **options))


def kept(captions):
    return [(row.image, row.caption, row.split) for row in captions.rows]


def refused(captions):
    return [(one.line, one.image, one.reason) for one in captions.skipped]


def written(folder, text, name="captions.csv", encoding="utf-8"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path
