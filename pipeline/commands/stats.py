"""`captioner stats`: prints the statistics of a dataset."""

from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import paths
from pipeline.commands.terminal import (
    ParamsFile,
    aligned,
    hash_cache_file,
    passed_over_note,
    progress_bar,
    read,
    say,
    show,
    show_json,
)
from pipeline.control_characters import visible

if TYPE_CHECKING:
    from pipeline.datasets.entries import SkippedEntry
    from pipeline.datasets.statistics import CaptionStatistics, DatasetStatistics
    from pipeline.params import Params

_BAR = 40
_SHOWN = 5


def stats(
    format: Annotated[str | None, typer.Option(help="Replaces params.data.format.")] = None,
    captions: Annotated[str | None, typer.Option(help="Replaces params.data.captions.")] = None,
    images: Annotated[str | None, typer.Option(help="Replaces params.data.images.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    params: ParamsFile = paths.PARAMS,
) -> None:
    """Print a dataset's statistics: captions, vocabulary, image sizes, duplicates, unusable files. Writes nothing."""
    from pipeline.datasets.statistics import dataset_statistics
    from pipeline.datasets.tables import read_captions, read_images
    from pipeline.stages.prepare import PrepareFiles, prepare

    given = _with_dataset(read(params), {"format": format, "captions": captions, "images": images})
    with TemporaryDirectory() as name, progress_bar("stats") as progress:
        folder = Path(name)
        files = PrepareFiles(folder / "captions.csv", folder / "images.csv", folder / "skipped.csv", hash_cache_file())
        report = prepare(files, given, progress=progress)
        rows = list(read_images(files.images))
        found = dataset_statistics(
            {split: read_captions(files.captions, split) for split in report.images},
            {row.image: row.path for row in rows},
            {row.image: row.sha256 for row in rows},
            fill_truncated=given.encoder.truncated_jpegs == "fill",
            progress=progress,
        )
    if report.image_root != Path(given.data.images):
        say(f"warning: the images are not in {given.data.images} but in {report.image_root}")
    if report.passed_over:
        say(passed_over_note(str(report.image_root), report.passed_over))
    if as_json:
        skipped = [asdict(entry) for entry in report.skipped]
        show_json({**found.to_json(), "skipped": skipped, "passed_over": report.passed_over}, indent=2)
        return
    tables = [_captions(found.captions), _lengths(found.captions), _vocabulary(found.captions)]
    show(*"\n\n".join([*tables, _images(found, report.skipped)]).split("\n"))


def _with_dataset(params: "Params", changes: dict[str, str | None]) -> "Params":
    """The params with another dataset, of which any share may be unusable. Raises `ParamsError`."""
    from pipeline.params_file import check_params

    content = params.model_dump()
    content["data"] |= {name: value for name, value in changes.items() if value is not None}
    content["data"]["max_skipped"] = 0.999
    return check_params(content)


def _captions(captions: "CaptionStatistics") -> str:
    rows = [("", *captions.images, "all")]
    for title, counts in (("images", captions.images), ("captions", captions.captions)):
        rows.append((title, *(f"{count:,}" for count in counts.values()), f"{sum(counts.values()):,}"))
    per_image = ", ".join(f"{number}: {images:,}" for number, images in captions.captions_per_image.items())
    return "\n".join(
        [
            aligned(rows, right=range(1, len(rows[0]))),
            f"images by number of captions       {per_image}",
            f"repeated captions                  {captions.repeated:,} of {sum(captions.captions.values()):,}",
            *(f"  {count:,} times: {visible(caption)}" for caption, count in captions.most_repeated),
            f"train captions also in val or test {captions.repeated_across_splits:,} distinct ones",
        ]
    )


def _lengths(captions: "CaptionStatistics") -> str:
    """A histogram."""
    lengths = captions.lengths
    mean = sum(length * count for length, count in lengths.items()) / sum(lengths.values())
    highest = max(lengths.values())
    lines = [f"words per caption: mean {mean:.1f}, longest {max(lengths)}"]
    for length in range(min(lengths), max(lengths) + 1):
        count = lengths.get(length, 0)
        lines.append(f"{length:4d}  {'█' * round(_BAR * count / highest) or ('▏' if count else '')} {count:,}".rstrip())
    return "\n".join(lines)


def _vocabulary(captions: "CaptionStatistics") -> str:
    splits = list(captions.coverage[0].by_split)
    coverage = [("vocab.min_count", "vocabulary", *(f"covers of {split}" for split in splits))]
    for one in captions.coverage:
        shares = (f"{one.by_split[split]:.2%}" for split in splits)
        coverage.append((str(one.min_count), f"{one.words:,}", *shares))
    growth = [("captions read", *(f"{number:,}" for number, _ in captions.growth[3::4]))]
    growth.append(("distinct words", *(f"{words:,}" for _, words in captions.growth[3::4])))
    frequent = ", ".join(f"{visible(word)} {count:,}" for word, count in captions.frequent)
    return "\n".join(
        [
            f"{captions.words:,} words, {captions.distinct_words:,} distinct, {captions.used_once:,} of them used once",
            aligned(growth, right=range(1, len(growth[0]))),
            "",
            aligned(coverage, right=range(1, len(coverage[0]))),
            "",
            f"most frequent: {frequent}",
        ]
    )


def _images(found: "DatasetStatistics", skipped: "tuple[SkippedEntry, ...]") -> str:
    images = found.images
    spans = ((title, *map(str, span)) for title, span in (("width", images.widths), ("height", images.heights)))
    lines = [
        f"{images.opened:,} images opened, {images.megabytes:,.1f} MB",
        aligned([("", "minimum", "median", "maximum"), *spans], right={1, 2, 3}),
        "sizes    " + ", ".join(f"{size} ({count:,})" for size, count in images.sizes),
        "modes    " + ", ".join(f"{mode} ({count:,})" for mode, count in images.modes.items()),
        "formats  " + ", ".join(f"{name} ({count:,})" for name, count in images.formats.items()),
        f"identical images under several names: {len(found.duplicates):,}",
        *_first([", ".join(names) for names in found.duplicates]),
        f"images that cannot be used: {len(images.unusable):,}",
        *_first([f"{image}: {reason}" for image, reason in images.unusable]),
        f"skipped: {len(skipped):,}",
        *_first([f"{one.file}, line {one.line}: {one.image or '(no name)'}: {one.reason}" for one in skipped]),
    ]
    return "\n".join(lines)


def _first(lines: list[str]) -> list[str]:
    more = [f"  and {len(lines) - _SHOWN:,} more (all with --json)"] if len(lines) > _SHOWN else []
    return [f"  {visible(line)}" for line in lines[:_SHOWN]] + more
