"""Extraction on Ray gives the rows of the local engine, each once, whatever is killed in between.

One small Ray runs on this machine for all tests; it has just the logical CPUs that one encoder needs.
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
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS, ROOT, run_command, set_param, small_params, write_project
from PIL import Image

from pipeline import paths
from pipeline.errors import ArtefactError, DataError, DiskError, ParamsError
from pipeline.features.feature_file import FeatureFile
from pipeline.files import sha256_of

pytest.importorskip("ray", reason="extraction on a cluster needs the extra `ray`")
pytest.importorskip("fsspec", reason="addresses need the extra `remote`")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]
IMAGE_SUFFIXES = 30
SHARD = 6
CPUS = 4
"""One encoder and the three other tasks: the least that the guard accepts, so every restart here shows that it ends."""
PATIENCE = 240
"""Seconds after which a test that hangs fails."""

TRAP = '''
"""Runs when a process starts: what the file named in the environment says is to go wrong in it, goes wrong once."""
import os

_trap = os.environ.get("CAPTIONER_TEST_TRAP", "")
_pwrite, _stat = os.pwrite, os.stat


def _sprung(kind, place):
    """Whether it is to happen now; `place` is where: the second shard, a picture's name."""
    try:
        with open(_trap) as file:
            wanted, where, driver = file.read().split()
        if wanted != kind or where not in place:
            return False
        if kind != "decoder-dies":
            os.unlink(_trap)  # whoever removes it, springs it
        if int(driver):
            os.kill(int(driver), 9)
        return True
    except OSError:
        return False


def pwrite(descriptor, content, offset):
    if _trap and len(content) > 1000:
        place = os.readlink(f"/proc/self/fd/{descriptor}")
        if "/shards/." in place:
            if _sprung("dies", place):
                _pwrite(descriptor, bytes(content)[: len(content) // 2], offset)
                os._exit(1)
            if _sprung("disk-full", place):
                raise OSError(28, "No space left on device")
    return _pwrite(descriptor, content, offset)


def stat(path, *arguments, **options):
    if _trap and str(path).endswith("killer.png") and _sprung("decoder-dies", str(path)):
        os._exit(1)
    return _stat(path, *arguments, **options)


os.pwrite, os.stat = pwrite, stat
'''


@pytest.fixture(scope="module")
def ray_folder(tmp_path_factory, s3_server):
    """A folder of this module; Ray runs, and its processes have the trap and find the S3 server."""
    import ray

    folder = tmp_path_factory.mktemp("ray")
    (folder / "sitecustomize.py").write_text(TRAP)
    short = Path("/tmp" if os.name == "posix" else str(folder)) / f"captioner-{os.getpid()}"  # for the names of sockets
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
            object_store_memory=200 << 20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
        )
        yield folder
        ray.shutdown()
    shutil.rmtree(short, ignore_errors=True)


@pytest.fixture(autouse=True)
def patience():
    def give_up(number, frame):
        raise TimeoutError(f"hangs for {PATIENCE} s")

    former = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, former)


def pixels(number):
    colour = list(COLOURS.values())[number % 3]
    noise = np.random.default_rng(number).integers(-25, 25, (40, 50, 3))
    return Image.fromarray((noise + np.array(colour)).clip(0, 255).astype(np.uint8))


def name(number):
    return f"{'abc'[number % 3]}/{number:03d}.png"


def is_bad(number):
    """One picture in each shard, and in each block that is decoded."""
    return number % 3 == 1


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures, a third of them damaged; half lie in a tar. Gives the manifest's rows."""
    folder = tmp_path_factory.mktemp("pictures")
    rows = []
    with tarfile.open(folder / "photos.tar", "w") as tar:
        for number in range(IMAGE_SUFFIXES):
            path = folder / f"{number:03d}.png"
            pixels(number).save(path)
            if is_bad(number):
                path.write_bytes([path.read_bytes()[:60], b"", b"no picture"][number // 3 % 3])
            digest = sha256_of(path)
            if number % 2:
                tar.add(path, f"in/{path.name}")
                path = f"{folder}/photos.tar::in/{path.name}"
            rows.append((name(number), str(path), digest))
    return rows


def write_manifest(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "path", "sha256"), *rows])
    return path


def extract(folder, manifest, **changes):
    """The stage on one encoder in `folder`; gives its report."""
    from pipeline.stages.extract_on_ray import extract_on_ray

    params = small_params(run={"workers": 1})
    options = {"max_skipped": 0.5, "shard_pictures": SHARD, "skipped": None, **changes}
    return extract_on_ray(
        options.pop("encoder", params.encoder),
        options.pop("run", params.run),
        seed=params.seed,
        manifest=manifest,
        features_out=folder / "features.h5",
        encoder_out=folder / "encoder.safetensors",
        skipped_out=folder / "skipped.csv",
        **options,
    )


def extract_locally(folder, rows):
    """The same pictures with the local engine."""
    from pipeline.device import choose_device
    from pipeline.encoders.encoder import build
    from pipeline.features.extraction import extract_features
    from pipeline.features.image_batches import Picture

    params = small_params()
    return extract_features(
        [Picture(image, Path(path), digest) for image, path, digest in rows],
        build(**params.encoder.model_dump(), seed=params.seed, device=choose_device("cpu")),
        folder / "local.h5",
        store=folder / "store",
        batch_size=4,
        workers=2,
    )


@pytest.fixture(scope="module")
def local(tmp_path_factory, pictures):
    folder = tmp_path_factory.mktemp("local")
    report = extract_locally(folder, pictures)
    return FeatureFile.open(folder / "local.h5"), report


@pytest.fixture(scope="module")
def extracted(ray_folder, tmp_path_factory, pictures):
    """All pictures, extracted in one go: the folder and the report."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, extract(folder, write_manifest(folder / "manifest.csv", pictures))


@pytest.fixture
def trap(ray_folder):
    """Arms what `TRAP` describes."""
    path = ray_folder / "trap"

    def arm(kind, where, driver=0):
        path.write_text(f"{kind} {where} {driver}")
        return path

    yield arm
    path.unlink(missing_ok=True)


def tree(folder):
    """Every file of a folder of shards but the lock, by content."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def states(folder):
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("*.h5")}


def test_rows_are_those_of_the_local_engine_bit_for_bit(extracted, local):
    ours, theirs = FeatureFile.open(extracted[0] / "features.h5"), local[0]
    assert ours.images == theirs.images
    assert len(ours.images) == sum(not is_bad(number) for number in range(IMAGE_SUFFIXES))
    assert ours.load(ours.images).tobytes() == theirs.load(theirs.images).tobytes()
    assert ours.digest() == theirs.digest()


def test_a_bad_picture_in_every_block_is_recorded_with_its_reason(extracted, local):
    folder, report = extracted
    with (folder / "skipped.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["image"]: row["reason"] for row in rows} == local[1].unreadable
    assert report.unreadable == len(rows) == sum(is_bad(number) for number in range(IMAGE_SUFFIXES))
    assert {row["stage"] for row in rows} == {"extract"}


def test_a_small_manifest_is_cut_into_equal_shards_in_its_order(extracted):
    folder, report = extracted
    found = sorted((folder / "features.h5/shards").glob("*.h5"))
    assert [path.name for path in found] == [f"{number:06d}.h5" for number in range(IMAGE_SUFFIXES // SHARD)]
    for number, path in enumerate(found):
        wanted = [name(place) for place in range(number * SHARD, (number + 1) * SHARD) if not is_bad(place)]
        assert list(FeatureFile.open(path).images) == sorted(wanted)
    assert (report.pictures, report.from_shards, report.shards) == (IMAGE_SUFFIXES, 0, IMAGE_SUFFIXES // SHARD)
    assert report.encoded == IMAGE_SUFFIXES - report.unreadable


def test_a_finished_folder_is_left_as_it_is(extracted):
    folder, _ = extracted
    before, contents = states(folder / "features.h5/shards"), tree(folder / "features.h5")
    report = extract(folder, folder / "manifest.csv")
    assert (report.from_shards, report.encoded, report.remade) == (IMAGE_SUFFIXES, 0, [])
    assert states(folder / "features.h5/shards") == before
    assert tree(folder / "features.h5") == contents


def test_shards_that_are_lost_are_made_again_and_no_others(extracted, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(extracted[0], folder)
    shards = folder / "features.h5/shards"
    before = states(shards)
    (shards / "000001.h5").unlink()
    (shards / "000003.h5").write_bytes((shards / "000003.h5").read_bytes()[:-5])
    report = extract(folder, folder / "manifest.csv")
    assert (report.from_shards, report.encoded) == (IMAGE_SUFFIXES - 2 * SHARD, 2 * SHARD * 2 // 3)
    assert [Path(reason.split(":")[0]).name for reason in report.remade] == ["000001.h5", "000003.h5"]
    assert {shard for shard, state in states(shards).items() if before[shard] == state} == {
        "000000.h5",
        "000002.h5",
        "000004.h5",
    }
    assert tree(folder / "features.h5") == tree(extracted[0] / "features.h5")


def test_a_failure_after_some_shards_is_gone_on_from(extracted, trap, tmp_path):
    manifest = extracted[0] / "manifest.csv"
    trap("disk-full", "000003.h5")
    with pytest.raises(DiskError, match="no space left"):
        extract(tmp_path, manifest)
    folder = tmp_path / "features.h5"
    with pytest.raises(DataError, match="its extraction has not ended"):
        FeatureFile.open(folder)
    finished = {path.stem for path in (folder / "progress/done").glob("*.parquet") if ".pending" not in path.name}
    assert 0 < len(finished) < IMAGE_SUFFIXES // SHARD
    before = {state for shard, state in states(folder / "shards").items() if shard.split("-")[0] in finished}
    report = extract(tmp_path, manifest)
    assert report.from_shards == len(finished) * SHARD
    assert before <= set(states(folder / "shards").values())
    assert tree(folder) == tree(extracted[0] / "features.h5")


def test_a_process_that_dies_while_it_writes_a_shard_is_no_loss(extracted, trap, tmp_path):
    path = trap("dies", "000002.h5")
    report = extract(tmp_path, extracted[0] / "manifest.csv")
    assert not path.exists(), "the trap did not spring"
    assert report.encoded + report.unreadable == IMAGE_SUFFIXES
    assert tree(tmp_path / "features.h5") == tree(extracted[0] / "features.h5")


def test_a_run_that_is_killed_in_the_middle_of_a_shard_is_gone_on_from(extracted, trap, tmp_path, ray_folder):
    write_project(tmp_path, run={"workers": 1})
    set_param(tmp_path, "data.max_skipped", 0.5)
    manifest = extracted[0] / "manifest.csv"
    command = ["extract", "--engine", "ray", "--manifest", str(manifest), "--shard-pictures", str(SHARD)]
    run = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *command],
        cwd=tmp_path,
        env={**os.environ, "CAPTIONER_TEST_RUN": str(tmp_path)},
        stderr=subprocess.PIPE,
    )
    path = trap("dies", "000003.h5", run.pid)
    _, said = run.communicate(timeout=PATIENCE)
    assert run.returncode == -signal.SIGKILL, said.decode()
    assert not path.exists()
    folder = tmp_path / "data/interim/features.h5"
    wait_for_processes_of(tmp_path)
    assert list((folder / "shards").glob(".*")), "something was being written"
    finished = [path for path in (folder / "progress/done").glob("*.parquet") if ".pending" not in path.name]
    assert 0 < len(finished) < IMAGE_SUFFIXES // SHARD
    before = {
        state for shard, state in states(folder / "shards").items() if shard[:38] in {p.stem[:38] for p in finished}
    }

    report = extract_project(tmp_path, manifest)
    assert report.from_shards == len(finished) * SHARD
    assert report.encoded + report.unreadable >= IMAGE_SUFFIXES - len(finished) * SHARD
    assert before <= set(states(folder / "shards").values())
    assert tree(folder) == tree(extracted[0] / "features.h5")
    counts = Counter(FeatureFile.open(folder).images)
    assert set(counts.values()) == {1}


def extract_project(project, manifest):
    """Go on in this process with what the command began in `project`."""
    from pipeline.params import read_params
    from pipeline.stages.extract_on_ray import extract_on_ray

    params = read_params(project / paths.PARAMS)
    return extract_on_ray(
        params.encoder,
        params.run,
        seed=params.seed,
        max_skipped=params.data.max_skipped,
        manifest=manifest,
        skipped=None,
        features_out=project / paths.FEATURES,
        encoder_out=project / paths.ENCODER,
        skipped_out=project / paths.SKIPPED,
        shard_pictures=SHARD,
    )


def wait_for_processes_of(project):
    """Ray's processes end with their driver, some of them late; then they are killed as it was. What they hold open is
    then as it stays."""
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
    raise TimeoutError(f"processes outlive their driver: {alive}")


def test_a_picture_that_kills_its_decoder_ends_the_run_instead_of_being_tried_for_ever(trap, tmp_path):
    pixels(1).save(tmp_path / "killer.png")
    trap("decoder-dies", "killer.png")
    with pytest.raises(DataError, match="died 4 times"):
        extract(tmp_path, write_manifest(tmp_path / "manifest.csv", [("killer.png", str(tmp_path / "killer.png"), "")]))


def test_pictures_on_s3_have_the_rows_of_the_same_files(ray_folder, s3_server, tmp_path):
    rows, remote = [], []
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for number in range(8):
            path = tmp_path / f"{number}.png"
            pixels(number).save(path)
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
    assert report.unreadable == 2
    skipped = (tmp_path / "skipped.csv").read_text()
    assert "no such object" in skipped
    assert "its sha256 is another" in skipped


def test_too_many_bad_pictures_stop_the_run_before_there_is_an_index(extracted, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(extracted[0], folder)
    with pytest.raises(DataError, match=r"10 of 30 pictures cannot be read, more than params\.data\.max_skipped = 0\.1"):
        extract(folder, folder / "manifest.csv", max_skipped=0.1)


def test_a_folder_begun_for_something_else_is_refused(extracted, tmp_path):
    folder = extracted[0]
    contents = tree(folder / "features.h5")
    fewer = (folder / "manifest.csv").read_text().splitlines(keepends=True)[:-1]
    (tmp_path / "other.csv").write_text("".join(fewer))
    with pytest.raises(ArtefactError, match=r"begun for something else \(manifest: .*; pictures: 30 there, 29 here\)"):
        extract(folder, tmp_path / "other.csv")
    with pytest.raises(ArtefactError, match="shard_pictures: 6 there, 7 here"):
        extract(folder, folder / "manifest.csv", shard_pictures=7)
    with pytest.raises(ArtefactError, match="spec: "):
        extract(folder, folder / "manifest.csv", encoder=small_params(encoder={"grid": 1}).encoder)
    shards = {path: content for path, content in contents.items() if path.startswith("shards/")}
    assert {path: content for path, content in tree(folder / "features.h5").items() if path in shards} == shards


def test_a_features_file_in_the_folder_s_place_is_refused(extracted, tmp_path):
    (tmp_path / "features.h5").write_bytes(b"of the local engine")
    with pytest.raises(DataError, match=r"features\.h5: a features file of the local engine stands where"):
        extract(tmp_path, extracted[0] / "manifest.csv")
    assert (tmp_path / "features.h5").read_bytes() == b"of the local engine"


def test_a_cluster_that_would_hang_on_restart_is_refused(ray_folder, extracted, tmp_path):
    with pytest.raises(
        ParamsError, match=r"has 4 logical CPUs, but 2 encoders need 5 .*params\.run\.workers to at most 1"
    ):
        extract(tmp_path, extracted[0] / "manifest.csv", run=small_params(run={"workers": 2}).run)


@pytest.mark.parametrize(
    ("device", "encoders", "message"),
    [
        ("cuda", 0, r"params\.run\.device: cuda, but the Ray cluster has no GPU"),
        ("mps", 0, r"params\.run\.device: mps is not for --engine ray"),
    ],
)
def test_a_device_that_the_cluster_does_not_have_is_refused(device, encoders, message):
    from pipeline.features.ray.cluster import _room

    with pytest.raises(ParamsError, match=message):
        _room({"CPU": 8.0}, device, encoders, started_here=False)


@pytest.mark.parametrize(("left", "encoders", "shard"), [(30, 1, 6), (18, 4, 1000), (1, 8, 1000), (10**8, 64, 1000)])
def test_every_encoder_gets_several_blocks_of_a_small_manifest(left, encoders, shard):
    from pipeline.features.ray.encoding import block_size

    size = block_size(left, encoders, shard)
    assert 1 <= size <= min(256, shard)
    assert -(-left // size) >= min(left, 2 * encoders)


def test_a_cluster_of_gpus_gets_one_encoder_on_each():
    from pipeline.features.ray.cluster import Cluster, _room

    resources = {"CPU": 32.0, "GPU": 8.0}
    assert _room(resources, "auto", 0, started_here=False) == Cluster("cuda", 8)
    assert _room(resources, "auto", 3, started_here=False) == Cluster("cuda", 3)
    assert _room(resources, "cpu", 0, started_here=False) == Cluster("cpu", 28)
    with pytest.raises(ParamsError, match="9 encoders, but the Ray cluster has 8 GPUs"):
        _room(resources, "auto", 9, started_here=False)
    with pytest.raises(ParamsError, match=r"has 2 logical CPUs.*\); start its nodes with a larger --num-cpus"):
        _room({"CPU": 2.0}, "cpu", 1, started_here=False)


def test_train_and_score_do_not_know_the_difference(trained_project, ray_folder, tmp_path, monkeypatch):
    """The folder of one project's shards in the place of its features file: the same bytes of model and scores."""
    shutil.copytree(trained_project, tmp_path, dirs_exist_ok=True)
    set_param(tmp_path, "run.workers", 1)
    monkeypatch.chdir(tmp_path)  # images.csv has paths from here
    outputs = [paths.MODEL, paths.TRAINING, paths.SCORES, paths.SCORED_CAPTIONS]
    digests = []
    for place in ("file", "folder"):
        if place == "folder":
            (tmp_path / paths.FEATURES).unlink()
            extract_project(tmp_path, tmp_path / paths.IMAGES)
            assert (tmp_path / paths.FEATURES / "shards").is_dir()
        for stage in ("train", "score"):
            code, _, said = run_command(stage, cwd=tmp_path)
            assert code == 0, said
        digests.append([sha256_of(tmp_path / path) for path in outputs])
        for path in outputs:
            (tmp_path / path).unlink()
    assert digests[0] == digests[1]
