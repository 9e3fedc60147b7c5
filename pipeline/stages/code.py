"""Stage `code`: the fingerprint of each stage's code, which the other stages of dvc.yaml depend on.

It runs after every change below pipeline/ and takes a second. A changed comment gives the same fingerprints, so that
nothing else runs; a changed meaning runs the stages that it can affect.
"""

from pathlib import Path

from pipeline import paths
from pipeline.files import write_text
from pipeline.fingerprint import STAGE_PARAMS, Sources, combined, stage_parts


def code(folder: Path = paths.CODE) -> dict[str, dict[str, str]]:
    """Write each stage's fingerprint to `<stage>.txt`, and below it those of its parts, to show what a change touched.

    Returns the sha256 of each part, by stage and by the part's name.
    """
    sources = Sources()
    found = {stage: stage_parts(stage, sources) for stage in STAGE_PARAMS}
    for stage, parts in found.items():
        lines = [f"{combined(parts)}  {stage}", *(f"{digest}  {name}" for name, digest in sorted(parts.items()))]
        write_text(folder / f"{stage}.txt", "\n".join(lines) + "\n")
    return found
