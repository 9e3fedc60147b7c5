"""Stage `code`: the fingerprint of each stage's code, which the other stages of dvc.yaml depend on.

It runs after every change below pipeline/ and takes a second. A changed comment gives the same fingerprints, so that
nothing else runs; a changed meaning runs the stages that it can affect.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline import paths
from pipeline.files import write_text
from pipeline.fingerprint import STAGE_PARAMS, Sources, combined, stage_parts


@dataclass(frozen=True)
class CodeFiles:
    """Output of the stage."""

    folder: Path = paths.CODE
    """Receives one `<stage>.txt` per stage."""


@dataclass(frozen=True)
class CodeReport:
    """The sha256 of each part of the code, by stage and by the part's name."""

    parts: Mapping[str, Mapping[str, str]]


def code(files: CodeFiles = CodeFiles()) -> CodeReport:
    """Write each stage's fingerprint, and below it those of its parts, which show what a change has touched."""
    sources = Sources()
    found = {stage: stage_parts(stage, sources) for stage in STAGE_PARAMS}
    for stage, parts in found.items():
        lines = [f"{combined(parts)}  {stage}", *(f"{digest}  {name}" for name, digest in sorted(parts.items()))]
        write_text(files.folder / f"{stage}.txt", "\n".join(lines) + "\n")
    return CodeReport(found)
