"""A training of seconds: thirty images of three colors, each with a caption that ends in its color."""

import torch
from support import small_params

from pipeline.decoders.registry import make_decoder
from pipeline.text.vocabulary import Vocabulary
from pipeline.training.batches import Batches
from pipeline.training.determinism import deterministic
from pipeline.training.distributed import ProcessGroup
from pipeline.training.feature_source import ResidentFeatures
from pipeline.training.trainer import Trainer, TrainingData
from pipeline.training.validation import Validation

SEED = 1
COLORS = ("red", "green", "blue")
TEXTS = [["all", "so", COLORS[number % 3]] for number in range(30)]
VOCABULARY = Vocabulary.build(TEXTS, min_count=1, tokenizer="ptb")
TOKENS = VOCABULARY.encode(TEXTS)
FEATURES = torch.eye(3).repeat(10, 1).view(30, 1, 3)
VAL_IMAGES = 6
MAX_LENGTH = 3


def color_reward(images, captions):
    """1 for a caption that ends in the color of its image."""
    pairs = zip(images.tolist(), captions, strict=True)
    return torch.tensor([float(list(caption[-1:]) == TOKENS[image][-2:-1]) for image, caption in pairs])


def make_params(decoder=None, **train):
    """Params of a trainer whose epoch is a few steps; the keywords are of params.train."""
    train = {"epochs": 12, "patience": 12, "batch_size": 8, "lr": 1e-2, **train}
    return small_params(train=train, decoder={"kind": "inject", **(decoder or {})})


def make_decoder_of(params):
    torch.manual_seed(0)
    return make_decoder(params.decoder.model_dump(), vocabulary=len(VOCABULARY), regions=1, channels=3)


def make_data(params, reward=None, device="cpu"):
    batches = Batches(TOKENS, list(range(30)), batch_size=params.train.batch_size, seed=SEED)
    return TrainingData(ResidentFeatures(FEATURES.to(device)), batches, reward)


def make_validation():
    return Validation(
        ResidentFeatures(FEATURES[:VAL_IMAGES]),
        Batches(TOKENS[:VAL_IMAGES], list(range(VAL_IMAGES)), batch_size=4, seed=SEED),
        [[" ".join(text)] for text in TEXTS[:VAL_IMAGES]],
        VOCABULARY,
        device=torch.device("cpu"),
    )


class ScriptedValidation:
    """A validation with given CIDEr-D scores; the losses fall unless they are given as well."""

    max_length = MAX_LENGTH

    def __init__(self, scores, losses=None, *, score_decides=True):
        self.score_decides = score_decides
        self._scores = iter(scores)
        self._losses = iter(losses or [10.0 - index for index in range(len(scores))])

    def cider_d(self, decoder):
        return next(self._scores)

    def loss(self, decoder):
        return next(self._losses)


def make_trainer(
    *, scores=(), losses=None, score_decides=True, reward=color_reward, decoder=None, device="cpu", **train
):
    """A `Trainer` with one step per epoch unless a batch size is given, and a scripted validation."""
    train = {"batch_size": 30, "weight_decay": 0.0, "clip": 1e9, **train}
    params = make_params(decoder=decoder, **train)
    validation = ScriptedValidation(scores or [50.0] * 20, losses, score_decides=score_decides)
    processes = ProcessGroup(torch.device(device))
    data = make_data(params, reward, device)
    return Trainer(make_decoder_of(params), data, validation, params.train, seed=SEED, processes=processes)


class Killed(BaseException):
    """Stands for the death of the process."""


def train(*, checkpoint=None, kill_after=None, reward=None, **changes):
    """Train to the end; return the trainer."""
    params = make_params(**changes)
    trainer = Trainer(make_decoder_of(params), make_data(params, reward), make_validation(), params.train, seed=SEED)

    def on_epoch(metrics):
        if metrics.epoch == kill_after:
            raise Killed

    with deterministic(1):
        trainer.run(checkpoint, on_epoch=on_epoch)
    return trainer


def weights_of(network):
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def largest_difference(weights, others):
    return max(float((weights[name] - others[name]).abs().max()) for name in weights)
