"""Training in several processes: the loss curve of one process, one writer, and an end when a process is lost.

The processes talk over the loopback interface and are started as `torchrun` starts them: it serves the store in which
they find each other, so that no port has to be free twice.
"""

import csv
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from support import ROOT, run_command, set_param, write_project
from torch.distributed import TCPStore

from pipeline.errors import ParamsError, PeerError
from pipeline.training.distributed import ProcessGroup, own_device, process_group

TOLERANCE = 2e-5
"""Of the loss, relative: the effect of adding in another order over some twenty steps."""


def test_an_incomplete_environment_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ParamsError, match=r"RANK.*torchrun"), process_group("cpu"):
        pass


def test_processes_cannot_share_a_gpu(monkeypatch):
    monkeypatch.setattr("pipeline.training.distributed.choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    with pytest.raises(ParamsError, match="process 2 of this machine has no GPU of its own"):
        own_device("cuda", 1)
    assert own_device("cuda", 0) == torch.device("cuda:0")
    assert own_device("cpu", 1) == torch.device("cpu")


def test_a_broken_connection_is_a_lost_process_and_too_little_memory_is_not():
    error = RuntimeError("Connection closed by peer")
    with (
        pytest.raises(PeerError, match="another of the 2 processes"),
        ProcessGroup(torch.device("cpu"), 0, 2).collective(),
    ):
        raise error
    with pytest.raises(RuntimeError, match="Connection"), ProcessGroup(torch.device("cpu")).collective():
        raise error
    with pytest.raises(RuntimeError, match="Allocator"), ProcessGroup(torch.device("cpu"), 0, 2).collective():
        torch.empty(2**55)


PREPARED = {"epochs": 4, "batch_size": 23, "ema": 0.9, "average_best": 2, "label_smoothing": 0.1, "patience": 30}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A project whose 24 training captions make a batch of 23 and one of a single caption."""
    folder = tmp_path_factory.mktemp("prepared")
    write_project(folder, train=PREPARED)
    for stage in ("prepare", "extract", "vocab"):
        code, _, stderr = run_command(stage, cwd=folder)
        assert code == 0, stderr
    return folder


@pytest.fixture
def copied(prepared, tmp_path):
    """Copies the prepared project; the keywords are of params.train."""

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


class Processes:
    """`captioner train`, or another program, in one process per folder; a folder may occur several times."""

    def __init__(self, *folders, program=("-m", "pipeline", "train")):
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        group = {
            "PYTHONPATH": str(ROOT),
            "WORLD_SIZE": str(len(folders)),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self._store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": "0",
        }
        self.processes = [
            subprocess.Popen(
                [sys.executable, *program],
                cwd=folder,
                env={**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)},
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

    def exits(self):
        """Exit code and standard error of each process."""
        return [(process.wait(300), process.stderr.read()) for process in self.processes]


def train_together(*folders):
    with Processes(*folders) as processes:
        return processes.exits()


@pytest.mark.slow
def test_processes_of_torchrun_have_the_loss_curve_of_one_and_only_the_first_writes_and_prints(copied, tmp_path):
    alone, together, elsewhere = copied("alone"), copied("0"), copied("1")
    assert run_command("train", cwd=alone)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in elsewhere.rglob("*") if path.is_file()}
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python")
    in_folder = 'cd "$0/$RANK" && exec "$1" -m pipeline train'
    done = subprocess.run(
        [sys.executable, *torchrun, "sh", "-c", in_folder, str(tmp_path), sys.executable],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("train: 2 processes share each batch of 23 captions") == 1
    assert done.stderr.count("epoch   1/4") == 1
    assert (together / "models/captioner.safetensors").is_file()
    assert {path: path.stat().st_mtime_ns for path in elsewhere.rglob("*") if path.is_file()} == before
    assert losses(together) == pytest.approx(losses(alone), rel=TOLERANCE)
    assert [row["lr"] for row in curve(together)] == [row["lr"] for row in curve(alone)]
    assert losses(alone)[-1] < losses(alone)[0] - 0.3, "a curve that does not fall compares nothing"


@pytest.mark.slow
@pytest.mark.parametrize("cross_entropy", [0.0, 0.2])
def test_self_critical_training_and_dropout_work_in_several_processes(copied, cross_entropy):
    folder = copied(
        scst={"epochs": 2, "lr": 1e-3, "samples": 3, "cross_entropy": cross_entropy},
        scheduled_sampling=0.3,
        bag_of_words=0.5,
    )
    set_param(folder, "decoder.output_dropout", 0.3)
    exits = train_together(folder, folder, folder)
    assert [code for code, _ in exits] == [0, 0, 0], exits
    assert [float(row["reward"]) > 0 for row in curve(folder)] == [False] * 4 + [True] * 2


@pytest.mark.slow
def test_a_lost_process_ends_the_others_and_a_restart_resumes_to_the_same_bytes(copied):
    whole, broken = copied("whole", epochs=40), copied("broken", epochs=40)
    assert [code for code, _ in train_together(whole, whole, whole)] == [0, 0, 0]
    with Processes(broken, broken, broken) as group:
        first, second, last = group.processes
        while not first.stderr.readline().startswith("epoch   1/"):
            assert first.poll() is None
        last.send_signal(signal.SIGKILL)
        assert (first.wait(300), second.wait(300)) == (7, 7)
        message = first.stderr.read().splitlines()[-1]
    assert message.startswith("error: process 0: another of the 3 processes has ended or does not answer")
    exits = train_together(broken, broken, broken)
    assert "resumes an interrupted run after epoch" in exits[0][1]
    for name in ("models/captioner.safetensors", "metrics/training.csv"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.slow
def test_a_process_that_does_not_answer_is_waited_for_until_the_timeout(tmp_path):
    program = """
import sys, time, torch
from pipeline.errors import PeerError
from pipeline.training.distributed import process_group

try:
    with process_group("cpu", timeout=30) as processes:
        processes.sum(torch.ones(1))
        if processes.rank:
            time.sleep(600)
        processes.sum(torch.ones(1))
except PeerError as error:
    sys.exit(str(error))
"""
    with Processes(tmp_path, tmp_path, program=("-c", program)) as group:
        first, _ = group.processes
        _, stderr = first.communicate(timeout=300)
    assert first.returncode == 1, stderr
    assert "does not answer" in stderr


@pytest.mark.slow
def test_a_process_that_dies_during_validation_ends_those_that_wait_for_it_at_once(tmp_path):
    program = """
import os, signal, sys, time, torch
from pipeline.errors import PeerError
from pipeline.training.distributed import process_group

try:
    with process_group("cpu") as processes:
        processes.sum(torch.ones(1))
        if processes.rank == 0:
            time.sleep(5)
            os.kill(os.getpid(), signal.SIGKILL)
        processes.from_first(None)
except PeerError as error:
    sys.exit(str(error))
"""
    with Processes(tmp_path, tmp_path, program=("-c", program)) as group:
        _, second = group.processes
        _, stderr = second.communicate(timeout=60)
    assert second.returncode == 1, stderr
    assert "has ended" in stderr


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [23, 24])
def test_a_loss_or_a_probability_that_is_not_finite_ends_all_processes_with_the_same_exit_code(copied, batch_size):
    folder = copied(lr=100.0, clip=1e9, weight_decay=100.0, epochs=30, batch_size=batch_size)
    (first, stderr), (second, other_stderr) = train_together(folder, folder)
    assert (first, second, other_stderr) == (6, 6, "")
    assert ("error: the loss is" if batch_size == 23 else "error: the decoder's weights or probabilities are") in stderr


@pytest.mark.slow
def test_processes_with_different_params_are_refused(copied):
    here, elsewhere = copied("here"), copied("elsewhere", lr=1e-4)
    for code, stderr in train_together(here, elsewhere):
        assert code == 4
        assert "process 1 of 2 has other params, captions, vocabulary or features than process 0" in stderr
