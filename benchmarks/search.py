"""Beam search: batched over images and beams, compared with one image at a time as in tutorials.

    python benchmarks/search.py [--kind attention] [--beam 5] [--images 512] [--device cpu]

Both searches must find the same captions with the same plain decoder; otherwise the script fails. The accelerated
decoder rounds differently, which changes some captions here: untrained decoders have many nearly equal ones. Prints the
table of docs/benchmarks.md, in seconds of CPU time on a CPU.
"""

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.accel.decoders import accelerate
from pipeline.decoders.beam_search import beam_search
from pipeline.decoders.decoder import Decoder, State
from pipeline.decoders.registry import DECODERS, make_decoder
from pipeline.decoders.search import NEVER_GENERATED, SearchOptions
from pipeline.device import choose_device, supports_bfloat16
from pipeline.tokens import BOS, EOS

Captions = list[tuple[int, ...]]


@torch.inference_mode()
def one_at_a_time(decoder: Decoder, features: Tensor, options: SearchOptions) -> Captions:
    """The beam search of the tutorials: a loop over images, from which a beam that ends is removed."""
    captions = []
    for image in features:
        finished, k = [], options.beam_size
        state = decoder.start(image.unsqueeze(0).expand(k, -1, -1))
        device = features.device
        tokens, scores = torch.full((k,), BOS, device=device), torch.zeros(k, 1, device=device)
        sequences: Tensor = torch.empty(k, 0, dtype=torch.long, device=device)
        for length in range(1, options.max_length + 2):
            log_probs, state = decoder.step(state, tokens)
            log_probs[:, NEVER_GENERATED] = -torch.inf
            if length == options.max_length + 1:
                log_probs[:, [token for token in range(log_probs.shape[1]) if token != EOS]] = -torch.inf
            total = scores + log_probs
            flat = total[0] if length == 1 else total.flatten()
            top, index = flat.topk(k)
            parent, tokens = index // log_probs.shape[1], index % log_probs.shape[1]
            sequences = torch.cat([sequences[parent], tokens.unsqueeze(1)], 1)
            ended = [n for n, token in enumerate(tokens) if token == EOS and top[n].isfinite()]
            for n in ended:
                finished.append((float(top[n]) / length**options.length_penalty, sequences[n, :-1].tolist()))
            alive = [n for n in range(k) if n not in ended]
            k -= len(ended)
            if not k:
                break
            kept = parent[alive]
            state = State(tuple(part[kept] for part in state.image), tuple(part[kept] for part in state.beam))
            sequences, tokens, scores = sequences[alive], tokens[alive], top[alive].unsqueeze(1)
        captions.append(tuple(max(finished, key=lambda one: one[0])[1]))
    return captions


def batched(decoder: Decoder, features: Tensor, options: SearchOptions, batch: int, precision: str) -> Captions:
    options = replace(options, precision=precision)
    return [best.tokens for chunk in features.split(batch) for best, *_ in beam_search(decoder, chunk, options)]


def images_per_second(work: Callable[[], Captions], device: torch.device, repeats: int = 3) -> tuple[float, Captions]:
    """The best rate of some runs, and the captions found."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter  # a search ends with values on the host
    best, found = 0.0, work()
    for _ in range(repeats):
        began = clock()
        work()
        best = max(best, len(found) / (clock() - began))
    return best, found


def build(kind: str, vocabulary: int) -> Decoder:
    """An untrained decoder with hidden size 512, whose larger weights make captions differ from image to image."""
    torch.manual_seed(0)
    sizes = {"embed": 256, "hidden": 512, "attention": 512}
    params = {name: size for name, size in sizes.items() if name in DECODERS[kind].options.model_fields}
    decoder = make_decoder({"kind": kind, **params}, vocabulary=vocabulary, regions=49, channels=1280).eval()
    for parameter in decoder.parameters():
        parameter.data.mul_(2.5)
    return decoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", default="attention", choices=DECODERS)
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    plain = build(args.kind, args.vocabulary)
    features = torch.randn(args.images, 49, 1280)
    options = SearchOptions(args.beam, 20, 0.7)
    few = features[: max(16, args.images // 8)]
    alone, expected = images_per_second(lambda: one_at_a_time(plain, few, options), torch.device("cpu"), repeats=1)
    if batched(plain, few, options, 64, "float32") != expected:
        raise SystemExit("the batched search found other captions than the search of one image at a time")
    print(
        f"{args.kind}, beam {args.beam}, hidden 512, vocabulary {args.vocabulary}, {args.threads} threads, {device}\n"
    )
    print("| | images/s | of one at a time | same captions |\n|---|---|---|---|")
    print(f"| one image at a time, CPU, float32 | {alone:,.1f} | 1.0 | |")
    decoders = {"plain": plain.to(device), "accelerated": accelerate(copy.deepcopy(plain).to(device), device)}
    features = features.to(device)
    for name, decoder in decoders.items() if device.type == "cpu" else [("plain", plain)]:
        for batch in (64, 256):
            for precision in ("float32", "bfloat16")[: 1 + supports_bfloat16(device)]:

                def work(decoder: Decoder = decoder, batch: int = batch, precision: str = precision) -> Captions:
                    return batched(decoder, features, options, batch, precision)

                rate, found = images_per_second(work, device)
                same = sum(one == other for one, other in zip(expected, found, strict=False)) / len(expected)
                print(f"| {name}, batches of {batch}, {precision} | {rate:,.1f} | {rate / alone:.1f} | {same:.1%} |")


if __name__ == "__main__":
    main()
