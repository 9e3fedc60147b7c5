"""What every reader of a dataset gives, one after the other: captions as rows, rows that could not be kept with the
reason, and notes on what it made of the file."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pipeline.archives import is_archive_member_path

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "restval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What datasets call their splits. `restval` are the pictures of COCO's val that Karpathy's split trains on."""


@dataclass(frozen=True, slots=True)
class Row:
    """One caption of one picture."""

    image: str
    """The picture's path below the image folder, with forward slashes."""
    caption: str
    split: str | None
    """One of `SPLITS`; None where the dataset does not say."""
    file: str
    line: int
    """Where the row stands, for messages. For JSON, the element's number from 1."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row or picture that was left out."""

    file: str
    line: int
    image: str
    reason: str


@dataclass(frozen=True, slots=True)
class Note:
    """What a reader took for granted, for the user to confirm."""

    text: str


Entry = Row | Skipped | Note


@dataclass
class Captions:
    """All that a reader found."""

    rows: list[Row] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> "Captions":
        captions = cls()
        for entry in entries:
            captions.add(entry)
        return captions

    def add(self, entry: Entry) -> None:
        if isinstance(entry, Row):
            self.rows.append(entry)
        elif isinstance(entry, Skipped):
            self.skipped.append(entry)
        else:
            self.notes.append(entry.text)


def make_row(image: object, caption: object, split: str | None, file: Path | str, line: int) -> Row | Skipped:
    """The row in its one form, or why it cannot be kept.

    White space of every kind becomes single spaces; names and captions are in Unicode's composed form (NFC), so that
    what looks the same is the same.
    """
    if not isinstance(image, str) or not isinstance(caption, str):
        what = "the picture's name" if not isinstance(image, str) else "the caption"
        name = image if isinstance(image, str) else ""
        return skip(name, f"{what} is not text", file, line)
    image = image.strip()
    reason = name_refusal(image) or _caption_refusal(caption)
    if reason:
        return skip(image, reason, file, line)
    if not image.isascii():
        image = unicodedata.normalize("NFC", image)
    if not caption.isascii():
        caption = unicodedata.normalize("NFC", caption)
    return Row(clean_name(image), " ".join(caption.split()), split, str(file), line)


def skip(image: str, reason: str, file: Path | str, line: int) -> Skipped:
    """A refusal that can be written down, whatever the name holds."""
    shown = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", image).replace("\0", "\N{REPLACEMENT CHARACTER}")
    return Skipped(_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", str(file)), line, " ".join(shown.split())[:200], reason)


def clean_name(name: str) -> str:
    """A picture's name with single forward slashes, as it may come from Windows or a tar."""
    if "\\" in name or "//" in name or "./" in name:
        return str(PurePosixPath(name.replace("\\", "/")))
    return name


_SURROGATE = re.compile("[\ud800-\udfff]")
_PLAIN = re.compile(r"(?:[\w-][\w.-]*/)*[\w-][\w.-]*", re.ASCII)
"""Nearly every name, at a glance."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile("[A-Za-z]:")
_WORD = re.compile(r"[^\W_]")


def name_refusal(image: str) -> str | None:
    """Why a picture cannot have this name; None when it can."""
    if _PLAIN.fullmatch(image):
        return None
    if not image:
        return "names no picture"
    if broken := _SURROGATE.search(image):
        return _broken(broken[0])
    if _CONTROL.search(image):
        return "the picture's name holds a control character"
    path = PurePosixPath(image.replace("\\", "/"))
    if path.is_absolute() or _DRIVE.match(image):
        return "the picture's path is absolute; give it relative to params.data.images"
    if ".." in path.parts or not path.parts:
        return "the picture's path leaves the image folder"
    if is_archive_member_path(image):
        return "the picture's name is a place in an archive; name the member alone"
    return None


def _caption_refusal(caption: str) -> str | None:
    if not caption.strip():
        return "the caption is empty"
    if broken := _SURROGATE.search(caption):
        return _broken(broken[0])
    if "\0" in caption:
        return "the caption holds a NUL character"
    if not _WORD.search(caption):
        return "the caption has no word"
    return None


def _broken(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"not UTF-8: byte 0x{ord(character) - 0xDC00:02x}; save the file as UTF-8 or set params.data.encoding"
    return "half of a surrogate pair stands where a character should"
