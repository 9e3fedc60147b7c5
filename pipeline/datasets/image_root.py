"""Finds the folder or archive that holds a dataset's images, near its captions."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.archives import ARCHIVES
from pipeline.datasets.image_index import ImageIndex

_SAMPLE = 200
_MAX_FOLDERS = 100


@dataclass(frozen=True)
class ImageRoot:
    """A place of images, and how many different ones of a sample of names were found there."""

    index: ImageIndex
    found: int
    sampled: int


def find_image_root(places: Iterable[Path], names: Sequence[str]) -> ImageRoot | None:
    """The place that holds the most images of these names, the first of equals; None if none holds any."""
    sample = names[:: max(1, len(names) // _SAMPLE)]
    best = None
    for place in places:
        index = ImageIndex(place)
        found = len({path for name in sample if (path := index.find(name))})
        if found > (best.found if best else 0):
            best = ImageRoot(index, found, len(sample))
        if found == len(sample):
            break
    return best


def describe_ambiguity(places: Iterable[Path], name: str) -> str:
    """What images a name that is in none of the places could be, and what to do; empty where there are none."""
    for place in places:
        index = ImageIndex(place)
        if index.fitting(name):
            return f"{place}: {name}: {index.problem(name)}; give the captions the whole name, or keep one of the files"
    return ""


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
