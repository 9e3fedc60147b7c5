"""metrics/report.html: one page that stands alone and works offline, to see what the scores are made of."""

from pipeline.report.cards import Card, Looks, Picture
from pipeline.report.page import Curves, render_report

__all__ = ["Card", "Curves", "Looks", "Picture", "render_report"]
