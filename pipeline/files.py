"""The one way in which a file is written: beside its final name, synced, then renamed onto it.

A reader therefore sees the old file or the new one, never a part of it, and a run that is killed leaves the old one.
"""

import csv
import errno
import glob
import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import DataError, DiskError

_BLOCK = 1 << 20


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The path of an empty file beside `path` that takes its place when the block ends well, and else vanishes.

    Raises `DiskError` with the path and the system's reason.
    """
    with _disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise DiskError(f"{path}: a folder stands where a file is to be written; move it away")
        beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # of this, the umask decides
    try:
        with _disk_errors(path):
            yield beside
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(beside, path)
            sync_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """What killed runs left of their attempts to write `path`. Only for who alone may write it now."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        with suppress(OSError):
            leftover.unlink()


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskError(f"{path}: {no_space(path, 0)}; what stood there is untouched") from error
        raise DiskError(
            f"{path}: cannot be written: {error.strerror or error}; what stood there is untouched"
        ) from error


def no_space(path: Path, needed: int) -> str:
    """What to say of a full disk. `needed`: the bytes that were still to be written, 0 when nobody knows."""
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:
        free = 0
    if needed > free:
        return f"no space left: {needed:,} bytes are needed, {free:,} are free, {needed - free:,} are missing"
    return f"no space left: {free:,} bytes are free"


def allocate(file: BinaryIO, path: Path, size: int) -> None:
    """Give an open file its full size before it is filled, so that a disk that is too small is noticed now.

    Raises `DiskError` with the bytes that are missing.
    """
    needed = size - os.fstat(file.fileno()).st_size
    try:
        if needed > shutil.disk_usage(path.parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        file.truncate(size)
        if size and hasattr(os, "posix_fallocate"):  # neither macOS nor Windows has it
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise DiskError(f"{path}: {no_space(path, needed)}; free some, and run again") from error
        if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:  # a file system without the call
            raise


def write_at(file: BinaryIO, place: int, content: bytes | memoryview) -> None:
    """Write all of `content` at `place` of an unbuffered file. Raises `OSError`."""
    view = memoryview(content).cast("B")
    if not hasattr(os, "pwrite"):  # Windows
        file.seek(place)
        while view:
            view = view[file.write(view) :]
        return
    while view:  # a write may stop early, at a full disk for one; the next one then tells why
        written = os.pwrite(file.fileno(), view, place)
        place, view = place + written, view[written:]


def sync(file: BinaryIO) -> None:
    """What was written is on the disk when this returns; times in the folder's entry need not be."""
    getattr(os, "fdatasync", os.fsync)(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename durable. Windows cannot open a folder, and needs no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    with replacing(path) as beside:
        beside.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Indented, UTF-8, keys in the order given: the same bytes for the same content."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Row by row: a table may be larger than the memory."""
    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_csv(path: Path, header: Sequence[str]) -> Iterator[list[str]]:
    """The rows of a table that a stage wrote, one after the other; its header must be `header`. Raises `DataError`."""
    allow_long_fields()
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            found = next(reader, [])
            if found != list(header):
                raise DataError(f"{path}: the columns are {found}, expected {list(header)}; run `dvc repro` again")
            for row in reader:
                if len(row) != len(header):
                    wrong = f"{len(row)} fields, expected {len(header)}"
                    raise DataError(f"{path}, line {reader.line_num}: {wrong}; run `dvc repro` again")
                yield row
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; run `dvc repro` first") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a table in UTF-8: {error}; run `dvc repro` again") from error


def allow_long_fields() -> None:
    """csv refuses fields of more than 131,072 characters by itself."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes, read in blocks. Raises `OSError`."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
