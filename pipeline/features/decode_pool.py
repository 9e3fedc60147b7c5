"""Decodes and resizes images in worker processes, into shared memory.

Decoding in threads keeps about five cores busy, however many there are: Pillow holds Python's global lock for a part
of the time. Processes keep all of them busy. A worker that crashes on an image is restarted; the image is listed if it
crashes the next worker as well.

A worker is this module, run as a program:

    python -m pipeline.features.decode_pool FD IMAGES PREPROCESSING

FD is the file behind the shared memory, which holds IMAGES network inputs; PREPROCESSING is JSON. A line on standard
input is a request, `[slot, path, sha256]`; its answer on standard output is `null`, or the reason why the image cannot
be used. The process imports neither torch nor h5py and ends with its standard input.

S side of the network's input.
"""

import contextlib
import json
import mmap
import os
import queue
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

import pipeline
from pipeline.archives import read_image_bytes
from pipeline.encoders.images import ImageError, read_pixels
from pipeline.encoders.spec import Preprocessing
from pipeline.errors import PeerError

if TYPE_CHECKING:
    from pipeline.features.image_batches import ImageFile

READY = "ready"
"""The first line that a worker writes."""
_REMEDY = "`run.device: cpu` needs none"
Reasons = list[str | None]
"""For each image None, or the reason why it cannot be used."""


class DecodePool:
    """A context manager: `workers` processes and memory for `images` network inputs."""

    def __init__(self, preprocessing: Preprocessing, images: int, workers: int) -> None:
        """Raises `PeerError` when processes cannot be started on this machine."""
        side = preprocessing.size
        try:
            self._fd = _anonymous_file(images * side * side * 3)
            self.slots = _map_slots(self._fd, images, side)
        except OSError as error:
            raise PeerError(f"no shared memory for processes that decode images: {error}; {_REMEDY}") from error
        """The network inputs (images, S, S, 3)."""
        self._arguments = [str(self._fd), str(images), json.dumps(asdict(preprocessing))]
        self._closed = False
        self._workers: set[_Worker] = set()
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        try:
            with ThreadPoolExecutor(workers) as pool:  # their imports take a third of a second
                for worker in pool.map(lambda _: self._start(), range(workers)):
                    self._idle.put(worker)
        except BaseException:
            self.close()
            raise

    def decode(self, images: "Sequence[ImageFile]", slots: Sequence[int]) -> Reasons:
        """Decode each image into its slot. Thread-safe; at most `workers` threads decode at a time.

        Raises `PeerError` when a crashed worker cannot be restarted, or after `close`.
        """
        worker = self._idle.get()
        reasons: Reasons = []
        crashed_at: int | None = None
        try:
            while len(reasons) < len(images):
                try:
                    worker.request(images[len(reasons) :], slots[len(reasons) :])
                    while len(reasons) < len(images):
                        reasons.append(json.loads(worker.answer()))
                except _Crashed as error:
                    worker = self._restart(worker)
                    if len(reasons) == crashed_at:
                        reasons.append(f"the process that decodes it ended twice ({error})")
                        crashed_at = None
                    else:
                        crashed_at = len(reasons)
        finally:
            self._idle.put(worker)
        return reasons

    def close(self) -> None:
        """End all workers at once; running calls of `decode` fail. The memory is freed with its last user."""
        self._closed = True
        for worker in list(self._workers):
            worker.kill()
        self._workers.clear()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _start(self) -> "_Worker":
        worker = _Worker(self._fd, self._arguments)
        self._workers.add(worker)
        if self._closed:
            worker.kill()
        worker.wait_until_ready()
        return worker

    def _restart(self, worker: "_Worker") -> "_Worker":
        self._workers.discard(worker)
        if self._closed:
            raise PeerError("decoding was interrupted")
        worker.kill()
        return self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Crashed(Exception):
    """A worker ended. The message names its signal or exit code."""


class _Worker:
    """One process."""

    def __init__(self, fd: int, arguments: Sequence[str]) -> None:
        package = str(Path(pipeline.__file__).parent.parent)
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "pipeline.features.decode_pool", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **single, "PYTHONPATH": path},
                pass_fds=[fd],
                text=True,
            )
        except (OSError, ValueError) as error:
            raise PeerError(f"a process that decodes images cannot be started: {error}; {_REMEDY}") from error

    def wait_until_ready(self) -> None:
        """Raises `PeerError`."""
        try:
            answer = self.answer()
        except _Crashed as error:
            raise PeerError(f"a process that decodes images did not start ({error}); {_REMEDY}") from error
        if answer != READY:
            raise PeerError(f"a process that decodes images sent {answer[:80]!r} first, not {READY!r}; {_REMEDY}")

    def request(self, images: "Sequence[ImageFile]", slots: Sequence[int]) -> None:
        """Ask for images at once, so that the process does not wait between them. Raises `_Crashed`."""
        assert self._process.stdin
        lines = (
            json.dumps([slot, str(image.path), image.sha256]) + "\n" for image, slot in zip(images, slots, strict=True)
        )
        try:
            self._process.stdin.write("".join(lines))
            self._process.stdin.flush()
        except (OSError, ValueError):
            raise _Crashed(self._end()) from None

    def answer(self) -> str:
        """Read the next line. Raises `_Crashed`."""
        assert self._process.stdout
        try:
            line = self._process.stdout.readline()
        except (OSError, ValueError):
            line = ""
        if not line.endswith("\n"):
            raise _Crashed(self._end())
        return line.rstrip("\n")

    def kill(self) -> None:
        """End the process and wait for its end."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError, ValueError):
                assert pipe
                pipe.close()

    def _end(self) -> str:
        """How the process ended."""
        code = self._process.wait()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _anonymous_file(size: int) -> int:
    """The descriptor of a file in memory without a name, which no killed process leaves behind. Raises `OSError`."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("captioner")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.truncate(fd, size)
    return fd


def _map_slots(fd: int, images: int, side: int) -> NDArray[np.uint8]:
    """The shared memory: network inputs (images, S, S, 3)."""
    return np.frombuffer(mmap.mmap(fd, images * side * side * 3), np.uint8).reshape(images, side, side, 3)


def _work() -> None:
    """Decode images until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which ends this one
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints is no answer
    fd, images, preprocessing = int(sys.argv[1]), int(sys.argv[2]), Preprocessing(**json.loads(sys.argv[3]))
    slots = _map_slots(fd, images, preprocessing.size)
    print(READY, file=answers, flush=True)
    for line in sys.stdin:
        slot, path, sha256 = json.loads(line)
        reason = None
        try:
            slots[slot] = read_pixels(partial(read_image_bytes, path), sha256, preprocessing)
        except ImageError as error:
            reason = str(error)
        print(json.dumps(reason), file=answers, flush=True)


if __name__ == "__main__":
    _work()
