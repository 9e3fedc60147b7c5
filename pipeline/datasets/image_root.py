"""Finds the folder or archive that holds a dataset's images, near its captions."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from pipeline.archives import ARCHIVES, COMPRESSED, COMPRESSED_SUFFIXES, read_image_bytes
from pipeline.datasets.entries import SPLIT_NAMES, CaptionEntry, split_in
from pipeline.datasets.image_index import ImageIndex
from pipeline.errors import DataError

_SAMPLE = 200
_MAX_FOLDERS = 100
_SHOWN = 3


@dataclass(frozen=True)
class ImageRoot:
    """A place of images, and those of a sample of names that were found there."""

    index: ImageIndex
    paths: Mapping[str, str]
    """By name."""
    sampled: int
    """Names in the sample."""
    rival: Path | None = None
    """Another place that holds different images of the same names."""

    @property
    def found(self) -> int:
        """Different images."""
        return len(set(self.paths.values()))


def find_image_root(places: Iterable[Path], names: Sequence[str], captions: Path | None = None) -> ImageRoot | None:
    """The place that holds the most images of these names, the first of equals; None if none holds any.

    Of places that hold different images of the same names, it is the one named after the split of the captions file, if
    there is exactly one.
    """
    sample = names[:: max(1, len(names) // _SAMPLE)]
    places = list(places)
    roots: list[ImageRoot] = []  # the best by whole names, and the best by names that may lack folders
    for place in places:
        index = ImageIndex(place)
        found = [_find_sample(index, sample, in_any_folder=in_any_folder) for in_any_folder in (False, True)]
        roots = [max(pair, key=lambda root: root.found) for pair in zip(roots, found, strict=True)] if roots else found
        if roots[0].found == len(sample):
            break
    best = max(roots, key=lambda root: root.found, default=None)
    return _prefer_split(best, places, captions) if best and best.found else None


def _find_sample(index: ImageIndex, names: Sequence[str], *, in_any_folder: bool) -> ImageRoot:
    paths = {name: path for name in names if (path := index.find(name, in_any_folder=in_any_folder))}
    return ImageRoot(index, paths, len(names))


def _prefer_split(first: ImageRoot, places: Iterable[Path], captions: Path | None) -> ImageRoot:
    """The first place, or the one of the captions' split among those that hold other images of the same names."""
    rivals = []
    for place in places:
        if place.is_relative_to(first.index.root) or first.index.root.is_relative_to(place):
            continue
        with suppress(DataError):  # a damaged archive
            other = replace(
                _find_sample(ImageIndex(place), list(first.paths), in_any_folder=False), sampled=first.sampled
            )
            if 2 * len(other.paths) >= len(first.paths) and any(
                _differ(first.paths[name], path) for name, path in other.paths.items()
            ):
                rivals.append(other)
    split = captions and _split_of(captions)
    named = [root for root in (first, *rivals) if split and _split_of(root.index.root) == split]
    return named[0] if len(named) == 1 else replace(first, rival=rivals[0].index.root if rivals else None)


def are_of_different_splits(one: Path, other: Path) -> bool:
    """Whether two places are named after different splits."""
    splits = _split_of(one), _split_of(other)
    return all(splits) and splits[0] != splits[1]


def _split_of(place: Path) -> str | None:
    return split_in(place.name) or SPLIT_NAMES.get(place.parent.name.lower())


def _differ(one: str, two: str) -> bool:
    """Whether two paths lead to different images."""
    with suppress(OSError):
        return one != two and read_image_bytes(one) != read_image_bytes(two)
    return True


def refuse_shared_names(entries: Iterable[CaptionEntry], captions: Path, dataset: Path) -> None:
    """Raise `DataError` for a name in several splits that is another image in the folder of each split."""
    first: dict[str, dict[str, CaptionEntry]] = defaultdict(dict)
    for entry in entries:
        if entry.split:
            first[entry.image].setdefault(entry.split, entry)
    shared = {image: by_split for image, by_split in first.items() if len(by_split) > 1}
    if not shared:
        return
    indexes: dict[str, list[ImageIndex]] = defaultdict(list)
    for place in likely_image_roots(captions, dataset, list(shared)):
        if split := split_in(place.name):
            indexes[split].append(ImageIndex(place))
    for image, by_split in shared.items():
        paths: dict[str, str] = {}
        for split in by_split:
            with suppress(DataError):  # a damaged archive
                found = (index.find(image, in_any_folder=False) for index in indexes[split])
                if path := next(filter(None, found), None):
                    paths[split] = path
        for split, path in paths.items():
            one, other = next(iter(paths.items()))
            if _differ(path, other):
                raise DataError(
                    f"{by_split[split].place}: {image} is in {split} and also in {one}, and {path} and {other} are "
                    f"different images; write the folder into the names, such as {split}/{image}"
                )


def explain_missing(places: Sequence[Path], name: str, none_found: str) -> str:
    """Why the image is in none of the places, and what to do; `none_found` where the cause is unknown."""
    for place in places:
        index = ImageIndex(place)
        if index.fitting(name):
            return f"{place}: {name}: {index.problem(name)}; give the captions the whole name, or keep one of the files"
    for place in places:
        if others := list(islice(ImageIndex(place).names(), _SHOWN)):
            return f"{none_found}; the images in {place} are named {', '.join(others)}"
    for place in places:
        for file in sorted(place.iterdir()) if place.is_dir() else [place]:
            if file.is_file() and file.name.lower().endswith(COMPRESSED_SUFFIXES):
                return f"{file}: {COMPRESSED}"
    return none_found


def likely_image_roots(captions: Path, dataset: Path, names: Sequence[str]) -> list[Path]:
    """Folders and archives beside and below the captions and the dataset, the likeliest first.

    The folder above the captions is only included if it contains an image directly, because it may hold unrelated
    files. Symbolic links to a folder of the dataset come last, so that the folder's own name is preferred.
    """
    tops = dict.fromkeys(path if path.is_dir() else path.parent for path in (captions, dataset))
    below = [path for top in tops for path in sorted(top.iterdir()) if not path.name.startswith(".")]
    real = [top.resolve() for top in tops]
    links = {path for path in below if path.is_symlink() and any(map(path.resolve().is_relative_to, real))}
    folders = sorted((path for path in below if path.is_dir()), key=links.__contains__)
    inner = [path for folder in folders[:_MAX_FOLDERS] for path in sorted(folder.iterdir()) if path.is_dir()]
    archives = [path for path in below if path.suffix.lower() in ARCHIVES]
    above = [top.parent for top in tops if any(os.path.isfile(top.parent / name) for name in names[:_SAMPLE])]
    places = dict.fromkeys([*folders, *tops, *inner[:_MAX_FOLDERS], *archives, *above])
    return sorted(places, key=links.__contains__)
