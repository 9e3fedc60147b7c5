"""Readers of features that another program computed, such as bottom-up region features.

    folder    one .npz or .npy file per image, named after it
    HDF5      one dataset per image, or one big dataset with a dataset or a file of ids
    array     one .npy file (N, R, C) and a file of N ids

An image's array is (R, C), (C,) or (H, W, C); images may have different numbers of regions.

N images, R regions of an image, C channels.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError, ParamsError
from pipeline.wording import counted, shown_names

ARRAY_SUFFIXES = (".npz", ".npy")
HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")
FEATURE_NAMES = ("feat", "features")
NPZ_KEYS = (*FEATURE_NAMES, "x", "att", "arr_0")
"""Names under which programs store an image's features in an .npz file, the preferred one first."""
ID_DATASETS = ("ids", "image_ids", "image_id", "image", "images")
ID_SUFFIX = "_features"
"""Of a dataset's name behind the image id; datasets with other suffixes, such as `_boxes`, are passed over."""
LARGEST = float(np.finfo(np.float16).max)


class ChannelsFirstError(DataError):
    """An image's array has its channels first; the others of its program probably have too."""


class ImportSource(Protocol):
    """Features by id."""

    def ids(self) -> Sequence[str]:
        """Return all ids."""

    def read(self, key: str) -> NDArray[Any]:
        """Return the array of an id. Thread-safe. Raises `DataError` with the reason alone."""


def open_source(path: Path, *, ids: Path | None, key: str | None) -> ImportSource:
    """Open a folder, an HDF5 file or an array. `ids` belongs to an array; `key` names the array of an .npz file, or
    the big dataset of an HDF5 file.

    Raises `DataError` when nothing is there or the layout is not recognized, `ParamsError` for `ids` of features that
    have ids.
    """
    suffix = path.suffix.lower()
    if ids is not None and path.exists() and (suffix not in (".npy", *HDF5_SUFFIXES) or path.is_dir()):
        raise _unneeded_ids(ids, path)
    if path.is_dir():
        return FolderSource(path, key)
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder; give the features to import")
    try:
        if suffix in HDF5_SUFFIXES:
            return Hdf5Source.open(path, ids, key)
        if suffix == ".npy":
            if ids is None:
                raise DataError(f"{path}: an array needs --ids, a file with the image id of each row")
            if key is not None:
                raise DataError(f"{path}: --key is not for an .npy array, which has no names; leave it out")
            return ArraySource.open(path, ids)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    raise DataError(f"{path}: not a folder of .npz or .npy files, an .npy array or an HDF5 file (.h5, .hdf5)")


class FolderSource:
    """One .npz or .npy file per image; an id is the file's path in the folder without this suffix."""

    def __init__(self, folder: Path, key: str | None) -> None:
        self._key = key
        files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in ARRAY_SUFFIXES)
        self._files: dict[str, Path] = {}
        for file in files:
            first = self._files.setdefault(file.relative_to(folder).with_suffix("").as_posix(), file)
            if first != file:
                raise DataError(f"{first} and {file} hold the features of one image; keep one of them")
        if not self._files:
            raise DataError(f"{folder}: contains no .npz or .npy file")
        if key is not None and all(file.suffix.lower() == ".npy" for file in files):
            raise DataError(f"{folder}: --key is for .npz files, and all files here are .npy; leave it out")

    def ids(self) -> Sequence[str]:
        return list(self._files)

    def read(self, key: str) -> NDArray[Any]:
        try:
            loaded = np.load(self._files[key], allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            with loaded:
                return np.asarray(loaded[self._name(loaded.files)])
        except DataError:
            raise
        except Exception as error:  # zipfile and numpy raise many types for a damaged file
            raise DataError(f"damaged: {error or type(error).__name__}") from error

    def _name(self, names: Sequence[str]) -> str:
        """The name of the features in an .npz file."""
        if self._key is not None:
            if self._key in names:
                return self._key
            raise DataError(f"has no array {self._key!r}, only {', '.join(names)}")
        found = names if len(names) == 1 else [name for name in NPZ_KEYS if name in names]
        if not found:
            raise DataError(f"holds the arrays {', '.join(names)}; name one with --key")
        return found[0]


@dataclass(frozen=True)
class ArraySource:
    """One big array (N, R, C) with the id of each row."""

    rows: Mapping[str, int]
    features: Any
    """An array or an HDF5 dataset."""
    counts: NDArray[np.int64] | None = None
    """(N,) regions of each image; None: all R."""

    @classmethod
    def open(cls, path: Path, ids: Path) -> Self:
        features = np.load(path, mmap_mode="r", allow_pickle=False)
        return cls(_rows(read_ids(ids), len(features), path), features)

    def ids(self) -> Sequence[str]:
        return list(self.rows)

    def read(self, key: str) -> NDArray[Any]:
        row = self.rows[key]
        try:
            values = np.asarray(self.features[row])
        except (OSError, RuntimeError) as error:
            raise DataError(f"damaged: {error}") from error
        return values if self.counts is None else values[: int(self.counts[row])]


@dataclass(frozen=True)
class Hdf5Source:
    """One dataset per image in an HDF5 file."""

    names: Mapping[str, str]
    """The dataset of each id."""
    file: Any

    @classmethod
    def open(cls, path: Path, ids: Path | None, key: str | None) -> "ImportSource":
        """Open a file in either layout."""
        import h5py

        file = h5py.File(path, "r")  # stays open as long as the source
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        if not names:
            raise DataError(f"{path}: contains no dataset")
        found = _ids_in(file, names)
        if found is None and (key in names or len(names) == 1 or not set(FEATURE_NAMES).isdisjoint(names)):
            if ids is None:
                raise DataError(
                    f"{path}: has no dataset of ids ({', '.join(ID_DATASETS)}); add one, or name a file with the image "
                    "id of each row with --ids"
                )
            found = read_ids(ids)
        elif ids is not None:
            raise _unneeded_ids(ids, path)
        if found is not None:
            features = file[_features_dataset(file, names, key, path)]
            counts = file["num_boxes"][()] if "num_boxes" in names else None
            return ArraySource(_rows(found, len(features), path), features, counts)
        if key is not None:
            raise DataError(
                f"{path}: has no dataset {key!r} and no dataset of ids ({', '.join(ID_DATASETS)}), so that each "
                "dataset is an image's and --key selects none; leave it out"
            )
        suffixed = {name.removesuffix(ID_SUFFIX): name for name in names if name.endswith(ID_SUFFIX)}
        return cls(suffixed or {name: name for name in names}, file)

    def ids(self) -> Sequence[str]:
        return list(self.names)

    def read(self, key: str) -> NDArray[Any]:
        try:
            return np.asarray(self.file[self.names[key]][()])
        except (OSError, RuntimeError) as error:
            raise DataError(f"damaged: {error}") from error


def _unneeded_ids(ids: Path, path: Path) -> ParamsError:
    return ParamsError(f"--ids {ids}: names the rows of one array; {path} has ids of its own; leave it out")


def _ids_in(file: Any, names: Sequence[str]) -> list[str] | None:
    """The ids of the rows of the big dataset, where the file has them."""
    name = next((name for name in ID_DATASETS if name in names), None)
    if name is None:
        return None
    return [one.decode() if isinstance(one, bytes) else str(one) for one in file[name][()].tolist()]


def _features_dataset(file: Any, names: Sequence[str], key: str | None, path: Path) -> str:
    """The name of the big dataset."""
    if key is not None and key not in names:
        raise DataError(f"{path}: has no dataset {key!r}, only {', '.join(names[:10])}")
    found = [key] if key else names if len(names) == 1 else [name for name in names if file[name].ndim == 3]
    if len(found) != 1:
        raise DataError(f"{path}: which of the datasets {', '.join(names[:10])} holds the features? Name it with --key")
    return str(found[0])


def _rows(ids: Sequence[str], count: int, path: Path) -> dict[str, int]:
    rows = {one: row for row, one in enumerate(ids)}
    if len(ids) != count:
        raise DataError(f"{path}: {counted(count, 'row')}, but {counted(len(ids), 'id')}")
    if len(rows) != count:
        raise DataError(f"{path}: {count - len(rows):,} of {counted(count, 'id')} occur twice")
    return rows


def read_ids(path: Path) -> list[str]:
    """Read the ids of an array's rows: a JSON list, an .npy array, or one per line. Raises `DataError`."""
    try:
        if path.suffix.lower() == ".npy":
            return [str(one) for one in np.load(path, allow_pickle=False).tolist()]
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            return [str(one) for one in json.loads(text)]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: not a list of ids: {error}") from error
    return text.splitlines()


@dataclass(frozen=True)
class Match:
    """Which features belong to which image."""

    found: dict[str, str]
    """The id by image."""
    missing: list[str]
    """Images without features."""
    extra: list[str]
    """Ids without an image."""


def match_ids(images: Iterable[str], ids: Sequence[str]) -> Match:
    """Find the features of each image.

    An id is the image's name or path, with or without suffix, or the number at its end: `9`, `000000000009` and
    `val2014/COCO_val2014_000000000009` are `val2014/COCO_val2014_000000000009.jpg`. Raises `DataError` when features
    could belong to several images, and for several features of one image.
    """
    known = set(ids)
    by_number: dict[str, list[str]] = defaultdict(list)
    for one in ids:
        if one.isdecimal():
            by_number[_without_zeros(one)].append(one)
    found: dict[str, str] = {}
    others_of: dict[str, list[str]] = {}
    missing: list[str] = []
    image_of: dict[str, str] = {}
    for image in images:
        ids_of = _ids_of(image, known, by_number)
        if not ids_of:
            missing.append(image)
            continue
        one, *others_of[image] = ids_of
        if one in image_of:
            raise DataError(
                f"the features {one!r} could belong to {image_of[one]} and to {image}; name them after the whole path"
            )
        found[image] = one
        image_of[one] = image
    for image, others in others_of.items():
        if unused := [repr(other) for other in others if other not in image_of]:
            named = shown_names([repr(found[image]), *unused])
            raise DataError(f"features of {len(unused) + 1} names belong to {image}: {named}; keep one of them")
    return Match(found, missing, [one for one in ids if one not in image_of])


def _ids_of(image: str, known: Set[str], by_number: Mapping[str, list[str]]) -> list[str]:
    """The ids that are equally exact names of an image: its path, else its file name, else its number."""
    path = PurePosixPath(image)
    number = path.stem[len(path.stem.rstrip("0123456789")) :]
    for names in ((image, path.with_suffix("").as_posix()), (path.name, path.stem)):
        if ids := [name for name in dict.fromkeys(names) if name in known]:
            return ids
    return by_number.get(_without_zeros(number), []) if number else []


def _without_zeros(number: str) -> str:
    return number.lstrip("0") or "0"


def regions_of(values: NDArray[Any], channels: int | None) -> NDArray[np.float16]:
    """Return the regions (R, C) of an image's array: (R, C), (C,) or (H, W, C).

    Raises `DataError` with the reason alone: another shape, other than `channels` channels, or values that are not
    finite in float16. Raises `ChannelsFirstError` for (C, H, W), where H and W are equal and less than C.
    """
    if values.dtype.kind not in "fiu" or values.ndim not in (1, 2, 3) or not values.size:
        raise DataError(f"is {values.dtype} {values.shape}, expected numbers (regions, channels)")
    if values.ndim == 3 and values.shape[0] > values.shape[1] == values.shape[2]:
        raise ChannelsFirstError(
            f"an array {values.shape} looks like (channels, height, width); transpose to (height, width, channels), "
            "e.g. np.moveaxis(x, -3, -1)"
        )
    regions = values.reshape(-1, values.shape[-1])
    if channels is not None and regions.shape[1] != channels:
        raise DataError(f"has {regions.shape[1]} channels, the features before it have {channels}")
    if not np.isfinite(regions).all() or np.abs(regions).max() > LARGEST:
        raise DataError("has values that are not finite, or beyond float16's range")
    stored: NDArray[np.float16] = regions.astype(np.float16)
    if not stored.any():
        raise DataError("has only zeros")
    return stored
