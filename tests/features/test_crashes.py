"""Whenever a run is killed, complete parts of the store are kept, and the next run writes the same bytes."""

import errno
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from stand_in import StandIn, extract

from pipeline import files
from pipeline.errors import DiskError
from pipeline.features import extraction, feature_file, store

HERE = Path(__file__).parent


@pytest.fixture
def expected(tmp_path, images):
    (tmp_path / "expected").mkdir()
    return extract(images, tmp_path / "expected")[1]


@pytest.fixture
def place(tmp_path):
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_killed_at_any_write_a_run_loses_no_complete_part(tmp_path):
    done = subprocess.run(
        [sys.executable, HERE / "crash_driver.py", tmp_path], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["points"] > 30
    for point, run in enumerate(result["runs"]):
        assert run["killed"], point
        assert run["same"], point
        assert run["kept"] + run["encoded"] == result["images"], point
        assert run["leftovers"] == [], point
    assert {run["kept"] for run in result["runs"]} == {0, 3, 6, 9, 11}


def small_parts(monkeypatch):
    """Let a run write a part for every three images."""
    monkeypatch.setattr(extraction, "CHUNK_PIXELS", 1)
    monkeypatch.setattr(store, "BUFFER_BYTES", 3 * StandIn.regions * StandIn.channels * 2)
    monkeypatch.setattr(store, "FLUSH_SECONDS", (1000.0, 1000.0))


class PowerFailures:
    """Records every write, and reconstructs the disk as a power failure at any of them may leave it."""

    def __init__(self, root, monkeypatch):
        self.root, self.events = root, []
        small_parts(monkeypatch)
        monkeypatch.setattr(feature_file, "SLAB_BYTES", 4 * StandIn.regions * StandIn.channels * 2)
        for name in ("pwrite", "fsync", "replace"):
            monkeypatch.setattr(os, name, getattr(self, name)(getattr(os, name)))

    def record(self, *event):
        self.events.append(event)

    def pwrite(self, real):
        def call(descriptor, content, place):
            self.record("write", self.path(descriptor), place, bytes(content))
            return real(descriptor, content, place)

        return call

    def fsync(self, real):
        def call(descriptor):
            real(descriptor)
            path = self.path(descriptor)
            if path.is_file():
                self.record("sync", path, path.read_bytes())

        return call

    def replace(self, real):
        def call(source, target):
            self.record("replace", Path(source), Path(target))
            real(source, target)

        return call

    def path(self, descriptor):
        return Path(os.readlink(f"/proc/self/fd/{descriptor}"))

    def disk_after(self, number, seed):
        """Return files by path when the power fails after `number` events: synced writes and any part of others."""
        chance = random.Random(seed)
        synced, unsynced = {}, {}
        for kind, path, *rest in self.events[:number]:
            if kind == "write":
                unsynced.setdefault(path, []).append(rest)
            elif kind == "sync":
                synced[path], unsynced[path] = rest[0], []
            else:
                synced[rest[0]], unsynced[rest[0]] = synced.pop(path), unsynced.pop(path, [])
        disk = {}
        for path, content in synced.items():
            content = bytearray(content)
            for place, written in unsynced.get(path, []):
                if chance.random() < 0.5:
                    some = written[: chance.randint(0, len(written))]
                    content[place : place + len(some)] = some
            disk[path] = bytes(content)
        return disk


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to name open files")
def test_after_a_power_failure_the_rows_of_the_store_are_correct(tmp_path, images, place, expected, monkeypatch):
    with monkeypatch.context() as recording:
        power = PowerFailures(place, recording)
        extract(images, place)
    assert len(power.events) > 30
    kept = set()
    for number in range(len(power.events) + 1):
        for seed in range(3):
            shutil.rmtree(place)
            for path, content in power.disk_after(number, seed).items():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            place.mkdir(exist_ok=True)
            result, content = extract(images, place)
            assert content == expected, (number, seed)
            kept.add(result.from_store)
    assert kept == {0, 3, 6, 9, 11}


def full_disk(monkeypatch, name, at):
    """Let system call `name` fail with a full disk from call number `at` on."""
    real, seen = getattr(os, name), 0

    def call(*arguments):
        nonlocal seen
        seen += 1
        if seen >= at:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(os, name, call)


def test_after_a_full_disk_the_next_run_continues(place, images, expected, monkeypatch):
    small_parts(monkeypatch)
    kept = []
    for at in range(1, 20, 2):
        shutil.rmtree(place)
        place.mkdir()
        (place / "features.h5").write_bytes(b"of an earlier run")
        with monkeypatch.context() as full:
            full_disk(full, "pwrite", at)
            with pytest.raises(DiskError, match=r"(\d\d.h5|features.h5|spec.json).*: no space left"):
                extract(images, place)
        assert (place / "features.h5").read_bytes() == b"of an earlier run"
        result, content = extract(images, place)
        assert content == expected
        kept.append(result.from_store)
    assert kept == sorted(kept), "the later the disk is full, the more features are kept"
    assert (kept[0], kept[-1]) == (0, len(images))


def test_a_disk_too_small_is_noticed_before_the_first_image_is_encoded(place, images, monkeypatch):
    nearly_full = shutil._ntuple_diskusage(10**6, 10**6 - 2000, 2000)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: nearly_full)
    encoder = StandIn()
    with pytest.raises(DiskError, match=r"no space left: 8,448 bytes are needed, 2,000 are free, 6,448"):
        extract(images, place, encoder)
    assert encoder.encoded == 0


@pytest.mark.slow
def test_a_real_full_disk(tmp_path, place):
    """In a file system and namespace of its own, where the system allows that."""
    program = f"{sys.executable} {HERE / 'full_disk_driver.py'} {place}"
    script = f"mount -t tmpfs -o size=200k tmpfs {place} && {program}"
    if not shutil.which("unshare"):
        pytest.skip("needs unshare")
    probe = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", place], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("this system does not let users mount file systems")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"refused": True, "old untouched": True, "written": True, "kept": True}


def test_a_system_without_these_calls_gives_the_same_bytes(place, images, expected, monkeypatch):
    for call in ("posix_fallocate", "pwrite"):
        monkeypatch.delattr(os, call)
    assert extract(images, place)[1] == expected
    assert extract(images, place)[0].from_store == 11


@pytest.mark.parametrize("number", [95, 22])  # EOPNOTSUPP, EINVAL
def test_a_file_system_that_cannot_allocate_gives_the_same_bytes(place, images, expected, monkeypatch, number):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert extract(images, place)[1] == expected


def test_an_unwritable_store_is_named_with_its_variable(place, images):
    (place / "store").write_text("a file where the folder belongs")
    with pytest.raises(
        DiskError, match=r"place/store/.*: cannot be created: .*; set CAPTIONER_CACHE to a writable folder"
    ):
        extract(images, place)


def test_a_read_only_output_folder_stops_the_run_before_the_first_image(place, images, expected, monkeypatch):
    real = os.open

    def read_only(path, *arguments):
        if place in (Path(path), Path(path).parent):
            raise OSError(30, "Read-only file system")
        return real(path, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", read_only)
        with pytest.raises(DiskError, match=r"features.h5: cannot be written: Read-only file system"):
            extract(images, place)
    result, content = extract(images, place)
    assert (result.from_store, content) == (0, expected)


def test_the_store_may_be_on_another_file_system(place, images, expected):
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == place.stat().st_dev:
        pytest.skip("needs a second file system")
    folder = elsewhere / f"captioner-test-{os.getpid()}"
    try:
        assert extract(images, place, store=folder)[1] == expected
    finally:
        shutil.rmtree(folder)


def test_an_output_that_is_a_link_is_replaced_and_its_target_untouched(place, images, expected):
    """dvc may link outputs into its cache, whose files must never change."""
    (place / "cached").write_bytes(b"in the cache of dvc")
    (place / "features.h5").symlink_to(place / "cached")
    assert extract(images, place)[1] == expected
    assert (place / "cached").read_bytes() == b"in the cache of dvc"
    assert not (place / "features.h5").is_symlink()


def _extract_in_a_process(images, place, start, results):
    start.wait()
    result, content = extract(images, place)
    results.put((result.encoded, result.from_store, content))


@pytest.mark.slow
def test_two_runs_at_once_share_the_work(images, place, expected):
    context = multiprocessing.get_context("spawn")
    start, results = context.Event(), context.Queue()
    runs = [context.Process(target=_extract_in_a_process, args=(images, place, start, results)) for _ in range(2)]
    for run in runs:
        run.start()
    start.set()
    answers = [results.get(timeout=120) for _ in runs]
    for run in runs:
        run.join()
    assert sorted(answer[:2] for answer in answers) == [(0, 11), (11, 0)]
    assert [answer[2] for answer in answers] == [expected, expected]


def test_a_locked_store_is_refused_by_name(place, images, monkeypatch):
    extract(images, place)
    (folder,) = (place / "store").iterdir()
    monkeypatch.setattr(files, "LOCK_SECONDS", 0.1)
    with FileLock(folder / ".lock"), pytest.raises(DiskError, match="another run is filling this folder; wait"):
        extract(images, place)


def test_a_store_of_another_user_is_refused_with_a_remedy(place, images, monkeypatch):
    def refuse(lock):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.raises(DiskError, match="cannot be locked: Permission denied; if it is another user's, ask for write"):
        extract(images, place)


class Interrupted(BaseException):
    pass


def test_an_interrupted_run_keeps_all_computed_features(place, images, expected, monkeypatch):
    monkeypatch.setattr(extraction, "CHUNK_PIXELS", 1)
    monkeypatch.setattr(store, "FLUSH_SECONDS", (1000.0, 1000.0))  # only the interruption itself writes a part

    def interrupt(done, total, note):
        if done >= 6:
            raise Interrupted

    with pytest.raises(Interrupted):
        extract(images, place, progress=interrupt)
    result, content = extract(images, place)
    assert (result.from_store >= 6, content) == (True, expected)
