"""Notes and warnings that several commands print."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipeline import paths
from pipeline.wording import counted, shown_names

_SUFFIXES = 5


def without_features_warning(split: str, images: Sequence[str]) -> str:
    """Return the warning for images of a split that have no features."""
    left_out = counted(
        len(images),
        f"image of the {split} split has no features and is left out",
        f"images of the {split} split have no features and are left out",
    )
    return (
        f"warning: {left_out}: {shown_names(images)}; {paths.SKIPPED} lists those that cannot be decoded, "
        "`dvc repro extract` computes the others"
    )


def passed_over_note(place: str, names: Sequence[str]) -> str:
    """Return the note on the files of a folder that are in no supported image format: their number by suffix."""
    counts = Counter(Path(name).suffix.lower() or "without a suffix" for name in names)
    first = counts.most_common(_SUFFIXES)
    others = counts.total() - sum(count for _, count in first)
    shown = ", ".join(f"{count:,} {suffix}" for suffix, count in first)
    return f"note: {place}: files that are not images: {shown}" + (f", {counted(others, 'other')}" if others else "")


def unspaced_warning(share: float) -> str:
    """Return the warning for captions in a script without spaces; `share` is the fraction of all captions, 0 to 1."""
    return (
        f"warning: {share:.0%} of the captions are in a script without spaces between words; set params.vocab.unit to "
        "character and params.score.rerank.neighbors to 0"
    )
