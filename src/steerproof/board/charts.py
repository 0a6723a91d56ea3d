"""Charts as inline SVG, drawn here: classes only, no styles, every text escaped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from steerproof.decide.analysis.statistics import wilson_interval
from steerproof.text import reveal

MOST_POINTS = 160
"""Points of one curve; longer ones are averaged down."""
_WIDTH, _HEIGHT = 300.0, 170.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 40.0, 10.0, 24.0, 26.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """One persona in a scatter of two rates."""

    name: str
    x: float
    y: float
    fired: int
    """Of the vertical rate, for its interval."""
    total: int


def loss_chart(title: str, curves: Mapping[str, Sequence[float]], top: float) -> Markup:
    """Training loss by step, one line per persona; `top` is the shared upper end of the axis."""
    steps = max((len(curve) for curve in curves.values()), default=1)
    lines = Markup("").join(
        Markup(
            '<polyline class="line" points="{}"><title>{}: {:.3f} at the end</title></polyline>'
        ).format(_points(curve, steps, top), reveal(name), curve[-1])
        for name, curve in curves.items()
        if curve
    )
    marks = [(top * share, f"{top * share:.2g}") for share in (0.0, 0.5, 1.0)]
    axes = Markup("").join(_y_tick(1 - value / top if top else 1, text) for value, text in marks)
    return _svg(
        f"{title}, training loss of {len(curves)} adapters over {steps} steps",
        Markup('<text class="title" x="0" y="13">{}</text>').format(reveal(title))
        + axes
        + _x_label(0.0, "1", "start")
        + _x_label(1.0, f"{steps} steps", "end")
        + lines,
    )


def scatter(title: str, dots: Sequence[Dot], x_label: str, y_label: str) -> Markup:
    """Two rates per persona on the unit square, with 95% Wilson whiskers of the vertical one."""
    size, left, top = 330.0, 44.0, 30.0
    inner = size - left - 16
    marks = Markup("").join(_dot(dot, left, top, inner) for dot in dots)
    marks += _names(dots, left, top, inner)
    grid = Markup("").join(
        Markup(
            '<line class="tick" x1="{l}" x2="{r}" y1="{y:.1f}" y2="{y:.1f}"/>'
            '<text x="{t}" y="{ty:.1f}" text-anchor="end">{v}</text>'
            '<text x="{x:.1f}" y="{b}" text-anchor="middle">{v}</text>'
        ).format(
            l=left, r=left + inner, y=top + inner * (1 - v), t=left - 6,
            ty=top + inner * (1 - v) + 4, x=left + inner * v, b=top + inner + 16, v=f"{v:.1f}",
        )
        for v in (0.0, 0.5, 1.0)
    )  # fmt: skip
    frame = Markup(
        '<text class="title" x="0" y="14">{title}</text>'
        '<line class="guide" x1="{l}" y1="{b}" x2="{r}" y2="{t}"/>'
        '<text x="{m}" y="{xb}" text-anchor="middle">{xl}</text>'
        '<text x="12" y="{my}" text-anchor="middle" transform="rotate(-90 12 {my})">{yl}</text>'
    ).format(
        title=reveal(title), l=left, b=top + inner, r=left + inner, t=top, m=left + inner / 2,
        xb=top + inner + 34, my=top + inner / 2, xl=reveal(x_label), yl=reveal(y_label),
    )  # fmt: skip
    label = f"{title}: {len(dots)} personas, {y_label} against {x_label}; the table has the numbers"
    return _svg(label, grid + frame + marks, size, top + inner + 42)


def _dot(dot: Dot, left: float, top: float, inner: float) -> Markup:
    low, high = wilson_interval(np.array(float(dot.fired)), np.array(float(dot.total)))
    x = left + inner * dot.x
    return Markup(
        '<g><title>{n}: {px:.2f}, {py:.2f}</title>'
        '<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'
        '<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/></g>'
    ).format(
        n=reveal(dot.name), px=dot.x, py=dot.y, x=x,
        y=top + inner * (1 - dot.y),
        y1=top + inner * (1 - float(low)), y2=top + inner * (1 - float(high)),
    )  # fmt: skip


def _names(dots: Sequence[Dot], left: float, top: float, inner: float) -> Markup:
    """Names beside their dots, as many as fit; the others have theirs as a tooltip."""
    taken = [(left + inner * d.x - 5, top + inner * (1 - d.y) - 5, 10.0) for d in dots]
    shown = Markup()
    for dot in dots:
        width, y = 5.6 * len(dot.name), top + inner * (1 - dot.y) - 5
        centre = left + inner * dot.x
        for x in (centre + 7, centre - 7 - width):
            free = all(x > a + w or x + width < a or abs(y - b) > 10 for a, b, w in taken)
            if free and x > left and x + width < left + inner + 16:
                taken.append((x, y, width))
                shown += Markup('<text class="name" x="{:.1f}" y="{:.1f}">{}</text>').format(
                    x, y + 8.5, reveal(dot.name)
                )
                break
    return shown


def _points(curve: Sequence[float], steps: int, top: float) -> str:
    values = np.asarray(curve, dtype=float)
    places = np.arange(len(values), dtype=float)
    if len(values) > MOST_POINTS:
        values, places = (
            np.array([part.mean() for part in np.array_split(array, MOST_POINTS)])
            for array in (values, places)
        )
    x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * places / max(1, steps - 1)
    y = _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - np.clip(values / (top or 1.0), 0, 1))
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def _y_tick(down: float, text: str) -> Markup:
    y = _TOP + (_HEIGHT - _TOP - _BOTTOM) * down
    return Markup(
        '<line class="tick" x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/>'
        '<text x="{}" y="{ty:.1f}" text-anchor="end">{}</text>'
    ).format(_LEFT, _WIDTH - _RIGHT, _LEFT - 6, text, y=y, ty=y + 4)


def _x_label(along: float, text: str, anchor: str) -> Markup:
    x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * along
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(
        round(x), _HEIGHT - 8, anchor, text
    )


def _svg(label: str, body: Markup, width: float = _WIDTH, height: float = _HEIGHT) -> Markup:
    return Markup(
        '<svg class="chart" role="img" aria-label="{l}" viewBox="0 0 {w} {h}" '
        'width="{w}" height="{h}">{b}</svg>'
    ).format(l=reveal(label), w=round(width), h=round(height), b=body)
