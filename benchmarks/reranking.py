"""Choosing captions by consensus: what it costs beside the search, and what the model file has to hold for it.

    python benchmarks/consensus.py [--pictures 1000 6000 113287] [--hidden 256] [--words 1500]

Draws captions with Zipf's law and pictures at random. Prints the table of docs/benchmarks.md.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from pipeline.allocator import keep_freed_memory
from pipeline.decoders import make_decoder
from pipeline.decoders.beam_search import SearchOptions, beam_search
from pipeline.inference.reranking import Reranker

PER_PICTURE, LENGTH, BATCH = 5, 11, 64


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, nargs="+", default=[1000, 6000, 113_287])
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--words", type=int, default=1500)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    params = dict.fromkeys(("feature_dropout", "embedding_dropout", "output_dropout"), 0.0)
    params |= {"kind": "attention", "embed": 256, "hidden": given.hidden, "attention": 128}
    params |= {"tie_weights": False, "layer_norm": False}
    decoder = make_decoder(params, vocabulary=given.words, regions=49, channels=1280).eval()
    features, search = torch.randn(BATCH, 49, 1280), SearchOptions(10, 20, 1.0)
    found = beam_search(decoder, features, search, captions=10)
    alone = seconds(lambda: beam_search(decoder, features, search, captions=10)) / BATCH * 1e3
    narrow = seconds(lambda: beam_search(decoder, features, SearchOptions(4, 20, 1.0))) / BATCH * 1e3
    random = np.random.default_rng(0)
    asked = random.standard_normal((BATCH, given.hidden), dtype=np.float32)
    print(
        f"attention, hidden {given.hidden}, {given.words:,} words, one thread: beam 4 {narrow:.1f} ms a picture, ",
        end="",
    )
    print(f"beam 10 {alone:.1f} ms\n")
    print("| training pictures | to store_captions them | in the model file | a choice | alone | all, of beam 4 |")
    print("|---|---|---|---|---|---|")
    for pictures in given.pictures:
        known = random.standard_normal((pictures, given.hidden), dtype=np.float32)
        words = np.minimum(random.zipf(1.3, (pictures, PER_PICTURE, LENGTH)) + 3, given.words - 1).tolist()
        began = time.perf_counter()
        memory = Reranker.store_captions(known, words, vocabulary=given.words)
        took = time.perf_counter() - began
        size = sum(array.nbytes for array in memory.arrays().values()) / 1e6
        memory.ranked(asked, found, neighbours=60, weight=4.0)
        chosen = seconds(lambda memory=memory: memory.ranked(asked, found, neighbours=60, weight=4.0)) / BATCH * 1e3
        single = seconds(lambda memory=memory: memory.ranked(asked[:1], found[:1], neighbours=60, weight=4.0)) * 1e3
        whole = (alone + chosen) / narrow
        print(f"| {pictures:,} | {took:.1f} s | {size:,.1f} MB | {chosen:.1f} ms | {single:.1f} ms | {whole:.1f} |")


if __name__ == "__main__":
    main()
