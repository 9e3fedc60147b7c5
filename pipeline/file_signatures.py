"""Recognizes images, and files that are not what their name says, by their first bytes."""

import re
from pathlib import Path

IMAGE_START = re.compile(
    rb"\xff\xd8\xff|\x89PNG|GIF8|II[*+]\x00|MM\x00[*+]|RIFF.{4}WEBP|BM.{4}\x00{4}|.{4}ftyp", re.DOTALL
)
"""JPEG, PNG, GIF, TIFF, WebP, BMP, and AVIF, HEIC or a video, by at most 16 bytes."""
_STARTS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run `git lfs pull`",
    b"<!doctype html": "a web page, not the file itself; download it again",
    b"<html": "a web page, not the file itself; download it again",
    b"{\\rtf": "a document with markup (RTF); save it as plain text",
    **dict.fromkeys((b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!"), "a compressed archive; unpack it"),
    b"\x1f\x8b": "compressed with gzip; unpack it with `gunzip < FILE > NEW`, or an archive with `tar xzf`",
}


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
