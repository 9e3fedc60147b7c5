"""`captioner stats`: prints the statistics of a dataset."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import paths
from pipeline.commands.folders import hash_cache_file
from pipeline.commands.notes import ignored_files_note
from pipeline.commands.terminal import ParamsFile, aligned, progress_bar, read_params_file, say, show, show_json

if TYPE_CHECKING:
    from pipeline.datasets.entries import SkippedEntry
    from pipeline.datasets.statistics import DatasetStatistics
    from pipeline.params import Params

_BAR = 40
_LENGTHS = 60
"""Lengths that have a line of their own."""
_SHOWN = 5


def stats(
    format: Annotated[str | None, typer.Option(help="Dataset format; overrides data.format.")] = None,
    captions: Annotated[str | None, typer.Option(help="Overrides data.captions.")] = None,
    images: Annotated[str | None, typer.Option(help="Overrides data.images.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    params: ParamsFile = paths.PARAMS,
) -> None:
    """Print a dataset's statistics: captions, vocabulary, image sizes, duplicates, unusable files."""
    from pipeline.datasets.statistics import dataset_statistics
    from pipeline.datasets.tables import read_captions, read_images
    from pipeline.stages.prepare import PrepareFiles, prepare
    from pipeline.text.tokenizers import UNITS

    given = _with_dataset(read_params_file(params), {"format": format, "captions": captions, "images": images})
    with TemporaryDirectory() as name, progress_bar("stats") as progress:
        folder = Path(name)
        files = PrepareFiles(folder / "captions.csv", folder / "images.csv", folder / "skipped.csv", hash_cache_file())
        report = prepare(files, given, progress=progress)
        rows = list(read_images(files.images))
        found = dataset_statistics(
            {split: read_captions(files.captions, split) for split in report.images},
            {row.image: row.path for row in rows},
            {row.image: row.sha256 for row in rows},
            tokenizer=UNITS[given.vocab.unit],
            fill_truncated=given.encoder.truncated_jpegs == "fill",
            progress=progress,
        )
    if report.image_root != Path(given.data.images):
        say(f"warning: the images are not in {given.data.images} but in {report.image_root}")
    if report.ignored_files:
        say(ignored_files_note(str(report.image_root), report.ignored_files))
    if as_json:
        skipped = [asdict(entry) for entry in report.skipped]
        show_json({**asdict(found), "skipped": skipped, "ignored_files": report.ignored_files}, indent=2)
        return
    show(*_lines(found, report.skipped))


def _with_dataset(params: "Params", changes: dict[str, str | None]) -> "Params":
    """The params that statistics depend on, with another dataset, of which any share may be unusable.

    Raises `ParamsError`.
    """
    from pipeline.params_file import check_params

    content = params.model_dump(include={"seed", "data", "encoder", "vocab"})
    content["data"] |= {name: value for name, value in changes.items() if value is not None}
    content["data"]["max_skipped"] = 0.999
    return check_params(content)


def _lines(found: "DatasetStatistics", skipped: "tuple[SkippedEntry, ...]") -> list[str]:
    from pipeline.report.dataset_section import dataset_section

    section, points = dataset_section(found), found.captions.growth[3::4]
    growth = [
        ("captions read", *(f"{captions:,}" for captions, _ in points)),
        (f"distinct {section.unit}", *(f"{words:,}" for _, words in points)),
    ]
    return [
        *_table([section.counts_header, *section.counts]),
        "",
        *aligned(list(section.facts.items())),
        "",
        *_lengths(found.captions.lengths, section.unit),
        "",
        section.words,
        *_table(growth),
        "",
        f"share of each split's {section.unit} that a vocabulary built from the train split covers:",
        *_table([section.coverage_header, *section.coverage]),
        "",
        f"most frequent: {section.frequent}",
        "",
        *_listed("most repeated captions", (f"{n:,} times: {text}" for text, n in found.captions.most_repeated)),
        *_listed("identical images under several names", (", ".join(names) for names in found.duplicates)),
        *_listed("images that cannot be used", (f"{image}: {reason}" for image, reason in found.images.unusable)),
        *_listed("skipped", (f"{one.place}: {one.image or '(no name)'}: {one.reason}" for one in skipped)),
    ]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    return aligned(rows, right=range(1, len(rows[0])))


def _lengths(lengths: Mapping[int, int], unit: str) -> list[str]:
    """A histogram of the captions by their length; the longest are one line."""
    mean = sum(length * count for length, count in lengths.items()) / sum(lengths.values())
    highest = max(lengths.values())
    lines = [f"{unit} per caption: mean {mean:.1f}, longest {max(lengths)}"]
    end = min(lengths) + _LENGTHS
    for length in range(min(lengths), min(end, max(lengths) + 1)):
        count = lengths.get(length, 0)
        lines.append(f"{length:4d}  {'█' * round(_BAR * count / highest) or ('▏' if count else '')} {count:,}".rstrip())
    if longer := sum(count for length, count in lengths.items() if length >= end):
        lines.append(f"more  {longer:,}")
    return lines


def _listed(title: str, items: Iterable[str]) -> list[str]:
    lines = list(items)
    more = [f"  and {len(lines) - _SHOWN:,} more (all with --json)"] if len(lines) > _SHOWN else []
    return [f"{title}: {len(lines):,}", *(f"  {line}" for line in lines[:_SHOWN]), *more]
