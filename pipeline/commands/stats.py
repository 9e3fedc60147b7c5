"""`captioner stats`: what a dataset is like, before anything is trained on it."""

import json
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import paths
from pipeline.commands.terminal import ParamsFile, aligned, hash_cache_file, progress_bar, read, say

if TYPE_CHECKING:
    from pipeline.datasets.entries import Skipped
    from pipeline.datasets.statistics import DatasetStatistics
    from pipeline.params import Params

_BAR = 40
_SHOWN = 5


def stats(
    format: Annotated[str | None, typer.Option(help="Instead of params.data.format.")] = None,
    captions: Annotated[str | None, typer.Option(help="Instead of params.data.captions.")] = None,
    images: Annotated[str | None, typer.Option(help="Instead of params.data.images.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    params: ParamsFile = paths.PARAMS,
) -> None:
    """Explore a dataset: captions, words, pictures, duplicates and bad files. Writes nothing."""
    from pipeline.datasets.statistics import dataset_statistics
    from pipeline.datasets.tables import read_captions, read_images
    from pipeline.stages.prepare import prepare

    given = _with(read(params), {"format": format, "captions": captions, "images": images})
    with TemporaryDirectory() as folder, progress_bar("stats") as progress:
        tables = {name: Path(folder) / f"{name}.csv" for name in ("captions", "images", "skipped")}
        prepared = prepare(
            given.data,
            seed=given.seed,
            captions_out=tables["captions"],
            images_out=tables["images"],
            skipped_out=tables["skipped"],
            memory=hash_cache_file(),
            progress=progress,
        )
        rows = list(read_images(tables["images"]))
        found = dataset_statistics(
            {split: read_captions(tables["captions"], split) for split in prepared.pictures},
            {row.image: row.path for row in rows},
            {row.image: row.sha256 for row in rows},
            progress=progress,
        )
    if prepared.images != Path(given.data.images):
        say(f"warning: the pictures are not in {given.data.images} but in {prepared.images}")
    if as_json:
        skipped = [asdict(one) for one in prepared.skipped]
        print(json.dumps({**found.to_json(), "skipped": skipped}, indent=2, ensure_ascii=False))
        return
    print("\n\n".join([_captions(found), _lengths(found), _vocabulary(found), _pictures(found, prepared.skipped)]))


def _with(params: "Params", changes: dict[str, str | None]) -> "Params":
    """Another dataset than the params', of which any number of files may be bad. Raises `ParamsError`."""
    from pipeline.params import check_params

    content = params.model_dump()
    content["data"] |= {name: value for name, value in changes.items() if value is not None}
    content["data"]["max_skipped"] = 0.999
    return check_params(content)


def _captions(found: "DatasetStatistics") -> str:
    about = found.captions
    rows = [("", *about.pictures, "all")]
    for title, counts in (("pictures", about.pictures), ("captions", about.captions)):
        rows.append((title, *(f"{count:,}" for count in counts.values()), f"{sum(counts.values()):,}"))
    table = aligned(rows, right=range(1, len(rows[0])))
    each = ", ".join(f"{number}: {pictures:,}" for number, pictures in about.per_image.items())
    lines = [table, f"pictures by number of captions  {each}"]
    lines.append(f"captions said before            {about.repeated:,} of {sum(about.captions.values()):,}")
    lines += [f"  {count:,} times: {caption}" for caption, count in about.most_repeated]
    lines.append(f"captions of train in val, test  {about.repeated_across_splits:,} distinct ones")
    return "\n".join(lines)


def _lengths(found: "DatasetStatistics") -> str:
    lengths = found.captions.lengths
    total = sum(lengths.values())
    mean = sum(length * count for length, count in lengths.items()) / total
    highest = max(lengths.values())
    lines = [f"words per caption: mean {mean:.1f}, longest {max(lengths)}"]
    for length in range(min(lengths), max(lengths) + 1):
        count = lengths.get(length, 0)
        lines.append(f"{length:4d}  {'█' * round(_BAR * count / highest) or ('▏' if count else '')} {count:,}".rstrip())
    return "\n".join(lines)


def _vocabulary(found: "DatasetStatistics") -> str:
    about = found.captions
    splits = list(about.coverage[0].of_split)
    rows = [("vocab.min_count", "vocabulary", *(f"covers of {split}" for split in splits))]
    for one in about.coverage:
        rows.append((str(one.min_count), f"{one.words:,}", *(f"{one.of_split[split]:.2%}" for split in splits)))
    growth = [("captions read", *(f"{captions:,}" for captions, _ in about.growth[3::4]))]
    growth.append(("distinct words", *(f"{words:,}" for _, words in about.growth[3::4])))
    words = ", ".join(f"{word} {count:,}" for word, count in about.frequent)
    return "\n".join(
        [
            f"{about.words:,} words, {about.distinct_words:,} distinct, {about.once:,} of them used once",
            aligned(growth, right=range(1, len(growth[0]))),
            "",
            aligned(rows, right=range(1, len(rows[0]))),
            "",
            f"most frequent: {words}",
        ]
    )


def _pictures(found: "DatasetStatistics", skipped: "tuple[Skipped, ...]") -> str:
    about = found.images
    spans = ((title, *map(str, values)) for title, values in (("width", about.widths), ("height", about.heights)))
    lines = [
        f"{about.opened:,} pictures opened, {about.megabytes:,.1f} MB",
        aligned([("", "least", "median", "greatest"), *spans], right={1, 2, 3}),
        "sizes    " + ", ".join(f"{size} ({count:,})" for size, count in about.sizes),
        "modes    " + ", ".join(f"{mode} ({count:,})" for mode, count in about.modes.items()),
        "formats  " + ", ".join(f"{name} ({count:,})" for name, count in about.formats.items()),
        f"the same picture under several names: {len(found.duplicates):,}",
        *_some([", ".join(images) for images in found.duplicates]),
        f"pictures that cannot be used: {len(about.bad):,}",
        *_some([f"{image}: {reason}" for image, reason in about.bad]),
        f"caption rows left out: {len(skipped):,}",
        *_some([f"{one.file}, line {one.line}: {one.image or '(no name)'}: {one.reason}" for one in skipped]),
    ]
    return "\n".join(lines)


def _some(lines: list[str]) -> list[str]:
    more = [f"  and {len(lines) - _SHOWN:,} more (all with --json)"] if len(lines) > _SHOWN else []
    return [f"  {line}" for line in lines[:_SHOWN]] + more
