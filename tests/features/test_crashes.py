"""Whatever moment a run dies at, what was synced is kept and the next run ends with the same bytes."""

import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stand_in import StandIn, draw

from pipeline import files
from pipeline.errors import DiskError
from pipeline.features import feature_file as cache
from pipeline.features import store
from pipeline.features import store_segment as segment
from pipeline.features.extraction import extract_features

HERE = Path(__file__).parent


def extract(pictures, folder, encoder=None):
    encoder = encoder or StandIn()
    result = extract_features(
        pictures, encoder, folder / "features.h5", store=folder / "store", batch_size=3, workers=1
    )
    return result, (folder / "features.h5").read_bytes()


@pytest.fixture
def pictures(tmp_path):
    return draw(tmp_path / "pictures")


@pytest.fixture
def expected(tmp_path, pictures):
    (tmp_path / "expected").mkdir()
    return extract(pictures, tmp_path / "expected")[1]


@pytest.fixture
def place(tmp_path):
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_killed_at_any_write_a_run_loses_nothing_that_was_synced(tmp_path):
    done = subprocess.run(
        [sys.executable, HERE / "crash_driver.py", tmp_path], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["points"] > 30
    for point, run in enumerate(said["runs"]):
        assert run["killed"], point
        assert run["same"], point
        assert run["kept"] + run["encoded"] == said["pictures"], point
        assert run["left"] == [], point
    assert {run["kept"] for run in said["runs"]} == set(range(12))


class Power:
    """Notes every write, so that a disk can be made as it may look when the power fails at any of them."""

    def __init__(self, root, monkeypatch):
        self.root, self.events = root, []
        monkeypatch.setattr(segment, "SYNC_SECONDS", 0.0)
        monkeypatch.setattr(cache, "_SLAB_BYTES", 4 * StandIn.regions * StandIn.channels * 2)
        for name in ("pwrite", "fsync", "fdatasync", "replace"):
            monkeypatch.setattr(os, name, getattr(self, name)(getattr(os, name)))

    def note(self, *event):
        self.events.append(event)

    def pwrite(self, real):
        def call(descriptor, content, place):
            self.note("write", self.path(descriptor), place, bytes(content))
            return real(descriptor, content, place)

        return call

    def fsync(self, real):
        def call(descriptor):
            real(descriptor)
            path = self.path(descriptor)
            if path.is_file():
                self.note("sync", path, path.read_bytes())

        return call

    fdatasync = fsync

    def replace(self, real):
        def call(source, target):
            self.note("replace", Path(source), Path(target))
            real(source, target)

        return call

    def path(self, descriptor):
        return Path(os.readlink(f"/proc/self/fd/{descriptor}"))

    def disk_after(self, number, seed):
        """Files by path when the power fails after `number` events: what was synced, and any part of the rest."""
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


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to name open files")
def test_when_the_power_fails_marked_rows_are_right(tmp_path, pictures, place, expected, monkeypatch):
    with monkeypatch.context() as noting:
        power = Power(place, noting)
        extract(pictures, place)
    assert len(power.events) > 30
    kept = set()
    for number in range(len(power.events) + 1):
        for seed in range(3):
            shutil.rmtree(place)
            for path, content in power.disk_after(number, seed).items():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            place.mkdir(exist_ok=True)
            result, content = extract(pictures, place)
            assert content == expected, (number, seed)
            kept.add(result.from_store)
    assert {0, 11} < kept


def full_disk(monkeypatch, name, at):
    """The call `name` of the system fails with a full disk from number `at` on."""
    real, seen = getattr(os, name), 0

    def call(*arguments):
        nonlocal seen
        seen += 1
        if seen >= at:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("at", range(1, 28, 2))
def test_a_disk_that_fills_up_is_an_error_and_the_next_run_goes_on(place, pictures, expected, monkeypatch, at):
    (place / "features.h5").write_bytes(b"of an earlier run")
    monkeypatch.setattr(segment, "SYNC_SECONDS", 0.0)
    with monkeypatch.context() as full:
        full_disk(full, "pwrite", at)
        with pytest.raises(DiskError, match=r"(segment|features.h5|spec.json).*: no space left"):
            extract(pictures, place)
    assert (place / "features.h5").read_bytes() == b"of an earlier run"
    result, content = extract(pictures, place)
    assert content == expected
    batches, within = divmod(max(at - 3, 0), 6)  # two writes make a segment; then three rows and three marks per batch
    assert result.from_store == (9 + max(0, min(at - 23, 2)) if at > 20 else 3 * batches + max(0, within - 3))


def test_a_disk_too_small_is_noticed_before_the_first_picture_is_encoded(place, pictures, monkeypatch):
    nearly_full = shutil._ntuple_diskusage(10**6, 10**6 - 2000, 2000)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: nearly_full)
    encoder = StandIn()
    with pytest.raises(
        DiskError, match=r"segment.*: no space left: 12,\d\d\d bytes are needed, 2,000 are free, 10,\d\d\d"
    ):
        extract(pictures, place, encoder)
    assert encoder.encoded == 0


def test_a_disk_that_is_really_full(tmp_path, place):
    """A file system of its own, in a namespace of its own, where the system allows that."""
    program = f"{sys.executable} {HERE / 'full_disk_driver.py'} {place}"
    script = f"mount -t tmpfs -o size=200k tmpfs {place} && {program}"
    if not shutil.which("unshare"):
        pytest.skip("needs unshare")
    probe = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", place], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("this system gives no file systems to its users")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"said": True, "old output": True, "after": True, "kept": True}


@pytest.mark.parametrize("missing", ["posix_fallocate", "fdatasync", "pwrite"])
def test_a_system_without_the_call_gives_the_same_bytes(place, pictures, expected, monkeypatch, missing):
    monkeypatch.delattr(os, missing)
    assert extract(pictures, place)[1] == expected
    assert extract(pictures, place)[0].from_store == 11


def test_a_system_with_none_of_the_calls_gives_the_same_bytes(place, pictures, expected, monkeypatch):
    for missing in ("posix_fallocate", "fdatasync", "pwrite"):
        monkeypatch.delattr(os, missing)
    monkeypatch.setattr(files, "sync_folder", lambda folder: None)
    assert extract(pictures, place)[1] == expected


@pytest.mark.parametrize("number", [95, 22])  # EOPNOTSUPP, EINVAL
def test_a_file_system_that_cannot_allocate_gives_the_same_bytes(place, pictures, expected, monkeypatch, number):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert extract(pictures, place)[1] == expected


def test_a_folder_that_cannot_be_written_names_itself_and_the_variable(place, pictures):
    (place / "store").write_text("a file where the folder belongs")
    with pytest.raises(
        DiskError, match=r"place/store/.*: cannot be made: .*; set CAPTIONER_CACHE to a folder of yours"
    ):
        extract(pictures, place)


def test_a_read_only_output_folder_keeps_what_was_computed(place, pictures, expected, monkeypatch):
    real = os.open

    def read_only(path, *arguments):
        if Path(path).name.startswith(".features.h5"):
            raise OSError(30, "Read-only file system")
        return real(path, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", read_only)
        with pytest.raises(DiskError, match=r"features.h5: cannot be written: Read-only file system"):
            extract(pictures, place)
    result, content = extract(pictures, place)
    assert (result.from_store, content) == (11, expected)


def test_the_store_may_lie_on_another_file_system(place, pictures, expected):
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == place.stat().st_dev:
        pytest.skip("needs a second file system")
    folder = elsewhere / f"captioner-test-{os.getpid()}"
    try:
        extract_features(pictures, StandIn(), place / "features.h5", store=folder, batch_size=3, workers=1)
        assert (place / "features.h5").read_bytes() == expected
    finally:
        shutil.rmtree(folder)


def test_an_output_that_is_a_link_is_replaced_and_its_target_untouched(place, pictures, expected):
    """dvc links outputs into its cache where it is told to: what lies there must never change."""
    (place / "cached").write_bytes(b"in the cache of dvc")
    (place / "features.h5").symlink_to(place / "cached")
    assert extract(pictures, place)[1] == expected
    assert (place / "cached").read_bytes() == b"in the cache of dvc"
    assert not (place / "features.h5").is_symlink()


def _extract_in_a_process(pictures, place, start, results):
    start.wait()
    result, content = extract(pictures, place)
    results.put((result.encoded, result.from_store, content))


def test_two_runs_at_once_share_the_work(pictures, place, expected):
    context = multiprocessing.get_context("spawn")
    start, results = context.Event(), context.Queue()
    runs = [context.Process(target=_extract_in_a_process, args=(pictures, place, start, results)) for _ in range(2)]
    for run in runs:
        run.start()
    start.set()
    answers = [results.get(timeout=120) for _ in runs]
    for run in runs:
        run.join()
    assert sorted(answer[:2] for answer in answers) == [(0, 11), (11, 0)]
    assert [answer[2] for answer in answers] == [expected, expected]


def test_a_store_that_stays_locked_is_refused_by_name(place, pictures, monkeypatch):
    from filelock import FileLock

    extract(pictures, place)
    (folder,) = (place / "store").iterdir()
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.1)
    with FileLock(folder / "lock"), pytest.raises(DiskError, match="another run is filling this store; wait"):
        extract(pictures, place)


class Interrupted(BaseException):
    pass


def test_an_interruption_keeps_all_that_was_computed(place, pictures, expected, monkeypatch):
    monkeypatch.setattr(segment, "SYNC_SECONDS", 1000.0)  # so that nothing but the interruption itself syncs

    def interrupt(done, total, note):
        if done >= 6:
            raise Interrupted

    with pytest.raises(Interrupted):
        extract_features(
            pictures,
            StandIn(),
            place / "features.h5",
            store=place / "store",
            batch_size=3,
            workers=1,
            progress=interrupt,
        )
    result, content = extract(pictures, place)
    assert (result.from_store >= 6, content) == (True, expected)
