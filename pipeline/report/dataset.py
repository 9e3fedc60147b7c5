"""The report's section on the dataset: what `captioner stats` says, drawn."""

from html import escape

from pipeline.datasets.statistics import DatasetStatistics, ImageStatistics
from pipeline.report.charts import bar_chart, facts, line_chart, table


def render_dataset(found: DatasetStatistics) -> str:
    """Captions, words and pictures."""
    about = found.captions
    rows = [
        (title, *(f"{count:,}" for count in counts.values()), f"{sum(counts.values()):,}")
        for title, counts in (("pictures", about.pictures), ("captions", about.captions))
    ]
    charts = bar_chart("Words per caption", {"captions": about.lengths}, x_label="words")
    charts += line_chart("Vocabulary growth", {"words": ((0, 0), *about.growth)}, x_label="captions read")
    return (
        f'<div class="panel">{table(("", *about.pictures, "all"), rows)}</div><div class="charts">{charts}</div>'
        f'<details class="panel"><summary>Words</summary>{_words(found)}</details>'
        f'<details class="panel"><summary>Pictures and duplicates</summary>{facts(_pictures(found))}</details>'
    )


def _words(found: DatasetStatistics) -> str:
    about = found.captions
    splits = list(about.coverage[0].of_split)
    rows = [
        (str(one.min_count), f"{one.words:,}", *(f"{one.of_split[split]:.1%}" for split in splits))
        for one in about.coverage
    ]
    frequent = ", ".join(f"{word} {count:,}" for word, count in about.frequent)
    return (
        f"<p>{about.words:,} words, {about.distinct_words:,} distinct, {about.once:,} of them used once. Share of each "
        f"split's words that a vocabulary from the train split covers:</p>"
        f"{table(('min_count', 'words', *splits), rows)}<p class=soft>Most frequent: {escape(frequent)}</p>"
    )


def _pictures(found: DatasetStatistics) -> dict[str, str]:
    about, captions = found.images, found.captions
    return {
        "captions per picture": ", ".join(
            f"{number}: {pictures:,}" for number, pictures in captions.per_image.items()
        ),
        "captions said before": f"{captions.repeated:,}",
        "captions of train that val or test have too": f"{captions.repeated_across_splits:,} distinct ones",
        "the same picture under several names": f"{len(found.duplicates):,}",
        "width": _span(about.widths),
        "height": _span(about.heights),
        "common sizes": ", ".join(f"{size} ({count:,})" for size, count in about.sizes),
        "modes and formats": ", ".join(f"{name} ({count:,})" for name, count in (about.modes | about.formats).items()),
        "looked at": _looked_at(about),
    }


def _span(values: tuple[int, int, int]) -> str:
    return f"{values[0]} to {values[2]} pixels, median {values[1]}"


def _looked_at(about: ImageStatistics) -> str:
    several = f"{about.opened:,} of {about.total:,} pictures, evenly taken" if about.opened < about.total else "all"
    return f"{several}; {len(about.bad):,} cannot be opened"
