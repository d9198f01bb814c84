"""Raters, the pairs that each is shown and their votes in one SQLite file, and the table of shares.

Every request opens the file again and every vote is a transaction of its own: raters do not disturb
each other, and an answered vote survives any end of the server.
"""

import json
import math
import random
import secrets
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from faceshifter.apps.sqlite import connect, open_file, transaction
from faceshifter.apps.study.study import Study
from faceshifter.errors import DataError
from faceshifter.files import markdown_table

QUESTIONS = ("identity", "attributes", "realism")
"""Questions about each pair, in this order; Section 4.1 (i) to (iii). page.html words them."""

MOST_QUESTIONS = 2**32
"""More than any study has; SQLite takes no larger numbers than 2**63."""

SCHEMA = """
CREATE TABLE study (digest TEXT NOT NULL);
CREATE TABLE raters (id INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, began TEXT NOT NULL);
CREATE TABLE shown (
  rater INTEGER NOT NULL REFERENCES raters, position INTEGER NOT NULL, unit INTEGER NOT NULL,
  methods TEXT NOT NULL, pictures TEXT NOT NULL, PRIMARY KEY (rater, position));
CREATE TABLE pictures (token TEXT PRIMARY KEY, unit INTEGER NOT NULL, place INTEGER NOT NULL);
CREATE TABLE votes (
  rater INTEGER NOT NULL, position INTEGER NOT NULL, question TEXT NOT NULL, method TEXT NOT NULL,
  voted TEXT NOT NULL, PRIMARY KEY (rater, position, question),
  FOREIGN KEY (rater, position) REFERENCES shown);
"""


@dataclass(frozen=True)
class Question:
    """One question as a rater sees it: tokens of pictures instead of names."""

    question: str
    position: int
    """Place of the pair among the rater's, from 0."""
    source: str
    target: str
    results: list[str]
    chosen: int | None
    """Place of the result that the rater has chosen already."""


class Votes:
    """Votes of one study in a file."""

    def __init__(self, path: Path, study: Study) -> None:
        """Make the file, or open that of the same study.

        Raises:
            DataError: It belongs to another study, or is not a file of votes.
            OutputError: It cannot be written.
        """
        self.path, self.study = path, study
        begin = f"INSERT INTO study VALUES ('{study.digest}')"
        open_file(path, SCHEMA, begin, remedy="choose another --votes")
        try:
            with connect(path) as db:
                saved = [tuple(row) for row in db.execute("SELECT digest FROM study")]
                known = saved == [(study.digest,)]
                whole = known and self._is_whole(db)
        except (sqlite3.Error, ValueError, TypeError):
            known, whole = True, False
        if not known:
            raise DataError(f"{path} holds votes on other pictures; choose another --votes")
        if not whole:
            raise DataError(f"{path} is damaged; choose another --votes")

    def _is_whole(self, db: sqlite3.Connection) -> bool:
        """Return whether every row is one that this study has written."""
        units, methods = range(len(self.study.units)), self.study.methods
        places = range(2 + len(methods))
        return (
            all(
                unit in units
                and sorted(json.loads(shuffled)) == methods
                and len(json.loads(pictures)) == len(places)
                for unit, shuffled, pictures in db.execute(
                    "SELECT unit, methods, pictures FROM shown"
                )
            )
            and all(
                unit in units and place in places
                for unit, place in db.execute("SELECT unit, place FROM pictures")
            )
            and all(
                question in QUESTIONS and method in methods
                for question, method in db.execute("SELECT question, method FROM votes")
            )
        )

    def new_rater(self, num_pairs: int) -> str:
        """Draw a rater's pairs without repetition, and shuffle the methods of each.

        Returns:
            The rater's token.
        """
        rng = random.SystemRandom()
        units = self.study.units
        rater_token = secrets.token_urlsafe(16)
        with transaction(self.path) as db:
            rater = db.execute(
                "INSERT INTO raters (token, began) VALUES (?, datetime('now'))", (rater_token,)
            ).lastrowid
            drawn = rng.sample(range(len(units)), min(num_pairs, len(units)))
            for position, unit in enumerate(drawn):
                methods = self.study.methods
                rng.shuffle(methods)
                places = [0, 1, *(2 + self.study.methods.index(method) for method in methods)]
                tokens = [secrets.token_urlsafe(12) for _ in places]
                db.executemany(
                    "INSERT INTO pictures VALUES (?, ?, ?)",
                    [(token, unit, place) for token, place in zip(tokens, places, strict=True)],
                )
                db.execute(
                    "INSERT INTO shown VALUES (?, ?, ?, ?, ?)",
                    (rater, position, unit, json.dumps(methods), json.dumps(tokens)),
                )
        return rater_token

    def progress(self, rater_token: str) -> tuple[int, int | None] | None:
        """Return how many questions a rater has and the first open one; None if unknown."""
        with connect(self.path) as db:
            rows = db.execute(
                "SELECT position, question FROM shown JOIN raters ON shown.rater = id "
                "LEFT JOIN votes USING (rater, position) WHERE token = ?",
                (rater_token,),
            ).fetchall()
        if not rows:
            return None
        positions, answered = {row[0] for row in rows}, {tuple(row) for row in rows}
        asked = [(position, name) for position in sorted(positions) for name in QUESTIONS]
        return len(asked), next((i for i, key in enumerate(asked) if key not in answered), None)

    def question(self, rater_token: str, index: int) -> Question | None:
        """Return a rater's question by its number, or None where there is none."""
        if not 0 <= index < MOST_QUESTIONS:
            return None
        position, question = index // len(QUESTIONS), QUESTIONS[index % len(QUESTIONS)]
        with connect(self.path) as db:
            row = db.execute(
                "SELECT methods, pictures, method FROM shown JOIN raters ON shown.rater = id "
                "LEFT JOIN votes ON votes.rater = id AND votes.position = shown.position "
                "AND question = ? WHERE token = ? AND shown.position = ?",
                (question, rater_token, position),
            ).fetchone()
        if row is None:
            return None
        methods, (source, target, *results) = json.loads(row[0]), json.loads(row[1])
        chosen = None if row[2] is None else methods.index(row[2])
        return Question(question, position, source, target, results, chosen)

    def vote(self, rater_token: str, index: int, choice: int) -> bool:
        """Store a rater's choice in place of an earlier one; False if it does not exist."""
        if not 0 <= index < MOST_QUESTIONS:
            return False
        position, question = index // len(QUESTIONS), QUESTIONS[index % len(QUESTIONS)]
        with transaction(self.path) as db:
            row = db.execute(
                "SELECT id, methods FROM shown JOIN raters ON rater = id "
                "WHERE token = ? AND position = ?",
                (rater_token, position),
            ).fetchone()
            if row is None or not 0 <= choice < len(methods := json.loads(row[1])):
                return False
            db.execute(
                "INSERT INTO votes VALUES (?, ?, ?, ?, datetime('now')) "
                "ON CONFLICT DO UPDATE SET method = excluded.method, voted = excluded.voted",
                (row[0], position, question, methods[choice]),
            )
        return True

    def picture(self, token: str) -> tuple[Path, bool] | None:
        """Return a picture's path and whether it is a result; None for an unknown token."""
        with connect(self.path) as db:
            row = db.execute(
                "SELECT unit, place FROM pictures WHERE token = ?", (token,)
            ).fetchone()
        if row is None:
            return None
        unit, place = self.study.units[row[0]], row[1]
        return [unit.source, unit.target, *unit.results.values()][place], place > 1

    def counts(self) -> dict[str, dict[int, dict[str, int]]]:
        """Count the votes by question, rater and method."""
        counts: dict[str, dict[int, dict[str, int]]] = {question: {} for question in QUESTIONS}
        with connect(self.path) as db:
            for question, rater, method, votes in db.execute(
                "SELECT question, rater, method, count(*) FROM votes GROUP BY 1, 2, 3"
            ):
                counts[question].setdefault(rater, {})[method] = votes
        return counts

    def raters(self) -> tuple[int, int]:
        """Return how many raters have voted, and how many have answered everything."""
        with connect(self.path) as db:
            votes = db.execute(
                "SELECT count(*), (SELECT count(*) FROM shown WHERE shown.rater = votes.rater) "
                "FROM votes GROUP BY rater"
            ).fetchall()
        return len(votes), sum(given == len(QUESTIONS) * pairs for given, pairs in votes)


Z = 1.959964  # standard deviations of 95 %


@dataclass(frozen=True)
class Share:
    """Share of the votes on one question with its 95 % interval, from 0 to 1."""

    share: float
    low: float
    high: float
    votes: int
    """Number of votes for this method."""


def share_of(votes: Sequence[int], totals: Sequence[int]) -> Share | None:
    """Return a method's share of each rater's total and its Wilson interval; None without votes.

    Votes of one rater are alike, so n votes are worth n / d independent ones: d is the design
    effect, the variance between raters over that of independent votes, at least 1.
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
    """Return the 95 % score interval of a share p of n independent votes."""
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))  # rounding aside


def shares(
    counts: dict[str, dict[int, dict[str, int]]], methods: Sequence[str]
) -> dict[str, dict[str, Share | None]]:
    """Return the shares by method and question, from ``Votes.counts``."""
    return {
        method: {
            question: share_of(
                [votes.get(method, 0) for votes in by_rater.values()],
                [sum(votes.values()) for votes in by_rater.values()],
            )
            for question, by_rater in counts.items()
        }
        for method in methods
    }


def share_table(result: dict[str, dict[str, Share | None]]) -> str:
    """Return a Markdown table of the shares in percent (Table 2)."""
    rows = [[method, *map(percent, by_question.values())] for method, by_question in result.items()]
    return markdown_table(["method", *QUESTIONS], rows)


def percent(s: Share | None) -> str:
    """Return a share and its interval in percent."""
    if s is None:
        return "no votes"
    return f"{100 * s.share:.1f} ({100 * s.low:.1f} to {100 * s.high:.1f})"
