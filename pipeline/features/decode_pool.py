"""Decodes and resizes images in worker processes, into shared memory.

Decoding in threads keeps about five cores busy, however many there are: Pillow holds Python's global lock for a part
of the time. Processes keep all of them busy. A worker that crashes on an image is restarted; the image is listed if it
crashes the next worker as well. `DecodeThreads` does the same in threads, for machines where no worker can be started.

A worker is this module, run as a program:

    python -m pipeline.features.decode_pool FD IMAGES PREPROCESSING

FD is the file behind the shared memory, which has IMAGES slots; PREPROCESSING is JSON. A line on standard input is a
request, `[slot, path, sha256, with_pillow]`. Its answer on standard output is `null` (the slot holds the network's
input), the reason why the image cannot be used, `[bytes, height, width]`: the slot holds a JPEG that the GPU is to
decode (`encoder.jpeg_decoder: nvimgcodec`), or `{name: message}`: an error that ends the run. The process imports
neither torch nor h5py and ends with its standard input.

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
from pipeline.encoders.images import ImageError, decode_pixels, read_file
from pipeline.encoders.jpeg_headers import jpeg_size
from pipeline.encoders.spec import Preprocessing
from pipeline.errors import DiskError, ParamsError, PeerError

if TYPE_CHECKING:
    from pipeline.features.image_batches import ImageFile

READY = "ready"
"""The first line that a worker writes."""
Answer = str | tuple[int, int, int] | None
"""None: the slot holds the network's input. Bytes, height and width of a JPEG in the slot. Or the reason why the image
cannot be used."""
_ERRORS = {one.__name__: one for one in (DiskError, ParamsError)}
"""What ends the run: the disk or the memory fails."""
MAX_JPEG = 1 << 19
"""Bytes of the largest JPEG that a GPU gets; Pillow decodes larger ones."""


class DecodePool:
    """A context manager: `workers` processes and memory for `images` images."""

    def __init__(self, preprocessing: Preprocessing, images: int, workers: int) -> None:
        """Raises `PeerError` when processes cannot be started on this machine."""
        if sys.platform == "win32":
            raise PeerError("on Windows, processes that decode images cannot share this memory")
        try:
            self._fd = _anonymous_file(images * _slot_size(preprocessing))
            slots = _map_slots(self._fd, images, preprocessing)
        except OSError as error:
            raise PeerError(f"no shared memory for processes that decode images: {error}") from error
        self.slots = slots
        """The memory (images, bytes of a slot)."""
        self.pixels = _pixels(self.slots, preprocessing)
        """The network inputs (images, S, S, 3) in it."""
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

    def decode(self, images: "Sequence[ImageFile]", slots: Sequence[int], *, with_pillow: bool = False) -> list[Answer]:
        """Read each image into its slot. Thread-safe; a thread waits until a worker is idle.

        With `with_pillow` no JPEG is left to the GPU. Raises `PeerError` when a crashed worker cannot be restarted, or
        after `close`; `DiskError` and `ParamsError` when the disk or the memory fails.
        """
        worker = self._idle.get()
        answers: list[Answer] = []
        crashed_at: int | None = None
        try:
            while len(answers) < len(images):
                try:
                    worker.request(images[len(answers) :], slots[len(answers) :], with_pillow)
                    while len(answers) < len(images):
                        answer = json.loads(worker.answer())
                        if isinstance(answer, dict):
                            worker.kill()  # its other answers are not read
                            ((name, message),) = answer.items()
                            raise _ERRORS[name](message)
                        answers.append(tuple(answer) if isinstance(answer, list) else answer)
                except _Crashed as error:
                    worker = self._restart(worker)
                    if len(answers) == crashed_at:
                        answers.append(f"the process that decodes it ended twice ({error})")
                        crashed_at = None
                    else:
                        crashed_at = len(answers)
        finally:
            self._idle.put(worker)
        return answers

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
        try:
            return self._start()
        except PeerError as error:
            raise PeerError(f"{error}; run the same command again, which continues") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class DecodeThreads:
    """Does what `DecodePool` does without processes: the threads that call `decode` read the images themselves."""

    def __init__(self, preprocessing: Preprocessing, images: int) -> None:
        self._preprocessing = preprocessing
        self.slots = np.zeros((images, _slot_size(preprocessing)), np.uint8)
        self.pixels = _pixels(self.slots, preprocessing)

    def decode(self, images: "Sequence[ImageFile]", slots: Sequence[int], *, with_pillow: bool = False) -> list[Answer]:
        """See `DecodePool.decode`."""
        return [
            _read_into(self.slots[slot], str(image.path), image.sha256, self._preprocessing, with_pillow)
            for image, slot in zip(images, slots, strict=True)
        ]

    def close(self) -> None:
        """There is nothing to close."""

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
            raise PeerError(f"a process that decodes images cannot be started: {error}") from error

    def wait_until_ready(self) -> None:
        """Raises `PeerError`."""
        try:
            answer = self.answer()
        except _Crashed as error:
            raise PeerError(f"a process that decodes images did not start ({error})") from error
        if answer != READY:
            raise PeerError(f"a process that decodes images sent {answer[:80]!r} first, not {READY!r}")

    def request(self, images: "Sequence[ImageFile]", slots: Sequence[int], with_pillow: bool) -> None:
        """Ask for images at once, so that the process does not wait between them. Raises `_Crashed`."""
        assert self._process.stdin
        lines = (
            json.dumps([slot, str(image.path), image.sha256, with_pillow]) + "\n"
            for image, slot in zip(images, slots, strict=True)
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


def _slot_size(preprocessing: Preprocessing) -> int:
    """Bytes of a slot."""
    pixels = preprocessing.size * preprocessing.size * 3
    return max(pixels, MAX_JPEG) if preprocessing.jpeg_decoder == "nvimgcodec" else pixels


def _map_slots(fd: int, images: int, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """The shared memory (images, bytes of a slot)."""
    size = _slot_size(preprocessing)
    return np.frombuffer(mmap.mmap(fd, images * size), np.uint8).reshape(images, size)


def _pixels(slots: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """The network inputs (images, S, S, 3) in the slots (images, bytes)."""
    side = preprocessing.size
    return slots[:, : side * side * 3].reshape(len(slots), side, side, 3)


def _work() -> None:
    """Read images until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which ends this one
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints is no answer
    fd, images, preprocessing = int(sys.argv[1]), int(sys.argv[2]), Preprocessing(**json.loads(sys.argv[3]))
    slots = _map_slots(fd, images, preprocessing)
    print(READY, file=answers, flush=True)
    for line in sys.stdin:
        slot, path, sha256, with_pillow = json.loads(line)
        answer: Answer | dict[str, str]
        try:
            answer = _read_into(slots[slot], path, sha256, preprocessing, with_pillow)
        except tuple(_ERRORS.values()) as error:
            answer = {type(error).__name__: str(error)}
        print(json.dumps(answer), file=answers, flush=True)


def _read_into(
    slot: NDArray[np.uint8], path: str, sha256: str, preprocessing: Preprocessing, with_pillow: bool
) -> Answer:
    """Read an image into its slot (bytes,). Raises `DiskError`, `ParamsError`."""
    try:
        content = read_file(partial(read_image_bytes, path), sha256)
        size = None if with_pillow else _size_for_gpu(content, preprocessing)
        if size:
            slot[: len(content)] = np.frombuffer(content, np.uint8)
            return (len(content), *size)
        _pixels(slot[np.newaxis], preprocessing)[0] = decode_pixels(content, preprocessing)
    except ImageError as error:
        return str(error)
    return None


def _size_for_gpu(content: bytes, preprocessing: Preprocessing) -> tuple[int, int] | None:
    """Height and width of a JPEG that the GPU is to decode."""
    is_resized_there = preprocessing.interpolation in ("bilinear", "bicubic")
    on_gpu = preprocessing.jpeg_decoder == "nvimgcodec" and is_resized_there and len(content) <= MAX_JPEG
    return jpeg_size(content) if on_gpu else None


if __name__ == "__main__":
    _work()
