"""Notes and warnings that several commands print."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline import paths
from pipeline.archives import IMAGE_SUFFIXES
from pipeline.wording import counted, shown_names

UNSPACED = 0.1
"""Share of captions in a script without spaces between words, above which words are the wrong unit."""
_DROPPED_LETTERS = 0.01


def without_features_warning(split: str, images: Sequence[str]) -> str:
    """Return the warning for images of a split that have no features."""
    left_out = counted(
        len(images),
        f"image of the {split} split has no features and is left out",
        f"images of the {split} split have no features and are left out",
    )
    return (
        f"warning: {left_out}: {shown_names(images)}; {paths.SKIPPED} lists those that cannot be decoded, "
        "`dvc repro extract` (or `captioner import-features`) adds the others"
    )


def ignored_files_note(place: str, names: Sequence[str]) -> str:
    """Return the note on the files of a folder that are in no supported image format: their number by suffix.

    Those named like an image are broken symbolic links.
    """
    counts = Counter(Path(name).suffix.lower() or "without a suffix" for name in names)
    links = dict.fromkeys(IMAGE_SUFFIXES, " (broken links)")
    shown = shown_names([f"{count:,} {suffix}{links.get(suffix, '')}" for suffix, count in counts.most_common()])
    return f"note: {place}: files that are not images: {shown}"


def word_warnings(without_spaces: float, dropped_letters: float) -> Iterator[str]:
    """Warnings about captions that the word tokenizer does not suit, given the shares of captions in a script without
    spaces and of those whose letters it drops, 0 to 1."""
    remedy = "set params.vocab.unit to character and params.score.rerank.neighbors to 0"
    if without_spaces >= UNSPACED:
        yield f"warning: {without_spaces:.0%} of the captions are in a script without spaces between words; {remedy}"
    else:
        yield from dropped_letters_warning(dropped_letters, "captions", remedy)


def dropped_letters_warning(share: float, texts: str, remedy: str) -> Iterator[str]:
    """The warning for texts whose letters the word tokenizer drops, if their share is high enough."""
    if share >= _DROPPED_LETTERS:
        yield f"warning: {share:.0%} of the {texts} hold letters or vowel signs that the word tokenizer drops; {remedy}"
