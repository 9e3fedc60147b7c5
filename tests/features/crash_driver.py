"""Kills an extraction at each of its writes in turn, with SIGKILL, and lets another process finish it.

Run as a program by test_crashes.py: `crash_driver.py FOLDER`. Prints one JSON object. It forks instead of starting an
interpreter for each of the hundred or so runs.
"""

import itertools
import json
import os
import signal
import sys
from pathlib import Path

from stand_in import StandIn, draw, extract

from pipeline.features import extraction, feature_file, store

WRITES = ("pwrite", "fsync", "posix_fallocate", "replace")
extraction.CHUNK_PIXELS = 1
store.BUFFER_BYTES = 3 * StandIn.regions * StandIn.channels * 2
store.FLUSH_SECONDS = (1000.0, 1000.0)
feature_file.SLAB_BYTES = 4 * StandIn.regions * StandIn.channels * 2


def in_a_child(work):
    """Return what `work` returns in a process of its own; None when that was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.write(writing, json.dumps(work()).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as output:
        answer = output.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return None
    assert status == 0
    return json.loads(answer)


def counting(work, *, die_at=None, torn=False):
    """Run `work` with every write counted; die before write number `die_at`, or in the middle of it."""
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
    creates = counted("open", opened)
    os.open = lambda path, flags, *rest: (creates if flags & os.O_CREAT else opened)(path, flags, *rest)
    work()
    return count


def stored_rows(folder):
    return sum(len(feature_file.FeatureFile.open(path).images) for path in folder.glob("store/*/*.h5"))


def killed_and_resumed(images, folder, expected, point, torn):
    folder.mkdir()
    killed = in_a_child(lambda: counting(lambda: extract(images, folder), die_at=point, torn=torn)) is None
    return {
        "killed": killed,
        "kept": stored_rows(folder),
        "encoded": in_a_child(lambda: extract(images, folder)[0].encoded),
        "same": (folder / "features.h5").read_bytes() == expected,
        "leftovers": [path.name for path in folder.rglob(".*.*")],
    }


def main(folder):
    images = draw(folder / "images")
    whole = folder / "whole"
    whole.mkdir()
    points = in_a_child(lambda: counting(lambda: extract(images, whole)))
    expected = (whole / "features.h5").read_bytes()
    runs = []
    for point, torn in itertools.product(range(1, points + 1), (False, True)):
        runs.append(killed_and_resumed(images, folder / f"{point}-{torn}", expected, point, torn))
    print(json.dumps({"images": len(images), "points": points, "runs": runs}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
