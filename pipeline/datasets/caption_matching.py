"""Matches the captions of one file with the references of another by the names of their images."""

from collections import Counter
from dataclasses import dataclass

from pipeline.datasets.caption_files import CaptionFile, ReferenceFile
from pipeline.errors import DataError
from pipeline.wording import counted, shown_names


@dataclass(frozen=True)
class MatchedCaptions:
    """The captions and the references of the same images, in the same order, and what the user should know."""

    captions: dict[str, str]
    references: dict[str, tuple[str, ...]]
    missing: int
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
        len(missing),
        (*captions.notes, *references.notes, *notes),
    )


def _captions_by_reference(captions: CaptionFile, references: ReferenceFile) -> tuple[dict[str, str], list[str]]:
    """The captions by the keys of their references, and notes on names that differ. Raises `DataError`."""
    by_key: dict[str, str] = {}
    unknown: list[str] = []
    examples: dict[str, str] = {}
    matched_as: dict[str, str] = {}
    counts = Counter[str]()
    for image, caption in captions.captions.items():
        found: dict[str, tuple[str, str]] = {}
        for name in (image, *captions.names.get(image, ())):
            key, kind = references.find(name)
            if key is not None:
                found.setdefault(key, (name, kind))
        if not found:
            unknown.append(image)
            continue
        if len(found) > 1:
            named = " and ".join(f"{name} is {key}" for key, (name, _) in found.items())
            raise DataError(f"{captions.source}: one image has two names that differ in {references.source}: {named}")
        ((key, (name, kind)),) = found.items()
        if key in by_key:
            raise DataError(
                f"{captions.source}: two captions for {_with_other_names(key, references)}: {matched_as[key]} and "
                f"{name}, matched by {kind}; keep one of them, or check that the ids are those of {references.source}"
            )
        by_key[key] = caption
        matched_as[key] = f"{name}, matched by {kind},"
        counts[kind] += 1
        examples.setdefault(kind, f"{name} with {key}")
    if unknown:
        raise DataError(
            f"{captions.source}: no references for {len(unknown):,} of {counted(len(captions.captions), 'image')} in "
            f"{references.source}: {shown_names(unknown)}; its images are named {_named_like(references)}"
        )
    notes = [
        f"{counted(counts[kind], 'image is', 'images are')} matched by {kind}, such as {examples[kind]}"
        for kind in ("name without suffix", "number")
        if counts[kind]
    ]
    return by_key, notes


def _named_like(references: ReferenceFile) -> str:
    """Examples of the names that references can be found by."""
    keys = list(references.captions)[:2]
    more = ", ..." if len(references.captions) > len(keys) else ""
    return ", ".join(_with_other_names(key, references) for key in keys) + more


def _with_other_names(key: str, references: ReferenceFile) -> str:
    others = references.names.get(key)
    return f"{key} ({', '.join(others)})" if others else key
