"""Several processes that train together: the same curve as one, one writer, and an end when one of them is lost.

The processes are real ones that talk over the loopback interface, started as `torchrun` would start them.
"""

import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, run_command, set_param, write_project

from pipeline.decoders import make_decoder
from pipeline.errors import ParamsError
from pipeline.training.batches import Batches
from pipeline.training.distributed import ProcessGroup, joined
from pipeline.training.losses import cross_entropy

CAPTIONS = [[1, *range(4, 4 + length), 2] for length in (3, 5, 2, 3, 7, 1, 4, 6, 2, 3)]
TOLERANCE = 2e-5
"""Of the loss, relative: what rounding in another order makes of some twenty steps."""


def batches(size=3):
    return Batches(CAPTIONS, list(range(10)), batch_size=size, seed=1)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_shares_are_parts_of_the_batches_of_one_process(count):
    shares = [list(batches().epoch(2, ProcessGroup(rank, count))) for rank in range(count)]
    whole = list(batches().epoch(2))
    assert {len(share) for share in shares} == {len(whole)}
    for number, batch in enumerate(whole):
        dealt = [image for share in shares for image in share[number].images.tolist()]
        assert sorted(dealt) == sorted(batch.images.tolist())
        for share in shares:
            assert share[number].tokens == sum(len(CAPTIONS[image]) - 1 for image in share[number].images)


def test_a_share_may_be_empty():
    sizes = [len(batch.images) for batch in batches().epoch(1, ProcessGroup(2, 4))]
    assert sorted(sizes) == [0, 1, 1, 1]


@pytest.mark.parametrize("kind", ["inject", "merge", "attention", "updown"])
def test_gradients_weighed_by_tokens_add_up_to_those_of_the_whole_batch(kind, monkeypatch):
    from conftest import small_params

    params = small_params(decoder={"kind": kind})
    torch.manual_seed(0)
    decoder = make_decoder(params.decoder.model_dump(), vocabulary=12, regions=2, channels=3)
    features = torch.randn(10, 2, 3)

    def gradients(batch, weight=1.0):
        decoder.zero_grad(set_to_none=True)
        (weight * cross_entropy(decoder, features[batch.images], batch, label_smoothing=0.1)).backward()
        return [parameter.grad for parameter in decoder.parameters()]

    (whole,) = batches(10).epoch(1)
    expected = gradients(whole)
    assert None not in expected  # one process leaves a parameter without a gradient alone, several would decay it
    shares = [batch for rank in range(3) for batch in batches(10).epoch(1, ProcessGroup(rank, 3))]
    parts = [gradients(share, share.tokens / whole.tokens) for share in shares]
    for name, one, *some in zip(dict(decoder.named_parameters()), expected, *parts, strict=True):
        torch.testing.assert_close(sum(some), one, rtol=1e-4, atol=1e-6, msg=name)


def test_a_loss_that_is_kept_does_not_keep_the_gradients(monkeypatch):
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda values: values.mul_(2))
    network = torch.nn.Linear(100, 100)
    network(torch.ones(1, 100)).sum().backward()
    loss = ProcessGroup(0, 2).sum_gradients(network, torch.tensor(3.0))
    assert float(loss) == 6
    assert loss.untyped_storage().nbytes() == 4


def test_an_environment_that_is_half_set_is_refused():
    with pytest.raises(ParamsError, match=r"RANK.*torchrun"), joined({"WORLD_SIZE": "2"}, "cpu"):
        pass


def test_processes_cannot_share_one_device(monkeypatch):
    monkeypatch.setattr("pipeline.training.distributed.choose_device", torch.device)
    with pytest.raises(ParamsError, match="2 processes cannot share cuda:0"):
        ProcessGroup(0, 2).device("cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ParamsError, match="has 1 GPUs, too few for process 2"):
        ProcessGroup(1, 2, local=1).device("cuda")
    assert ProcessGroup(1, 2, local=0).device("cuda") == torch.device("cuda:0")


PREPARED = {"epochs": 4, "batch_size": 23, "ema": 0.9, "average": 2, "label_smoothing": 0.1, "patience": 30}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A project whose 24 training captions make a batch of 23 and one of a single caption."""
    folder = tmp_path_factory.mktemp("prepared")
    write_project(folder, train=PREPARED)
    for stage in ("prepare", "extract", "vocab"):
        code, _, said = run_command(stage, cwd=folder)
        assert code == 0, said
    return folder


@pytest.fixture
def copied(prepared, tmp_path):
    """Makes a copy of the prepared project; the keywords are of params.train."""

    def make(name="project", **changes):
        folder = shutil.copytree(prepared, tmp_path / name)
        for key, value in changes.items():
            set_param(folder, f"train.{key}", value)
        return folder

    return make


def curve(folder):
    with (folder / "metrics/training.csv").open() as file:
        return list(csv.DictReader(file))


def losses(folder):
    return [float(row["train_loss"]) for row in curve(folder)]


class Together:
    """`captioner train` in as many processes as there are folders, which may be one folder several times."""

    def __init__(self, *folders):
        with socket.socket() as place:
            place.bind(("127.0.0.1", 0))
            port = place.getsockname()[1]
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "pipeline", "train"],
                cwd=folder,
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    "WORLD_SIZE": str(len(folders)),
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank, folder in enumerate(folders)
        ]

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        for process in self.processes:
            process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()

    def ends(self):
        """The exit code and standard error of each."""
        return [(process.wait(180), process.stderr.read()) for process in self.processes]


def trained_together(*folders):
    with Together(*folders) as together:
        return together.ends()


def test_two_processes_have_the_loss_curve_of_one(copied):
    alone, together = copied("alone"), copied("together")
    assert run_command("train", cwd=alone)[0] == 0
    (first, said), (second, other) = trained_together(together, together)
    assert (first, second) == (0, 0), said + other
    assert losses(together) == pytest.approx(losses(alone), rel=TOLERANCE)
    assert [row["lr"] for row in curve(together)] == [row["lr"] for row in curve(alone)]
    assert losses(alone)[-1] < losses(alone)[0] - 0.3, "a curve that does not fall compares nothing"


def test_only_the_first_process_writes_and_speaks(copied):
    here, elsewhere = copied("here"), copied("elsewhere")
    before = {path: path.stat().st_mtime_ns for path in elsewhere.rglob("*") if path.is_file()}
    (first, said), (second, other) = trained_together(here, elsewhere)
    assert (first, second, other) == (0, 0, "")
    assert said.count("epoch   1/4") == 1
    assert (here / "models/captioner.safetensors").is_file()
    assert {path: path.stat().st_mtime_ns for path in elsewhere.rglob("*") if path.is_file()} == before


def test_torchrun_starts_them(copied):
    folder = copied()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-layer=2",
            "-m",
            "pipeline",
            "train",
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "train: 2 processes, which share each batch of 23 captions" in done.stderr
    assert len(curve(folder)) == 4


def test_self_critical_training_and_dropout_work_in_several_processes(copied):
    folder = copied(
        scst={"epochs": 2, "lr": 1e-3, "samples": 3, "cross_entropy": 0.2}, scheduled_sampling=0.3, bag_of_words=0.5
    )
    set_param(folder, "decoder.output_dropout", 0.3)
    ends = trained_together(folder, folder, folder)
    assert [code for code, _ in ends] == [0, 0, 0], ends
    assert [float(row["reward"]) > 0 for row in curve(folder)] == [False] * 4 + [True] * 2


def test_a_lost_process_ends_the_other_and_the_next_start_goes_on_to_the_same_bytes(copied):
    whole, broken = copied("whole", epochs=60), copied("broken", epochs=60)
    assert [code for code, _ in trained_together(whole, whole)] == [0, 0]
    with Together(broken, broken) as together:
        first, second = together.processes
        while not first.stderr.readline().startswith("epoch   3/"):
            assert first.poll() is None
        second.send_signal(signal.SIGKILL)
        began = time.monotonic()
        assert first.wait(120) == 7
        assert time.monotonic() - began < 60
        last = first.stderr.read().splitlines()[-1]
    assert last.startswith(
        "error: process 0: another of the 2 processes that train together has ended or does not answer"
    )
    ends = trained_together(broken, broken)
    assert "goes on after epoch" in ends[0][1]
    for name in ("models/captioner.safetensors", "metrics/training.csv"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_process_that_stands_still_is_waited_for_only_so_long(tmp_path):
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    script = """
import sys, time
from pipeline.errors import PeerError
from pipeline.training.distributed import joined

rank = int(sys.argv[1])
where = {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
where |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[2]}
try:
    with joined(where, "cpu", patience=10) as processes:
        processes.total(1)
        if rank:
            time.sleep(600)
        processes.total(1)
except PeerError as error:
    sys.exit(str(error))
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(rank), str(port)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        _, said = processes[0].communicate(timeout=120)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert processes[0].returncode == 1, said
    assert "does not answer" in said


def test_a_loss_that_is_no_number_ends_all_with_the_same_exit_code(copied):
    folder = copied(lr=1e30, clip=1e30, weight_decay=1e10)
    (first, said), (second, other) = trained_together(folder, folder)
    assert (first, second, other) == (6, 6, "")
    assert "error: the loss is" in said


def test_machines_with_other_files_are_refused(copied):
    here, elsewhere = copied("here"), copied("elsewhere", lr=1e-4)
    for code, said in trained_together(here, elsewhere):
        assert code == 4
        assert "process 1 of 2 has other params, captions, vocabulary or features than the first one" in said
