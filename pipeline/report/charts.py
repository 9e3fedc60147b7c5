"""Small SVG drawings, and tables. Colours come from the page's style; every text is escaped here."""

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT = 420, 210
LEFT, RIGHT, TOP, BOTTOM = 42, 12, 12, 30
_TICKS = 4


def line_chart(
    title: str, series: Mapping[str, Sequence[tuple[float, float]]], *, x_label: str, mark: str | None = None
) -> str:
    """Lines over a common axis; `mark` names the one whose highest point is circled."""
    points = [point for line in series.values() for point in line]
    if not points:
        return ""
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    ticks = _ticks(min(y for _, y in points), max(y for _, y in points))
    parts = _frame(ticks, x_label)

    def at(x: float, y: float) -> tuple[float, float]:
        across = 0.5 if x_high == x_low else (x - x_low) / (x_high - x_low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), _height(y, ticks)

    for number, (name, line) in enumerate(series.items()):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in line))
        parts.append(f'<polyline class="line c{number}" points="{path}"/>')
        if name == mark:
            best = max(line, key=lambda point: point[1])
            x, y = at(*best)
            parts.append(f'<circle class="dot c{number}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
            title += f" (best {_short(best[1])} at {_short(best[0])})"
    for value, side in {x_low: "start", x_high: "end"}.items():
        x, _ = at(value, ticks[0])
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 14}" text-anchor="{side}">{_short(value)}</text>')
    return _figure(title, series, "".join(parts))


def bar_chart(title: str, series: Mapping[str, Mapping[int, float]], *, x_label: str) -> str:
    """Bars beside each other at whole numbers, such as lengths."""
    places = sorted({place for bars in series.values() for place in bars})
    if not places:
        return ""
    ticks = _ticks(0, max(value for bars in series.values() for value in bars.values()))
    parts = _frame(ticks, x_label)
    span = range(places[0], places[-1] + 1)
    step = (WIDTH - LEFT - RIGHT) / len(span)
    width = 0.8 * step / len(series)
    for number, bars in enumerate(series.values()):
        for place, value in bars.items():
            x = LEFT + (place - span[0] + 0.1) * step + number * width
            y = _height(value, ticks)
            parts.append(
                f'<rect class="column c{number}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
                f'height="{_height(ticks[0], ticks) - y:.1f}"/>'
            )
    every = ceil(len(span) / 12)
    for place in span[::every]:
        x = LEFT + (place - span[0] + 0.5) * step
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 14}" text-anchor="middle">{place}</text>')
    return _figure(title, series, "".join(parts))


def interval_bar(value: float, low: float, high: float) -> str:
    """A score on its scale, with the interval around it."""
    scale = 100.0 * max(1, ceil(high / 100))
    place, start, end = (100 * min(max(number, 0), scale) / scale for number in (value, low, high))
    return (
        f'<div class="scale"><i style="left:{start:.2f}%;width:{max(end - start, 0.6):.2f}%"></i>'
        f'<b style="left:{place:.2f}%"></b></div><div class="ends"><span>0</span><span>{scale:.0f}</span></div>'
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """All but the first column are numbers, or short."""
    head = "".join(f"<th scope=col>{escape(name)}" for name in header)
    body = "".join(
        f"<tr><th scope=row>{escape(row[0])}{''.join(f'<td>{escape(cell)}' for cell in row[1:])}" for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}<tbody>{body}</table></div>'


def facts(rows: Mapping[str, str]) -> str:
    """Names and what stands behind them."""
    lines = "".join(f"<dt>{escape(name)}<dd>{escape(value)}" for name, value in rows.items())
    return f'<dl class="facts">{lines}</dl>'


def _figure(title: str, series: Mapping[str, object], drawing: str) -> str:
    names = "".join(f'<span class="c{number}">{escape(name)}</span>' for number, name in enumerate(series))
    legend = f'<span class="legend">{names}</span>' if len(series) > 1 else ""
    return (
        f'<figure class="chart"><figcaption>{escape(title)}{legend}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{drawing}</svg></figure>'
    )


def _frame(ticks: Sequence[float], x_label: str) -> list[str]:
    parts = [f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 2}" text-anchor="end">{escape(x_label)}</text>']
    for tick in ticks:
        y = _height(tick, ticks)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(tick)}</text>')
    return parts


def _height(value: float, ticks: Sequence[float]) -> float:
    return HEIGHT - BOTTOM - (value - ticks[0]) / (ticks[-1] - ticks[0]) * (HEIGHT - TOP - BOTTOM)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from at most `low` to at least `high`."""
    span = (high - low) or abs(high) or 1.0
    rough = span / _TICKS
    power = 10.0 ** floor(log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = floor(low / step)
    return [step * number for number in range(first, max(ceil(high / step - 1e-9), first + 1) + 1)]


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
