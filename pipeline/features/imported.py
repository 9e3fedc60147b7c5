"""Readers of features that another program computed, such as bottom-up region features.

    folder    one .npz or .npy file per image, named after it
    HDF5      one dataset per image, or one big dataset with a dataset or a file of ids
    array     one .npy file (N, R, C) and a file of N ids

An image's array is (R, C), (C,) or (H, W, C); images may have different numbers of regions.

N images, R regions of an image, C channels.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError, ParamsError
from pipeline.file_signatures import other_content
from pipeline.wording import counted, shown_names

ARRAY_SUFFIXES = (".npz", ".npy")
HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")
FEATURE_NAMES = ("feat", "features")
NPZ_KEYS = (*FEATURE_NAMES, "x", "att", "arr_0")
"""Names under which programs store an image's features in an .npz file, the preferred one first."""
ID_DATASETS = ("ids", "image_ids", "image_id", "image", "images")
ID_SUFFIXES = ("_features", "/features", "/feat")
"""Suffixes of the datasets `<image id>_features`, `<image id>/features` or `<image id>/feat`; others, such as `_boxes`,
are ignored."""
LARGEST, SMALLEST = float(np.finfo(np.float16).max), float(np.finfo(np.float16).tiny)


class ChannelsFirstError(DataError):
    """An image's array has its channels first; the others of its program probably have too."""


@dataclass(frozen=True)
class ImportSource:
    """Features by id."""

    places: Mapping[str, Any]
    """The file, the dataset or the row of each id."""
    load: Callable[[Any], NDArray[Any]]
    """Returns the array of a place."""

    def read(self, key: str) -> NDArray[Any]:
        """Return the array of an id. Thread-safe. Raises `DataError` with the reason alone."""
        place = self.places[key]
        try:
            return self.load(place)
        except DataError:
            raise
        except Exception as error:  # zipfile, numpy and h5py raise many types for a damaged file
            raise DataError(f"cannot be read: {_reason(error, place)}") from error


def open_source(path: Path, *, ids: Path | None, key: str | None) -> ImportSource:
    """Open a folder, an HDF5 file or an array. `ids` belongs to an array; `key` names the array of an .npz file, or
    the big dataset of an HDF5 file.

    Raises `DataError` when nothing is there or the layout is not recognized, `ParamsError` for `ids` of features that
    have ids.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; give the features to import")
    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            return _open_folder(path, ids, key)
        if suffix in HDF5_SUFFIXES:
            return _open_hdf5(path, ids, key)
        if suffix == ".npy":
            return _open_array(path, ids, key)
    except (OSError, EOFError, TypeError, ValueError, KeyError, RuntimeError) as error:
        raise DataError(f"{path}: cannot be read: {_reason(error, path)}") from error
    raise DataError(f"{path}: not a folder of .npz or .npy files, an .npy array or an HDF5 file (.h5, .hdf5)")


def _reason(error: Exception, place: Any) -> str:
    """Why features cannot be read."""
    words = other_content(place) if isinstance(place, Path) else None
    if "Python objects" in str(error):
        return "holds Python objects, such as a dict; save the array of each image in a file of its own"
    if words is None and "pickle" in str(error):  # what numpy says of any file that it does not know
        return "not an array of numbers or text as np.save writes it"
    return words or str(error) or type(error).__name__


def _open_folder(folder: Path, ids: Path | None, key: str | None) -> ImportSource:
    """One .npz or .npy file per image; an id is the file's path in the folder without this suffix."""
    if ids is not None:
        raise _unneeded_ids(ids, folder)
    files: dict[str, Path] = {}
    for file in sorted(file for file in folder.rglob("*") if file.suffix.lower() in ARRAY_SUFFIXES):
        first = files.setdefault(file.relative_to(folder).with_suffix("").as_posix(), file)
        if first != file:
            raise DataError(f"{first} and {file} hold the features of one image; keep one of them")
    if not files:
        raise DataError(f"{folder}: contains no .npz or .npy file")
    if key is not None and all(file.suffix.lower() == ".npy" for file in files.values()):
        raise DataError(f"{folder}: --key is for .npz files, and all files here are .npy; leave it out")
    return ImportSource(files, partial(_load_file, key))


def _load_file(key: str | None, file: Path) -> NDArray[Any]:
    with file.open("rb") as opened:
        loaded = np.load(opened, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            _check_end(file, opened.tell())
            return loaded
        names = loaded.files
        wanted = [key] if key is not None else names if len(names) == 1 else NPZ_KEYS
        found = next((name for name in wanted if name in names), None)
        if found is None:
            raise DataError(f"holds the arrays {', '.join(names)}; name one of them with --key")
        return np.asarray(loaded[found])


def _check_end(file: Path, end: int) -> None:
    """Raise `DataError` if an .npy file goes on after its array, for instance with a second one."""
    if behind := file.stat().st_size - end:
        raise DataError(f"{counted(behind, 'byte')} after the array in {file}; save each array in a file of its own")


def _open_array(path: Path, ids: Path | None, key: str | None) -> ImportSource:
    """One .npy file."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if ids is None:
        raise DataError(f"{path}: an array needs --ids, a file with the image id of each row")
    if key is not None:
        raise DataError(f"{path}: --key is not for an .npy array, which has no names; leave it out")
    _check_end(path, array.offset + array.nbytes)
    return _rows_of(array, read_ids(ids), path)


def _open_hdf5(path: Path, ids: Path | None, key: str | None) -> ImportSource:
    """An HDF5 file in either layout."""
    import h5py

    file = h5py.File(path, "r")  # stays open as long as the source
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    if not names:
        raise DataError(f"{path}: contains no dataset")
    rows = _ids_in(file, names)
    if rows is None and (key in names or len(names) == 1 or not set(FEATURE_NAMES).isdisjoint(names)):
        if ids is None:
            raise DataError(
                f"{path}: has no dataset of ids ({', '.join(ID_DATASETS)}); add one, or name a file with the image "
                "id of each row with --ids"
            )
        rows, ids = read_ids(ids), None
    if ids is not None:
        raise _unneeded_ids(ids, path)
    if rows is not None:
        counts = np.ravel(file["num_boxes"][()]) if "num_boxes" in names else None
        return _rows_of(file[_features_dataset(file, names, key, path)], rows, path, counts)
    if key is not None:
        raise DataError(
            f"{path}: has no dataset {key!r} and no dataset of ids ({', '.join(ID_DATASETS)}), so that each "
            "dataset is an image's and --key selects none; leave it out"
        )
    suffixed = {name.removesuffix(end): name for end in ID_SUFFIXES for name in names if name.endswith(end)}
    return ImportSource(suffixed or {name: name for name in names}, lambda name: np.asarray(file[name][()]))


def _rows_of(features: Any, ids: Sequence[str], path: Path, counts: NDArray[Any] | None = None) -> ImportSource:
    """One big array or HDF5 dataset (N, R, C) with the id of each row and, if known, its number of regions."""
    rows = {one: row for row, one in enumerate(ids)}
    if len(ids) != len(features):
        raise DataError(f"{path}: {counted(len(features), 'row')}, but {counted(len(ids), 'id')}")
    if len(rows) != len(ids):
        raise DataError(f"{path}: {len(ids) - len(rows):,} of {counted(len(ids), 'id')} occur twice")

    if counts is not None and (len(counts) != len(ids) or counts.max(initial=0) > features.shape[1]):
        raise DataError(f"{path}: the dataset num_boxes does not fit the features {features.shape}")

    def load(row: int) -> NDArray[Any]:
        values = np.asarray(features[row])
        return values if counts is None else values[: int(counts[row])]

    return ImportSource(rows, load)


def _unneeded_ids(ids: Path, path: Path) -> ParamsError:
    return ParamsError(f"--ids {ids}: names the rows of one array; {path} has ids of its own; leave it out")


def _ids_in(file: Any, names: Sequence[str]) -> list[str] | None:
    """The ids of the rows of the big dataset, where the file has them. Raises `ValueError` for two lists of ids."""
    found = {name: file[name] for name in ID_DATASETS if name in names}
    lists = {name: _as_ids(item[()].tolist()) for name, item in found.items() if item.ndim == 1 or len(found) == 1}
    if len(set(map(tuple, lists.values()))) > 1:
        raise ValueError(f"its datasets {' and '.join(lists)} name the rows differently; rename the wrong one")
    return next(iter(lists.values()), None)


def _features_dataset(file: Any, names: Sequence[str], key: str | None, path: Path) -> str:
    """The name of the big dataset: `key`, a usual name, or the only one with more than one value per row."""
    if key is not None and key not in names:
        raise DataError(f"{path}: has no dataset {key!r}, only {', '.join(names[:10])}")
    usual = [key] if key else [name for name in names if name in FEATURE_NAMES]
    found = usual or [name for name in names if file[name].ndim > 1] or names
    if len(found) != 1:
        raise DataError(f"{path}: which of the datasets {', '.join(names[:10])} holds the features? Name it with --key")
    return str(found[0])


def read_ids(path: Path) -> list[str]:
    """Read the ids of an array's rows: a JSON list, an .npy array, or one per line. Raises `DataError`."""
    if words := other_content(path):
        raise DataError(f"{path}: {words}")
    try:
        if path.suffix.lower() == ".npy":
            found = np.load(path, allow_pickle=False).tolist()
        else:
            text = path.read_text(encoding="utf-8-sig")
            found = json.loads(text) if path.suffix.lower() == ".json" else text.splitlines()
        return _as_ids(found)
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: not a list of ids: {_reason(error, path)}") from error
    except TypeError as error:
        raise DataError(f"{path}: {error}") from error


def _as_ids(found: Any) -> list[str]:
    """The ids in a list of texts, bytes or integers. Raises `TypeError` for anything else."""
    if not isinstance(found, list):
        raise TypeError(f"needed is a list of the ids in the order of the rows, not {str(found)[:60]}")
    for number, one in enumerate(found, start=1):
        if type(one) not in (str, bytes, int):
            raise TypeError(f"id {number} is {str(one)[:60]}; expected a text or an integer")
    return [(one.decode() if isinstance(one, bytes) else str(one)).strip() for one in found]


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

    An id is the image's path, the end of it or a longer path that ends like it, with or without suffix, or the number
    at its end: `9`, `000000000009`, `COCO_val2014_000000000009` and `/data/val2014/COCO_val2014_000000000009` are
    `val2014/COCO_val2014_000000000009.jpg`. Raises `DataError` when features could belong to several images, and for
    several features of one image.
    """
    images = list(images)
    known = set(ids)
    exact = {image: [name for name in _names(image) if name in known] for image in images}
    others = known.difference(*exact.values())
    by_end: dict[str, list[str]] = defaultdict(list)
    by_number: dict[str, list[str]] = defaultdict(list)
    for one in ids:
        if one not in others:
            continue
        for end in _ends(one):
            by_end[end].append(one)
        if one.isdecimal():
            by_number[_without_zeros(one)].append(one)
    found: dict[str, str] = {}
    missing: list[str] = []
    image_of: dict[str, str] = {}
    for image in images:
        ids_of = exact[image] or _ids_of(image, others, by_end, by_number)
        if not ids_of:
            missing.append(image)
            continue
        if len(ids_of) > 1:
            named = shown_names([repr(one) for one in ids_of])
            raise DataError(f"features of {len(ids_of)} names belong to {image}: {named}; keep one of them")
        [one] = ids_of
        if one in image_of:
            raise DataError(
                f"the features {one!r} could belong to {image_of[one]} and to {image}; name them after the whole path"
            )
        found[image] = one
        image_of[one] = image
    return Match(found, missing, [one for one in ids if one not in image_of])


def _ids_of(
    image: str, known: Set[str], by_end: Mapping[str, list[str]], by_number: Mapping[str, list[str]]
) -> list[str]:
    """The ids that are equally exact names of an image: paths that end like it, else ends of its path, else numbers."""
    if ids := [one for name in _names(image) for one in by_end.get(name, ())]:
        return ids
    for end in _ends(image):
        if ids := [name for name in _names(end) if name in known]:
            return ids
    stem = PurePosixPath(image).stem
    number = stem[len(stem.rstrip("0123456789")) :]
    return by_number.get(_without_zeros(number), []) if number else []


def _names(image: str) -> Iterable[str]:
    """An image's path with and without its suffix."""
    return dict.fromkeys((image, PurePosixPath(image).with_suffix("").as_posix()))


def _ends(path: str) -> Iterator[str]:
    """The path, and it without its first folders, down to the file's name."""
    parts = path.replace("\\", "/").split("/")
    return ("/".join(parts[start:]) for start in range(len(parts)))


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
    largest = max(float(regions.max()), -float(regions.min()))
    if not np.isfinite(regions).all() or largest > LARGEST:
        raise DataError("has values that are not finite, or beyond float16's range")
    if not largest:
        raise DataError("has only zeros")
    if largest < SMALLEST:
        raise DataError(f"has no value above {largest:.2g}, too small for float16; multiply all features by one number")
    return regions.astype(np.float16)
