"""Worker processes decode images into shared memory; a crash costs one image, and nothing is left behind."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.encoders.images import decode_image, preprocess_image
from pipeline.encoders.spec import Preprocessing
from pipeline.errors import PeerError
from pipeline.features import decode_pool
from pipeline.features.decode_pool import DecodePool, WorkerError
from pipeline.features.image_batches import ImageFile

HOW = Preprocessing(16, 20, "bicubic", (0.5,) * 3, (0.2,) * 3, (255,) * 3)


def image_file(path):
    return ImageFile(path.name, path, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def images(tmp_path):
    found = []
    for number in range(4):
        path = tmp_path / f"{number}\u00e9.png"
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        found.append(image_file(path))
    return found


def preprocessed(image):
    return preprocess_image(decode_image(image.path.read_bytes()), HOW)


def children():
    """The worker processes of this process that run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command, status = (folder / "cmdline").read_bytes(), (folder / "stat").read_text()
        except OSError:
            continue
        if b"decode_worker" in command and int(status.rpartition(")")[2].split()[1]) == os.getpid():
            found.append(int(folder.name))
    return found


def test_images_are_preprocessed_into_their_slots(images):
    with DecodePool(HOW, 10, 2) as pool:
        assert pool.decode(images, [7, 1, 2, 5]) == [None] * 4
        for image, slot in zip(images, [7, 1, 2, 5], strict=True):
            assert np.array_equal(pool.slots[slot], preprocessed(image))
        assert not pool.slots[[0, 3, 4, 6, 8, 9]].any()


def test_unusable_images_have_a_reason(images, tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"x")
    images[0].path.unlink()
    images[2].path.write_bytes(b"other")
    with DecodePool(HOW, 4, 1) as pool:
        missing, good, changed, damaged = pool.decode([*images[:3], image_file(tmp_path / "x.jpg")], range(4))
    assert "No such file" in missing
    assert good is None
    assert changed.startswith("changed since")
    assert damaged.startswith("not an image")


@pytest.fixture
def crashing(monkeypatch, tmp_path):
    """Workers end with SIGSEGV at an image named `crash`, and once at an image named `once`."""
    (tmp_path / "crashing_worker.py").write_text(
        "import os, signal\n"
        "from pathlib import Path\n"
        "from pipeline.features import decode_worker as worker\n"
        "read = worker.read_image_bytes\n"
        "def crash(path):\n"
        "    path = Path(path)\n"
        "    if path.name == 'crash' or (path.name == 'once' and not path.with_name('done').exists()):\n"
        "        path.name == 'once' and path.with_name('done').touch()\n"
        "        os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    return read(path)\n"
        "worker.read_image_bytes = crash\n"
        "worker.main()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    popen = subprocess.Popen

    def start(command, **options):
        return popen([one.replace("pipeline.features.decode_worker", "crashing_worker") for one in command], **options)

    monkeypatch.setattr(subprocess, "Popen", start)


def renamed(image, name):
    path = image.path.with_name(name)
    image.path.rename(path)
    return ImageFile(name, path, image.sha256)


def test_a_crash_costs_one_image(images, crashing):
    images[1] = renamed(images[1], "crash")
    with DecodePool(HOW, 4, 1) as pool:
        reasons = pool.decode(images, range(4))
        assert reasons == [None, "the process that decodes it ended twice (SIGSEGV)", None, None]
        assert np.array_equal(pool.slots[2], preprocessed(images[2]))
        assert pool.decode(images[:1], [3]) == [None]


def test_a_worker_that_ends_once_costs_no_image(images, crashing):
    images[1] = renamed(images[1], "once")
    with DecodePool(HOW, 4, 1) as pool:
        assert pool.decode(images, range(4)) == [None] * 4
        for slot, image in enumerate(images):
            assert np.array_equal(pool.slots[slot], preprocessed(image))


def test_the_image_after_a_crash_is_tried_twice_as_well(images, crashing):
    images[1], images[2] = renamed(images[1], "crash"), renamed(images[2], "once")
    with DecodePool(HOW, 4, 1) as pool:
        first, crashed, *others = pool.decode(images, range(4))
    assert [first, *others] == [None] * 3
    assert crashed.endswith("ended twice (SIGSEGV)")


def test_a_worker_that_cannot_be_started_again_is_an_error(images, monkeypatch):
    with DecodePool(HOW, 4, 1) as pool:
        (worker,) = pool._workers
        os.kill(worker._process.pid, signal.SIGKILL)
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        with pytest.raises(PeerError, match="cannot be restarted"):
            pool.decode(images, range(4))


@pytest.mark.parametrize("executable", ["/nowhere/python", "/bin/false", "/bin/echo"])
def test_processes_that_do_not_start_are_an_error(executable, monkeypatch):
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(WorkerError):
        DecodePool(HOW, 4, 2)
    assert not children()


def test_no_process_is_left_at_the_end(images):
    with DecodePool(HOW, 4, 2) as pool:
        assert len(children()) == 2
        pool.decode(images, range(4))
    assert not children()


def test_closing_ends_a_running_decode_at_once(images):
    failures = []

    def decode():
        try:
            pool.decode(images, range(4))
        except PeerError as error:
            failures.append(str(error))

    pool = DecodePool(HOW, 4, 1)
    (worker,) = children()
    os.kill(worker, signal.SIGSTOP)  # so that it never answers
    thread = threading.Thread(target=decode)
    thread.start()
    time.sleep(0.2)
    began = time.monotonic()
    pool.close()
    thread.join(30)
    assert time.monotonic() - began < 30
    assert failures == ["decoding was interrupted"]
    assert not children()


def test_workers_end_when_the_main_process_is_killed(tmp_path):
    program = (
        "import time\n"
        "from pipeline.encoders.spec import Preprocessing\n"
        "from pipeline.features.decode_pool import DecodePool\n"
        f"pool = DecodePool({HOW!r}, 4, 2)\n"
        "print(*(worker._process.pid for worker in pool._workers), flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(running(pid) for pid in pids):
        time.sleep(0.02)
    assert not any(running(pid) for pid in pids)


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_memory_may_be_a_file_without_a_name(images, monkeypatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    with decode_pool.DecodePool(HOW, 4, 1) as pool:
        assert pool.decode(images[:1], [2]) == [None]
        assert np.array_equal(pool.slots[2], preprocessed(images[0]))
