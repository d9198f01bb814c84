"""ID retrieval against pose error for several identity strengths, as a picture.

A higher strength takes more of the source's identity and loses more of the target's attributes, so
one method is a curve and not a point. A method is better than another if its curve is higher or
farther to the left.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from faceshifter.evaluate.methods import AT
from faceshifter.evaluate.metrics import Interval

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 520, 64, 260, 24, 56  # pixels
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
MOST_TICKS = 8

Table = Mapping[str, Mapping[str, Any]]
"""Of each method by name its figures, a number with its interval each."""


@dataclass(frozen=True)
class Point:
    """One method at one strength."""

    label: str
    """The strength; empty for a method without strengths."""
    pose: Interval
    """Mean pose error, degrees."""
    top1: Interval
    """ID retrieval, per cent."""


def curves(table: Table) -> dict[str, list[Point]]:
    """Return the points of each method, by its name without strengths, in the table's order."""
    found: dict[str, list[Point]] = {}
    for name, row in table.items():
        if "pose" in row and "top1" in row:
            method, _, strength = name.partition(AT)
            point = Point(strength, tuple(row["pose"]), tuple(row["top1"]))
            found.setdefault(method, []).append(point)
    return found


def draw(found: Mapping[str, list[Point]], *, inline: bool = False) -> str:
    """Return the curves and single points as an SVG picture.

    The pose axis ends where the curves do, and points beyond it are at its end. ``inline`` is for
    a picture inside of a page, which names no XML namespace.
    """
    reach = [p.pose[0] for points in found.values() if points[0].label for p in points]
    reach = reach or [point.pose[0] for points in found.values() for point in points]
    step = _step(1.25 * max(reach, default=1.0) or 1.0)
    end = step * (int(1.25 * max(reach, default=1.0) / step) + 1)

    def x(pose: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * min(max(pose / end, 0), 1), 1)

    def y(top1: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * top1 / 100, 1)

    template = Path(__file__).with_name("curves.svg").read_text("utf-8")
    colours = dict(zip(found, _colours(found), strict=True))
    return jinja2.Template(template, autoescape=True, trim_blocks=True, lstrip_blocks=True).render(
        found=found, colours=colours, inline=inline, x=x, y=y, end=end,
        ticks_x=[round(step * i, 3) for i in range(round(end / step) + 1)],
        ticks_y=range(0, 101, 20), size=(WIDTH, HEIGHT), edges=(LEFT, RIGHT, TOP, BOTTOM),
    )  # fmt: skip


def _colours(found: Mapping[str, list[Point]]) -> Iterator[str]:
    """Give curves the colours in turn; what is no curve is grey."""
    count = 0
    for points in found.values():
        is_curve = bool(points[0].label)
        yield COLOURS[count % len(COLOURS)] if is_curve else "#777777"
        count += is_curve


def _step(end: float) -> float:
    """Return a round distance of ticks, of which not too many reach to the end."""
    steps = (base * 10.0**power for power in range(-2, 3) for base in (1, 2, 5))
    return next((step for step in steps if end / step <= MOST_TICKS), end)
