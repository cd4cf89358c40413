"""Geometry of the plots: numbers into positions that the template draws as SVG.

Positions only, no colours: classes carry those, so that a plot follows the theme of the page.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]

WIDTH, HEIGHT = 340, 236
LEFT, RIGHT, TOP, BOTTOM = 36, 10, 8, 38


@dataclass(frozen=True)
class Series:
    """One line; `kind` is its class in the page, `radii` draws a dot of that size at each point."""

    name: str
    kind: str
    points: list[Point]
    radii: list[float] | None = None


@dataclass(frozen=True)
class Tick:
    """A position in the drawing and the number that stands there."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """A drawn series: the path's points, and its dots as x, y, radius."""

    name: str
    kind: str
    points: str
    dots: list[tuple[float, float, float]]


@dataclass(frozen=True)
class Chart:
    """A plot, laid out in a box of `width` by `height` units."""

    alt: str
    x_label: str
    y_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]
    diagonal: tuple[float, float, float, float] | None
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def chart(
    alt: str,
    labels: tuple[str, str],
    series: Sequence[Series],
    *,
    x: tuple[float, float],
    y: tuple[float, float],
    diagonal: bool = False,
) -> Chart:
    """Lay out lines over the range `x`, and `y` widened to round numbers."""
    x_at, y_at = [v for v in _ticks(*x) if x[0] <= v <= x[1]], _ticks(*y)

    def place(point: Point) -> Point:
        across = (point[0] - x[0]) / ((x[1] - x[0]) or 1)
        up = (point[1] - y_at[0]) / (y_at[-1] - y_at[0])
        return (
            round(LEFT + across * (WIDTH - LEFT - RIGHT), 1),
            round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1),
        )

    return Chart(
        alt,
        *labels,
        x_ticks=[Tick(place((v, y_at[0]))[0], f"{v:g}") for v in x_at],
        y_ticks=[Tick(place((x[0], v))[1], f"{v:g}") for v in y_at],
        lines=[_line(s, [place(p) for p in s.points]) for s in series],
        diagonal=(*place((0, 0)), *place((1, 1))) if diagonal else None,
    )


def _line(series: Series, placed: list[Point]) -> Line:
    radii = series.radii or []
    return Line(
        series.name,
        series.kind,
        " ".join(f"{x:g},{y:g}" for x, y in placed),
        [(x, y, round(r, 1)) for (x, y), r in zip(placed, radii, strict=False)],
    )


def _ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers around low to high, a step of 1, 2 or 5 times a power of ten apart."""
    rough = max(high - low, 1e-9) / about
    magnitude = 10 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def thinned(points: Sequence[Point], most: int = 150) -> list[Point]:
    """At most so many points, each the mean of equally many neighbours."""
    size = math.ceil(len(points) / most) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [
        (math.fsum(p[0] for p in g) / len(g), math.fsum(p[1] for p in g) / len(g)) for g in groups
    ]


@dataclass(frozen=True)
class Mark:
    """A model on a strip: its value and interval, in per cent of the strip's width."""

    kind: str
    at: float
    low: float
    high: float


@dataclass(frozen=True)
class Strip:
    """A small scale from 0 to `top` with base, tuned and what guessing gives."""

    marks: list[Mark]
    guesses: list[float]


def strip(
    values: dict[str, tuple[float, float, float]], guesses: Sequence[float] = (), top: float = 1
) -> Strip:
    """Lay out value, low and high of each model on a scale from 0 to `top`."""

    def per_cent(v: float) -> float:
        return round(100 * min(max(v / top, 0), 1), 1)

    return Strip(
        [Mark(kind, *(per_cent(v) for v in numbers)) for kind, numbers in values.items()],
        [per_cent(g) for g in guesses],
    )
