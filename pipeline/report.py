"""metrics/report.html: one page that stands alone, with the scores, the learning curve and captioned pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

_STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 20%, transparent); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; font-weight: 600; }
table { border-collapse: collapse; }
td, th { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: 1rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: .5rem; overflow: hidden; }
figure img { width: 100%; aspect-ratio: 4 / 3; object-fit: contain; background: #8883; display: block; }
figcaption { padding: .6rem .8rem; }
figcaption strong { display: block; }
details { font-size: .9rem; opacity: .85; }
details ul { padding-left: 1.2rem; margin: .3rem 0; }
svg { max-width: 100%; height: auto; }
code { overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class Card:
    """One captioned picture."""

    image: str
    picture: str
    """A `data:` address."""
    caption: str
    references: Sequence[str]


def render_report(
    *, title: str, scores: Mapping[str, str], facts: Mapping[str, str], curve: Sequence[float], cards: Sequence[Card]
) -> str:
    """The page. `scores` and `facts` are rows as they are to be read, `curve` the validation CIDEr-D by epoch."""
    rows = "".join(f'<tr><th>{escape(name)}<td class="number">{escape(value)}' for name, value in scores.items())
    more = "".join(f"<tr><th>{escape(name)}<td><code>{escape(value)}</code>" for name, value in facts.items())
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{escape(title)}</h1><h2>Scores</h2><table>{rows}</table>"
        f"<h2>CIDEr-D of the val captions, by epoch</h2>{_curve(curve)}"
        f'<h2>Captions</h2><div class="cards">{"".join(map(_card, cards))}</div>'
        f"<h2>Made from</h2><table>{more}</table></html>\n"
    )


def _card(card: Card) -> str:
    references = "".join(f"<li>{escape(reference)}" for reference in card.references)
    return (
        f'<figure><img src="{card.picture}" alt="{escape(card.caption)}"><figcaption><strong>{escape(card.caption)}'
        f"</strong><small>{escape(card.image)}</small><details><summary>references</summary><ul>{references}</ul>"
        "</details></figcaption></figure>"
    )


def _curve(values: Sequence[float]) -> str:
    """A line drawing with its extremes written beside it."""
    if len(values) < 2:
        return f"<p>One epoch: {values[0]:.1f}</p>" if values else "<p>No epochs.</p>"
    width, height, margin = 640, 200, 40
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    points = [
        (
            margin + (width - 2 * margin) * place / (len(values) - 1),
            height - margin / 2 - (height - margin) * (value - low) / span,
        )
        for place, value in enumerate(values)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    best = values.index(high)
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="from {values[0]:.1f} to {values[-1]:.1f}, best {high:.1f} in epoch {best + 1}">'
        f'<polyline points="{line}" fill="none" stroke="#2a6fdb" stroke-width="2"/>'
        f'<circle cx="{points[best][0]:.1f}" cy="{points[best][1]:.1f}" r="4" fill="#2a6fdb"/>'
        '<g font-size="12" fill="currentColor">'
        f'<text x="2" y="{height - margin / 2:.0f}">{low:.1f}</text>'
        f'<text x="2" y="{margin / 2 + 4:.0f}">{high:.1f}</text>'
        f'<text x="{width - margin}" y="{height - 2}" text-anchor="end">epoch {len(values)}</text></g></svg>'
    )
