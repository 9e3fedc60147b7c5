"""Learning-rate schedules and weight averaging."""

import pytest
import torch
from support import small_params

from pipeline.training.schedule import Schedule
from pipeline.training.weight_averaging import ema_decay, exponential_moving_average, load_mean


@pytest.mark.parametrize("kind", ["cosine", "plateau", "constant"])
def test_the_learning_rate_warms_up(kind):
    schedule = Schedule(small_params(train={"schedule": kind, "warmup": 0.25, "epochs": 10}).train, 10)
    factors = [schedule.factor(step) for step in range(100)]
    assert factors[0] < factors[10] < factors[24] == 1
    assert factors[99] == {"cosine": pytest.approx(0.1, abs=0.01), "plateau": 1, "constant": 1}[kind]


def test_a_plateau_halves_the_learning_rate():
    schedule = Schedule(small_params(train={"schedule": "plateau", "warmup": 0.0, "epochs": 10}).train, 10)
    factors = []
    for improved in (True, False, False, False, False, True):
        schedule.end_epoch(improved=improved)
        factors.append(schedule.factor(50))
    assert factors == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_the_decay_of_the_moving_average_rises_to_its_value():
    decays = [ema_decay(0.9, steps) for steps in (0, 1, 10, 1000)]
    assert decays == [0.0, pytest.approx(2 / 11), pytest.approx(11 / 20), 0.9]


def test_the_moving_average_follows_the_weights():
    network = torch.nn.Linear(1, 1, bias=False)
    ema = exponential_moving_average(network, 0.9)
    expected = None
    for step, weight in enumerate((0.0, 1.0, 2.0, 3.0)):
        torch.nn.init.constant_(network.weight, weight)
        ema.update_parameters(network)
        decay = ema_decay(0.9, step)
        expected = weight if expected is None else decay * expected + (1 - decay) * weight
    assert ema.module.weight.item() == pytest.approx(expected)
    assert network.weight.item() == 3.0


def test_the_mean_of_several_weights_is_loaded():
    network = torch.nn.Linear(1, 1, bias=False)
    load_mean(network, [{"weight": torch.tensor([[value]])} for value in (1.0, 2.0, 6.0)])
    assert network.weight.item() == pytest.approx(3.0)
