"""A folder of shards while it is filled: what it is made for, and which shards are finished.

    settings.json              the digest of the manifest, the encoder and the number of images per shard
    shards/000012.h5           the images of the manifest's 13th part that can be decoded
    shards/000012.skipped.csv  those that cannot, if any

A shard is written beside its name and renamed, after its list of skipped images. So a shard that exists is complete,
and tasks may be repeated at any time. The folder is a function of the manifest and the encoder alone.

n images of a shard, R regions, C channels.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ArtefactError, CaptionerError
from pipeline.features.feature_file import Features, write_feature_file
from pipeline.features.ray.manifest import ListedImage, digest_of
from pipeline.features.ray.sources import NO_ANSWER
from pipeline.features.shards import INDEX, open_shard, shard_path
from pipeline.files import read_csv, read_json, write_csv, write_json

SKIPPED_COLUMNS = ("image", "path", "reason")


@dataclass(frozen=True)
class Job:
    """A folder of shards and the encoder that fills it. Sent to every task."""

    folder: Path
    """Absolute; on a file system that all machines share."""
    spec: EncoderSpec
    shape: tuple[int, int]
    """R, C"""
    engine: str
    """Libraries and processor, which also determine the features' last bits."""

    def begin(self, images: Sequence[ListedImage], shard_images: int) -> None:
        """Write what the folder is made for.

        Raises `ArtefactError` when the folder was begun with another manifest, encoder, engine or shard size, and when
        it holds shards or an index without these settings.
        """
        path = self.folder / "settings.json"
        encoder = json.loads(self.spec.to_json())
        settings = {"engine": self.engine, "manifest": digest_of(images), "shard_images": shard_images, **encoder}
        if path.is_file():
            begun = read_json(path)
            changed = [name for name in sorted(begun | settings) if begun.get(name) != settings.get(name)]
            differences = [f"{name}: {begun.get(name)}, {settings.get(name)}" for name in changed]
            if differences:
                raise ArtefactError(
                    f"{self.folder}: begun with other settings (then, now: {'; '.join(differences)}); "
                    "name another folder with --out, or delete this one"
                )
        elif any(shard_path(self.folder, 0).parent.glob("*")) or (self.folder / INDEX).exists():
            raise ArtefactError(
                f"{self.folder}: holds shards or {INDEX}, but no settings.json; name another folder with --out, or "
                "move these away"
            )
        write_json(path, settings)

    def write_shard(
        self, number: int, images: Sequence[ListedImage], encoded: tuple[Features, Sequence[str]]
    ) -> tuple[int, int]:
        """Write a shard and, before it, the list of its skipped images; return the numbers of its images and of those.

        `encoded` has the features (n, R, C), and for each image "" or the reason why it has none.
        """
        features, reasons = encoded
        skipped = [(one.image, one.path, reason) for one, reason in zip(images, reasons, strict=True) if reason]
        if skipped:
            write_csv(self._skipped_path(number), SKIPPED_COLUMNS, skipped)
        else:
            self._skipped_path(number).unlink(missing_ok=True)
        kept = [one.image for one, reason in zip(images, reasons, strict=True) if not reason]
        place = {image: position for position, image in enumerate(kept)}

        def read(some: Sequence[str]) -> Features:
            return features[[place[image] for image in some]]

        write_feature_file(shard_path(self.folder, number), self.spec, kept, self.shape, read)
        return len(images), len(skipped)

    def skipped(self, number: int) -> list[tuple[str, str, str]]:
        """Return image, path and reason of the images of a shard without features."""
        path = self._skipped_path(number)
        rows = read_csv(path, SKIPPED_COLUMNS) if path.is_file() else ()
        return [(image, path, reason) for image, path, reason in rows]

    def is_finished(self, number: int, images: Sequence[ListedImage]) -> bool:
        """Return whether a shard is intact and accounts for all of its `images`.

        A shard that lacks an image because a server did not answer is not finished.
        """
        try:
            shard, skipped = open_shard(shard_path(self.folder, number)), self.skipped(number)
        except CaptionerError:
            return False
        found = sorted([*shard.images, *(image for image, *_ in skipped)])
        unanswered = any(NO_ANSWER in reason for *_, reason in skipped)
        return shard.spec == self.spec and found == sorted(one.image for one in images) and not unanswered

    def _skipped_path(self, number: int) -> Path:
        return shard_path(self.folder, number).with_suffix(".skipped.csv")
