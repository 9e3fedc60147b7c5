"""Pictures inside zip and tar archives, read at random without unpacking.

A picture's path is a file's, or `photos.zip::inner/name.jpg`: the archive, two colons, the member. `read_image_bytes` opens
both. An archive is indexed once per process and read by offset from any thread. Members of a zip may be stored or
deflated; a tar must not be compressed as a whole, or its members could not be reached without reading all before.
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

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".webp", ".tif", ".tiff", ".bmp"})
ARCHIVES = frozenset({".zip", ".tar"})
SEPARATOR = "::"
MAX_BYTES = 1 << 29
"""A member that claims more is refused: a few kilobytes of zip can unpack to terabytes."""
INSIDE = re.compile(r"(?P<archive>.+?\.(?:zip|tar))::(?P<member>.+)", re.IGNORECASE | re.DOTALL)
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_STORED, _DEFLATED = 0, 8


@dataclass(frozen=True, slots=True)
class Member:
    """Where a file lies in its archive."""

    offset: int
    """Of its bytes; in a zip, of the header before them."""
    packed: int
    """Bytes in the archive."""
    size: int
    method: int | None
    """Zip's number of the compression; None in a tar."""
    encrypted: bool = False
    crc32: int | None = None
    """Of the unpacked bytes; a tar keeps none."""


class Archive:
    """An open zip or tar. Raises `OSError` with the reason when it is neither."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.members: dict[str, Member] = dict(_members(path))
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, ValueError, struct.error, NotImplementedError) as error:
            raise OSError(errno.EIO, f"not a whole {_kind(path)} archive: {error}", str(path)) from error
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()
        weakref.finalize(self, os.close, self._file)

    def read(self, name: str) -> bytes:
        """The bytes of a member. Raises `OSError` with the reason."""
        member = self.members.get(name)
        if member is None:
            raise FileNotFoundError(errno.ENOENT, f"no such picture in {self.path}", name)
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
            raise self._refusal(name, "damaged: no zip header where the archive's index says")
        packed = self._bytes(name, member.offset + _LOCAL_HEADER.size + name_length + extra_length, member.packed)
        content = packed
        if member.method == _DEFLATED:
            try:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, member.size + 1)
            except zlib.error as error:
                raise self._refusal(name, f"damaged: {error}") from error
        if len(content) != member.size:
            raise self._refusal(name, f"damaged: unpacks to other than {member.size} bytes")
        if zlib.crc32(content) != member.crc32:
            raise self._refusal(name, "damaged: not the bytes that were packed, by their checksum")
        return content

    def _bytes(self, name: str, offset: int, size: int) -> bytes:
        parts = []
        while size:  # one call gives at most 2 GiB, and less at the archive's end
            part = self._pread(offset, size)
            if not part:
                raise self._refusal(name, "damaged: the archive ends before")
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
    return path.suffix.lower() in ARCHIVES and path.is_file()


def open_archive(path: Path) -> Archive:
    """The archive at `path`, indexed once as long as it does not change. Raises `OSError`."""
    state = path.stat()
    with _OPENING:
        return _opened(str(path), state.st_size, state.st_mtime_ns, state.st_ino)


def archive_of(path: str | Path) -> Path | None:
    """The archive that a picture's path leads into; None when it is a file of its own."""
    inside = INSIDE.fullmatch(str(path))
    return Path(inside["archive"]) if inside and os.path.isfile(inside["archive"]) else None


def is_archive_member_path(name: str) -> bool:
    """Whether a file of this name would be taken for a place in an archive."""
    return INSIDE.fullmatch(name) is not None


def read_image_bytes(path: str | Path) -> bytes:
    """The bytes of a picture's file, or of its place in an archive. Raises `OSError`; its strerror says why."""
    archive = archive_of(path)
    if archive is None:
        regular_file(path)
        return Path(path).read_bytes()
    return open_archive(archive).read(str(path)[len(str(archive)) + len(SEPARATOR) :])


def regular_file(path: str | Path) -> os.stat_result:
    """The state of a file. Raises `OSError` for a folder, and for a pipe, which would be waited for forever."""
    state = os.stat(path)
    if not stat.S_ISREG(state.st_mode):
        folder = stat.S_ISDIR(state.st_mode)
        raise OSError(errno.EISDIR if folder else errno.EINVAL, "is a folder" if folder else "is no file", str(path))
    return state


def inside(archive: Path, member: str) -> str:
    """The path of a member."""
    return f"{archive.as_posix()}{SEPARATOR}{member}"


_OPENING = threading.Lock()


@functools.lru_cache(maxsize=256)
def _opened(path: str, size: int, modified: int, inode: int) -> Archive:
    return Archive(Path(path))


def _kind(path: Path) -> str:
    return path.suffix.lower().removeprefix(".")


def _members(path: Path) -> Iterator[tuple[str, Member]]:
    """Regular files by clean name; a later one of the same name takes the place of an earlier one, as in unpacking."""
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
            tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every entry in memory
            name = _clean(entry.name)
            if name and entry.isreg() and not entry.issparse():
                if entry.offset_data + entry.size > size:
                    raise tarfile.ReadError("unexpected end of data")
                yield name, Member(entry.offset_data, entry.size, entry.size, None)
        end = tar.offset  # tarfile stops at a damaged header as it does at the end
    with path.open("rb") as file:
        file.seek(end)
        if file.read(512).strip(b"\0"):
            raise tarfile.ReadError(f"damaged at byte {end}")


def _utf8(name: str) -> str:
    """zipfile takes unmarked names for cp437; many programs write UTF-8 all the same."""
    try:
        return name.encode("cp437").decode()
    except UnicodeError:
        return name


def _clean(name: str) -> str | None:
    """A member's name with single forward slashes; None for one that points out, and for macOS's shadow files."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        return None
    if path.parts[0] == "__MACOSX" or path.name.startswith("._"):
        return None
    return str(path)
