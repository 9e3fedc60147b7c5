"""The statistics of a dataset as texts, tables and charts, for the report and for `captioner stats`."""

from dataclasses import dataclass

from pipeline.datasets.statistics import DatasetStatistics, ImageStatistics
from pipeline.report.charts import Chart, bar_chart, line_chart


@dataclass(frozen=True)
class DatasetSection:
    """Texts, tables and charts that `dataset.html.j2` lays out and `captioner stats` prints."""

    counts_header: tuple[str, ...]
    counts: list[tuple[str, ...]]
    """Images and captions by split."""
    lengths: Chart | None
    growth: Chart | None
    unit: str
    """What the captions are counted in: `words` or `characters`."""
    words: str
    coverage_header: tuple[str, ...]
    coverage: list[tuple[str, ...]]
    """The vocabulary that each `vocab.min_count` gives, and the share of each split's words in it."""
    frequent: str
    facts: dict[str, str]
    """About captions and images, by their titles."""


def dataset_section(statistics: DatasetStatistics) -> DatasetSection:
    """The section for these statistics."""
    captions = statistics.captions
    splits, unit = tuple(captions.coverage[0].by_split), captions.unit
    return DatasetSection(
        counts_header=("", *captions.images, "all"),
        counts=[
            (title, *(f"{count:,}" for count in counts.values()), f"{sum(counts.values()):,}")
            for title, counts in (("images", captions.images), ("captions", captions.captions))
        ],
        lengths=bar_chart(f"{unit.capitalize()} per caption", {"captions": captions.lengths}, x_label=unit),
        growth=line_chart("Vocabulary growth", {unit: ((0, 0), *captions.growth)}, x_label="captions read"),
        unit=unit,
        words=f"{captions.words:,} {unit}, {captions.distinct_words:,} distinct, {captions.used_once:,} used once",
        coverage_header=("min_count", unit, *splits),
        coverage=[
            (str(row.min_count), f"{row.words:,}", *(f"{row.by_split[split]:.1%}" for split in splits))
            for row in captions.coverage
        ],
        frequent=", ".join(f"{'(space)' if word == ' ' else word} {count:,}" for word, count in captions.frequent),
        facts=_facts(statistics),
    )


def _facts(statistics: DatasetStatistics) -> dict[str, str]:
    images, captions = statistics.images, statistics.captions
    return {
        "captions per image": ", ".join(f"{n}: {count:,}" for n, count in captions.captions_per_image.items()),
        "repeated captions": f"{captions.repeated:,} of {sum(captions.captions.values()):,}",
        "captions of train that val or test have too": f"{captions.repeated_across_splits:,} distinct ones",
        "images with the same content under several names": f"{len(statistics.duplicates):,}",
        "width": _range(images.widths),
        "height": _range(images.heights),
        "common sizes": ", ".join(f"{size} ({count:,})" for size, count in images.sizes),
        "modes and formats": ", ".join(f"{name} ({n:,})" for name, n in (images.modes | images.formats).items()),
        "opened": _opened(images),
    }


def _range(values: tuple[int, int, int]) -> str:
    return f"{values[0]} to {values[2]} pixels, median {values[1]}"


def _opened(images: ImageStatistics) -> str:
    which = "all" if images.opened == images.total else f"{images.opened:,} of {images.total:,} images, evenly spaced"
    return f"{which}, {images.megabytes:,.1f} MB; {len(images.unusable):,} cannot be decoded"
