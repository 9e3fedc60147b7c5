"""The stages of dvc.yaml as commands: read params.yaml, run the stage on the project's paths, say what came out."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import paths
from pipeline.commands.terminal import (
    ParamsFile,
    announce_device,
    checkpoint_folder,
    progress_bar,
    read,
    say,
    store_folder,
)

if TYPE_CHECKING:
    from pipeline.training.loop import Epoch


def prepare(params: ParamsFile = paths.PARAMS) -> None:
    """Read a dataset's captions, find its pictures, and list what cannot be used."""
    from pipeline.stages.prepare import prepare as run

    given = read(params)
    with progress_bar("prepare") as progress:
        found = run(
            given.data,
            seed=given.seed,
            captions_out=paths.CAPTIONS,
            images_out=paths.IMAGES,
            skipped_out=paths.SKIPPED_ROWS,
            progress=progress,
        )
    for one in found.skipped[:5]:
        say(f"skipped: {one.file}, line {one.line}: {one.image or '(no name)'}: {one.reason}")
    if len(found.skipped) > 5:
        say(f"skipped: {len(found.skipped) - 5} more, all in {paths.SKIPPED_ROWS}")
    if found.images != Path(given.data.images):
        say(
            f"warning: the pictures are not in {given.data.images} but in {found.images}; "
            "set params.data.images so that dvc notices when they change"
        )
    splits = ", ".join(f"{count} {split}" for split, count in found.pictures.items())
    say(f"prepare: {sum(found.pictures.values())} images ({splits}), {found.captions} captions")


def extract(params: ParamsFile = paths.PARAMS) -> None:
    """Run the frozen encoder once over every picture that has no features yet."""
    from pipeline.stages.extract import extract as run

    given = read(params)
    announce_device(given.run.device)
    with progress_bar("extract") as progress:
        done = run(
            given.encoder,
            given.run,
            seed=given.seed,
            max_bad=given.data.max_bad,
            images=paths.IMAGES,
            skipped=paths.SKIPPED_ROWS,
            features_out=paths.FEATURES,
            encoder_out=paths.ENCODER,
            skipped_out=paths.SKIPPED,
            store=store_folder(),
            progress=progress,
        )
    for image, reason in list(done.unreadable.items())[:5]:
        say(f"skipped: {image}: {reason}")
    bad = f", {len(done.unreadable)} unreadable (see {paths.SKIPPED})" if done.unreadable else ""
    say(
        f"extract: {done.pictures} images, {done.from_store} from the store, "
        f"{done.encoded} encoded in {done.seconds:.1f} s{bad}"
    )


def vocab(params: ParamsFile = paths.PARAMS) -> None:
    """Count the words of the training captions."""
    from pipeline.stages.vocab import build_vocabulary

    built = build_vocabulary(read(params).vocab, captions=paths.CAPTIONS, vocabulary_out=paths.VOCABULARY)
    say(f"vocab: {built.tokens} tokens, which cover {built.val_coverage:.1%} of the words in the val captions")


def train(params: ParamsFile = paths.PARAMS) -> None:
    """Train the decoder on the cached features."""
    from pipeline.stages.train import train as run

    given = read(params)
    announce_device(given.run.device)

    def show(epoch: "Epoch") -> None:
        total = given.train.epochs + given.train.scst.epochs
        learnt = f"reward {epoch.reward:5.1f}" if epoch.reward else f"loss {epoch.train_loss:.3f}"
        say(
            f"epoch {epoch.epoch:3d}/{total}  {learnt}  val CIDEr-D {epoch.val_cider_d:5.1f}  "
            f"{epoch.tokens_per_second:,.0f} tokens/s  at most {(total - epoch.epoch) * epoch.seconds:.0f} s left"
        )

    done = run(
        given.train,
        given.decoder,
        given.run,
        seed=given.seed,
        captions=paths.CAPTIONS,
        features=paths.FEATURES,
        vocabulary=paths.VOCABULARY,
        encoder=paths.ENCODER,
        model_out=paths.MODEL,
        curve_out=paths.TRAINING,
        checkpoints=checkpoint_folder(),
        on_epoch=show,
    )
    if done.trained.resumed_after:
        say(f"train: went on after epoch {done.trained.resumed_after}, where an interrupted run had stopped")
    best = done.trained.best
    say(
        f"train: {done.captions} captions of {done.pictures} images, {done.parameters:,} parameters; "
        f"best of {done.trained.epochs} epochs: {best.epoch}, val CIDEr-D {best.val_cider_d:.1f}"
    )


def score(params: ParamsFile = paths.PARAMS) -> None:
    """Caption a split and score it: BLEU, CIDEr-D, ROUGE-L."""
    from pipeline.stages.score import NAMES, score_split

    given = read(params)
    announce_device(given.run.device)
    with progress_bar("score") as progress:
        result = score_split(
            given.score,
            given.run,
            seed=given.seed,
            captions=paths.CAPTIONS,
            images=paths.IMAGES,
            features=paths.FEATURES,
            model=paths.MODEL,
            curve=paths.TRAINING,
            scores_out=paths.SCORES,
            captions_out=paths.SCORED_CAPTIONS,
            report_out=paths.REPORT,
            progress=progress,
        )
    card = result.scorecard
    say(f"score: {card.pictures} images of the {given.score.split} split (95% interval)")
    for name, title in NAMES.items():
        low, high = card.intervals[name]
        say(f"  {title:8s} {card.scores[name]:6.1f}   {low:6.1f} to {high:.1f}")
    say(f"  look at {paths.REPORT}")
