"""The steps of the Ray pipeline and the choice of its resources, without a cluster."""

import numpy as np
import pytest
from PIL import Image
from stand_in import SPEC

pytest.importorskip("pyarrow", reason="extraction on a cluster needs the extra `ray`")
pytest.importorskip("ray", reason="extraction on a cluster needs the extra `ray`")

from pipeline.errors import ParamsError
from pipeline.features.feature_file import FeatureFile, write_feature_file
from pipeline.features.ray.cluster import connect, plan_cluster
from pipeline.features.ray.encoding import decode_shard
from pipeline.features.ray.job import Job
from pipeline.features.ray.manifest import ListedImage
from pipeline.features.ray.sources import NO_ANSWER
from pipeline.features.shards import shard_path

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

SHAPE = (4, 48)


@pytest.fixture
def images(tmp_path):
    """Two images, of which the first cannot be decoded."""
    Image.new("RGB", (9, 9), "red").save(tmp_path / "red.png")
    paths = {"d": tmp_path / "missing.png", "c": tmp_path / "red.png"}
    return [ListedImage(image, str(path), "", "train") for image, path in paths.items()]


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path / "features.h5", SPEC, SHAPE, engine="none")


@pytest.fixture
def features():
    return np.full((1, *SHAPE), 0.5, np.float16)


def test_a_decoded_shard_has_the_pixels_of_readable_images_and_reasons_for_the_others(images):
    pixels, reasons = decode_shard(images, SPEC.preprocessing)
    assert reasons == ["cannot be read: No such file or directory", ""]
    assert pixels.shape == (1, 8, 8, 3)
    assert pixels[0, 0, 0].tolist() == [255, 0, 0]
    assert decode_shard(images[:1], SPEC.preprocessing)[0].shape == (0, 8, 8, 3)


def test_a_written_shard_has_the_features_and_lists_skipped_images(job, images, features):
    assert not job.is_finished(0, images)
    assert job.write_shard(0, images, (features, ["damaged", ""])) == (2, 1)
    assert FeatureFile.open(shard_path(job.folder, 0)).load(["c"]).tolist() == features.tolist()
    assert job.skipped(0) == [("d", images[0].path, "damaged")]
    assert job.is_finished(0, images)


def truncate(shard):
    shard.write_bytes(shard.read_bytes()[:-1])


def lose_the_list_of_skipped_images(shard):
    shard.with_suffix(".skipped.csv").unlink()


def become_another_shard(shard):
    write_feature_file(shard, SPEC, ["z"], SHAPE, lambda images: np.zeros((len(images), *SHAPE), np.float16))


@pytest.mark.parametrize("damage", [truncate, lose_the_list_of_skipped_images, become_another_shard])
def test_a_shard_that_is_not_intact_is_not_finished(job, images, features, damage):
    job.write_shard(0, images, (features, ["damaged", ""]))
    assert job.is_finished(0, images)
    damage(shard_path(job.folder, 0))
    assert not job.is_finished(0, images)


def test_a_shard_is_not_finished_while_a_server_did_not_answer(job, images, features):
    job.write_shard(0, images, (features, [f"cannot be read: {NO_ANSWER} in 5 attempts", ""]))
    assert not job.is_finished(0, images)


def plan(device, workers=0, **resources):
    found = plan_cluster({name: float(count) for name, count in resources.items()}, device, workers)
    return found.device, found.gpus, found.shards


def test_all_gpus_and_cpus_of_a_cluster_are_used():
    assert plan("auto", CPU=32, GPU=8) == ("cuda", 8, 48)
    assert plan("auto", 3, CPU=32, GPU=8) == ("cuda", 3, 3)
    assert plan("auto", CPU=4) == ("cpu", 0, 4)
    assert plan("cpu", 2, CPU=32, GPU=8) == ("cpu", 0, 2)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_the_cluster_lacks_is_refused(device):
    message = rf"params\.run\.device: {device} cannot be used on a Ray cluster with 0 GPUs"
    with pytest.raises(ParamsError, match=message):
        plan(device, CPU=8)


def test_an_address_where_nothing_listens_is_refused_at_once():
    with (
        pytest.raises(ParamsError, match=r"--address 127\.0\.0\.1:9: cannot connect to a Ray cluster"),
        connect("127.0.0.1:9", device="cpu", workers=1),
    ):
        pass
