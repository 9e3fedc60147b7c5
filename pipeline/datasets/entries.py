"""What the dataset readers yield: captions, rows that were skipped with the reason, and notes for the user."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Self

from pipeline.archives import INSIDE
from pipeline.progress import Progress, no_progress

AUTO = "auto"
SPLITS = ("train", "val", "test")
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "restval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""The splits by the names that datasets give them. `restval` is the part of COCO's val that Karpathy trains on."""
_LETTERS = re.compile(r"[^\W\d_]+")


def split_in(name: str) -> str | None:
    """The split in the name of a file or folder, such as `my_val2017.json`; None without a split, or with two."""
    splits = [SPLIT_NAMES[word] for word in _LETTERS.findall(name.lower()) if word in SPLIT_NAMES]
    return splits[0] if len(splits) == 1 else None


@dataclass(frozen=True)
class ReadOptions:
    """What a reader cannot find out by itself, from `params.data`. `auto`: detected."""

    encoding: str = AUTO
    image_column: str = AUTO
    caption_column: str = AUTO
    split_column: str = AUTO


@dataclass(frozen=True, slots=True)
class _PlacedEntry:
    """Something that stands in a file."""

    file: str
    line: int
    """For JSON, the element's number from 1; 0 for a whole file."""
    image: str
    """The image's path below the image folder, with forward slashes."""

    @property
    def place(self) -> str:
        """Where the entry stands, in words."""
        word = "entry" if self.file.lower().endswith(".json") else "line"
        return f"{self.file}, {word} {self.line}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class CaptionEntry(_PlacedEntry):
    """One caption of one image."""

    caption: str
    split: str | None
    """One of `SPLITS`; None where the dataset does not assign one."""


@dataclass(frozen=True, slots=True)
class SkippedEntry(_PlacedEntry):
    """A row or an image that cannot be used."""

    reason: str


@dataclass(frozen=True, slots=True)
class Note:
    """An assumption that a reader made, for the user to confirm."""

    text: str


Entry = CaptionEntry | SkippedEntry | Note


@dataclass
class DatasetEntries:
    """The entries of a dataset by kind."""

    captions: list[CaptionEntry] = field(default_factory=list)
    skipped: list[SkippedEntry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def collect(cls, entries: Iterable[Entry], progress: Progress = no_progress) -> Self:
        """Read all entries."""
        found = cls()
        for number, entry in enumerate(entries, start=1):
            if isinstance(entry, CaptionEntry):
                found.captions.append(entry)
            elif isinstance(entry, SkippedEntry):
                found.skipped.append(entry)
            else:
                found.notes.append(entry.text)
            if number % 1000 == 0:
                progress(number, 0, "captions read")
        return found


def make_entry(
    image: object, caption: object, split: object, file: Path | str, line: int
) -> CaptionEntry | SkippedEntry:
    """Check and normalize one caption.

    A name may be a number, and `split` has the dataset's own name (see `SPLIT_NAMES`). White space becomes single
    spaces. Names and captions are in Unicode's composed form (NFC), so that equal text compares equal.
    """
    if type(image) is int:
        image = str(image)
    if not isinstance(image, str):
        return skip_entry("", "the image name is not text", file, line)
    image = without_caption_number(image.strip())
    split = "" if split is None else str(split).strip()
    if split and split.lower() not in SPLIT_NAMES:
        return skip_entry(image, f"split must be one of {', '.join(SPLITS)}, got {split[:40]!a}", file, line)
    if not isinstance(caption, str):
        return skip_entry(image, "the caption is not text", file, line)
    problem = check_image_name(image) or _check_caption(caption)
    if problem:
        return skip_entry(image, problem, file, line)
    image, caption = (unicodedata.normalize("NFC", text) for text in (clean_name(image), " ".join(caption.split())))
    return CaptionEntry(str(file), line, image, caption, SPLIT_NAMES.get(split.lower()))


def skip_entry(image: str, reason: str, file: Path | str, line: int) -> SkippedEntry:
    """A skipped entry whose fields can be encoded as UTF-8, whatever the name holds."""
    file, image = (_NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", text) for text in (str(file), image))
    return SkippedEntry(file, line, " ".join(image.split())[:200], reason)


def without_caption_number(name: str) -> str:
    """An image name without Flickr's number of the caption: `a.jpg` for `a.jpg#0`."""
    return _CAPTION_NUMBER.sub("", name) if "#" in name else name


def clean_name(name: str) -> str:
    """An image name with single forward slashes; it may come from Windows or a tar archive."""
    if "\\" in name or "//" in name or "./" in name:
        return str(PurePosixPath(name.replace("\\", "/")))
    return name


_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_PLAIN_NAME = re.compile(r"(?:[\w-][\w.-]*/)*[\w-][\w.-]*", re.ASCII)
"""Matches most names, which then need no further check."""
_CAPTION_NUMBER = re.compile(r"#\d+$")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile("[A-Za-z]:(?!:)")
_EMBEDDED = re.compile("data:image/|/9j/|iVBORw0KGgo")
"""The start of an image in a data URL, and of a JPEG or a PNG in base64."""
_ADDRESS = re.compile("[A-Za-z][A-Za-z0-9+.-]*://")
_WORD = re.compile(r"[^\W_]")


def check_image_name(image: str) -> str | None:
    """Why an image cannot have this name; None when it can."""
    if _EMBEDDED.match(image):
        return "the image is embedded; save it as a file, and give its name instead"
    if _PLAIN_NAME.fullmatch(image):
        return None
    if not image:
        return "the image name is empty"
    if problem := check_encodable(image):
        return problem
    if _CONTROL.search(image):
        return "the image name holds a control character"
    if _ADDRESS.match(image):
        return "the image name is an address; download the images and name their files"
    path = PurePosixPath(image.replace("\\", "/"))
    if path.is_absolute() or _DRIVE.match(image):
        return "the image path is absolute; make it relative to params.data.images"
    if ".." in path.parts or not path.parts:
        return "the image path leads outside the image folder"
    if INSIDE.fullmatch(image):
        return "the image name is a path into an archive; use the name inside the archive alone"
    return None


def _check_caption(caption: str) -> str | None:
    if not caption.strip():
        return "the caption is empty"
    return check_encodable(caption) or (None if _WORD.search(caption) else "the caption has no word")


def check_encodable(text: str) -> str | None:
    """Why a text cannot be written in a text file; None when it can."""
    broken = _NO_TEXT.search(text)
    if broken is None:
        return None
    if "\udc80" <= broken[0] <= "\udcff":  # a byte that `decode` or `open_text` could not decode
        byte = f"0x{ord(broken[0]) - 0xDC00:02x}"
        return f"byte {byte} cannot be decoded; save the file as UTF-8 or, of a dataset, correct params.data.encoding"
    return f"{broken[0]!a} is no character (a NUL or half of a surrogate pair)"
