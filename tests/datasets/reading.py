"""Helpers of the reader tests: write a file, read a dataset, and list what was kept and skipped."""

import io
import tarfile
import zipfile

from pipeline.datasets.detection import detect_format, read_dataset
from pipeline.datasets.entries import DatasetEntries, ReadOptions


def read(format, path, **options):
    return DatasetEntries.collect(read_dataset(format, path, ReadOptions(**options)))


def detect(path, **options):
    return detect_format(path, ReadOptions(**options))


def kept(entries):
    return [(entry.image, entry.caption, entry.split) for entry in entries.captions]


def skipped(entries):
    return [(entry.line, entry.image, entry.reason) for entry in entries.skipped]


def write(folder, content, name="captions.csv", encoding="utf-8"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def pack(path, files):
    """Write a zip or a tar with the content of each file by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path
