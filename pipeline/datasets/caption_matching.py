"""Matches the captions of one file with the references of another by the names of their images."""

from dataclasses import dataclass

from pipeline.datasets.caption_files import CaptionFile, ReferenceFile
from pipeline.errors import DataError
from pipeline.wording import counted, shown_names


@dataclass(frozen=True)
class MatchedCaptions:
    """The captions and the references of the same images, in the same order, and what the user should know."""

    captions: dict[str, str]
    references: dict[str, tuple[str, ...]]
    missing: tuple[str, ...]
    """Images without a caption, which are left out."""
    notes: tuple[str, ...]


def match_captions(captions: CaptionFile, references: ReferenceFile, *, subset: bool = False) -> MatchedCaptions:
    """The captions and the references of the same images, in the order of the references.

    Where the references have splits, only the splits of the captioned images count. Raises `DataError` for a caption
    without references and, unless `subset`, for images without a caption: leaving out hard images would raise the
    scores.
    """
    by_key, notes = _captions_by_reference(captions, references)
    splits = {references.splits.get(key) for key in by_key}
    wanted = [key for key in references.captions if None in splits or references.splits.get(key) in splits]
    if len(wanted) < len(references.captions):
        named = " and ".join(sorted(split for split in splits if split))
        others = len(references.captions) - len(wanted)
        images = counted(others, "image of other splits is", "images of other splits are")
        split = "splits" if " and " in named else "split"
        notes.append(f"all captions belong to the {named} {split}; {images} ignored")
    missing = [image for image in wanted if image not in by_key]
    if missing and not subset:
        raise DataError(
            f"{captions.source}: no caption for {len(missing):,} of the {counted(len(wanted), 'image')} in "
            f"{references.source}: {shown_names(missing)}; caption them too, or score the others alone with --subset"
        )
    matched = {image: references.captions[image] for image in wanted if image in by_key}
    return MatchedCaptions(
        {image: by_key[image] for image in matched},
        matched,
        tuple(missing),
        (*captions.notes, *references.notes, *notes),
    )


def _captions_by_reference(captions: CaptionFile, references: ReferenceFile) -> tuple[dict[str, str], list[str]]:
    """The captions by the keys of their references, and notes on names that differ. Raises `DataError`."""
    matches: dict[str, tuple[str, str, str]] = {}  # by key: the caption, and the name that matched by which kind
    unknown: list[str] = []
    for image, caption in captions.captions.items():
        names = {name: references.find(name) for name in (image, *captions.names.get(image, ()))}
        found = {key: name for name, (key, _) in names.items() if key is not None}
        if len(found) > 1:
            named = " and ".join(f"{name} is {key}" for key, name in found.items())
            raise DataError(f"{captions.source}: one image has two names that differ in {references.source}: {named}")
        if not found:
            unknown.append(image)
            continue
        key, name, kind = next((key, name, kind) for name, (key, kind) in names.items() if key is not None)
        if key in matches:
            _, other, other_kind = matches[key]
            raise DataError(
                f"{captions.source}: two captions for {_with_other_names(key, references)}: {other}, matched by "
                f"{other_kind}, and {name}, matched by {kind}; keep one of them, or check that the ids are those of "
                f"{references.source}"
            )
        matches[key] = caption, name, kind
    if unknown:
        raise DataError(
            f"{captions.source}: no references for {len(unknown):,} of {counted(len(captions.captions), 'image')} in "
            f"{references.source}: {shown_names(unknown)}; its images are named {_named_like(references)}"
        )
    notes = []
    for inexact in ("name without suffix", "number"):
        pairs = [f"{name} with {key}" for key, (_, name, kind) in matches.items() if kind == inexact]
        if pairs:
            notes.append(f"{counted(len(pairs), 'image is', 'images are')} matched by {inexact}, such as {pairs[0]}")
    return {key: caption for key, (caption, _, _) in matches.items()}, notes


def _named_like(references: ReferenceFile) -> str:
    """Examples of the names that references can be found by."""
    keys = list(references.captions)[:2]
    more = ", ..." if len(references.captions) > len(keys) else ""
    return ", ".join(_with_other_names(key, references) for key in keys) + more


def _with_other_names(key: str, references: ReferenceFile) -> str:
    others = references.names.get(key)
    return f"{key} ({', '.join(others)})" if others else key
