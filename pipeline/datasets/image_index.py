"""Where a dataset's pictures lie: in a folder, in an archive, or in a folder with archives in it.

An archive counts as a folder: pictures of `shards/000.tar` are `000.tar/name.jpg` below `shards`. Captions often name
pictures a little otherwise than the disk does (case, accents, a leading folder inside the archive): such a name is
taken where exactly one picture can be meant.
"""

import os
import unicodedata
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

from pipeline.archives import ARCHIVES, IMAGE_SUFFIXES, inside, is_archive, open_archive
from pipeline.errors import DataError

TEXTS = (".txt", ".caption", ".json")
"""What may hold a picture's captions beside it, the likeliest first."""

_LISTED = IMAGE_SUFFIXES.union(TEXTS)


class ImageIndex:
    """Pictures (and the texts beside them) by the name that captions give them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._inside: dict[str, bool] = {}

    @cached_property
    def _base(self) -> str:
        return self.root.as_posix().rstrip("/")

    def find(self, name: str) -> str | None:
        """The path to read the picture from; None when there is no such picture."""
        path = f"{self._base}/{name}" if self._base != "." else name
        if os.path.isfile(path):
            return path
        return self._by_name.get(name) or self._by_name.get(_folded(name))

    def leaves(self, path: str) -> bool:
        """Whether a path that `find` gave leads out of the folder through a link."""
        file = path.partition("::")[0]
        if os.path.islink(file):
            return not self._holds(os.path.realpath(file))
        folder = os.path.dirname(file)
        if folder not in self._inside:
            self._inside[folder] = self._holds(os.path.realpath(folder or "."))
        return not (self._inside[folder] or file == self._base)

    def _holds(self, real: str) -> bool:
        root = os.path.realpath(self.root)
        return real == root or real.startswith(root.rstrip(os.sep) + os.sep)

    def listing(self) -> dict[str, str]:
        """Every picture and text: its name and the path to read it from, in the order of names.

        Archives are listed where no picture lies loose: a folder may keep the archive that it was unpacked from.
        """
        loose = any(_suffix(name) in IMAGE_SUFFIXES for name in self._loose)
        return dict(sorted((self._loose if loose else self._packed).items()))

    def names(self) -> Iterator[str]:
        """The names of all pictures."""
        return (name for name in self.listing() if _suffix(name) in IMAGE_SUFFIXES)

    @cached_property
    def _files(self) -> list[tuple[str, str]]:
        """(name, path) of each picture, text and archive below the folder."""
        if not self.root.is_dir():
            return []
        found = []
        for folder, folders, files in os.walk(self._base or "/"):
            folders[:] = sorted(one for one in folders if not one.startswith("."))
            below = os.path.relpath(folder, self.root).replace(os.sep, "/")
            prefix = "" if below == "." else f"{below}/"
            start = "" if self._base == "." else f"{self._base}/"
            for file in sorted(files):
                if not file.startswith("._") and _suffix(file) in _LISTED | ARCHIVES:
                    found.append((prefix + file, start + prefix + file))
        return found

    @cached_property
    def _loose(self) -> dict[str, str]:
        return {name: path for name, path in self._files if _suffix(name) not in ARCHIVES}

    @cached_property
    def archives(self) -> dict[str, Path]:
        """The archives by their name below the folder; the root itself, where it is one, by an empty name."""
        if is_archive(self.root):
            return {"": self.root}
        return {name: Path(path) for name, path in self._files if _suffix(name) in ARCHIVES}

    @cached_property
    def _packed(self) -> dict[str, str]:
        return {name: place for _, _, name, place in self._members}

    @cached_property
    def _members(self) -> list[tuple[str, str, str, str]]:
        """(archive's name, member, name, path) of each picture and text in the archives."""
        found = []
        for archive, path in self.archives.items():
            try:
                members = open_archive(path).members
            except OSError as error:
                if any(_suffix(name) in IMAGE_SUFFIXES for name in self._loose):
                    continue  # some other archive; the pictures lie beside it
                raise DataError(f"{path}: {error.strerror}; check params.data.images") from error
            for member in members:
                if _suffix(member) in _LISTED:
                    name = f"{archive}/{member}" if archive else member
                    found.append((archive, member, name, inside(path, member)))
        return found

    @cached_property
    def _by_name(self) -> dict[str, str | None]:
        """Every name that a picture may go by; None where two pictures could be meant."""
        found: dict[str, str | None] = dict(self._packed)
        exact = set(found)
        other: dict[str, str | None] = {}

        def add(name: str, path: str) -> None:
            if name not in exact and other.setdefault(name, path) != path:
                other[name] = None

        for name, path in self._loose.items():
            add(_folded(name), path)
        for archive, member, name, path in self._members:
            if _suffix(member) not in IMAGE_SUFFIXES:
                continue
            stem = archive[: -len(_suffix(archive))] if archive else self.root.stem
            names = {name, f"{stem}/{member}", f"{PurePosixPath(stem).name}/{member}", *_ends(member)}
            for one in names:
                add(one, path)
                add(_folded(one), path)
        return found | other


def _ends(member: str) -> Iterator[str]:
    """`a/b/c.jpg`, `b/c.jpg`, `c.jpg`."""
    while member:
        yield member
        member = member.partition("/")[2]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()
