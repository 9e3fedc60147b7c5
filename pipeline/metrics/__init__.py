"""Scores of captions, equal to coco-caption's, with how sure each one is."""

from pipeline.metrics.cider import CiderD
from pipeline.metrics.scorecard import Scorecard, score

__all__ = ["CiderD", "Scorecard", "score"]
