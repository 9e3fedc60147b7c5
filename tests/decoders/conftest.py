"""Small decoders of every registered kind."""

from collections.abc import Callable, Iterator

import pytest
import torch

from pipeline.decoders.decoder import Decoder
from pipeline.decoders.registry import DECODERS, make_decoder
from pipeline.device import single_threaded

SMALL = {"embed": 12, "hidden": 16, "attention": 8}
DROPOUT = dict.fromkeys(("feature_dropout", "embedding_dropout", "output_dropout"), 0.0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Run torch on one thread; more cost time at this size."""
    with single_threaded():
        yield


@pytest.fixture
def small_decoder() -> Callable[..., Decoder]:
    """Return a function that builds a decoder in evaluation mode. `std` makes parameters normally distributed."""

    def build(
        kind: str,
        *,
        vocabulary: int = 6,
        regions: int = 2,
        channels: int = 3,
        padded: bool = False,
        std: float = 0.0,
        **changes: float,
    ) -> Decoder:
        torch.manual_seed(3)
        given = {**SMALL, **DROPOUT, **changes}
        params = {name: value for name, value in given.items() if name in DECODERS[kind].options.model_fields}
        sizes = {"vocabulary": vocabulary, "regions": regions, "channels": channels}
        decoder = make_decoder({"kind": kind, **params}, **sizes, padded=padded)
        for parameter in decoder.parameters() if std else ():
            torch.nn.init.normal_(parameter, std=std)
        return decoder.eval()

    return build


@pytest.fixture(params=DECODERS)
def decoder(request: pytest.FixtureRequest, small_decoder: Callable[..., Decoder]) -> Decoder:
    """A decoder with the words 4 and 5, whose captions differ from image to image."""
    return small_decoder(request.param, std=0.8)


@pytest.fixture
def features() -> torch.Tensor:
    """The features of seven images (7, 2, 3)."""
    return torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(4))
