"""Kills an extraction at each of its write points in turn, with SIGKILL, and lets another process finish it.

Run as a program by test_crashes.py: `crash_driver.py FOLDER`. Prints one JSON object. It forks instead of starting an
interpreter for each of the hundred or so runs.
"""

import itertools
import json
import os
import signal
import sys
from pathlib import Path

from stand_in import StandIn, draw

from pipeline.features import feature_file as cache
from pipeline.features import store_segment as segment
from pipeline.features.extraction import extract_features

WRITES = ("pwrite", "fsync", "fdatasync", "posix_fallocate", "replace")
segment.SYNC_SECONDS = 0.0
cache._SLAB_BYTES = 4 * StandIn.regions * StandIn.channels * 2


def extract(pictures, folder):
    encoder = StandIn()
    extract_features(pictures, encoder, folder / "features.h5", store=folder / "store", batch_size=3, workers=1)
    return encoder.encoded


def in_a_child(work):
    """What `work` returns, from a process of its own; None when that was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.write(writing, json.dumps(work()).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        answer = said.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return None
    assert status == 0
    return json.loads(answer)


def counting(work, *, die_at=None, torn=False):
    """Run `work` with every write counted; die before number `die_at`, or in the middle of it."""
    count = 0

    def counted(name, real):
        def call(*arguments):
            nonlocal count
            count += 1
            if count == die_at:
                if torn and name == "pwrite":
                    descriptor, content, place = arguments
                    real(descriptor, content[: len(content) // 2], place)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)

        return call

    for name in WRITES:
        setattr(os, name, counted(name, getattr(os, name)))
    opened = os.open
    makes = counted("open", opened)
    os.open = lambda path, flags, *rest: (makes if flags & os.O_CREAT else opened)(path, flags, *rest)
    work()
    return count


def rows_kept(folder):
    kept = 0
    for path in folder.glob("store/*/*.segment"):
        found = segment.Segment.open(path, path.parent.name)
        kept += len(list(found.done())) if found else 0
    return kept


def killed_and_resumed(pictures, place, expected, point, torn):
    place.mkdir()
    killed = in_a_child(lambda: counting(lambda: extract(pictures, place), die_at=point, torn=torn)) is None
    return {
        "killed": killed,
        "kept": rows_kept(place),
        "encoded": in_a_child(lambda: extract(pictures, place)),
        "same": (place / "features.h5").read_bytes() == expected,
        "left": [path.name for path in place.rglob(".*")],
    }


def main(folder):
    pictures = draw(folder / "pictures")
    whole = folder / "whole"
    whole.mkdir()
    points = in_a_child(lambda: counting(lambda: extract(pictures, whole)))
    expected = (whole / "features.h5").read_bytes()
    runs = []
    for point, torn in itertools.product(range(1, points + 1), (False, True)):
        runs.append(killed_and_resumed(pictures, folder / f"{point}-{torn}", expected, point, torn))
    print(json.dumps({"pictures": len(pictures), "points": points, "runs": runs}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
