"""Time and size of re-ranking, beside the beam search.

    python benchmarks/reranking.py [--images 1000 6000 113287] [--hidden 256] [--words 1500]

Captions follow Zipf's law; image vectors are random. Prints the table of docs/benchmarks.md.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from pipeline.accel.decoders import accelerate
from pipeline.decoders.beam_search import beam_search
from pipeline.decoders.registry import DECODERS, make_decoder
from pipeline.decoders.search import SearchOptions
from pipeline.inference.reranking import Reranker, RerankOptions

CAPTIONS_PER_IMAGE, LENGTH, BATCH = 5, 11, 64
RERANK = RerankOptions(neighbors=60, weight=4.0)


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """The shortest of several runs."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 6000, 113_287])
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--words", type=int, default=1500)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    params = DECODERS["attention"].options(kind="attention", embed=256, hidden=given.hidden, attention=128)
    decoder = make_decoder(params.model_dump(), vocabulary=given.words, regions=49, channels=1280).eval()
    accelerate(decoder, torch.device("cpu"))
    features, options = torch.randn(BATCH, 49, 1280), SearchOptions(10, 20, 1.0)
    hypotheses = beam_search(decoder, features, options, captions=10)
    wide = seconds(lambda: beam_search(decoder, features, options, captions=10)) / BATCH * 1e3
    narrow = seconds(lambda: beam_search(decoder, features, SearchOptions(4, 20, 1.0))) / BATCH * 1e3
    random = np.random.default_rng(0)
    queries = random.standard_normal((BATCH, given.hidden), dtype=np.float32)
    print(f"attention decoder, hidden {given.hidden}, {given.words:,} words, one thread; per image:", end=" ")
    print(f"beam 4 {narrow:.1f} ms, beam 10 {wide:.1f} ms\n")
    print("| training images | build | in the model file | re-rank in a batch | alone | beam 10 + re-rank / beam 4 |")
    print("|---|---|---|---|---|---|")
    for images in given.images:
        vectors = random.standard_normal((images, given.hidden), dtype=np.float32)
        captions = np.minimum(random.zipf(1.3, (images, CAPTIONS_PER_IMAGE, LENGTH)) + 3, given.words - 1).tolist()
        began = time.perf_counter()
        reranker = Reranker.build(vectors, captions, vocabulary=given.words)
        built = time.perf_counter() - began
        size = sum(array.nbytes for array in reranker.arrays().values()) / 1e6
        reranker.rerank(queries, hypotheses, RERANK)

        def batch(reranker: Reranker = reranker) -> object:
            return reranker.rerank(queries, hypotheses, RERANK)

        def alone(reranker: Reranker = reranker) -> object:
            return reranker.rerank(queries[:1], hypotheses[:1], RERANK)

        each, single = seconds(batch) / BATCH * 1e3, seconds(alone) * 1e3
        ratio = (wide + each) / narrow
        print(f"| {images:,} | {built:.1f} s | {size:,.1f} MB | {each:.1f} ms | {single:.1f} ms | {ratio:.1f} |")


if __name__ == "__main__":
    main()
