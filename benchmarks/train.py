"""Training speed on cached features: this package beside the usual implementations, on the same captions, in one run.

    python benchmarks/train.py [--hidden 512] [--words 3000] [--batch 64] [--seconds 6] [--device cpu]

Captions have the lengths of Flickr8k's. Tokens are real tokens, without padding. Prints the table of
docs/benchmarks.md; compare the ratios within one run.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import count, product

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from pipeline.accel.decoders import accelerate
from pipeline.decoders.decoder import Decoder
from pipeline.decoders.registry import make_decoder
from pipeline.device import choose_device, supports_bfloat16, tensor_float_32
from pipeline.training.batches import Batch, Batches
from pipeline.training.determinism import deterministic
from pipeline.training.feature_source import FeatureSource, ResidentFeatures, with_features
from pipeline.training.graphed_step import GraphedStep, Term, static_shape
from pipeline.training.losses import CaptionLoss

REGIONS, CHANNELS = 49, 1280
ATTENTIVE = ("attention", "updown")
PACKED, TUTORIAL = "packed sequences, DataLoader", "tutorial attention"
"""The implementations that this package is compared with."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the models, the vocabulary and the batches."""

    hidden: int = 512
    embed: int = 256
    words: int = 3000
    batch: int = 64


class Data:
    """Features (N, R, C) and five captions for each image, in batches of `batch` captions on `device`."""

    def __init__(self, words: int, batch: int, device: torch.device) -> None:
        self.batch, self.device = batch, device
        images = max(512, 2 * batch)
        random = np.random.default_rng(0)
        lengths = np.clip(random.normal(10.8, 3.9, images * 5), 2, 36).round().astype(int)
        frequency = 1 / np.arange(1, words - 3)
        draw = random.choice(words - 4, int(lengths.sum()), p=frequency / frequency.sum()) + 4
        pieces = np.split(draw, np.cumsum(lengths)[:-1])
        self.captions = [torch.tensor([1, *piece, 2]) for piece in pieces]
        self.images = [number // 5 for number in range(len(pieces))]
        self.features = torch.randn(images, REGIONS, CHANNELS).half()


Steps = Iterator[tuple[Callable[[], Tensor], int]]
"""Without end: a function that computes a batch's loss, and the batch's number of real tokens."""


class Loader:
    """A DataLoader over captions in random order, padded to the longest of a batch."""

    def __init__(self, data: Data, pooled: bool) -> None:
        self._data, self._pooled = data, pooled

    def __len__(self) -> int:
        return len(self._data.captions)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        features = self._data.features[self._data.images[index]].float()
        return (features.mean(0) if self._pooled else features), self._data.captions[index]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        def collate(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
            rows.sort(key=lambda row: -len(row[1]))
            lengths = torch.tensor([len(caption) - 1 for _, caption in rows])
            return torch.stack([one for one, _ in rows]), pad_sequence([c for _, c in rows], batch_first=True), lengths

        loader = torch.utils.data.DataLoader(self, self._data.batch, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]
        device = self._data.device
        for _ in count():
            for features, captions, lengths in loader:
                yield features.to(device), captions.to(device), lengths  # packing needs lengths on the CPU


class Plain(nn.Module):
    """Show and Tell as it is usually implemented."""

    def __init__(self, words: int, hidden: int, embed: int) -> None:
        super().__init__()
        self.image, self.embedding = nn.Linear(CHANNELS, embed), nn.Embedding(words, embed)
        self.lstm, self.cell = nn.LSTM(embed, hidden, batch_first=True), nn.LSTMCell(embed, hidden)
        self.output, self.hidden = nn.Linear(hidden, words), hidden

    def inputs(self, pooled: Tensor, tokens: Tensor) -> Tensor:
        return torch.cat([self.image(pooled).unsqueeze(1), self.embedding(tokens)], 1)


def packed(model: Plain, pooled: Tensor, captions: Tensor, lengths: Tensor) -> Tensor:
    inputs = pack_padded_sequence(model.inputs(pooled, captions[:, 1:-1]), lengths, batch_first=True)
    targets = pack_padded_sequence(captions[:, 1:], lengths, batch_first=True).data
    return functional.cross_entropy(model.output(model.lstm(inputs)[0].data), targets)


def padded(model: Plain, pooled: Tensor, captions: Tensor, lengths: Tensor) -> Tensor:
    outputs = model.output(model.lstm(model.inputs(pooled, captions[:, 1:-1]))[0])
    return functional.cross_entropy(outputs.flatten(0, 1), captions[:, 1:].flatten(), ignore_index=0)


def cells(model: Plain, pooled: Tensor, captions: Tensor, lengths: Tensor) -> Tensor:
    inputs = model.inputs(pooled, captions[:, 1:-1])
    h = c = inputs.new_zeros(len(inputs), model.hidden)
    outputs = []
    for step in inputs.unbind(1):
        h, c = model.cell(step, (h, c))
        outputs.append(model.output(h))
    logits = torch.stack(outputs, 1).flatten(0, 1)
    return functional.cross_entropy(logits, captions[:, 1:].flatten(), ignore_index=0)


class PlainAttention(nn.Module):
    """Show, Attend and Tell as the popular tutorial implements it: everything at every step."""

    def __init__(self, words: int, hidden: int, embed: int, attention: int) -> None:
        super().__init__()
        self.embedding, self.output = nn.Embedding(words, embed), nn.Linear(hidden, words)
        self.of_regions, self.of_hidden = nn.Linear(CHANNELS, attention), nn.Linear(hidden, attention)
        self.score, self.gate = nn.Linear(attention, 1), nn.Linear(hidden, CHANNELS)
        self.cell = nn.LSTMCell(embed + CHANNELS, hidden)
        self.start = nn.ModuleList([nn.Linear(CHANNELS, hidden) for _ in range(2)])

    def forward(self, features: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        h, c = (start(features.mean(1)) for start in self.start)
        words = self.embedding(tokens)
        logits = features.new_zeros(*tokens.shape, self.output.out_features)
        for step in range(int(lengths.max())):
            n = int((lengths > step).sum())
            scores = self.score(torch.relu(self.of_regions(features[:n]) + self.of_hidden(h[:n]).unsqueeze(1)))
            context = (features[:n] * scores.softmax(1)).sum(1)
            context = torch.sigmoid(self.gate(h[:n])) * context
            h, c = self.cell(torch.cat([words[:n, step], context], 1), (h[:n], c[:n]))
            logits[:n, step] = self.output(h)
        return logits


def plain_attention(model: PlainAttention, features: Tensor, captions: Tensor, lengths: Tensor) -> Tensor:
    logits = model(features, captions[:, :-1], lengths)
    return functional.cross_entropy(logits.flatten(0, 1), captions[:, 1:].flatten(), ignore_index=0)


def loader_steps(loss: Callable[..., Tensor], model: nn.Module, data: Data) -> Steps:
    """The loss of each batch of a DataLoader."""
    for features, captions, lengths in Loader(data, pooled=isinstance(model, Plain)):
        yield partial(loss, model, features, captions, lengths), int(lengths.sum())


def ours(decoder: Decoder, data: Data, bfloat16: bool) -> Steps:
    source, batches = our_batches(decoder, data)
    loss_of = CaptionLoss(decoder)
    for epoch in count(1):
        for batch, features in with_features(batches.epoch(epoch), source, data.device):

            def loss(batch: Batch = batch, features: Tensor = features) -> Tensor:
                with torch.autocast(data.device.type, torch.bfloat16, enabled=bfloat16):
                    return loss_of(features, batch) / batch.tokens

            yield loss, batch.tokens


def our_batches(decoder: Decoder, data: Data) -> tuple[FeatureSource, Batches]:
    source: FeatureSource = ResidentFeatures(decoder.pool(data.features).to(data.device))
    captions = [one.tolist() for one in data.captions]
    return source, Batches(captions, data.images, batch_size=data.batch, seed=1)


def graphed_tokens_per_second(decoder: Decoder, data: Data, bfloat16: bool, seconds: float) -> float:
    """Whole epochs of the steps that training replays as CUDA graphs; the first epoch captures them."""
    source, batches = our_batches(decoder, data)
    loss_of = CaptionLoss(decoder)
    optimizer = torch.optim.AdamW(loss_of.parameters(), lr=1e-4, fused=True, capturable=True)
    step = GraphedStep(loss_of, optimizer, None, clip=5.0, ema_decay=0.0, bfloat16=bfloat16)
    tokens, began = 0, 0.0
    for epoch in count():
        padded = (static_shape(batch, batches.batch_size) for batch in batches.epoch(epoch))
        for batch, features in with_features(padded, source, data.device):
            step([Term(features, batch)], 1e-4)
            tokens += batch.tokens
        spent = now(data.device) - began
        if epoch == 0:
            tokens, began = 0, now(data.device)
        elif spent > seconds:
            return tokens / spent
    raise AssertionError


def tokens_per_second(model: nn.Module, steps: Steps, seconds: float) -> float:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)  # for all of them
    device = next(model.parameters()).device
    tokens, began = 0, 0.0
    for number, (loss, real) in enumerate(steps):
        if number == 2:  # the first two warm up
            tokens, began = 0, now(device)
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        tokens += real
        if number > 2 and time.perf_counter() - began > seconds:
            return tokens / (now(device) - began)
    raise AssertionError


def now(device: torch.device) -> float:
    """Seconds, after the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.inference_mode()
def seconds_per_image(device: torch.device) -> float:
    """Seconds of a frozen ResNet-50 at 224 pixels per image, as in a training loop without cached features."""
    from torchvision.models import resnet50

    network, images = resnet50(weights=None).eval().to(device), torch.randn(8, 3, 224, 224, device=device)
    network(images)
    began = now(device)
    network(images)
    return (now(device) - began) / len(images)


def precisions(device: torch.device) -> list[str]:
    """Those that `train.precision: auto` chooses from."""
    return ["tf32" if device.type == "cuda" else "float32", *["bfloat16"] * supports_bfloat16(device)]


def measure_training(sizes: Sizes, device: torch.device, seconds: float) -> dict[str, float]:
    """Tokens/s of the other implementations and of the four decoders; each is measured for `seconds`."""
    data = Data(sizes.words, sizes.batch, device)
    options = {"embed": sizes.embed, "hidden": sizes.hidden}
    options |= {"feature_dropout": 0.1, "embedding_dropout": 0.3, "output_dropout": 0.3}
    rates: dict[str, float] = {}

    def measure_ours(*kinds: str) -> None:
        for kind, precision in product(kinds, precisions(device)):
            params = {"kind": kind, **options} | ({"attention": sizes.hidden} if kind in ATTENTIVE else {})
            decoder = make_decoder(params, vocabulary=sizes.words, regions=REGIONS, channels=CHANNELS)
            decoder = decoder.to(device).train()
            bfloat16 = precision == "bfloat16"
            with deterministic(0), tensor_float_32() if precision == "tf32" else nullcontext():
                if device.type == "cuda":
                    accelerate(decoder, device)
                    rate = graphed_tokens_per_second(decoder, data, bfloat16, seconds)
                else:
                    rate = tokens_per_second(decoder, ours(decoder, data, bfloat16), seconds)
            rates[f"ours, {kind}, {precision}"] = rate

    plain = (sizes.words, sizes.hidden, sizes.embed)
    for name, loss in {"LSTMCell loop": cells, "padded nn.LSTM": padded, "packed sequences": packed}.items():
        model = Plain(*plain).to(device)
        rates[f"{name}, DataLoader"] = tokens_per_second(model, loader_steps(loss, model, data), seconds)
    with_cnn = seconds_per_image(device) / (sum(map(len, data.captions)) / len(data.captions) - 1)  # per token
    rates["packed, ResNet-50 in the loop (extrapolated)"] = 1 / (1 / rates[PACKED] + with_cnn)
    measure_ours("inject", "merge")
    tutorial = PlainAttention(*plain, sizes.hidden).to(device)
    rates[TUTORIAL] = tokens_per_second(tutorial, loader_steps(plain_attention, tutorial, data), seconds)
    measure_ours(*ATTENTIVE)
    return rates


def print_table(rates: dict[str, float]) -> None:
    print("| | tokens/s | / packed | / cell loop | / tutorial attention |\n|---|---|---|---|---|")
    for name, rate in rates.items():
        ratios = (rate / rates[peer] for peer in (PACKED, "LSTMCell loop, DataLoader", TUTORIAL))
        print(f"| {name} | {rate:,.0f} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--embed", type=int, default=256)
    parser.add_argument("--words", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    device = choose_device(given.device)
    rates = measure_training(Sizes(given.hidden, given.embed, given.words, given.batch), device, given.seconds)
    sizes = f"hidden {given.hidden}, embed {given.embed}, {given.words} words, batch {given.batch}"
    print(f"{sizes}, {given.threads} threads, {device}\n")
    print_table(rates)


if __name__ == "__main__":
    main()
