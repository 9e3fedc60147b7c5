"""Random access to images inside zip and tar archives, without unpacking.

The path of an image is that of a file, or `photos.zip::folder/name.jpg`: archive, two colons, member.
`read_image_bytes` reads both. An archive is indexed once per process, and its members are read by offset from any
thread. Zip members may be stored or deflated. A tar must not be compressed as a whole, because its members could then
only be read in order.
"""

import errno
import functools
import os
import re
import stat
import struct
import tarfile
import threading
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

IMAGE_SUFFIXES = frozenset(
    [
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".tif", ".tiff", ".bmp"),
        *(".avif", ".heic", ".heif", ".hif"),
    ]
)
ARCHIVES = frozenset({".zip", ".tar"})
SEPARATOR = "::"
MAX_BYTES = 1 << 29
"""Largest member that is read: a few kilobytes of zip can unpack to terabytes."""
INSIDE = re.compile(r"(?P<archive>.+?\.(?:zip|tar))::(?P<member>.+)", re.IGNORECASE | re.DOTALL)
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_STORED, _DEFLATED = 0, 8


@dataclass(frozen=True, slots=True)
class Member:
    """The position of a file in its archive."""

    offset: int
    """First byte of the content; in a zip, of the local header before it."""
    packed: int
    """Bytes in the archive, compressed."""
    size: int
    method: int | None
    """Compression method of zip; None in a tar."""
    encrypted: bool = False
    crc32: int | None = None
    """CRC-32 of the uncompressed bytes; a tar has none."""


class Archive:
    """An open zip or tar archive. Raises `OSError` with the reason if the file is neither."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.members: dict[str, Member] = dict(_members(path))
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, ValueError, struct.error, NotImplementedError) as error:
            raise OSError(errno.EIO, f"not a complete {_kind(path)} archive: {error}", str(path)) from error
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()
        weakref.finalize(self, os.close, self._file)

    def read(self, name: str) -> bytes:
        """Return the content of a member. Raises `OSError` with the reason."""
        member = self.members.get(name)
        if member is None:
            raise FileNotFoundError(errno.ENOENT, f"no such image in {self.path}", name)
        if member.size > MAX_BYTES or member.packed > MAX_BYTES:
            raise self._refusal(name, f"{member.size:,} bytes, more than the limit of {MAX_BYTES:,}")
        if member.encrypted:
            raise self._refusal(name, "encrypted; make the archive without a password")
        if member.method is None:
            return self._bytes(name, member.offset, member.size)
        if member.method not in {_STORED, _DEFLATED}:
            raise self._refusal(name, f"compressed with zip method {member.method}; make the archive with `zip -0`")
        header = self._bytes(name, member.offset, _LOCAL_HEADER.size)
        signature, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        if signature != b"PK\3\4":
            raise self._refusal(name, "damaged: no zip header at the position in the index")
        packed = self._bytes(name, member.offset + _LOCAL_HEADER.size + name_length + extra_length, member.packed)
        content = packed
        if member.method == _DEFLATED:
            try:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, member.size + 1)
            except zlib.error as error:
                raise self._refusal(name, f"damaged: {error}") from error
        if len(content) != member.size:
            raise self._refusal(name, f"damaged: does not unpack to {member.size} bytes")
        if zlib.crc32(content) != member.crc32:
            raise self._refusal(name, "damaged: the checksum does not match")
        return content

    def _bytes(self, name: str, offset: int, size: int) -> bytes:
        parts = []
        while size:  # one call returns at most 2 GiB, and less at the end of the archive
            part = self._pread(offset, size)
            if not part:
                raise self._refusal(name, "damaged: the archive ends too early")
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts)

    def _pread(self, offset: int, size: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._file, size, offset)
        with self._lock:  # Windows
            os.lseek(self._file, offset, os.SEEK_SET)
            return os.read(self._file, size)

    def _refusal(self, name: str, reason: str) -> OSError:
        return OSError(errno.EIO, f"in {self.path}: {reason}", name)


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


def is_archive_member_path(name: str) -> bool:
    """Return whether a path has the form of an archive member."""
    return INSIDE.fullmatch(name) is not None


def read_image_bytes(path: str | Path) -> bytes:
    """Return the bytes of an image file or archive member. Raises `OSError` with the reason as its strerror."""
    archive = archive_of(path)
    if archive is None:
        regular_file(path)
        return Path(path).read_bytes()
    return open_archive(archive).read(str(path)[len(str(archive)) + len(SEPARATOR) :])


def regular_file(path: str | Path) -> os.stat_result:
    """Return the stat of a regular file. Raises `OSError` for a folder, and for a pipe, which could block forever."""
    state = os.stat(path)
    if not stat.S_ISREG(state.st_mode):
        folder = stat.S_ISDIR(state.st_mode)
        raise OSError(
            errno.EISDIR if folder else errno.EINVAL, "is a folder" if folder else "is not a regular file", str(path)
        )
    return state


def inside(archive: Path, member: str) -> str:
    """Return the path of an archive member."""
    return f"{archive.as_posix()}{SEPARATOR}{member}"


_OPENING = threading.Lock()


@functools.lru_cache(maxsize=256)
def _opened(path: str, size: int, modified: int, inode: int) -> Archive:
    return Archive(Path(path))


def _kind(path: Path) -> str:
    return path.suffix.lower().removeprefix(".")


def _members(path: Path) -> Iterator[tuple[str, Member]]:
    """Yield regular files by normalized name; a later one of the same name replaces an earlier one, as in unpacking."""
    if _kind(path) == "zip":
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = _clean(info.filename if info.flag_bits & 0x800 else _utf8(info.filename))
                if name and not info.is_dir():
                    yield (
                        name,
                        Member(
                            info.header_offset,
                            info.compress_size,
                            info.file_size,
                            info.compress_type,
                            bool(info.flag_bits & 1),
                            info.CRC,
                        ),
                    )
        return
    size = path.stat().st_size
    with tarfile.open(path, "r:", errors="surrogateescape") as tar:
        for entry in tar:
            tar.members = []  # type: ignore[attr-defined]  # tarfile would keep all entries in memory
            name = _clean(entry.name)
            if name and entry.isreg() and not entry.issparse():
                if entry.offset_data + entry.size > size:
                    raise tarfile.ReadError("unexpected end of data")
                yield name, Member(entry.offset_data, entry.size, entry.size, None)
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
