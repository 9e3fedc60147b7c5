"""The step that CUDA graphs capture, computed without a graph: the same as the plain step. No GPU is needed."""

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from toy_training import FEATURES, largest_difference, make_trainer, weights_of

from pipeline.accel.cuda_graphs import CaptureError, GraphedFunction
from pipeline.decoders.registry import DECODERS
from pipeline.tokens import PAD
from pipeline.training.graphed_step import static_shape

EVERYTHING = {"ema": 0.9, "bag_of_words": 0.5, "label_smoothing": 0.1, "clip": 0.5, "weight_decay": 0.1}


SCST = {"epochs": 2, "lr": 1e-3, "samples": 2}
"""The last batch of images is smaller than the others."""


def self_critical_trainer(cross_entropy):
    """A trainer before its first self-critical epoch."""
    trainer = make_trainer(batch_size=8, epochs=4, scst={**SCST, "cross_entropy": cross_entropy}, **EVERYTHING)
    while trainer.start_epoch() and trainer.cross_entropy_epochs is None:
        trainer.run_epoch()
    return trainer


@pytest.fixture
def without_capture(monkeypatch):
    """The graphed function is called instead of captured."""
    monkeypatch.setattr(GraphedFunction, "__call__", lambda self, *inputs: self._function(*inputs))


def test_a_static_batch_has_the_loss_and_gradients_of_the_original_one():
    trainer = make_trainer(decoder={"kind": "attention"}, batch_size=8, **EVERYTHING)

    def loss_and_gradients(batch):
        trainer.decoder.zero_grad()
        loss = trainer.loss(FEATURES[batch.images], batch)
        loss.backward()
        return [loss, *(parameter.grad for parameter in trainer.loss.parameters())]

    for batch in trainer.data.batches.epoch(1):
        padded = static_shape(batch, 8)
        assert padded.inputs.shape == padded.targets.shape == (8, 4)
        assert int((padded.targets != PAD).sum()) == batch.tokens
        for value, expected in zip(loss_and_gradients(padded), loss_and_gradients(batch), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


def test_the_captured_step_trains_like_the_plain_step(without_capture):
    plain, graphed = (make_trainer(batch_size=8, epochs=3, **EVERYTHING) for _ in range(2))
    graphed.use_cuda_graphs()
    for trainer in (plain, graphed):
        for _ in range(3):
            assert trainer.start_epoch()
            trainer.run_epoch()
    for metrics, expected in zip(graphed.history.epochs, plain.history.epochs, strict=True):
        assert metrics.train_loss == pytest.approx(expected.train_loss, rel=1e-5)
        assert metrics.lr == expected.lr
    assert largest_difference(weights_of(graphed.decoder), weights_of(plain.decoder)) < 1e-5
    assert largest_difference(weights_of(graphed.ema.module), weights_of(plain.ema.module)) < 1e-5


class Operations(TorchDispatchMode):
    """Collects the names of the operations within the block, those of backward passes too."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        self.names.add(operation.overloadpacket.__name__)
        return operation(*arguments, **(keywords or {}))


READS_VALUES_OF_A_GPU = {
    *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique_dim", "_unique2"),
    *("index_put_", "scatter", "scatter_add", "scatter_add_"),  # in deterministic mode
}
"""Operations that cannot be captured. `index_put` is the gradient of an index, which can."""


@pytest.mark.parametrize("kind", DECODERS)
def test_what_is_captured_reads_no_value_from_the_gpu(monkeypatch, kind):
    operations = Operations()

    def observed(self, *inputs):
        with operations:
            return self._function(*inputs)

    monkeypatch.setattr(GraphedFunction, "__call__", observed)
    trainer = make_trainer(
        decoder={"kind": kind}, batch_size=8, epochs=1, scst={**SCST, "epochs": 1, "cross_entropy": 0.2}, **EVERYTHING
    )
    trainer.use_cuda_graphs()
    while trainer.start_epoch():
        trainer.run_epoch()
    assert {"_log_softmax_backward_data", "_fused_adamw_", "argmax"} <= operations.names
    assert operations.names & READS_VALUES_OF_A_GPU == set()


@pytest.mark.parametrize("cross_entropy", [0.0, 0.2])
def test_captured_self_critical_training_is_like_the_plain_one(without_capture, cross_entropy):
    plain, graphed = (self_critical_trainer(cross_entropy) for _ in range(2))
    graphed.use_cuda_graphs()
    for trainer in (plain, graphed):
        trainer.run_epoch()
    metrics, expected = graphed.history.epochs[-1], plain.history.epochs[-1]
    assert metrics.reward == expected.reward > 0
    assert metrics.train_loss == pytest.approx(expected.train_loss, rel=1e-4)
    assert largest_difference(weights_of(graphed.decoder), weights_of(plain.decoder)) < 1e-5


def test_a_resumed_graphed_training_computes_the_same_bits(without_capture):
    whole, broken, resumed = (make_trainer(batch_size=8, epochs=3, **EVERYTHING) for _ in range(3))
    for trainer, epochs in ((whole, 3), (broken, 2)):
        trainer.use_cuda_graphs()
        for _ in range(epochs):
            trainer.run_epoch()
    resumed.use_cuda_graphs()
    resumed.load_state_dict(broken.state_dict())
    resumed.run_epoch()
    assert largest_difference(weights_of(resumed.decoder), weights_of(whole.decoder)) == 0
    assert largest_difference(weights_of(resumed.ema.module), weights_of(whole.ema.module)) == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can capture")
def test_without_capture_training_goes_on_with_plain_steps():
    plain, graphed = (make_trainer(batch_size=8, epochs=1, **EVERYTHING) for _ in range(2))
    graphed.use_cuda_graphs()
    plain.run_epoch()
    with pytest.warns(UserWarning, match="without CUDA graphs") as caught:
        graphed.run_epoch()
    assert len(caught) == 1
    assert graphed.graphed_step is None
    assert graphed.history.epochs[0].train_loss == pytest.approx(plain.history.epochs[0].train_loss, rel=1e-5)
    assert largest_difference(weights_of(graphed.decoder), weights_of(plain.decoder)) < 1e-5


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can capture")
def test_without_capture_self_critical_training_goes_on_with_the_same_samples():
    plain, graphed = (self_critical_trainer(0.2) for _ in range(2))
    graphed.use_cuda_graphs()
    plain.run_epoch()
    with pytest.warns(UserWarning, match="without CUDA graphs") as caught:
        graphed.run_epoch()
    assert len(caught) == 1
    assert graphed.graphed_step is graphed.sampler.graphs is None
    assert graphed.history.epochs[-1].reward == plain.history.epochs[-1].reward
    assert largest_difference(weights_of(graphed.decoder), weights_of(plain.decoder)) < 1e-5


def test_no_node_of_autograd_from_before_a_capture_is_alive_in_it(monkeypatch):
    """It would belong to the default stream, and the capture would fail."""
    weight = torch.ones(2, requires_grad=True)
    alive = []

    def capture(function, inputs):
        torch.autograd.graph.get_gradient_edge(weight).node.metadata["seen"] = True
        alive.append("seen" in torch.autograd.graph.get_gradient_edge(weight).node.metadata)
        raise RuntimeError

    monkeypatch.setattr(GraphedFunction, "_capture", capture)
    monkeypatch.setattr("pipeline.accel.cuda_graphs._random_state_kept", contextlib.nullcontext)
    with pytest.raises(CaptureError):
        GraphedFunction(torch.sum, lambda: [weight])(torch.ones(2))
    assert alive == [False]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can capture")
def test_a_failed_capture_leaves_the_state_unchanged():
    state = [torch.zeros(2)]

    def count_up(value):
        state[0] += value
        return state[0]

    with pytest.raises(CaptureError):
        GraphedFunction(count_up, lambda: state)(torch.ones(2))
    assert state[0].tolist() == [0.0, 0.0]


class Generator:
    """The random state of a GPU, as far as a capture needs it."""

    def __init__(self, state="before"):
        self.state = state

    def clone_state(self):
        return Generator(self.state)

    def get_state(self):
        return self.state

    def set_state(self, state):
        self.state = state

    def graphsafe_set_state(self, other):
        self.state = f"{other.state}, of another generator"


@pytest.mark.parametrize("fails", [False, True])
def test_random_numbers_go_on_after_a_capture_as_if_it_had_not_been(monkeypatch, fails):
    generator = Generator()
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "default_generators", (generator,))

    def capture(self, inputs):
        generator.state = "used"
        if fails:
            raise RuntimeError("out of memory\nand details")
        return "a graph"

    monkeypatch.setattr(GraphedFunction, "_capture", capture)
    graphed = GraphedFunction(lambda: torch.ones(()), list)
    if fails:
        with pytest.raises(CaptureError, match=r"^out of memory$"):
            graphed._capture_unchanged(())
        assert generator.state == "before, of another generator"  # that of a failed capture cannot be used any more
    else:
        assert graphed._capture_unchanged(()) == "a graph"
        assert generator.state == "before"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", DECODERS)
def test_replayed_steps_train_like_plain_steps_on_a_gpu(kind):
    graphed, plain = (
        make_trainer(batch_size=8, epochs=3, decoder={"kind": kind}, device="cuda", scst=SCST, **EVERYTHING)
        for _ in range(2)
    )
    plain.graphed_step = plain.sampler.graphs = None
    for trainer in (graphed, plain):
        while trainer.start_epoch():
            trainer.run_epoch()
    assert None not in (graphed.graphed_step, graphed.sampler.graphs)
    for metrics, expected in zip(graphed.history.epochs, plain.history.epochs, strict=True):
        assert metrics.train_loss == pytest.approx(expected.train_loss, rel=1e-4, abs=1e-4)
        assert metrics.reward == pytest.approx(expected.reward)
