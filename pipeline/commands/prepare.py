"""`captioner prepare`: the stage of dvc.yaml."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import paths
from pipeline.commands.folders import hash_cache_file
from pipeline.commands.notes import ignored_files_note, word_warnings
from pipeline.commands.terminal import ParamsFile, progress_bar, read_params_file, say
from pipeline.wording import counted

if TYPE_CHECKING:
    from pipeline.params import Params
    from pipeline.stages.prepare import PrepareReport

_SHOWN = 5


def prepare(params: ParamsFile = paths.PARAMS) -> None:
    """Read a dataset's captions, find its images, and list what cannot be used."""
    from pipeline.stages.prepare import PrepareFiles
    from pipeline.stages.prepare import prepare as run

    given = read_params_file(params)
    with progress_bar("prepare") as progress:
        report = run(PrepareFiles(hash_cache=hash_cache_file()), given, progress=progress)
    say(*_describe(report, given))


def _describe(report: "PrepareReport", params: "Params") -> Iterator[str]:
    if report.image_root != Path(params.data.images):
        yield (
            f"warning: the images are not in {params.data.images} but in {report.image_root}; "
            "set params.data.images so that dvc notices when they change"
        )
    for one in report.skipped[:_SHOWN]:
        yield f"skipped: {one.place}: {one.image or '(no name)'}: {one.reason}"
    if len(report.skipped) > _SHOWN:
        yield f"skipped: {len(report.skipped) - _SHOWN:,} more, all in {paths.SKIPPED_ROWS}"
    if report.evidence:
        yield f"format: {report.format}: {report.evidence}"
    yield from (f"note: {note}" for note in report.notes)
    if report.ignored_files:
        yield ignored_files_note(str(report.image_root), report.ignored_files)
    if params.vocab.unit == "word":
        yield from word_warnings(report.share_without_spaces, report.share_with_dropped_letters)
    if not report.images[params.score.split]:
        yield (
            f"warning: no image is in the {params.score.split} split, so the stage score will fail; "
            "set params.score.split to another one, or add images"
        )
    splits = ", ".join(f"{count:,} {split}" for split, count in report.images.items())
    yield (
        f"prepare: {counted(sum(report.images.values()), 'image')} ({splits}), {counted(report.captions, 'caption')}, "
        f"{len(report.skipped):,} skipped, {report.hashed:,} hashed"
    )
