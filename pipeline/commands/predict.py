"""`captioner predict`: captions for files, folders and glob patterns."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline import paths
from pipeline.commands.terminal import say
from pipeline.errors import DataError


def predict(
    pictures: Annotated[list[str], typer.Argument(help="Files, folders (with all below them) or glob patterns.")],
    model: Annotated[Path, typer.Option(help="The model file.")] = paths.MODEL,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per picture and line.")] = False,
    captions: Annotated[int, typer.Option("--num-captions", min=1, help="Captions per picture.")] = 1,
    beam: Annotated[int, typer.Option(min=1, help="Captions kept in the search; 1 is greedy.")] = 3,
    max_length: Annotated[int, typer.Option(min=1, help="Longest caption, in words.")] = 30,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Caption pictures with a trained model."""
    files = _find(pictures)
    from pipeline.decoders.search import Search
    from pipeline.predict import Captioner

    captioner = Captioner.load(model, device=device)
    bad = 0
    for answer in captioner.answers(files, Search(beam, max_length), captions=captions):
        if answer.error:
            bad += 1
            say(f"error: {answer.error}")
        if as_json:
            said = [{"caption": one.text, "score": round(one.score, 4)} for one in answer.captions]
            print(json.dumps({"image": str(answer.path), "captions": said, "error": answer.error}, ensure_ascii=False))
        else:
            for one in answer.captions:
                print(f"{answer.path}: {one.text}")
        sys.stdout.flush()
    if bad:
        raise DataError(f"{bad} of {len(files)} pictures could not be captioned; the lines above say why")


def _find(patterns: list[str]) -> list[Path]:
    """The files that are meant, in the order given. Raises `DataError` naming what matches nothing."""
    import glob

    from pipeline.features.images import SUFFIXES

    files: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        elif path.exists():
            found = [path]
        else:
            found = sorted(map(Path, glob.glob(pattern, recursive=True)))
        if not found:
            raise DataError(f"{pattern}: no picture there; give a file, a folder or a quoted glob pattern")
        files += found
    return files
