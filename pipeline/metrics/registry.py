"""The metrics that captions are scored with. A new one is a module, a line in `METRICS` and a test."""

from collections.abc import Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.metrics.metric import Metric


@dataclass(frozen=True)
class MetricEntry:
    """Where a metric is defined and what its scores are called."""

    path: str
    """`module:attribute` of its `Metric`."""
    titles: Mapping[str, str]
    """The title of each score, by its key in scores.json. The last score is the one reported for single images."""
    optional: bool = False
    """Computed only on request, because it needs more than Python."""

    def load(self) -> "Metric":
        """Imports the metric's module."""
        metric: Metric = resolve_name(self.path)
        return metric


METRICS = {
    "bleu": MetricEntry("pipeline.metrics.bleu:BLEU", {f"bleu_{n}": f"BLEU-{n}" for n in (1, 2, 3, 4)}),
    "cider_d": MetricEntry("pipeline.metrics.cider:CIDER_D", {"cider_d": "CIDEr-D"}),
    "rouge_l": MetricEntry("pipeline.metrics.rouge:ROUGE_L", {"rouge_l": "ROUGE-L"}),
    "meteor": MetricEntry("pipeline.metrics.meteor:METEOR", {"meteor": "METEOR"}, optional=True),
}

TITLES = {name: title for entry in METRICS.values() for name, title in entry.titles.items()}
"""The title of every score."""
