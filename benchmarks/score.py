"""Time and scores of 5,000 captions against 25,000 references: this package and pycocoevalcap.

    python benchmarks/score.py [--captions FILE] [--images 5000]

Both get the same raw text and tokenize it themselves: this package with its own tokenizer, pycocoevalcap with the
Stanford tokenizer in Java. This package also computes a 95% interval for each score from 1,000 resamples of the images.
Without `--captions` (a CSV file with the columns image and caption) sentences are drawn from a small grammar. The
hypothesis of every second image is one of its own five references, and for the others one of another image's.
"""

import argparse
import contextlib
import io
import random
import shutil
import time
from pathlib import Path

from pipeline.datasets.caption_files import read_reference_file
from pipeline.metrics.evaluation import evaluate

_LISTS = {
    "who": "man woman child dog cat horse surfer skier player girl boy crowd cyclist climber band couple",
    "how": "small large old young brown black white happy wet tired red-haired smiling sleeping",
    "does": "runs sits stands jumps sleeps plays climbs waits swims dances rides walks",
    "where": "grass snow beach street field mountain river sofa bridge stage boat roof",
    "near": "on near behind beside under",
}
WORDS = {kind: words.split() for kind, words in _LISTS.items()}


def sentences(images: int, generator: random.Random) -> dict[str, list[str]]:
    """Five captions of each image, which share some words."""

    def draw(kind: str) -> str:
        return generator.choice(WORDS[kind])

    captions = {}
    for number in range(images):
        who, where = draw("who"), draw("where")
        captions[f"{number}.jpg"] = [
            generator.choice(
                [
                    f"A {draw('how')} {who} {draw('does')} {draw('near')} the {where}.",
                    f"The {who} {draw('does')} {draw('near')} a {draw('how')} {where}, and a {draw('who')} looks on.",
                    f"There's a {draw('how')} {who} that {draw('does')} {draw('near')} the {where}.",
                ]
            )
            for _ in range(5)
        ]
    return captions


def pairs(captions: dict[str, list[str]], generator: random.Random) -> dict[str, str]:
    """A hypothesis per image: one of its own captions, or for every second image a caption of another one."""
    images = list(captions)
    return {
        image: generator.choice(captions[image if index % 2 else generator.choice(images)])
        for index, image in enumerate(images)
    }


def pycocoevalcap_scores(
    hypotheses: dict[str, str], references: dict[str, list[str]]
) -> tuple[dict[str, float], dict[str, float]]:
    """The scores of pycocoevalcap, and its seconds by part."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    scores, seconds, start = {}, {}, time.perf_counter()

    def lap(name: str) -> None:
        nonlocal start
        seconds[name], start = time.perf_counter() - start, time.perf_counter()

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        tokenizer = PTBTokenizer()
        gts = tokenizer.tokenize({image: [{"caption": text} for text in texts] for image, texts in references.items()})
        res = tokenizer.tokenize({image: [{"caption": text}] for image, text in hypotheses.items()})
        lap("tokenizer (Java)")
        for name, value in zip(
            ("bleu_1", "bleu_2", "bleu_3", "bleu_4"), Bleu(4).compute_score(gts, res)[0], strict=True
        ):
            scores[name] = 100 * value
        lap("BLEU")
        scores["cider_d"] = 100 * Cider().compute_score(gts, res)[0]
        lap("CIDEr-D")
        scores["rouge_l"] = 100 * Rouge().compute_score(gts, res)[0]
        lap("ROUGE-L")
    return scores, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=Path)
    parser.add_argument("--images", type=int, default=5000)
    given = parser.parse_args()
    generator = random.Random(0)
    if given.captions:
        everything = read_reference_file(given.captions).captions
        captions = {image: list(texts[:5]) for image, texts in list(everything.items())[: given.images]}
    else:
        captions = sentences(given.images, generator)
    hypotheses = pairs(captions, generator)
    print(f"{len(hypotheses):,} captions, {sum(map(len, captions.values())):,} references")

    start = time.perf_counter()
    ours = evaluate(hypotheses, captions, seed=0)
    elapsed = time.perf_counter() - start
    print(f"ours, with intervals   {elapsed:6.2f} s")
    if shutil.which("java") is None:
        print("pycocoevalcap          needs Java, which is not on the PATH")
        return
    scores, seconds = pycocoevalcap_scores(hypotheses, captions)
    total = sum(seconds.values())
    parts = ", ".join(f"{name} {value:.2f}" for name, value in seconds.items())
    print(f"pycocoevalcap          {total:6.2f} s  ({parts})")
    print(f"ratio                  {total / elapsed:6.2f}\n")
    print("            ours      pycocoevalcap  difference")
    for name, value in ours.scores.corpus.items():
        print(f"{name:8s} {value:11.6f} {scores[name]:11.6f}    {abs(value - scores[name]):.1e}")


if __name__ == "__main__":
    main()
