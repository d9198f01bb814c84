"""Table 2: the share of votes of each method for each question."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from faceshifter.study.votes import QUESTIONS

Z = 1.959964  # standard deviations of 95 %


@dataclass(frozen=True)
class Share:
    """Of the votes on one question, with its 95 % interval; from 0 to 1."""

    share: float
    low: float
    high: float
    votes: int
    """For this method."""


def share_of(votes: Sequence[int], totals: Sequence[int]) -> Share | None:
    """Share of all votes and its Wilson interval, for as many independent votes as these are worth.

    Votes of one rater are alike. The variance between raters over that of independent votes (the
    design effect, at least 1) says how many votes count as one.

    Args:
        votes: For one method, of each rater.
        totals: For all methods, of each rater.

    Returns:
        None where there are no votes.
    """
    n, num_raters = sum(totals), len(totals)
    if not n:
        return None
    p = sum(votes) / n
    effect = 1.0
    if num_raters > 1 and 0 < p < 1:
        spread = sum((x - p * total) ** 2 for x, total in zip(votes, totals, strict=True))
        variance = num_raters / (num_raters - 1) * spread / n**2
        effect = max(1.0, variance / (p * (1 - p) / n))
    low, high = wilson(p, n / effect)
    return Share(p, low, high, sum(votes))


def wilson(p: float, n: float) -> tuple[float, float]:
    """95 % score interval of a share p of n independent votes."""
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))  # rounding aside


def shares(
    counts: dict[str, dict[int, dict[str, int]]], methods: Sequence[str]
) -> dict[str, dict[str, Share | None]]:
    """By method and question, from ``Votes.counts``."""
    return {
        method: {
            question: share_of(
                [votes.get(method, 0) for votes in counts[question].values()],
                [sum(votes.values()) for votes in counts[question].values()],
            )
            for question in QUESTIONS
        }
        for method in methods
    }


def table(result: dict[str, dict[str, Share | None]]) -> Iterator[str]:
    """Lines of a Markdown table, in percent."""
    yield f"| method | {' | '.join(QUESTIONS)} |"
    yield "|---" * (1 + len(QUESTIONS)) + "|"
    for method, by_question in result.items():
        cells = [
            f"{100 * s.share:.1f} ({100 * s.low:.1f} to {100 * s.high:.1f})"
            if s is not None
            else "no votes"
            for s in by_question.values()
        ]
        yield f"| {method} | {' | '.join(cells)} |"
