"""Worker processes decode images into shared memory; a crash costs one image, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from stand_in import draw, image_file

from pipeline.encoders.images import decode_image, preprocess_image
from pipeline.encoders.spec import Preprocessing
from pipeline.errors import DiskError, PeerError
from pipeline.features.decode_pool import DecodePool
from pipeline.features.image_batches import ImageFile

HOW = Preprocessing(16, 20, "bicubic", (0.5,) * 3, (0.2,) * 3, (255,) * 3)


@pytest.fixture
def images(tmp_path):
    return draw(tmp_path / "\u00e9", 4)


def preprocessed(image):
    return preprocess_image(decode_image(image.path.read_bytes()), HOW)


def children():
    """The worker processes of this process that run."""
    return [child for child in psutil.Process().children() if any("decode_pool" in part for part in child.cmdline())]


def test_images_are_preprocessed_into_their_slots(images):
    with DecodePool(HOW, 10, 2) as pool:
        assert pool.decode(images, [7, 1, 2, 5]) == [None] * 4
        for image, slot in zip(images, [7, 1, 2, 5], strict=True):
            assert np.array_equal(pool.pixels[slot], preprocessed(image))
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
        "from pipeline.features import decode_pool as worker\n"
        "read = worker.read_image_bytes\n"
        "def crash(path):\n"
        "    path = Path(path)\n"
        "    if path.name == 'crash' or (path.name == 'once' and not path.with_name('done').exists()):\n"
        "        path.name == 'once' and path.with_name('done').touch()\n"
        "        os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    return read(path)\n"
        "worker.read_image_bytes = crash\n"
        "worker._work()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    popen = subprocess.Popen

    def start(command, **options):
        return popen([one.replace("pipeline.features.decode_pool", "crashing_worker") for one in command], **options)

    monkeypatch.setattr(subprocess, "Popen", start)


def renamed(image, name):
    path = image.path.with_name(name)
    image.path.rename(path)
    return ImageFile(name, path, image.sha256)


@pytest.mark.parametrize("names", [["crash"], ["once"], ["crash", "once"]])
def test_a_crash_costs_an_image_only_when_it_repeats(images, crashing, names):
    images[1 : 1 + len(names)] = [renamed(image, name) for image, name in zip(images[1:], names, strict=False)]
    with DecodePool(HOW, 4, 1) as pool:
        for slot, (image, reason) in enumerate(zip(images, pool.decode(images, range(4)), strict=True)):
            if image.image == "crash":
                assert reason == "the process that decodes it ended twice (SIGSEGV)"
            else:
                assert reason is None
                assert np.array_equal(pool.pixels[slot], preprocessed(image))
        assert pool.decode(images[:1], [3]) == [None]


def test_a_worker_that_cannot_be_started_again_is_an_error(images, monkeypatch):
    with DecodePool(HOW, 4, 1) as pool:
        (worker,) = pool._workers
        os.kill(worker._process.pid, signal.SIGKILL)
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        with pytest.raises(PeerError, match=r"cannot be started: .*; run the same command again, which continues"):
            pool.decode(images, range(4))


@pytest.mark.parametrize("executable", ["/nowhere/python", "/bin/false", "/bin/echo"])
def test_processes_that_do_not_start_are_an_error(executable, monkeypatch):
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(PeerError, match="a process that decodes images"):
        DecodePool(HOW, 4, 2)
    assert not children()


def test_a_failing_disk_ends_the_run_and_is_no_fault_of_the_image(images):
    unreadable = ImageFile("a.jpg", Path("/proc/self/mem"), "")  # reading its start is an I/O error
    with DecodePool(HOW, 4, 1) as pool:
        with pytest.raises(DiskError, match="cannot be read: Input/output error; the image may be intact"):
            pool.decode([images[0], unreadable, images[1]], range(3))
        assert pool.decode(images, range(4)) == [None] * 4


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
    worker.suspend()  # so that it never answers
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
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_memory_may_be_a_file_without_a_name(images, monkeypatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    with DecodePool(HOW, 4, 1) as pool:
        assert pool.decode(images[:1], [2]) == [None]
        assert np.array_equal(pool.pixels[2], preprocessed(images[0]))
