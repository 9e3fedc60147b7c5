"""Recognizes files that are not what their name says, by their first bytes."""

from pathlib import Path

_STARTS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run `git lfs pull`",
    b"<!doctype html": "a web page, not the file itself; download it again",
    b"<html": "a web page, not the file itself; download it again",
    b"\x1f\x8b": "compressed with gzip; unpack it with gunzip",
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
