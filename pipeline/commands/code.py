"""`captioner code`: the stage of dvc.yaml that fingerprints the code of the others."""

from pipeline.commands.terminal import say
from pipeline.wording import counted


def code() -> None:
    """Write a fingerprint of the code of each stage, so that DVC re-runs the stages that a change can affect."""
    from pipeline.stages.code import code as run

    found = run()
    modules = {name for parts in found.values() for name in parts}
    say(f"code: {counted(len(found), 'fingerprint')} of {len(modules)} modules and data files")
