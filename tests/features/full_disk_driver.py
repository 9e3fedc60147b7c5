"""Fills a small file system by an extraction, frees it, and continues. Run by test_crashes.py in a mount namespace."""

import json
import os
import sys
from pathlib import Path

from stand_in import draw, extract

from pipeline.errors import DiskError


def main(disk):
    images = draw(disk / "images")
    old = disk / "features.h5"
    old.write_bytes(b"of an earlier run")
    room = os.statvfs(disk)
    (disk / "ballast").write_bytes(bytes(room.f_bavail * room.f_frsize - 30_000))  # enough for the store only
    refused = False
    try:
        extract(images, disk)
    except DiskError as error:
        refused = "features.h5" in str(error) and "are missing" in str(error)
    untouched = old.read_bytes() == b"of an earlier run"
    (disk / "ballast").unlink()
    encoded_again = extract(images, disk)[0].encoded
    written = old.stat().st_size > 4000
    print(json.dumps({"refused": refused, "old untouched": untouched, "written": written, "kept": encoded_again == 0}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
