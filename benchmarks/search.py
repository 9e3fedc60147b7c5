"""Beam search: ours, all pictures and beams at once, beside one picture at a time as the tutorials do it, in one run.

    python benchmarks/search.py [--kind attention] [--beam 5] [--pictures 512]

Both must find the same captions with the same layers; the script fails when they do not. Our layers round otherwise,
which can change a caption here: untrained decoders hold many nearly equal ones. Prints the table of docs/benchmarks.md.
"""

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from pipeline.accel.linear import Linear
from pipeline.allocator import keep_freed_memory
from pipeline.decoders import BOS, EOS, PAD, UNK, Decoder, make_decoder
from pipeline.decoders.additive_attention import AdditiveAttention
from pipeline.decoders.beam_search import SearchOptions, beam_search
from pipeline.decoders.decoder import State
from pipeline.device import choose_device, supports_bfloat16


class UsualLook(nn.Module):
    """Attention as its paper writes it: a tanh for each pair of region and query."""

    def __init__(self, look: AdditiveAttention) -> None:
        super().__init__()
        self.key, self.query, self.score = look.key, look.query, look.score

    def keys(self, values: Tensor) -> Tensor:
        keys: Tensor = self.key(values)
        return keys

    def forward(self, values: Tensor, keys: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        query = self.query(h).unflatten(0, (values.shape[0], -1)).unsqueeze(2)
        weights = self.score(torch.tanh(keys.unsqueeze(1) + query)).squeeze(-1).softmax(-1)
        return torch.bmm(weights, values).flatten(0, 1), weights.flatten(0, 1)


def usual(decoder: Decoder) -> Decoder:
    """The same decoder with torch's own layers, as anybody would write it."""
    copied = copy.deepcopy(decoder)
    for name, module in list(copied.named_modules()):
        if isinstance(module, Linear):
            plain = nn.Linear(module.in_features, module.out_features, module.bias is not None)
            plain.load_state_dict(module.state_dict())
            copied.set_submodule(name, plain)
    for name, module in list(copied.named_modules()):
        if isinstance(module, AdditiveAttention):
            copied.set_submodule(name, UsualLook(module))
    return copied.eval()


@torch.inference_mode()
def one_at_a_time(decoder: Decoder, features: Tensor, search: SearchOptions) -> list[tuple[int, ...]]:
    """The beam search that is copied from tutorial to tutorial: a loop over pictures; a beam that ends leaves."""
    best_of_each = []
    for picture in features:
        beams, k = [], search.beam_size
        state = decoder.start(picture.unsqueeze(0).expand(k, -1, -1))
        tokens, scores = torch.full((k,), BOS), torch.zeros(k, 1)
        sequences: Tensor = torch.empty(k, 0, dtype=torch.long)
        for length in range(1, search.max_length + 2):
            log_probs, state = decoder.step(state, tokens)
            log_probs[:, [PAD, BOS, UNK]] = -torch.inf
            if length == search.max_length + 1:
                log_probs[:, [token for token in range(log_probs.shape[1]) if token != EOS]] = -torch.inf
            total = scores + log_probs
            flat = total[0] if length == 1 else total.flatten()
            top, place = flat.topk(k)
            parent, tokens = place // log_probs.shape[1], place % log_probs.shape[1]
            sequences = torch.cat([sequences[parent], tokens.unsqueeze(1)], 1)
            ended = [number for number, token in enumerate(tokens) if token == EOS and top[number].isfinite()]
            for number in ended:
                beams.append((float(top[number]) / length**search.length_penalty, sequences[number, :-1].tolist()))
            going = [number for number in range(k) if number not in ended]
            k -= len(ended)
            if not k:
                break
            kept = parent[going]
            state = State(tuple(part[kept] for part in state.picture), tuple(part[kept] for part in state.beam))
            sequences, tokens, scores = sequences[going], tokens[going], top[going].unsqueeze(1)
        best_of_each.append(tuple(max(beams, key=lambda one: one[0])[1]))
    return best_of_each


def batched(decoder: Decoder, features: Tensor, search: SearchOptions, batch: int, half: bool) -> list[tuple[int, ...]]:
    search = replace(search, precision="bfloat16" if half else "float32")
    return [best.tokens for chunk in features.split(batch) for best, *_ in beam_search(decoder, chunk, search)]


def rate(work: Callable[[], list[tuple[int, ...]]], repeats: int = 2) -> tuple[float, list[tuple[int, ...]]]:
    """Pictures per second, best of some runs, and what was found."""
    best = 0.0
    for _ in range(repeats):
        began = time.perf_counter()
        found = work()
        best = max(best, len(found) / (time.perf_counter() - began))
    return best, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", default="attention")
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=512)
    parser.add_argument("--words", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()  # as `score` does; both gain
    torch.manual_seed(0)
    params = {
        "kind": given.kind,
        "embed": 256,
        "hidden": 512,
        "attention": 512,
        "feature_dropout": 0.0,
        "embedding_dropout": 0.0,
        "output_dropout": 0.0,
        "tie_weights": False,
        "layer_norm": False,
    }
    decoder = make_decoder(params, vocabulary=given.words, regions=49, channels=1280).eval()
    for parameter in decoder.parameters():  # sharper opinions than an untrained decoder has: captions then differ
        parameter.data.mul_(2.5)
    features = torch.randn(given.pictures, 49, 1280)
    search = SearchOptions(given.beam, 20, 0.7)
    plain = usual(decoder)
    few = features[: max(16, given.pictures // 4)]
    alone, expected = rate(lambda: one_at_a_time(plain, few, search))
    if batched(plain, few, search, 64, half=False) != expected:
        raise SystemExit("the batched search found other captions than the one for one picture")
    device = choose_device(given.device)
    decoder.to(device)
    features = features.to(device)
    print(f"{given.kind}, beam {given.beam}, hidden 512, {given.words} words, {given.threads} threads, {device}\n")
    print("| | pictures/s | of one at a time | same captions |\n|---|---|---|---|")
    print(f"| one picture at a time, float32 | {alone:,.1f} | 1.0 | |")
    for batch in (64, 256):
        for half in (False, True)[: 1 + supports_bfloat16(device)]:
            ours, found = rate(lambda batch=batch, half=half: batched(decoder, features, search, batch, half))
            same = sum(one == other for one, other in zip(expected, found, strict=False)) / len(expected)
            name = f"ours, batches of {batch}, {'bfloat16' if half else 'float32'}"
            print(f"| {name} | {ours:,.1f} | {ours / alone:.1f} | {same:.1%} |")


if __name__ == "__main__":
    main()
