"""Random access to images inside zip and tar archives, without unpacking.

The path of an image is that of a file, or `photos.zip::folder/name.jpg`: archive, two colons, member.
`read_image_bytes` reads both. An archive is indexed once per process, and any thread may read its members. Zip members
may be stored or deflated. A tar must not be compressed as a whole, because its members could then
only be read in order.
"""

import errno
import functools
import os
import re
import struct
import tarfile
import threading
import weakref
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

from pipeline.file_signatures import other_content
from pipeline.files import regular_file

IMAGE_SUFFIXES = frozenset(
    [
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".tif", ".tiff", ".bmp"),
        *(".avif", ".heic", ".heif", ".hif"),
    ]
)
ARCHIVES = frozenset({".zip", ".tar"})
COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z", ".rar")
COMPRESSED = "a compressed archive cannot be read; unpack it, or make a .tar or .zip"
SEPARATOR = "::"
MAX_BYTES = 1 << 29
"""Largest member that is read: a few kilobytes of zip can unpack to terabytes."""
INSIDE = re.compile(r"(?P<archive>.+?\.(?:zip|tar))::(?P<member>.+)", re.IGNORECASE | re.DOTALL)
"""The path of an archive member."""
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    tarfile.TarError,
    EOFError,
    ValueError,
    OverflowError,
    RuntimeError,
)
"""What the libraries raise for archives that are damaged or of a kind that they do not support."""

Member = TypeVar("Member")


class TarMember(NamedTuple):
    """The position of a file in a tar."""

    offset: int
    size: int


class Archive:
    """An open zip or tar archive. Raises `OSError` with the reason if the file is neither."""

    members: dict[str, zipfile.ZipInfo] | dict[str, TarMember]
    repeated: list[str]
    """Names of members that a later one of the same name replaces, as in unpacking."""

    def __init__(self, path: Path) -> None:
        self.path = path
        kind = path.suffix.lower().removeprefix(".")
        self._file = path.open("rb")
        self._reading = threading.Lock()
        weakref.finalize(self, self._file.close)
        try:
            if kind == "zip":
                # Given a path, ZipFile counts its readers without a lock and may close the file while a thread reads.
                self._zip = zipfile.ZipFile(self._file)
                self.members, self.repeated = _newest(_zip_members(self._zip))
            else:
                self.members, self.repeated = _newest(_tar_members(path))
        except _DAMAGED as error:
            reason = other_content(path) or f"not a complete {kind} archive: {error}; copy or download it again"
            raise OSError(errno.EIO, reason, str(path)) from error

    def read(self, name: str) -> bytes:
        """Return the content of a member. Raises `OSError` with the reason."""
        member = self.members.get(name)
        if member is None:
            raise FileNotFoundError(errno.ENOENT, f"no such image in {self.path}", name)
        try:
            size = member.size if isinstance(member, TarMember) else member.file_size
            if size > MAX_BYTES:
                raise ValueError(f"{size:,} bytes, more than the limit of {MAX_BYTES:,}")
            content = self._read_tar(member) if isinstance(member, TarMember) else self._read_zip(member)
            if len(content) < size:
                raise EOFError
        except (*_DAMAGED, OSError) as error:
            raise OSError(errno.EIO, f"in {self.path}: {str(error) or 'it ends too early'}", name) from error
        return content

    def _read_tar(self, member: TarMember) -> bytes:
        with self._reading:
            self._file.seek(member.offset)
            return self._file.read(member.size)

    def _read_zip(self, member: zipfile.ZipInfo) -> bytes:
        if member.flag_bits & 1:
            raise ValueError("encrypted; make the archive without a password")
        if member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:  # unlimited decompression
            raise ValueError(f"compressed with zip method {member.compress_type}; make the archive with `zip -0`")
        with self._zip.open(member) as file:
            return file.read(member.file_size)


def is_archive(path: Path) -> bool:
    """Return whether a path is a file with the suffix of a supported archive."""
    return path.suffix.lower() in ARCHIVES and path.is_file()


def open_archive(path: Path) -> Archive:
    """Open the archive at `path`; its index is reused until the file changes. Raises `OSError`."""
    state = path.stat()
    with _OPENING:
        return _opened(str(path), state.st_size, state.st_mtime_ns, state.st_ino)


def archive_of(path: str | Path) -> Path | None:
    """Return the archive that an image path leads into, or None for a plain file."""
    inside = INSIDE.fullmatch(str(path))
    return Path(inside["archive"]) if inside and os.path.isfile(inside["archive"]) else None


def read_image_bytes(path: str | Path) -> bytes:
    """Return the bytes of an image file or archive member. Raises `OSError` with the reason as its strerror."""
    archive = archive_of(path)
    if archive is None:
        regular_file(path)
        return Path(path).read_bytes()
    return open_archive(archive).read(str(path)[len(str(archive)) + len(SEPARATOR) :])


def inside(archive: Path, member: str) -> str:
    """Return the path of an archive member."""
    return f"{archive.as_posix()}{SEPARATOR}{member}"


_OPENING = threading.Lock()


@functools.lru_cache(maxsize=256)
def _opened(path: str, size: int, modified: int, inode: int) -> Archive:
    return Archive(Path(path))


def _newest(members: Iterable[tuple[str, Member]]) -> tuple[dict[str, Member], list[str]]:
    """The last member of each name, and the names of the others."""
    newest: dict[str, Member] = {}
    repeated = []
    for name, member in members:
        if name in newest:
            repeated.append(name)
        newest[name] = member
    return newest, repeated


def _zip_members(archive: zipfile.ZipFile) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    """Yield files by normalized name."""
    for info in archive.infolist():
        name = _clean(info.filename if info.flag_bits & 0x800 else _utf8(info.filename))
        if name and not info.is_dir():
            yield name, info


def _tar_members(path: Path) -> Iterator[tuple[str, TarMember]]:
    """Yield regular files by normalized name, as `_zip_members` does; a hard link is the file that it leads to."""
    size = path.stat().st_size
    files: dict[str | None, TarMember] = {}
    with tarfile.open(path, "r:", errors="surrogateescape") as tar:
        for entry in tar:
            tar.members = []  # type: ignore[attr-defined]  # tarfile would keep all entries in memory
            name = _clean(entry.name)
            if name and entry.isreg() and not entry.issparse():
                if entry.offset_data + entry.size > size:
                    raise tarfile.ReadError("unexpected end of data")
                files[name] = TarMember(entry.offset_data, entry.size)
                yield name, files[name]
            elif name and entry.islnk() and (linked := files.get(_clean(entry.linkname))):
                yield name, linked
        end = tar.offset  # tarfile stops at a damaged header as if it were the end
    with path.open("rb") as file:
        file.seek(end)
        if file.read(512).strip(b"\0"):
            raise tarfile.ReadError(f"damaged at byte {end}")


def _utf8(name: str) -> str:
    """zipfile decodes unmarked names as cp437, but many programs write UTF-8."""
    try:
        return name.encode("cp437").decode()
    except UnicodeError:
        return name


def _clean(name: str) -> str | None:
    """Normalize the slashes of a member's name. None for names outside the archive and for macOS resource forks."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        return None
    if path.parts[0] == "__MACOSX" or path.name.startswith("._"):
        return None
    return str(path)
