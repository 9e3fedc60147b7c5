"""The whole page, put together from its sections."""

from collections.abc import Mapping, Sequence
from html import escape

from pipeline.datasets.statistics import DatasetStatistics
from pipeline.metrics.evaluation import Evaluation
from pipeline.metrics.scores import NAMES
from pipeline.report.cards import Card, render_card
from pipeline.report.charts import bar_chart, facts, interval_bar, line_chart, table
from pipeline.report.dataset import render_dataset
from pipeline.report.script import SCRIPT
from pipeline.report.style import STYLE

Curves = Mapping[str, Sequence[float]]
"""The columns of training.csv, without the epoch."""

SIGNS = {
    "distinct_captions": "distinct captions",
    "most_common_caption": "pictures with the most common caption",
    "ends_in_function_word": "captions that end in a function word",
    "repeated_word": "captions with a word twice in a row",
    "repeated_phrase": "captions with three words said twice",
    "empty_captions": "empty captions",
    "vocabulary_used": "vocabulary used",
}
FILTERS = {
    "": "all captions",
    "shared": "said of several pictures",
    "unfinished": "end in a function word",
    "repeats": "repeat themselves",
    "none": "share no four words in a row with a reference",
}
"""Signs of single captions, as `Card.signs` names them."""
_SUSPICIOUS = 0.2
"""A caption that more of the pictures get is pointed at."""


def render_report(
    *,
    title: str,
    lead: str,
    evaluation: Evaluation,
    exploration: DatasetStatistics,
    curves: Curves,
    cards: Sequence[Card],
    made_from: Mapping[str, Mapping[str, str]],
) -> str:
    """The page. `made_from` holds rows of names and values by heading."""
    sections = {
        "scores": ("Scores", _scores(evaluation)),
        "captions": ("Captions", _gallery(cards)),
        "signs": ("Is it more than one sentence?", _signs(evaluation)),
        "learning": ("Learning", _learning(curves)),
        "data": ("Data", render_dataset(exploration)),
        "made-from": (
            "Made from",
            f'<div class="charts">{"".join(_made_from(*part) for part in made_from.items())}</div>',
        ),
    }
    links = "".join(f'<a href="#{name}">{escape(heading)}</a>' for name, (heading, _) in sections.items())
    body = "".join(
        f'<section><h2 id="{name}">{escape(heading)}</h2>{content}</section>'
        for name, (heading, content) in sections.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # Nothing may be fetched, whatever a caption holds.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>"
        f'<header><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p><nav>{links}</nav></header>'
        f"<main>{body}<footer>Written by <code>captioner score</code>. This file stands alone.</footer></main>"
        f"\n<script>{SCRIPT}</script></body></html>\n"
    )


def _scores(evaluation: Evaluation) -> str:
    card = evaluation.scores
    tiles = []
    for name, value in card.scores.items():
        low, high = card.intervals[name]
        tiles.append(
            f'<div class="tile"><div>{NAMES[name]}</div><div class="value">{value:.1f}</div>'
            f'<div class="interval">95%: {low:.1f} to {high:.1f}</div>{interval_bar(value, low, high)}</div>'
        )
    worst = evaluation.diversity["most_common_caption"]
    note = (
        f'<p class="note">One caption was given to {worst:.0%} of the pictures. AdditiveAttention at the captions before you '
        "believe a score.</p>"
        if worst > _SUSPICIOUS and worst > 2 * evaluation.of_references["most_common_caption"]
        else ""
    )
    return f'{note}<div class="tiles">{"".join(tiles)}</div>'


def _gallery(cards: Sequence[Card]) -> str:
    tabs = "".join(
        f'<button type="button" data-view="{view}">{view.capitalize()}</button>'
        for view in ("worst", "best", "random", "all")
    )
    names = list(cards[0].scores) if cards else []
    first = names.index(NAMES["cider_d"]) if NAMES["cider_d"] in names else 0
    scores = "".join(
        f'<option value="{place}"{" selected" if place == first else ""}>by {escape(name)}'
        for place, name in enumerate(names)
    )
    counts = {name: sum(name in card.signs for card in cards) for name in FILTERS}
    signs = "".join(
        f'<option value="{name}">{escape(text)}{f" ({counts[name]})" if name else ""}' for name, text in FILTERS.items()
    )
    hint = (
        '<p class="soft">Point at a word, or tap it, to see where the decoder looked for it.</p>'
        if any(card.looks for card in cards)
        else ""
    )
    return (
        f'{hint}<div class="bar"><div role="group" aria-label="Which captions">{tabs}</div>'
        f'<select id="by" aria-label="Order">{scores}</select><select id="sign" aria-label="Filter">{signs}</select>'
        '<input id="search" type="search" placeholder="SearchOptions" aria-label="SearchOptions">'
        f'<output></output></div><div class="cards">{"".join(map(render_card, cards))}</div>'
        '<button class="more" type="button">Show more</button>'
    )


def _signs(evaluation: Evaluation) -> str:
    ours, theirs = evaluation.diversity, evaluation.of_references
    rows = [
        (text, f"{ours[name]:.1%}", f"{theirs[name]:.1%}" if name in theirs else "")
        for name, text in SIGNS.items()
        if name in ours
    ]
    rows.append(("distinct words", f"{ours['distinct_words']:,.0f}", f"{theirs['distinct_words']:,.0f}"))
    rows.append(("words per caption", f"{ours['mean_length']:.1f}", f"{theirs['mean_length']:.1f}"))
    chart = bar_chart(
        "Words per caption",
        {"generated": shares(evaluation.lengths), "references": shares(evaluation.reference_lengths)},
        x_label="words; % of captions",
    )
    return (
        f'<div class="charts"><div class="panel">{table(("", "generated", "references"), rows)}'
        f'<p class="soft">References: the first one of each picture.</p></div>{chart}</div>'
    )


def shares(lengths: Mapping[int, int]) -> dict[int, float]:
    """Of each length, in percent."""
    total = sum(lengths.values())
    return {length: 100 * count / total for length, count in sorted(lengths.items())}


def _learning(curves: Curves) -> str:
    losses = {name: _by_epoch(values) for name, values in curves.items() if name.endswith("loss")}
    charts = [line_chart("Loss", {_plain(name): line for name, line in losses.items()}, x_label="epoch")]
    for name, values in curves.items():
        if name.startswith("val_") and not name.endswith("loss"):
            title = f"{NAMES.get(name.removeprefix('val_'), _plain(name))} of the val captions"
            charts.append(line_chart(title, {name: _by_epoch(values)}, x_label="epoch", mark=name))
    return f'<div class="charts">{"".join(charts)}</div>'


def _by_epoch(values: Sequence[float]) -> list[tuple[float, float]]:
    return [(float(epoch), value) for epoch, value in enumerate(values, start=1)]


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _made_from(heading: str, rows: Mapping[str, str]) -> str:
    return f'<div class="panel"><h3>{escape(heading)}</h3>{facts(rows)}</div>'
