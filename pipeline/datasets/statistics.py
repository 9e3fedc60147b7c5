"""What a dataset is like before anything is trained on it: its captions, its pictures, and what is wrong with them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.archives import read_image_bytes
from pipeline.datasets.caption_statistics import CaptionStatistics, caption_statistics
from pipeline.encoders.images import Description, ImageError, describe
from pipeline.progress import Progress, no_progress


@dataclass(frozen=True)
class ImageStatistics:
    """Of the pictures that were opened."""

    opened: int
    total: int
    widths: tuple[int, int, int]
    """Least, median and greatest, in pixels as stored."""
    heights: tuple[int, int, int]
    sizes: tuple[tuple[str, int], ...]
    """The most common sizes."""
    modes: dict[str, int]
    formats: dict[str, int]
    megabytes: float
    bad: tuple[tuple[str, str], ...]
    """Pictures that cannot be used, each with the reason."""


@dataclass(frozen=True)
class DatasetStatistics:
    """A dataset looked at."""

    captions: CaptionStatistics
    images: ImageStatistics
    duplicates: tuple[tuple[str, ...], ...]
    """Pictures of the same bytes under several names."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def dataset_statistics(
    splits: Mapping[str, Mapping[str, Sequence[str]]],
    files: Mapping[str, Path],
    digests: Mapping[str, str],
    *,
    sample: int | None = None,
    whole: bool = True,
    progress: Progress = no_progress,
) -> DatasetStatistics:
    """Captions by split and picture, the pictures' files and their sha256.

    `sample` opens that many pictures, evenly taken, and not all; not `whole` reads their headers alone. Raises
    `ValueError` without a caption.
    """
    by_content: dict[str, list[str]] = {}
    for image, digest in digests.items():
        by_content.setdefault(digest, []).append(image)
    return DatasetStatistics(
        captions=caption_statistics(splits),
        images=_pictures(files, sample, whole, progress),
        duplicates=tuple(tuple(images) for images in by_content.values() if len(images) > 1),
    )


def _pictures(files: Mapping[str, Path], sample: int | None, whole: bool, progress: Progress) -> ImageStatistics:
    names = list(files)
    if sample is not None and sample < len(names):
        names = [names[place * len(names) // sample] for place in range(sample)]
    described: list[tuple[Description, int]] = []
    bad: list[tuple[str, str]] = []
    with ThreadPoolExecutor() as pool:
        for number, (name, result) in enumerate(
            zip(names, pool.map(lambda name: _describe(files[name], whole), names), strict=True), start=1
        ):
            if isinstance(result, str):
                bad.append((name, result))
            else:
                described.append(result)
            progress(number, len(names), "pictures opened")
    sizes = Counter(f"{one.width} x {one.height}" for one, _ in described)
    return ImageStatistics(
        opened=len(names),
        total=len(files),
        widths=_span([one.width for one, _ in described]),
        heights=_span([one.height for one, _ in described]),
        sizes=_most(sizes)[:5],
        modes=dict(_most(Counter(one.mode for one, _ in described))),
        formats=dict(_most(Counter(one.format for one, _ in described))),
        megabytes=round(sum(size for _, size in described) / 1e6, 1),
        bad=tuple(bad),
    )


def _describe(path: Path, whole: bool) -> tuple[Description, int] | str:
    try:
        content = read_image_bytes(path)
        return describe(content, whole=whole), len(content)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except ImageError as error:
        return str(error)


def _span(values: list[int]) -> tuple[int, int, int]:
    return (min(values), int(median(values)), max(values)) if values else (0, 0, 0)


def _most(counts: Counter[str]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
