"""What every reader of a dataset gives: captions as rows, and the rows that could not be kept with the reason."""

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Row:
    """One caption of one picture."""

    image: str
    """The picture's path below the image folder, with forward slashes."""
    caption: str
    split: str | None
    """One of `SPLITS`; None where the dataset does not say."""
    file: str
    line: int
    """Where the row stands, for messages. For JSON, the annotation's number from 1."""


@dataclass(frozen=True)
class Skipped:
    """A row or picture that was left out."""

    file: str
    line: int
    image: str
    reason: str


@dataclass
class Captions:
    """What a reader found."""

    rows: list[Row] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def add(self, image: str, caption: str, split: str | None, file: Path, line: int) -> None:
        """Keep the row, or note why it cannot be kept."""
        reason = _refusal(image, caption)
        if reason:
            self.skip(image, reason, file, line)
        else:
            self.rows.append(Row(image, " ".join(caption.split()), split, str(file), line))

    def skip(self, image: str, reason: str, file: Path, line: int) -> None:
        self.skipped.append(Skipped(str(file), line, image, reason))


def _refusal(image: str, caption: str) -> str | None:
    path = PurePosixPath(image.replace("\\", "/"))
    if not image:
        return "names no picture"
    if path.is_absolute() or ".." in path.parts or "\0" in image or ":" in path.parts[0]:
        return "the picture's path leaves the image folder"
    if not caption.strip():
        return "the caption is empty"
    return None
