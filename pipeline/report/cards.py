"""A captioned picture as the report shows it: with its references, scores, and where the decoder looked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

LEVELS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"
"""One character per region says how much of the word's strongest look it got. The page's script reads them."""


@dataclass(frozen=True)
class Picture:
    """A small copy of a picture."""

    uri: str
    """A `data:` address."""
    width: int
    height: int


@dataclass(frozen=True)
class Looks:
    """Where the decoder looked for each word."""

    weights: Sequence[Sequence[float]]
    """(T, grid * grid), row by row from the top left."""
    grid: int
    box: tuple[float, float, float, float]
    """The part of the picture that the encoder saw: left, top, width, height, as shares."""

    def as_text(self) -> str:
        """A word per space, a character per region."""
        return " ".join(map(_levels, self.weights))


@dataclass(frozen=True)
class Card:
    """One captioned picture."""

    image: str
    caption: str
    references: Sequence[str]
    scores: Mapping[str, float]
    """By the name that people read."""
    chance: int
    """Its place in a random order."""
    signs: Sequence[str] = ()
    """What is odd about the caption, by the names of the page's filter."""
    picture: Picture | None = None
    """None: too many pictures to hold them all, or the file is gone."""
    looks: Looks | None = None


def render_card(card: Card) -> str:
    """An `article` whose `data-` attributes the page's script sorts and filters by."""
    scores = "".join(f"<span><small>{escape(name)}</small> {value:.0f}</span>" for name, value in card.scores.items())
    values = " ".join(f"{value:.3f}" for value in card.scores.values())
    first, *others = map(escape, card.references)
    more = (
        f"<details><summary>{len(others)} more references</summary><ul><li>{'<li>'.join(others)}</ul></details>"
        if others
        else ""
    )
    looks = card.looks if card.picture else None
    return (
        f'<article data-scores="{values}" data-chance="{card.chance}" data-signs="{escape(" ".join(card.signs))}">'
        f"{_frame(card, looks)}<div class=text>{_caption(card, looks)}"
        f'<p class="scores">{scores}</p>'
        f'<p class="reference">{first}</p>{more}'
        f"{'<details class=strip><summary>word by word</summary><div></div></details>' if looks else ''}"
        f'<p class="file">{escape(card.image)}</p></div></article>'
    )


def _frame(card: Card, looks: Looks | None) -> str:
    if card.picture is None:
        return '<div class="frame none">not in this file</div>'
    picture = card.picture
    # The frame is 4:3; the picture fills it in one direction.
    width = min(100.0, 75 * picture.width / picture.height)
    data = ""
    if looks:
        box = " ".join(f"{share:.4f}" for share in looks.box)
        data = f' data-grid="{looks.grid}" data-box="{box}" data-looks="{looks.as_text()}"'
    return (
        f'<div class="frame"><div class="picture" style="width:{width:.2f}%"{data}>'
        f'<img src="{picture.uri}" width="{picture.width}" height="{picture.height}" '
        f'loading="lazy" alt="{escape(card.caption)}"></div></div>'
    )


def _caption(card: Card, looks: Looks | None) -> str:
    if not card.caption:
        return '<p class="caption"><em>no words</em></p>'
    words = card.caption.split()
    if looks is None or len(looks.weights) != len(words):
        return f'<p class="caption">{escape(card.caption)}</p>'
    return f'<p class="caption">{" ".join(f"<button type=button>{escape(word)}</button>" for word in words)}</p>'


def _levels(weights: Sequence[float]) -> str:
    strongest = max(weights) or 1.0
    return "".join(LEVELS[round(63 * max(weight, 0.0) / strongest)] for weight in weights)
