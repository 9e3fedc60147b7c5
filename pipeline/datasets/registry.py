"""The dataset formats. A new one is a module in this package and an entry here.

An entry names the two functions of the format as `package.module:function`:

    read(path: Path, options: ReadOptions) -> Iterator[Entry]
    detect(path: Path, options: ReadOptions) -> Iterator[Candidate]
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetFormat:
    """A value of `params.data.format`."""

    read: str
    detect: str
    description: str
    """For the documentation of the parameter."""


FORMATS = {
    "karpathy": DatasetFormat(
        read="pipeline.datasets.karpathy:read_karpathy",
        detect="pipeline.datasets.karpathy:detect_karpathy",
        description="dataset_*.json with Karpathy's splits",
    ),
    "coco": DatasetFormat(
        read="pipeline.datasets.coco:read_coco",
        detect="pipeline.datasets.coco:detect_coco",
        description="captions_*.json or other files in COCO's layout",
    ),
    "flickr30k": DatasetFormat(
        read="pipeline.datasets.flickr:read_flickr30k",
        detect="pipeline.datasets.flickr:detect_flickr30k",
        description="results.csv or results_20130124.token",
    ),
    "flickr8k": DatasetFormat(
        read="pipeline.datasets.flickr:read_flickr8k",
        detect="pipeline.datasets.flickr:detect_flickr8k",
        description="captions.txt or Flickr8k.token.txt with split lists",
    ),
    "table": DatasetFormat(
        read="pipeline.datasets.table:read_table",
        detect="pipeline.datasets.table:detect_table",
        description="CSV, TSV or JSON lines with columns image,caption[,split]",
    ),
    "folder": DatasetFormat(
        read="pipeline.datasets.folder:read_folder",
        detect="pipeline.datasets.folder:detect_folder",
        description="a .txt beside each image, or metadata.csv or metadata.jsonl",
    ),
}
"""By name, in the order in which they are detected."""
