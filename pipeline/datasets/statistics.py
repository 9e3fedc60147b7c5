"""Statistics of a dataset before training: its captions, their words, its images and its duplicates."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median
from typing import TypeVar

from pipeline.archives import read_image_bytes
from pipeline.encoders.images import ImageDescription, ImageError, describe_image
from pipeline.progress import Progress, no_progress
from pipeline.text import character_tokenizer, ptb_tokenizer
from pipeline.text.tokenizers import TOKENIZERS

Item = TypeVar("Item", str, tuple[str, ...])

MIN_COUNTS = (1, 2, 3, 4, 5, 8, 10, 20)
"""Values of `params.vocab.min_count` whose vocabulary is measured."""
GROWTH_POINTS = 20
FREQUENT = 30


@dataclass(frozen=True)
class VocabularyCoverage:
    """The vocabulary of the train split for one `min_count`."""

    min_count: int
    words: int
    by_split: dict[str, float]
    """The share of each split's running words that are in the vocabulary."""


@dataclass(frozen=True)
class CaptionStatistics:
    """Statistics of the captions of all splits. Lengths are in tokens, and so are all numbers of words."""

    unit: str
    """What a token is: `words` or `characters`."""
    images: dict[str, int]
    """By split."""
    captions: dict[str, int]
    """By split."""
    captions_per_image: dict[int, int]
    """Images by their number of captions."""
    lengths: dict[int, int]
    """Captions by their length."""
    words: int
    """Running words."""
    distinct_words: int
    used_once: int
    """Words that occur once."""
    growth: tuple[tuple[int, int], ...]
    """(captions read, distinct words in them), in the dataset's order."""
    coverage: tuple[VocabularyCoverage, ...]
    frequent: tuple[tuple[str, int], ...]
    """The most frequent words."""
    repeated: int
    """Captions, compared as tokens, that also occur earlier in the dataset."""
    repeated_across_splits: int
    """Distinct captions of the train split that val or test also have."""
    most_repeated: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class ImageStatistics:
    """Statistics of the images that were opened."""

    opened: int
    total: int
    widths: tuple[int, int, int]
    """Minimum, median and maximum, in pixels as stored."""
    heights: tuple[int, int, int]
    sizes: tuple[tuple[str, int], ...]
    """The most common sizes."""
    modes: dict[str, int]
    formats: dict[str, int]
    megabytes: float
    unusable: tuple[tuple[str, str], ...]
    """Images that cannot be decoded, each with the reason."""


@dataclass(frozen=True)
class DatasetStatistics:
    """Statistics of a dataset."""

    captions: CaptionStatistics
    images: ImageStatistics
    duplicates: tuple[tuple[str, ...], ...]
    """Names of images with the same bytes."""


def dataset_statistics(
    captions: Mapping[str, Mapping[str, Sequence[str]]],
    files: Mapping[str, Path],
    sha256: Mapping[str, str],
    *,
    tokenizer: str = ptb_tokenizer.NAME,
    sample: int | None = None,
    headers_only: bool = False,
    fill_truncated: bool = False,
    progress: Progress = no_progress,
) -> DatasetStatistics:
    """Compute the statistics from the captions by split and image, and the path and sha256 of each image.

    `sample` opens that many images, evenly spaced, instead of all. `headers_only` does not decode them, and
    `fill_truncated` accepts JPEGs that end too early.
    """
    by_content: dict[str, list[str]] = {}
    for image, digest in sha256.items():
        by_content.setdefault(digest, []).append(image)
    return DatasetStatistics(
        captions=caption_statistics(captions, tokenizer),
        images=_image_statistics(
            files, sample, partial(describe_image, header_only=headers_only, fill_truncated=fill_truncated), progress
        ),
        duplicates=tuple(tuple(images) for images in by_content.values() if len(images) > 1),
    )


def caption_statistics(
    splits: Mapping[str, Mapping[str, Sequence[str]]], tokenizer: str = ptb_tokenizer.NAME
) -> CaptionStatistics:
    """Compute the statistics of the captions by split and image."""
    tokenize = TOKENIZERS[tokenizer]
    unit, space = ("characters", "") if tokenizer == character_tokenizer.NAME else ("words", " ")
    tokens = {
        split: [[tuple(tokenize(caption)) for caption in captions] for captions in images.values()]
        for split, images in splits.items()
    }
    by_split = {split: list(chain.from_iterable(images)) for split, images in tokens.items()}
    captions = list(chain.from_iterable(by_split.values()))
    words = Counter(chain.from_iterable(captions))
    occurrences = Counter(captions)
    outside_train = set(chain.from_iterable(by_split[split] for split in by_split if split != "train"))
    return CaptionStatistics(
        unit=unit,
        images={split: len(images) for split, images in tokens.items()},
        captions={split: len(its_captions) for split, its_captions in by_split.items()},
        captions_per_image=dict(sorted(Counter(len(one) for images in tokens.values() for one in images).items())),
        lengths=dict(sorted(Counter(map(len, captions)).items())),
        words=words.total(),
        distinct_words=len(words),
        used_once=sum(count == 1 for count in words.values()),
        growth=_vocabulary_growth(captions),
        coverage=_vocabulary_coverage(by_split),
        frequent=_most_common(words, FREQUENT),
        repeated=len(captions) - len(occurrences),
        repeated_across_splits=len(outside_train & set(by_split.get("train", ()))),
        most_repeated=tuple((space.join(one), count) for one, count in _most_common(occurrences, 5) if count > 1),
    )


def _vocabulary_growth(captions: Sequence[tuple[str, ...]]) -> tuple[tuple[int, int], ...]:
    seen: set[str] = set()
    wanted = {max(1, len(captions) * point // GROWTH_POINTS) for point in range(1, GROWTH_POINTS + 1)}
    points = []
    for number, caption in enumerate(captions, start=1):
        seen.update(caption)
        if number in wanted:
            points.append((number, len(seen)))
    return tuple(points)


def _vocabulary_coverage(by_split: Mapping[str, Sequence[tuple[str, ...]]]) -> tuple[VocabularyCoverage, ...]:
    counts = {split: Counter(chain.from_iterable(captions)) for split, captions in by_split.items()}
    coverage = []
    for min_count in MIN_COUNTS:
        known = {word for word, count in counts.get("train", Counter[str]()).items() if count >= min_count}
        shares = {
            split: sum(count for word, count in words.items() if word in known) / max(1, words.total())
            for split, words in counts.items()
            if words
        }
        coverage.append(VocabularyCoverage(min_count, len(known), shares))
    return tuple(coverage)


def _image_statistics(
    files: Mapping[str, Path],
    sample: int | None,
    describe: Callable[[bytes], ImageDescription],
    progress: Progress,
) -> ImageStatistics:
    names = list(files)
    if sample is not None and sample < len(names):
        names = [names[place * len(names) // sample] for place in range(sample)]
    described: list[tuple[ImageDescription, int]] = []
    unusable: list[tuple[str, str]] = []
    with ThreadPoolExecutor() as pool:
        results = pool.map(lambda name: _describe(files[name], describe), names)
        for number, (name, result) in enumerate(zip(names, results, strict=True), start=1):
            if isinstance(result, str):
                unusable.append((name, result))
            else:
                described.append(result)
            progress(number, len(names), "images opened")
    images = [image for image, _ in described]
    return ImageStatistics(
        opened=len(names),
        total=len(files),
        widths=_span([image.width for image in images]),
        heights=_span([image.height for image in images]),
        sizes=_most_common(Counter(f"{image.width} x {image.height}" for image in images), 5),
        modes=dict(_most_common(Counter(image.mode for image in images))),
        formats=dict(_most_common(Counter(image.format for image in images))),
        megabytes=round(sum(size for _, size in described) / 1e6, 1),
        unusable=tuple(unusable),
    )


def _describe(path: Path, describe: Callable[[bytes], ImageDescription]) -> tuple[ImageDescription, int] | str:
    """The image's description and size in bytes, or why it cannot be used."""
    try:
        content = read_image_bytes(path)
        return describe(content), len(content)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except ImageError as error:
        return str(error)


def _most_common(counts: Counter[Item], number: int | None = None) -> tuple[tuple[Item, int], ...]:
    """The most common items, equally common ones in their own order (`Counter.most_common` keeps that of insertion)."""
    return tuple(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:number])


def _span(values: list[int]) -> tuple[int, int, int]:
    return (min(values), int(median(values)), max(values)) if values else (0, 0, 0)
