"""Recognizes images, and files that are not what their name says, by their first bytes."""

from pathlib import Path

_IMAGES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_STARTS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run `git lfs pull`",
    b"<!doctype html": "a web page, not the file itself; download it again",
    b"<html": "a web page, not the file itself; download it again",
    b"\x1f\x8b": "compressed with gzip; unpack it with gunzip",
}


def is_image(head: bytes) -> bool:
    """Whether a file that starts with `head` (16 bytes) is an image, not text."""
    return (
        head.startswith(_IMAGES)
        or (head.startswith(b"RIFF") and head[8:12] == b"WEBP")
        or (head.startswith(b"BM") and head[6:10] == bytes(4))
        or head[4:8] == b"ftyp"  # AVIF and HEIC
    )


def other_content(file: Path | bytes) -> str | None:
    """What a file that is not of the expected type is, with a remedy; None if unknown. `file`: path or first bytes."""
    size = max(map(len, _STARTS))
    if isinstance(file, Path):
        try:
            with file.open("rb") as opened:
                file = opened.read(size)
        except OSError:
            return None
    start = file[:size].lower()
    return next((words for known, words in _STARTS.items() if start.startswith(known.lower())), None)
