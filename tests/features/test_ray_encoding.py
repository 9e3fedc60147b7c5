"""The steps of the Ray pipeline and the choice of its resources, without a cluster."""

import numpy as np
import pytest
from PIL import Image
from stand_in import SPEC

from pipeline.errors import ParamsError
from pipeline.features.feature_file import FeatureFile

pa = pytest.importorskip("pyarrow", reason="extraction on a cluster needs the extra `ray`")
pytest.importorskip("ray", reason="extraction on a cluster needs the extra `ray`")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

SHAPE = (4, 48)


@pytest.fixture
def job(tmp_path):
    """Two shards of two images; the first image and all of the second shard cannot be decoded."""
    from pipeline.features.ray.job import Job

    Image.new("RGB", (9, 9), "red").save(tmp_path / "red.png")
    paths = ["missing.png", "red.png", "missing.png", "also-missing.png"]
    manifest = pa.table(
        {
            "image": ["d", "c", "b", "a"],
            "path": [str(tmp_path / path) for path in paths],
            "sha256": ["", "", "", "0" * 64],
        }
    )
    job = Job(folder=tmp_path / "features.h5", images=4, shard_images=2, spec=SPEC, shape=SHAPE, engine="none")
    job.begin(manifest)
    return job


def test_a_decoded_shard_has_the_pixels_of_readable_images_and_reasons_for_the_others(job):
    from pipeline.features.ray.encoding import decode_shard

    row = decode_shard({"shard": 0}, job)
    assert row["reasons"] == ["cannot be read: No such file or directory", ""]
    assert row["pixels"].shape == (1, 8, 8, 3)
    assert row["pixels"][0, 0, 0].tolist() == [255, 0, 0]
    assert decode_shard({"shard": 1}, job)["pixels"].shape == (0, 8, 8, 3)


def test_a_written_shard_has_the_features_and_lists_skipped_images(job):
    from pipeline.features.ray.encoding import write_shard
    from pipeline.features.shards import shard_path

    features = np.full((1, *SHAPE), 0.5, np.float16)
    assert write_shard({"shard": 0, "features": features, "reasons": ["damaged", ""]}, job) == {
        "images": 2,
        "skipped": 1,
    }
    assert FeatureFile.open(shard_path(job.folder, 0)).load(["c"]).tolist() == features.tolist()
    assert [(image, reason) for image, _, reason in job.skipped(0)] == [("d", "damaged")]
    assert job.unfinished() == {1: ""}


def test_a_shard_is_made_again_when_it_is_damaged_or_a_server_did_not_answer(job):
    from pipeline.features.ray.encoding import write_shard
    from pipeline.features.ray.sources import NO_ANSWER
    from pipeline.features.shards import shard_path

    features = np.full((1, *SHAPE), 0.5, np.float16)
    for number in range(2):
        reasons = [f"cannot be read: {NO_ANSWER} in 5 attempts", ""]
        write_shard({"shard": number, "features": features, "reasons": reasons}, job)
    path = shard_path(job.folder, 1)
    path.write_bytes(path.read_bytes()[:-1])
    reasons = job.unfinished()
    assert "000000.h5: lacks 1 image whose server did not answer" in reasons[0]
    assert "000001.h5: truncated" in reasons[1]


def plan(device, encoders=0, **resources):
    from pipeline.features.ray.cluster import plan_cluster

    found = plan_cluster({name: float(count) for name, count in resources.items()}, device, encoders)
    return found.device, found.encoders


def test_a_cluster_with_gpus_gets_an_encoder_on_each():
    assert plan("auto", CPU=32, GPU=8) == ("cuda", 8)
    assert plan("auto", 3, CPU=32, GPU=8) == ("cuda", 3)
    assert plan("auto", 9, CPU=32, GPU=8) == ("cuda", 8)


def test_a_cluster_without_gpus_keeps_a_cpu_for_decoding():
    assert plan("auto", CPU=4) == ("cpu", 3)
    assert plan("auto", 8, CPU=4) == ("cpu", 3)
    assert plan("cpu", CPU=32, GPU=8) == ("cpu", 28)


@pytest.mark.parametrize(
    ("device", "cpus", "message"),
    [
        ("cuda", 8, r"params\.run\.device: cuda, but the Ray cluster has no GPU"),
        ("mps", 8, r"params\.run\.device: mps is not available with --engine ray"),
        ("cpu", 1, "1 logical CPUs but needs at least 2"),
    ],
)
def test_a_cluster_that_lacks_the_device_is_refused(device, cpus, message):
    with pytest.raises(ParamsError, match=message):
        plan(device, CPU=cpus)


def test_an_address_where_nothing_listens_is_refused_at_once():
    from pipeline.features.ray.cluster import connect

    with (
        pytest.raises(ParamsError, match=r"--address 127\.0\.0\.1:9: cannot connect to a Ray cluster"),
        connect("127.0.0.1:9", device="cpu", encoders=1),
    ):
        pass
