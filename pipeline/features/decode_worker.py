"""A process that decodes and resizes images into shared memory, started by `decode_pool`.

    python -m pipeline.features.decode_worker FD IMAGES PREPROCESSING

FD is the file behind the shared memory, which holds IMAGES network inputs (S, S, 3); PREPROCESSING is JSON. A line on
standard input is a request, `[slot, path, sha256]`; its answer on standard output is `null`, or the reason why the
image cannot be used. The process imports neither torch nor h5py and ends with its standard input.
"""

import json
import mmap
import os
import signal
import sys
from functools import partial

import numpy as np

from pipeline.archives import read_image_bytes
from pipeline.encoders.images import ImageError, read_pixels
from pipeline.encoders.spec import Preprocessing

READY = "ready"
"""The first line of output."""


def main() -> None:
    """Answer requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which ends this one
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints is no answer
    fd, images, preprocessing = int(sys.argv[1]), int(sys.argv[2]), Preprocessing(**json.loads(sys.argv[3]))
    side = preprocessing.size
    memory = mmap.mmap(fd, images * side * side * 3)
    slots = np.frombuffer(memory, np.uint8).reshape(images, side, side, 3)
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
    main()
