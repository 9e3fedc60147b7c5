"""What a stage skips: the list of it, metrics/skipped.csv, and the share at which a run stops."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.datasets.tables import SKIPPED_COLUMNS
from pipeline.errors import DataError
from pipeline.files import read_csv, write_csv

_SHOWN = 5


def check_share(
    skipped: Sequence[str], total: int, max_skipped: float, *, problem: str, remedy: str, listed: Path
) -> None:
    """Check that at most the share `max_skipped` of `total` images or captions is skipped.

    `skipped` has a line for each of them, with the reason; the file `listed` has them all. `problem` and `remedy`
    complete the message of the `DataError`: "3 of 9 images cannot be decoded, ...: repair them or raise
    params.data.max_skipped".
    """
    if len(skipped) > max_skipped * total:
        shown = "\n".join(f"  {line}" for line in skipped[:_SHOWN])
        more = f"\n  and {len(skipped) - _SHOWN:,} more, see {listed}" if len(skipped) > _SHOWN else ""
        raise DataError(
            f"{len(skipped)} of {total} {problem}, more than params.data.max_skipped = {max_skipped} allows:\n"
            f"{shown}{more}\n{remedy} or raise params.data.max_skipped"
        )


def add_skipped_images(path: Path, earlier: Path | None, images: Iterable[tuple[str, str, str]]) -> None:
    """Write the rows of prepare's list `earlier`, and the id, the file and the reason of `images` without features."""
    rows = [("extract", file, 0, image, reason) for image, file, reason in sorted(images)]
    write_csv(path, SKIPPED_COLUMNS, [*(read_csv(earlier, SKIPPED_COLUMNS) if earlier else ()), *rows])
