"""Atomic writing of files, and the JSON and CSV files of the stages.

A file is written under a temporary name beside its final one, synced, and renamed. A reader therefore sees the old file
or the new one, never a part, and a killed run leaves the old one.
"""

import csv
import errno
import glob
import hashlib
import json
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from pipeline.errors import DataError, DiskError, ParamsError

LOCK_SECONDS = 60.0
"""How long a run waits for another one that fills the same folder."""
_RANDOM_BYTES = 8
_RANDOM = "[0-9a-f]" * 2 * _RANDOM_BYTES
"""Glob pattern of the end of a temporary file's name."""
_SEEKING = Lock()
"""Where a file has one position for all threads, one writes at a time."""


def _check_replaceable(path: Path) -> None:
    """Raise `DiskError` when a folder is where a file is to be written, `ParamsError` for a pipe, socket or device."""
    if path.is_dir():
        raise DiskError(f"{path}: is a folder, but a file is to be written here; move the folder away")
    # /dev/stdout may lead to a regular file, but is itself what would be replaced.
    if path.absolute().parent == Path("/dev") or (path.exists() and not path.is_file()):
        raise ParamsError(f"{path}: a pipe, a socket or a device, which a file would replace; name another file")


def check_writable(*paths: Path) -> None:
    """Raise as `replacing` when one of the files cannot be written, before the long work that makes its content."""
    for path in paths:
        with _disk_errors(path):
            _check_replaceable(path)
            existing = next(folder for folder in path.absolute().parents if folder.exists())
            tempfile.TemporaryFile(dir=existing).close()


def regular_file(path: str | Path) -> os.stat_result:
    """Return the stat of a regular file. Raises `OSError` for a folder, and for a pipe, which could block forever."""
    state = os.stat(path)
    if not stat.S_ISREG(state.st_mode):
        folder = stat.S_ISDIR(state.st_mode)
        raise OSError(
            errno.EISDIR if folder else errno.EINVAL, "is a folder" if folder else "is not a regular file", str(path)
        )
    return state


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Context manager: yields the path of an empty temporary file that replaces `path` when the block succeeds.

    The temporary file is removed when the block raises. Raises `DiskError` with the path and the system's reason, and
    `ParamsError` when `path` is a pipe, a socket or a device.
    """
    with _disk_errors(path):
        beside = _empty_file_beside(path)
    try:
        with _disk_errors(path):
            yield beside
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(beside, path)
            sync_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def _empty_file_beside(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    _check_replaceable(path)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(_RANDOM_BYTES)}")
    os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # minus the umask, unlike tempfile
    return beside


@contextmanager
def locked_folder(folder: Path, *, no_access: str = "") -> Iterator[None]:
    """Context manager: the only run that fills `folder`. Removes the temporary files that killed processes left in it
    and in its subfolders.

    Raises `DiskError` when another run holds the lock for `LOCK_SECONDS`, and with the remedy `no_access` where the
    folder is another user's.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock", timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout as error:
        raise DiskError(f"{folder}: another run is filling this folder; wait until it ends") from error
    except OSError as error:
        remedy = f"; {no_access}" if no_access and error.errno == errno.EACCES else ""
        raise DiskError(f"{folder}: cannot be locked: {error.strerror or error}{remedy}") from error
    try:
        _remove_temporary_files(folder)
        yield
        _remove_temporary_files(folder)
    finally:
        lock.release()


def _remove_temporary_files(folder: Path) -> None:
    for leftover in (*folder.glob(f".*.{_RANDOM}"), *folder.glob(f"*/.*.{_RANDOM}")):
        with suppress(OSError):
            leftover.unlink()


def remove_leftovers(path: Path) -> None:
    """Delete the temporary files that killed runs left beside `path`. The caller must be its only writer."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.{_RANDOM}"):
        with suppress(OSError):
            leftover.unlink()


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"{path}: cannot be written: {write_error(error, path)}; the file that was there is unchanged"
        ) from error


def write_error(error: OSError, path: Path, needed: int = 0) -> str:
    """Why `path` cannot be written: a full disk, a limit of the user, or the system's reason.

    `needed` is the number of bytes still to be written, 0 if unknown.
    """
    if error.errno == errno.EDQUOT:
        return "your disk quota is used up, whatever space the disk has (`quota -s` shows it)"
    if error.errno == errno.EFBIG:
        return "the file is larger than the limit of this shell (`ulimit -f`) or of the file system"
    if error.errno != errno.ENOSPC:
        return error.strerror or str(error)
    free = _free_bytes(path)
    if needed > free:
        return f"no space left: {needed:,} bytes are needed, {free:,} are free, {needed - free:,} are missing"
    return f"no space left: {free:,} bytes are free"


def _free_bytes(path: Path) -> int:
    """Free space on the disk of a folder, or of a file to be written, whose folder may be missing so far."""
    folder = next(one for one in (path, *path.absolute().parents) if one.is_dir())
    return shutil.disk_usage(folder).free


def allocate(file: BinaryIO, path: Path, size: int) -> None:
    """Reserve the full size of an open file before it is filled.

    Raises `DiskError`, with the number of missing bytes if the disk is too small.
    """
    needed = size - os.fstat(file.fileno()).st_size
    try:
        if needed > _free_bytes(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        file.truncate(size)
        if size and hasattr(os, "posix_fallocate"):  # neither macOS nor Windows has it
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:  # the file system does not support it
            raise DiskError(f"{path}: cannot be written: {write_error(error, path, needed)}") from error


def check_room(folder: Path, size: int) -> None:
    """Raise `DiskError` when no file of `size` bytes can be written in `folder`."""
    with _disk_errors(folder), tempfile.TemporaryFile(dir=folder) as file:
        allocate(file, folder, size)


def write_at(file: BinaryIO, place: int, content: bytes | memoryview) -> None:
    """Write all of `content` at byte `place` of an unbuffered file. Raises `OSError`."""
    view = memoryview(content).cast("B")
    if not hasattr(os, "pwrite"):  # Windows
        with _SEEKING:
            file.seek(place)
            while view:
                view = view[file.write(view) :]
        return
    while view:  # a write may be partial, e.g. on a full disk; the next one then raises the reason
        written = os.pwrite(file.fileno(), view, place)
        place, view = place + written, view[written:]


def sync_folder(folder: Path) -> None:
    """Make a rename durable. Windows neither allows nor needs this."""
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
    """Write indented UTF-8 JSON with keys in the given order, so that equal content gives equal bytes."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises `DataError`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file row by row; the table may be larger than the memory."""
    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_csv(path: Path, header: Sequence[str]) -> Iterator[list[str]]:
    """Yield the rows of a CSV file that a stage wrote and whose header must be `header`. Raises `DataError`."""
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
        raise DataError(f"{path}: not a CSV file in UTF-8: {error}; run `dvc repro` again") from error


def allow_long_fields() -> None:
    """Raise the limit of the csv module, which is 131,072 characters per field."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))


def sha256_of(path: Path) -> str:
    """Return the hexadecimal sha256 of a file's content. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
