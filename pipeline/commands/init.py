"""`captioner init`: detects the format of a dataset and updates params.yaml."""

import os
import subprocess
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import paths
from pipeline.commands.notes import word_warnings
from pipeline.commands.terminal import ParamsFile, progress_bar, read_params_file, say
from pipeline.datasets.registry import DRAWN
from pipeline.errors import DataError
from pipeline.wording import counted, shown_names

if TYPE_CHECKING:
    from pipeline.datasets.detection import Candidate
    from pipeline.datasets.entries import DatasetEntries
    from pipeline.params import DataParams, Params

KEPT = ("encoding", "image_column", "caption_column", "split_column")
"""Params that only the user can know; they are used and left as they are."""
_DVC_IGNORE = Path(".dvcignore")


def init(
    dataset: Annotated[Path, typer.Argument(help="The dataset's folder, captions file or archive.")],
    images: Annotated[Path | None, typer.Option(help="Folder or archive of the images, if it is elsewhere.")] = None,
    params: ParamsFile = paths.PARAMS,
) -> None:
    """Detect the format of a dataset and update params.yaml."""
    from pipeline.datasets.detection import collect_entries, detect_format
    from pipeline.datasets.entries import ReadOptions
    from pipeline.datasets.image_root import refuse_shared_names
    from pipeline.files import check_writable
    from pipeline.text.writing_systems import share_with_dropped_letters, share_without_spaces

    given = read_params_file(params)
    data = given.data
    project = Path(os.path.abspath(params)).parent
    if _is_undrawn(dataset, project):
        say("format: table: the built-in dataset, which `dvc repro` draws")
        values = {"format": "table", "captions": f"{DRAWN}/captions.csv", "images": f"{DRAWN}/images"}
        _update_params(params, data, values, project)
        say("next: dvc repro")
        return
    if not dataset.exists():
        raise DataError(f"{dataset}: no such file or folder")
    check_writable(params)
    options = ReadOptions(data.encoding, data.image_column, data.caption_column, data.split_column)
    found = detect_format(dataset, options)
    say(f"format: {found.format}: {found.evidence}")
    with progress_bar("init") as progress:
        entries = collect_entries(found, options, progress)
    names = sorted({entry.image for entry in entries.captions})
    _print_entries(entries, len(names))
    image_root = _find_images(images, found, dataset, names)
    refuse_shared_names(entries.captions, found.captions, image_root)
    if given.vocab.unit == "word":
        texts = [entry.caption for entry in entries.captions]
        say(*word_warnings(share_without_spaces(texts), share_with_dropped_letters(texts)))
    places = {"captions": _path_in_project(found.captions, project), "images": _path_in_project(image_root, project)}
    _update_params(params, data, {"format": found.format, **places}, project)
    if missing := _missing_in_copies(project, places.values()):
        say(
            f"note: {' and '.join(missing)}: not in git or dvc, so missing in the copies of the project in which "
            "`dvc exp run --temp` and `--queue` run; `dvc add` and `git add` them (see docs/datasets.md)"
        )
    if given.encoder.weights == "none":
        say("note: encoder.weights is none: random weights suit drawings only; docs/encoders.md lists trained encoders")
    if (project / "dvc.yaml").is_file() and (missing := _missing_for_dvc(given)):
        say(
            f"note: DVC needs {', '.join(missing)} in {params}: run `captioner params {params} > complete.yaml`, and "
            "put this file in its place"
        )
    say("next: dvc repro")


def _is_undrawn(dataset: Path, project: Path) -> bool:
    """Whether `dataset` is the built-in one and has no captions: DVC deletes them where it ignores this dataset."""
    drawn = project / DRAWN
    captions = drawn / "captions.csv"
    return (
        Path(os.path.abspath(dataset)) in (drawn, captions) and (drawn / "dvc.yaml").is_file() and not captions.exists()
    )


def _missing_for_dvc(params: "Params") -> list[str]:
    """What a params file lacks that dvc.yaml lists."""
    given = params.model_fields_set
    missing = [name for name in ("seed", "encoder", "vocab", "decoder", "train", "score") if name not in given]
    return missing if "max_skipped" in params.data.model_fields_set else [*missing, "data.max_skipped"]


def _print_entries(entries: "DatasetEntries", images: int) -> None:
    say(*(f"note: {note}" for note in entries.notes))
    captions = f"{len(entries.captions):,} of {counted(images, 'image')}"
    pairs = {(entry.image, entry.split) for entry in entries.captions}
    say(f"captions: {captions}; {_describe_splits(pairs)}")
    splits_of = Counter(image for image, split in pairs if split)
    if several := sum(count > 1 for count in splits_of.values()):
        say(
            f"warning: {counted(several, 'image is', 'images are')} in several splits, which `prepare` refuses; with "
            "params.data.leaks: drop it keeps those of test, or else of val"
        )
    if entries.skipped:
        first = entries.skipped[0]
        rows = counted(len(entries.skipped), "row")
        say(f"skipped: {rows}, the first in {first.place}: {first.reason}")


def _describe_splits(pairs: Collection[tuple[str, str | None]]) -> str:
    """The number of images of each split, in words, from pairs of image and split."""
    assigned = {image for image, split in pairs if split}
    counts = Counter(split for image, split in pairs if split or image not in assigned)
    if set(counts) == {None}:
        return "no splits, so 80/10/10 will be drawn" if counts[None] > 2 else "no splits, and too few images for three"
    return ", ".join(f"{count:,} {split or 'without a split'}" for split, count in sorted(counts.items(), key=str))


def _find_images(images: Path | None, found: "Candidate", dataset: Path, names: list[str]) -> Path:
    """Find the folder or archive of the images, and print it. Raises `DataError`."""
    from pipeline.datasets.image_root import explain_missing, find_image_root, likely_image_roots

    captions = found.captions
    remedy = "correct --images or the names in the captions" if images else "give their folder with --images"
    if found.format == "folder" and images is None:
        images = captions.parent if captions.is_file() and captions.name.startswith("metadata.") else captions
    places = [images] if images else likely_image_roots(captions, dataset, names)
    root = find_image_root(places, names, captions)
    if root is None:
        where = images or f"{dataset} and the folders in it"
        none_found = f"{where}: holds none of the images, such as {names[0][:200]}; {remedy}"
        raise DataError(explain_missing(places, names[0], none_found))
    partly = "" if root.found == root.sampled else f" (only {root.found} of a sample of {root.sampled} are there)"
    say(f"images: {root.index.root}{partly}")
    if root.rival:
        say(f"warning: {root.rival} has different images of the same names; name the right folder with --images")
    if broken := root.index.broken_links:
        links = counted(len(broken), "image is a broken symbolic link", "images are broken symbolic links")
        say(f"warning: {links}: {shown_names(broken)}; repair or remove them, or `dvc repro` will fail")
    return root.index.root


def _update_params(file: Path, data: "DataParams", values: dict[str, str], project: Path) -> None:
    """Write `values` to the section `data`, and print them and the values that the user chose."""
    from pipeline.params_file import write_section

    write_section(file, "data", values)
    say(*(f"{file}: data.{key}: {value}" for key, value in values.items()))
    chosen = {key: getattr(data, key) for key in KEPT}
    say(*(f"{file}: data.{key}: {value} (unchanged)" for key, value in chosen.items() if value != "auto"))
    if change := _ignore_drawn_dataset(project, used=Path(values["captions"]).is_relative_to(DRAWN)):
        say(change)


def _path_in_project(path: Path, project: Path) -> str:
    """Relative to the project's folder inside it, absolute outside, so that both hold in a copy of the project."""
    absolute = Path(os.path.abspath(path))
    return (absolute.relative_to(project) if absolute.is_relative_to(project) else absolute).as_posix()


def _ignore_drawn_dataset(project: Path, *, used: bool) -> str | None:
    """Let DVC ignore the pipeline that draws the built-in dataset unless it is `used`; returns what was changed."""
    from pipeline.files import write_bytes

    rule, file = f"/{DRAWN.as_posix()}/", project / _DVC_IGNORE
    if not file.is_file() or not (project / DRAWN / "dvc.yaml").is_file():
        return None
    lines = file.read_bytes().splitlines()
    if used == (rule.encode() not in lines):
        return None
    lines = [line for line in lines if line != rule.encode()] if used else [*lines, rule.encode()]
    write_bytes(file, b"\n".join(lines) + b"\n")
    change = (
        "removed, because the built-in dataset is used" if used else "added, so that DVC ignores the built-in dataset"
    )
    return f"{_DVC_IGNORE}: {rule} {change}"


def _missing_in_copies(project: Path, places: Iterable[str]) -> list[str]:
    """The places in the project that git does not track, neither directly nor as a .dvc file; none without git.

    A place inside another one is not listed: dvc adds them together.
    """
    inside = [place for place in dict.fromkeys(places) if not os.path.isabs(place)]
    if not inside or not _is_tracked(project, "."):
        return []
    missing = [Path(place) for place in inside if not _is_tracked(project, place, *_dvc_files(project, place))]
    return [str(place) for place in missing if not set(missing) & set(place.parents)]


def _is_tracked(project: Path, *places: str) -> bool:
    """Whether git tracks one of the places or something below."""
    command = ["git", "-C", str(project), "--literal-pathspecs", "ls-files", "--", *places]
    try:
        return bool(subprocess.run(command, capture_output=True, check=False).stdout)
    except OSError:  # git is not installed
        return False


def _dvc_files(project: Path, place: str) -> list[str]:
    """The .dvc files and the dvc.yaml by which dvc tracks a place or something below."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(Repo.find_root(str(project))) as repo:
            outs = repo.find_outs_by_path(str(project / place), recursive=True, strict=False)
            return [out.stage.path for out in outs]
    except DvcException:  # no dvc repository, or one that does not track the place
        return []
