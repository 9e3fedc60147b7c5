"""The dataset formats. A new one is a module in this package and an entry here.

The module of the format NAME has two functions:

    read_NAME(path: Path, options: ReadOptions) -> Iterator[Entry]
    detect_NAME(path: Path, options: ReadOptions) -> Iterator[Candidate]
"""

from dataclasses import dataclass
from pathlib import Path

DRAWN = Path("data/scenes")
"""The folder of the built-in dataset, which a pipeline of its own draws."""


@dataclass(frozen=True)
class DatasetFormat:
    """A value of `params.data.format`."""

    module: str
    description: str
    """For the documentation of the parameter."""


FORMATS = {
    "karpathy": DatasetFormat("pipeline.datasets.karpathy", "dataset_*.json with Karpathy's splits"),
    "coco": DatasetFormat("pipeline.datasets.coco", "captions_*.json or other files in COCO's layout"),
    "flickr30k": DatasetFormat("pipeline.datasets.flickr", "results.csv or results_20130124.token"),
    "flickr8k": DatasetFormat("pipeline.datasets.flickr", "captions.txt or Flickr8k.token.txt with split lists"),
    "table": DatasetFormat(
        "pipeline.datasets.table", "CSV, TSV, JSON or JSON lines with columns image,caption[,split]"
    ),
    "folder": DatasetFormat("pipeline.datasets.folder", "a .txt beside each image, or metadata.csv or metadata.jsonl"),
}
"""By name, in the order in which they are detected."""
