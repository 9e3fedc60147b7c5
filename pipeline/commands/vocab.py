"""`captioner vocab`: the stage of dvc.yaml."""

from pipeline import paths
from pipeline.commands.notes import word_warnings
from pipeline.commands.terminal import ParamsFile, read_params_file, say
from pipeline.wording import counted


def vocab(params: ParamsFile = paths.PARAMS) -> None:
    """Build the vocabulary from the training captions."""
    from pipeline.stages.vocab import VocabFiles
    from pipeline.stages.vocab import vocab as run

    report = run(VocabFiles(), read_params_file(params))
    if report.cut:
        say(
            f"warning: {report.cut:,} of {counted(report.captions, 'training caption')} "
            f"{'is' if report.cut == 1 else 'are'} longer than {counted(report.max_length, report.unit)}, the longest "
            f"{report.longest:,}; train will cut them (params.vocab.max_length)"
        )
    say(*word_warnings(0.0, report.share_with_dropped_letters))
    covered = ", ".join(f"{share:.1%} of {split}" for split, share in report.coverage.items())
    say(f"vocab: {counted(report.tokens, 'token')} ({report.unit}s)" + (f", which cover {covered}" if covered else ""))
