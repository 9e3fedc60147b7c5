"""Finds a dataset's images in a folder, in an archive, or in a folder with archives.

An archive counts as a folder: the images of `shards/000.tar` are `000.tar/name.jpg` below `shards`. Names in captions
often differ from those on the disk: in case or accents, or because a suffix, leading zeros or a folder is missing, or
there is no folder of the split. Such a name is resolved if it fits one image only. Symbolic links are followed.
"""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pipeline.archives import ARCHIVES, IMAGE_SUFFIXES, inside, is_archive, open_archive, read_image_bytes
from pipeline.datasets.entries import SPLIT_NAMES
from pipeline.errors import DataError

TEXT_SUFFIXES = (".txt", ".caption", ".json")
"""Of files that may hold an image's captions beside it, the preferred one first."""
_LISTED = IMAGE_SUFFIXES.union(TEXT_SUFFIXES)
_BESIDE_IMAGES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".token", ".md", ".dvc", ".yaml", ".yml"})
_TRAILING_NUMBER = re.compile(r"\d+$", re.ASCII)
_SPLIT = f"({'|'.join(SPLIT_NAMES)})"
_SPLIT_FOLDER = re.compile(rf"{_SPLIT}\d*/")
"""A folder that COCO's reader assumes by the name of a captions file."""
_SPLIT_PLACE = re.compile(rf"(?:^|/){_SPLIT}[\W_]*\d*(?:\.(?:zip|tar))?(?=/|::)", re.IGNORECASE)
"""A folder or an archive that is named after a split."""
_Key = TypeVar("_Key", str, tuple[str, str])


class ImageIndex:
    """The images below `root`, and the texts beside them, by the names that captions give them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def _base(self) -> str:
        return self.root.as_posix().rstrip("/")

    def find(self, name: str, *, in_any_folder: bool = True) -> str | None:
        """The path to read the image from; None when there is no such image, or more than one it could be.

        Without `in_any_folder`, the name must hold the folders above a file.
        """
        paths = self.fitting(name) if in_any_folder else self._in_its_folder(name)
        return paths[0] if len(paths) == 1 else None

    def fitting(self, name: str) -> tuple[str, ...]:
        """The path of the image of this name, or the first two of those that it could be."""
        paths = self._in_its_folder(name) or self._by_tail.get(_fold(name), ())
        folder = None if paths else _SPLIT_FOLDER.match(name)
        return self._of_split(self._by_tail.get(_fold(name[folder.end() :]), ()), folder[1]) if folder else paths

    def _in_its_folder(self, name: str) -> tuple[str, ...]:
        paths = self._fitting(name)
        folder = None if paths else _SPLIT_FOLDER.match(name)
        return self._of_split(self._fitting(name[folder.end() :], by_number=False), folder[1]) if folder else paths

    def _of_split(self, paths: Sequence[str], split: str) -> tuple[str, ...]:
        """The paths that do not lead through a folder or an archive, the root included, of another split."""
        start = 0 if self._base == "." else len(self._base) - len(self.root.name)
        splits = ({SPLIT_NAMES[name.lower()] for name in _SPLIT_PLACE.findall(path[start:])} for path in paths)
        return tuple(path for path, found in zip(paths, splits, strict=True) if found <= {SPLIT_NAMES[split]})

    def problem(self, name: str) -> str:
        """Why `find` finds no image of this name."""
        if paths := self.fitting(name):
            return f"the name fits two files: {', '.join(path.removeprefix(f'{self._base}/') for path in paths)}"
        path = self.root / name
        if os.path.exists(path):
            return "not a file"
        if os.path.islink(path):
            return "a broken symbolic link"
        damaged = "; ".join(f"{path}: {reason}" for path, reason in self.damaged_archives.items())
        return "the image does not exist" + (
            f", unless it is in an archive that cannot be read: {damaged}" if damaged else ""
        )

    def _fitting(self, name: str, *, by_number: bool = True) -> tuple[str, ...]:
        path = f"{self._base}/{name}" if self._base != "." else name
        if os.path.isfile(path):
            return (path,)
        for variant in (name, _fold(name)):
            if variant in self._by_name:
                return self._by_name[variant]
        by_stem = self._by_stem.get(_fold(name), ())
        if by_stem or "/" in name or not by_number:
            return by_stem
        suffix = suffix_of(name) if suffix_of(name) in IMAGE_SUFFIXES else ""
        return self._by_number.get((number_of(name) or "", suffix), ())

    def files(self) -> dict[str, str]:
        """All images and texts: path by name, in the order of names.

        An archive from which files of the folder were unpacked is left out.
        """
        unpacked = self._unpacked
        packed = {name: path for archive, _, name, path in self._members if archive not in unpacked}
        return dict(sorted((self._loose | packed).items()))

    def names(self) -> Iterator[str]:
        """The names of all images."""
        return (name for name in self.files() if suffix_of(name) in IMAGE_SUFFIXES)

    def ignored_files(self) -> list[str]:
        """The names of broken links, and of files that are neither usual in a dataset nor archives of such files."""
        archives = {archive for archive, *_ in self._members}
        others = [name for name, _ in self._walked if name not in archives and not is_usual(name)]
        return [*self.broken_links, *others]

    @cached_property
    def broken_links(self) -> list[str]:
        """The names of images that are broken symbolic links."""
        images = ((name, path) for name, path in self._walked if suffix_of(name) in IMAGE_SUFFIXES)
        return [name for name, path in images if not os.path.exists(path) and os.path.islink(path)]

    @cached_property
    def _walked(self) -> list[tuple[str, str]]:
        """(name, path) of each file below the root."""
        if not self.root.is_dir():
            return []
        start = "" if self._base == "." else f"{self._base}/"
        return [(name, start + name) for name in walk_files(self.root, hidden_folders=False)]

    @cached_property
    def _loose(self) -> dict[str, str]:
        broken = set(self.broken_links)
        return {name: path for name, path in self._walked if suffix_of(name) in _LISTED and name not in broken}

    @cached_property
    def _unpacked(self) -> set[str]:
        """Archives beside image files that hold no others: all their images have a file's name, the first its bytes."""
        files: dict[str, list[str]] = defaultdict(list)
        packed: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for name, path in self._loose.items():
            if suffix_of(name) in IMAGE_SUFFIXES:
                files[os.path.basename(name)].append(path)
        for archive, member, _, path in self._members if files else ():
            packed[archive] += [(os.path.basename(member), path)] if suffix_of(member) in IMAGE_SUFFIXES else []
        return {
            archive
            for archive, images in packed.items()
            if all(name in files for name, _ in images)
            and all(_has_same_bytes(path, files[name]) for name, path in images[:1])
        }

    @property
    def damaged_archives(self) -> dict[str, str]:
        """The reason by path for each archive that cannot be read beside the images of a folder.

        Raises `DataError` for one where there are no other images.
        """
        return self._opened[1]

    @property
    def _members(self) -> list[tuple[str, str, str, str]]:
        """(archive's name, member, name, path) of each image and text in an archive.

        The archive's name is that below the root, or empty where the root is the archive.
        """
        return self._opened[0]

    @cached_property
    def _opened(self) -> tuple[list[tuple[str, str, str, str]], dict[str, str]]:
        """The members of the archives, and the damaged ones; each archive is opened once."""
        archives = {"": self.root} if is_archive(self.root) else {}
        archives |= {name: Path(path) for name, path in self._walked if suffix_of(name) in ARCHIVES}
        found, damaged = [], {}
        for archive, path in archives.items():
            try:
                members = open_archive(path).members
            except OSError as error:
                if not any(suffix_of(name) in IMAGE_SUFFIXES for name in self._loose):
                    raise DataError(f"params.data.images: {path}: {error.strerror}") from error
                damaged[str(path)] = error.strerror or str(error)
                continue
            for member in members:
                if suffix_of(member) in _LISTED:
                    name = f"{archive}/{member}" if archive else member
                    found.append((archive, member, name, inside(path, member)))
        return found, damaged

    def _names(self) -> Iterator[tuple[str, str]]:
        """(name, path) for every name that an image may go by."""
        for name, path in self._loose.items():
            if suffix_of(name) in IMAGE_SUFFIXES:
                yield name, path
        for archive, member, name, path in self._members:
            if suffix_of(member) in IMAGE_SUFFIXES:
                folder = stem_of(archive) if archive else self.root.stem
                names = {name, f"{folder}/{member}", f"{PurePosixPath(folder).name}/{member}", *_tails(member)}
                yield from ((one, path) for one in names)

    @cached_property
    def _by_name(self) -> dict[str, tuple[str, ...]]:
        """Paths by name and by folded name."""
        variants = ((variant, path) for name, path in self._names() for variant in (name, _fold(name)))
        return _first_two(variants) | {name: (path,) for _, _, name, path in self._members}

    @cached_property
    def _by_stem(self) -> dict[str, tuple[str, ...]]:
        """Paths by folded name without the suffix."""
        return _first_two((_fold(stem_of(name)), path) for name, path in self._names())

    @cached_property
    def _by_tail(self) -> dict[str, tuple[str, ...]]:
        """Paths of files by folded name, with all, some or none of the folders above it."""
        images = ((name, path) for name, path in self._loose.items() if suffix_of(name) in IMAGE_SUFFIXES)
        return _first_two((_fold(tail), path) for name, path in images for tail in _tails(name))

    @cached_property
    def _by_number(self) -> dict[tuple[str, str], tuple[str, ...]]:
        """Paths by the number that the file's name is, else by the one at its end, with and without the suffix."""
        numbers = [(number, path) for name, path in self._names() if (number := number_of(name))]
        if not numbers:
            ends = ((_TRAILING_NUMBER.search(stem_of(name)), path) for name, path in self._names())
            numbers = [(end[0].lstrip("0") or "0", path) for end, path in ends if end]
        return _first_two(((number, suffix), path) for number, path in numbers for suffix in ("", suffix_of(path)))


def walk_files(root: Path, *, hidden_folders: bool) -> Iterator[str]:
    """Yield the names below `root` of all files, with forward slashes.

    Folders come in alphabetical order, those behind links after all others. Each folder is listed once, and a link to a
    folder below `root` therefore adds nothing. The resource forks that macOS writes (`._name`) are left out. Raises
    `DataError` for a folder that cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    seen = set()
    tops = [str(root)]
    for top in tops:  # links to folders are added on the way
        for folder, folders, files in os.walk(top, onerror=refuse):
            real = os.path.realpath(folder)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(one for one in folders if hidden_folders or not one.startswith("."))
            tops += [path for one in folders if os.path.islink(path := os.path.join(folder, one))]
            below = os.path.relpath(folder, root).replace(os.sep, "/")
            prefix = "" if below == "." else f"{below}/"
            yield from (prefix + file for file in sorted(files) if not file.startswith("._"))


def _first_two(named: Iterable[tuple[_Key, str]]) -> dict[_Key, tuple[str, ...]]:
    """Path by name; for a name of several images, the first two."""
    paths: dict[_Key, tuple[str, ...]] = {}
    for name, path in named:
        known: tuple[str, ...] = paths.setdefault(name, (path,))
        if len(known) == 1 and path != known[0]:
            paths[name] = (*known, path)
    return paths


def _has_same_bytes(path: str, others: Iterable[str]) -> bool:
    """Whether an image has the same bytes as one of the others, as far as they can be read."""
    try:
        return read_image_bytes(path) in map(read_image_bytes, others)
    except OSError:
        return False


def is_usual(name: str) -> bool:
    """Whether a file is an image, a text or table as it lies beside images, or hidden.

    A hidden `.a.heic.icloud` stands for an image that macOS has not downloaded, and is none of them.
    """
    suffix = suffix_of(name)
    is_hidden = PurePosixPath(name).name.startswith(".") and suffix != ".icloud"
    return suffix in _LISTED | _BESIDE_IMAGES or is_hidden


def number_of(name: str) -> str | None:
    """A name's number without leading zeros: that of `7`, `007`, `007.jpg` or `7.0`, as pandas may write ids; None for
    any other name."""
    stem = PurePosixPath(name).name
    stem = (stem_of(stem) if suffix_of(stem) in IMAGE_SUFFIXES else stem).removesuffix(".0")
    return (stem.lstrip("0") or "0") if stem.isascii() and stem.isdigit() else None


def _tails(member: str) -> Iterator[str]:
    """`a/b/c.jpg`, `b/c.jpg`, `c.jpg`."""
    while member:
        yield member
        member = member.partition("/")[2]


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def stem_of(name: str) -> str:
    """A name without its suffix."""
    return os.path.splitext(name)[0]


def suffix_of(name: str) -> str:
    """The suffix of a name in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()
