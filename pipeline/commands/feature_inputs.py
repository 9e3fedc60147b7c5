"""The rows of a feature file that a command line names: image ids and glob patterns."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.features.feature_file import FeatureFile
    from pipeline.inference.base_captioner import BaseCaptioner, GenerationOptions, Prediction


def find_rows(pattern: str, file: "FeatureFile") -> list[str]:
    """The image ids that one argument names; none if there is none."""
    if pattern in file.index:
        return [pattern]
    return [image for image in file.images if fnmatchcase(image, pattern)]


def caption_rows(
    captioner: "BaseCaptioner",
    file: "FeatureFile",
    images: Sequence[str],
    options: "GenerationOptions | None",
    *,
    captions: int,
    batch_size: int | None,
) -> "Iterator[Prediction]":
    """Yield one prediction per image id, in order; an id that is not in the file gives one without captions.

    Raises `ArtefactError` for features of another encoder than the model's, and for a damaged row.
    """
    from pipeline.inference.base_captioner import Prediction
    from pipeline.inference.captioner import Captioner

    assert isinstance(captioner, Captioner)
    captioner.model.check_features(file)
    size = batch_size or captioner.batch_size
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        known = [image for image in batch if image in file.index]
        found = captioner.caption_features(file.load(known), options, captions=captions) if known else []
        generated = dict(zip(known, found, strict=True))
        for image in batch:
            reason = None if image in generated else f"{file.path}: contains no features of {image}"
            yield Prediction(image, tuple(generated.get(image, ())), error=reason)
