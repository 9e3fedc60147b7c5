"""Records the output of the Stanford PTB tokenizer in tokenizer_fixture.json, against which `tokenize` is tested.

A development script. It needs Java, pycocoevalcap 1.2, whose wheel has the tokenizer's jar, and the captions of
Flickr8k and coco-mini. The tests only read the fixture:

    python tests/text/make_tokenizer_fixture.py --data ../shared/data

`pairs` holds texts and their tokens; to add a text, write it there with an empty list. Each is tokenized before an
ordinary line, so that no other text affects it. `digests` holds a sha256 for each block of 1,000 captions of the two
datasets, tokenized file by file as in coco-caption.
"""

import argparse
import csv
import hashlib
import importlib.util
import json
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
FIXTURE = HERE / "tokenizer_fixture.json"
BLOCK = 1000
JAR = "stanford-corenlp-3.4.1.jar"
# coco-caption's list.
PUNCTUATION = "'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;"
ORDINARY = "x y"


def ask(texts: list[str], jar: Path) -> list[list[str]]:
    """The jar's tokens of each text, less coco-caption's punctuation."""
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        file.write("\n".join(text.replace("\n", " ") for text in texts).encode())
        file.flush()
        options = ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
        done = subprocess.run(["java", "-cp", str(jar), *options, file.name], capture_output=True, check=True)
    lines = done.stdout.decode().split("\n")[: len(texts)]
    if len(lines) != len(texts):
        raise SystemExit(f"{len(texts)} texts in, {len(lines)} lines out")
    dropped = {"", *PUNCTUATION.split()}
    return [[token for token in line.rstrip().split(" ") if token not in dropped] for line in lines]


def ask_alone(texts: list[str], jar: Path) -> list[list[str]]:
    """Like `ask`, with an ordinary line after each text, because the jar reads past the end of a line."""
    return ask([line for text in texts for line in (text, ORDINARY)], jar)[::2]


def read_flickr8k(path: Path) -> list[str]:
    """Kaggle's captions, in the order of the file."""
    with path.open(newline="", encoding="utf-8") as file:
        return [row["caption"] for row in csv.DictReader(file)]


def read_coco(folder: Path) -> list[str]:
    """The captions of both annotation files, in the order of the files' names."""
    files = sorted(folder.glob("captions_*2017.json"))
    contents = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return [annotation["caption"] for content in contents for annotation in content["annotations"]]


def digests(tokens: list[list[str]]) -> list[str]:
    """A sha256 for each block of captions; a caption is its tokens with spaces between, on one line."""
    lines = [" ".join(caption) + "\n" for caption in tokens]
    blocks = ("".join(lines[start : start + BLOCK]) for start in range(0, len(lines), BLOCK))
    return [hashlib.sha256(block.encode()).hexdigest() for block in blocks]


def find_jar() -> Path:
    """The tokenizer in the installed pycocoevalcap."""
    package = importlib.util.find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("pycocoevalcap is not installed: pip install pycocoevalcap==1.2, or give --jar")
    return Path(package.submodule_search_locations[0]) / "tokenizer" / JAR


def main() -> None:
    """Ask the jar and write the fixture."""
    parser = argparse.ArgumentParser(description="Ask the Stanford PTB tokenizer and write the fixture.")
    parser.add_argument("--data", type=Path, required=True, help="holds flickr8k-captions/ and coco-mini/")
    parser.add_argument("--jar", type=Path, help=f"{JAR}; by default the installed pycocoevalcap's")
    options = parser.parse_args()
    jar = options.jar or find_jar()
    datasets = {
        "flickr8k": read_flickr8k(options.data / "flickr8k-captions" / "captions.txt"),
        "coco-mini": read_coco(options.data / "coco-mini" / "annotations"),
    }
    texts = [text for text, _ in json.loads(FIXTURE.read_text(encoding="utf-8"))["pairs"]]
    pairs = list(zip(texts, ask_alone(texts, jar), strict=True))
    rows = ",\n".join(json.dumps(pair, ensure_ascii=True) for pair in pairs)
    others = json.dumps({name: digests(ask(captions, jar)) for name, captions in datasets.items()}, indent=1)
    FIXTURE.write_text(f'{{"pairs": [\n{rows}\n],\n"digests": {others}}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
