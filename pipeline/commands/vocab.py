"""`captioner vocab`: the stage of dvc.yaml."""

from pipeline import paths
from pipeline.commands.terminal import ParamsFile, read, say


def vocab(params: ParamsFile = paths.PARAMS) -> None:
    """Build the vocabulary from the training captions."""
    from pipeline.stages.vocab import VocabFiles
    from pipeline.stages.vocab import vocab as run

    report = run(VocabFiles(), read(params))
    if report.cut:
        say(
            f"warning: {report.cut:,} of {report.captions:,} training captions are longer than {report.max_length} "
            f"{report.unit}s, the longest {report.longest:,}; train will cut them (params.vocab.max_length)"
        )
    covered = ", ".join(f"{share:.1%} of {split}" for split, share in report.coverage.items())
    say(f"vocab: {report.tokens} tokens ({report.unit}s)" + (f", which cover {covered}" if covered else ""))
