"""Extraction on Ray returns the features of the local engine, whatever fails in between.

One small Ray cluster runs on this machine for all tests.
"""

import contextlib
import csv
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import COLORS, ROOT, run_command, run_stages, set_param, small_params, write_project

from pipeline import paths
from pipeline.errors import ArtefactError, DataError, DiskError, ParamsError
from pipeline.features.feature_file import FeatureFile
from pipeline.files import sha256_of
from pipeline.stages.extract import ExtractFiles
from pipeline.stages.extract_on_ray import extract_on_ray

pytest.importorskip("ray", reason="extraction on a cluster needs the extra `ray`")
pytest.importorskip("fsspec", reason="URLs need the extra `remote`")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]
IMAGES = 30
SHARD = 6
CPUS = 2
"""One for the encoder and one for the other tasks: the smallest cluster that is accepted."""
TIMEOUT = 600
"""Seconds after which a test that hangs fails."""

TRAP = '''
"""Runs when a process starts. Makes the failure happen once that the file $CAPTIONER_TEST_TRAP describes."""
import os

_trap = os.environ.get("CAPTIONER_TEST_TRAP", "")
_pwrite, _stat = os.pwrite, os.stat


def _triggered(kind, place):
    """Whether the failure happens now, at `place`: a shard or an image. `later` is any shard after a finished one."""
    try:
        with open(_trap) as file:
            wanted, where, driver = file.read().split()
        finished = [name for name in os.listdir(os.path.dirname(place)) if name.endswith(".h5") and name[0] != "."]
        if wanted != kind or (not finished if where == "later" else where not in place):
            return False
        if kind != "decoder-crashes":
            os.unlink(_trap)  # the process that removes it fails
        if int(driver):
            os.kill(int(driver), 9)
        return True
    except OSError:
        return False


def pwrite(descriptor, content, offset):
    if _trap and len(content) > 1000:
        place = os.readlink(f"/proc/self/fd/{descriptor}")
        if "/shards/." in place:
            if _triggered("crash", place):
                _pwrite(descriptor, bytes(content)[: len(content) // 2], offset)
                os._exit(1)
            if _triggered("disk-full", place):
                raise OSError(28, "No space left on device")
    return _pwrite(descriptor, content, offset)


def stat(path, *arguments, **options):
    if _trap and str(path).endswith("killer.png") and _triggered("decoder-crashes", str(path)):
        os._exit(1)
    return _stat(path, *arguments, **options)


os.pwrite, os.stat = pwrite, stat
'''


@pytest.fixture(scope="module")
def ray_folder(tmp_path_factory, s3_server):
    """A running Ray whose processes have the trap and find the S3 server; the folder of the trap."""
    import ray

    folder = tmp_path_factory.mktemp("ray")
    (folder / "sitecustomize.py").write_text(TRAP)
    short = (
        Path("/tmp" if os.name == "posix" else str(folder)) / f"captioner-{os.getpid()}"
    )  # socket names have a maximum length
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{ROOT}")
        patch.setenv("CAPTIONER_TEST_TRAP", str(folder / "trap"))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("RAY_TMPDIR", str(short))
        patch.setenv("OMP_NUM_THREADS", "1")
        ray.init(
            address="local",
            num_cpus=CPUS,
            num_gpus=1,  # as far as Ray knows
            object_store_memory=200 << 20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
        )
        yield folder
        ray.shutdown()
    shutil.rmtree(short, ignore_errors=True)


@pytest.fixture(autouse=True)
def timeout():
    def give_up(number, frame):
        raise TimeoutError(f"hangs for {TIMEOUT} s")

    former = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(TIMEOUT)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, former)


def draw(number):
    color = list(COLORS.values())[number % 3]
    noise = np.random.default_rng(number).integers(-25, 25, (40, 50, 3))
    return Image.fromarray((noise + np.array(color)).clip(0, 255).astype(np.uint8))


def name(number):
    return f"{'abc'[number % 3]}/{number:03d}.png"


def is_damaged(number):
    """Two images of each shard, and all of the last one."""
    return number % 3 == 1 or number >= IMAGES - SHARD


DAMAGED = sum(map(is_damaged, range(IMAGES)))


@pytest.fixture(scope="module")
def manifest_rows(tmp_path_factory):
    """Images of which some are damaged and half are in a tar archive."""
    folder = tmp_path_factory.mktemp("images")
    rows = []
    with tarfile.open(folder / "photos.tar", "w") as tar:
        for number in range(IMAGES):
            path = folder / f"{number:03d}.png"
            draw(number).save(path)
            if is_damaged(number):
                path.write_bytes([path.read_bytes()[:60], b"", b"no image"][number // 3 % 3] + bytes([number]))
            digest = sha256_of(path)
            if number % 2:
                tar.add(path, f"in/{path.name}")
                path = f"{folder}/photos.tar::in/{path.name}"
            rows.append((name(number), str(path), digest))
    return rows


def write_manifest(path, rows):
    """All images of the last shard are of the val split."""
    splits = ["val" if number >= IMAGES - SHARD else "train" for number in range(len(rows))]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(("image", "path", "sha256", "split"))
        csv.writer(file).writerows([(*row, split) for row, split in zip(rows, splits, strict=True)])
    return path


def extract(folder, manifest, *, max_skipped=0.5, **encoder):
    """Run the stage with one encoder into `folder`/features.h5."""
    files = ExtractFiles(
        images=manifest,
        skipped_by_prepare=None,
        features=folder / "features.h5",
        encoder=folder / "encoder.safetensors",
        skipped=folder / "skipped.csv",
    )
    params = small_params(run={"workers": 1}, data={"max_skipped": max_skipped}, encoder=encoder)
    return extract_on_ray(files, params, shard_images=SHARD)


def extract_locally(folder, rows):
    """Extract the same images with the local engine."""
    from pipeline.device import choose_device
    from pipeline.encoders.encoder import build_encoder
    from pipeline.features.extraction import extract_features
    from pipeline.features.image_batches import ImageFile

    params = small_params()
    return extract_features(
        [ImageFile(image, Path(path), digest) for image, path, digest in rows],
        build_encoder(**params.encoder.model_dump(), seed=params.seed, device=choose_device("cpu")),
        folder / "local.h5",
        store=folder / "store",
        workers=2,
    )


@pytest.fixture(scope="module")
def local(tmp_path_factory, manifest_rows):
    folder = tmp_path_factory.mktemp("local")
    report = extract_locally(folder, manifest_rows)
    return FeatureFile.open(folder / "local.h5"), report


@pytest.fixture(scope="module")
def extracted(ray_folder, tmp_path_factory, manifest_rows):
    """All images, extracted without a failure: the folder and the report."""
    folder = tmp_path_factory.mktemp("extracted")
    return folder, extract(folder, write_manifest(folder / "manifest.csv", manifest_rows))


@pytest.fixture
def trap(ray_folder):
    """Prepares a failure that `TRAP` describes."""
    path = ray_folder / "trap"

    def prepare(kind, where, driver=0):
        path.write_text(f"{kind} {where} {driver}")
        return path

    yield prepare
    path.unlink(missing_ok=True)


def contents(folder):
    """Every file of a folder of shards but the lock, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def states(folder):
    """Inode and time of each finished shard, by name."""
    shards = folder.glob("shards/[0-9]*.h5")
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in shards}


def test_features_are_those_of_the_local_engine_bit_for_bit(extracted, local):
    ours, theirs = FeatureFile.open(extracted[0] / "features.h5"), local[0]
    assert ours.images == theirs.images
    assert len(ours.images) == IMAGES - DAMAGED
    assert ours.load(ours.images).tobytes() == theirs.load(theirs.images).tobytes()
    assert ours.digest() == theirs.digest()


def test_skipped_images_are_listed_with_the_reason(extracted, local):
    folder, report = extracted
    with (folder / "skipped.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["image"]: row["reason"] for row in rows} == local[1].unreadable
    assert report.unreadable == local[1].unreadable
    assert report.lost_splits == ("val",)
    assert len(rows) == DAMAGED
    assert {row["stage"] for row in rows} == {"extract"}


def test_each_shard_has_a_part_of_the_manifest(extracted):
    folder, report = extracted
    assert sorted(states(folder / "features.h5")) == [f"{number:06d}.h5" for number in range(IMAGES // SHARD)]
    for number in range(IMAGES // SHARD):
        wanted = [name(place) for place in range(number * SHARD, (number + 1) * SHARD) if not is_damaged(place)]
        path = folder / f"features.h5/shards/{number:06d}.h5"
        assert list(FeatureFile.open(path).images) == sorted(wanted)
    assert (report.images, report.from_store) == (IMAGES, 0)
    assert report.encoded == IMAGES - DAMAGED


def test_a_grid_larger_than_the_map_is_refused(tmp_path):
    (folder := tmp_path / "small").mkdir()
    rows = [("a.png", str(folder / "a.png"), "")]
    draw(0).save(folder / "a.png")
    before = sorted(tmp_path.rglob("*"))
    manifest = write_manifest(tmp_path / "manifest.csv", rows)
    with pytest.raises(ParamsError, match=r"params\.encoder\.grid: must be at most 15, got 20"):
        extract(tmp_path, manifest, grid=20)
    assert sorted(tmp_path.rglob("*")) == sorted([*before, manifest])  # no folder where features.h5 may be written


def test_only_missing_and_damaged_shards_are_made_again(extracted, tmp_path):
    shutil.copytree(extracted[0], tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "features.h5"
    before = states(folder)
    (folder / "shards/000001.h5").unlink()
    truncated = folder / "shards/000003.h5"
    truncated.write_bytes(truncated.read_bytes()[:-5])
    report = extract(tmp_path, tmp_path / "manifest.csv")
    assert (report.from_store, report.encoded) == (IMAGES - 2 * SHARD, 2 * SHARD * 2 // 3)
    unchanged = {shard for shard, state in states(folder).items() if before[shard] == state}
    assert unchanged == {"000000.h5", "000002.h5", "000004.h5"}
    assert contents(folder) == contents(extracted[0] / "features.h5")


def test_a_full_disk_stops_the_run_and_the_next_one_continues(extracted, trap, tmp_path):
    manifest = extracted[0] / "manifest.csv"
    trap("disk-full", "later")
    with pytest.raises(DiskError, match="no space left"):
        extract(tmp_path, manifest)
    folder = tmp_path / "features.h5"
    with pytest.raises(DataError, match="extraction is not complete"):
        FeatureFile.open(folder)
    before = states(folder)
    assert 0 < len(before) < IMAGES // SHARD
    report = extract(tmp_path, manifest)
    assert report.from_store >= len(before) * SHARD  # tasks that had begun may have ended since
    assert before.items() <= states(folder).items()
    assert contents(folder) == contents(extracted[0] / "features.h5")


def test_a_process_that_crashes_while_writing_a_shard_is_replaced(extracted, trap, tmp_path):
    path = trap("crash", "000002.h5")
    report = extract(tmp_path, extracted[0] / "manifest.csv")
    assert not path.exists(), "the failure did not happen"
    assert report.encoded + len(report.unreadable) == IMAGES
    assert contents(tmp_path / "features.h5") == contents(extracted[0] / "features.h5")


def test_a_killed_run_is_continued_by_the_next_one(extracted, trap, tmp_path):
    write_project(tmp_path, run={"workers": 1})
    set_param(tmp_path, "data.max_skipped", 0.5)
    manifest = extracted[0] / "manifest.csv"
    command = ["extract", "--engine", "ray", "--manifest", str(manifest), "--shard-images", str(SHARD)]
    run = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *command],
        cwd=tmp_path,
        env={**os.environ, "CAPTIONER_TEST_RUN": str(tmp_path)},
        stderr=subprocess.PIPE,
    )
    path = trap("crash", "later", run.pid)
    _, errors = run.communicate(timeout=TIMEOUT)
    assert run.returncode == -signal.SIGKILL, errors.decode()
    assert not path.exists()
    wait_for_processes_of(tmp_path)
    folder = tmp_path / paths.FEATURES
    assert list((folder / "shards").glob(".*")), "no shard was being written"
    before = states(folder)
    assert 0 < len(before) < IMAGES // SHARD

    report = extract(folder.parent, manifest)
    assert report.from_store == len(before) * SHARD
    assert before.items() <= states(folder).items()
    assert contents(folder) == contents(extracted[0] / "features.h5")


def wait_for_processes_of(project):
    """Wait until the processes of a killed run have ended, and kill those that have not after 20 s."""
    token = f"CAPTIONER_TEST_RUN={project}".encode()
    for turn in range(600):
        alive = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if token in (process / "environ").read_bytes():
                    alive.append(process.name)
        if not alive:
            return
        if turn >= 200:
            for pid in alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.1)
    raise TimeoutError(f"processes of a killed run are still there: {alive}")


def test_an_encoder_that_keeps_a_gpu_computes_the_same_features(extracted, tmp_path, monkeypatch):
    """Without a GPU, the process that would have it encodes on the CPU."""
    from pipeline.features.ray import cluster

    monkeypatch.setattr(cluster, "plan_cluster", lambda *_: cluster.Cluster("cpu", gpus=1, shards=3))
    extract(tmp_path, extracted[0] / "manifest.csv")
    assert contents(tmp_path / "features.h5") == contents(extracted[0] / "features.h5")


def test_a_machine_of_another_kind_is_refused(extracted, tmp_path, monkeypatch):
    from pipeline.features.ray import encoding

    def prepare_for_another(*given):
        job, *weights = prepare_job(*given)
        return replace(job, engine="another"), *weights

    prepare_job = encoding.prepare_job
    monkeypatch.setattr(encoding, "prepare_job", prepare_for_another)
    message = r"the machines of the cluster differ \(.*; another\).*use machines of one kind"
    with pytest.raises(ArtefactError, match=message):
        extract(tmp_path, extracted[0] / "manifest.csv")


def test_an_image_that_crashes_its_decoder_ends_the_run(trap, tmp_path):
    draw(1).save(tmp_path / "killer.png")
    trap("decoder-crashes", "killer.png")
    with pytest.raises(DataError, match="died 4 times"):
        extract(tmp_path, write_manifest(tmp_path / "manifest.csv", [("killer.png", str(tmp_path / "killer.png"), "")]))


def test_images_on_s3_have_the_features_of_the_same_files(ray_folder, s3_server, tmp_path):
    rows, remote = [], []
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for number in range(8):
            path = tmp_path / f"{number}.png"
            draw(number).save(path)
            rows.append((path.name, str(path), sha256_of(path)))
            if number % 2:
                tar.add(path, path.name)
                remote.append((path.name, s3_server.url(f"x.tar::{path.name}"), rows[-1][2]))
            else:
                s3_server.put(f"in/{path.name}", path.read_bytes())
                remote.append((path.name, s3_server.url(f"in/{path.name}"), rows[-1][2]))
    s3_server.put("x.tar", (tmp_path / "x.tar").read_bytes())
    s3_server.put("changed.png", (tmp_path / "1.png").read_bytes())
    remote += [
        ("gone.png", s3_server.url("gone.png"), ""),
        ("changed.png", s3_server.url("changed.png"), "0" * 64),
    ]
    report = extract(tmp_path, write_manifest(tmp_path / "manifest.csv", remote))
    extract_locally(tmp_path, rows)
    assert FeatureFile.open(tmp_path / "features.h5").digest() == FeatureFile.open(tmp_path / "local.h5").digest()
    assert len(report.unreadable) == 2
    skipped = (tmp_path / "skipped.csv").read_text()
    assert "no such object" in skipped
    assert "changed since its sha256 was recorded" in skipped


def test_the_rest_is_not_read_once_too_many_images_are_skipped(ray_folder, tmp_path):
    rows = [(f"{number}.png", str(tmp_path / f"{number}.png"), "") for number in range(200 * SHARD)]
    with pytest.raises(DataError, match=r"of 1200 images cannot be decoded"):
        extract(tmp_path, write_manifest(tmp_path / "manifest.csv", rows), max_skipped=0.01)
    assert len(states(tmp_path / "features.h5")) < 200


def test_train_and_score_read_shards_like_a_features_file(trained_project, ray_folder, tmp_path, monkeypatch):
    shutil.copytree(trained_project, tmp_path, dirs_exist_ok=True)
    set_param(tmp_path, "run.workers", 1)
    monkeypatch.chdir(tmp_path)  # images.csv has relative paths
    outputs = [paths.MODEL, paths.TRAINING, paths.SCORES, paths.SCORED_CAPTIONS]
    digests = []
    for kind in ("file", "folder"):
        if kind == "folder":
            (tmp_path / paths.FEATURES).unlink()
            command = ("extract", "--engine", "ray", "--shard-images", str(SHARD))
            assert run_command(*command, cwd=tmp_path)[0] == 0
            assert (tmp_path / paths.FEATURES / "shards").is_dir()
        run_stages(tmp_path, "train", "score")
        digests.append([sha256_of(tmp_path / path) for path in outputs])
        for path in outputs:
            (tmp_path / path).unlink()
    assert digests[0] == digests[1]
