"""Raters, what each is shown, and their votes, in one SQLite file.

Every request opens the file anew and every vote is a transaction of its own, so raters do not
disturb each other, and what has been answered survives any end of the server.
"""

import json
import math
import random
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from faceshifter.apps.study.study import Study
from faceshifter.errors import DataError, OutputError

QUESTIONS = ("identity", "attributes", "realism")
"""Of each pair, in this order; Section 4.1 (i) to (iii). page.html words them."""

WAIT_SECONDS = 30
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
    """One question as a rater sees it: tokens of pictures, no names."""

    question: str
    position: int
    """Of the pair, from 0."""
    source: str
    target: str
    results: list[str]
    chosen: int | None
    """Place of the result that the rater has chosen already."""


class Votes:
    """The study's file."""

    def __init__(self, path: Path, study: Study) -> None:
        """Make the file, or go on with that of the same study.

        Raises:
            DataError: It is of another study, or no such file.
            OutputError: It cannot be written.
        """
        self.path, self.study = path, study
        try:
            if not path.exists() or not path.stat().st_size:
                with self._transaction() as db:
                    for statement in filter(str.strip, SCHEMA.split(";")):
                        db.execute(statement)
                    db.execute("INSERT INTO study VALUES (?)", (study.digest,))
        except sqlite3.Error as error:
            raise OutputError(f"{path} cannot be written ({error}); choose another") from None
        try:  # in a way that leaves a file of something else as it is
            with closing(sqlite3.connect(path)) as db:
                saved = db.execute("SELECT digest FROM study").fetchone()
        except sqlite3.Error as error:
            raise DataError(f"{path} holds no votes ({error}); choose another --votes") from None
        if saved != (study.digest,):
            raise DataError(f"{path} holds votes on other pictures; choose another --votes")

    def new_rater(self, num_pairs: int) -> str:
        """Draw a rater's pairs, without repetition, and shuffle each one's methods.

        Returns:
            The rater's token.
        """
        rng = random.SystemRandom()
        units = self.study.units
        rater_token = secrets.token_urlsafe(16)
        with self._transaction() as db:
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
        """Number of a rater's questions and the first open one; None for an unknown rater."""
        with self._reading() as db:
            pairs = db.execute(
                "SELECT count(*) FROM shown JOIN raters ON rater = id WHERE token = ?",
                (rater_token,),
            ).fetchone()[0]
            answered = {
                len(QUESTIONS) * position + QUESTIONS.index(question)
                for position, question in db.execute(
                    "SELECT position, question FROM votes JOIN raters ON rater = id "
                    "WHERE token = ?",
                    (rater_token,),
                )
            }
        total = len(QUESTIONS) * pairs
        if not total:
            return None
        return total, next((i for i in range(total) if i not in answered), None)

    def question(self, rater_token: str, index: int) -> Question | None:
        """A rater's question by its number; None where there is none."""
        position, question = index // len(QUESTIONS), QUESTIONS[index % len(QUESTIONS)]
        with self._reading() as db:
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
        """Store a rater's choice, in place of an earlier one; False where there is no such."""
        position, question = index // len(QUESTIONS), QUESTIONS[index % len(QUESTIONS)]
        with self._transaction() as db:
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
        """Where a picture is, and whether it is a result; None for an unknown token."""
        with self._reading() as db:
            row = db.execute(
                "SELECT unit, place FROM pictures WHERE token = ?", (token,)
            ).fetchone()
        if row is None:
            return None
        unit, place = self.study.units[row[0]], row[1]
        return [unit.source, unit.target, *unit.results.values()][place], place > 1

    def counts(self) -> dict[str, dict[int, dict[str, int]]]:
        """Votes by question, rater and method."""
        counts: dict[str, dict[int, dict[str, int]]] = {question: {} for question in QUESTIONS}
        with self._reading() as db:
            for question, rater, method, votes in db.execute(
                "SELECT question, rater, method, count(*) FROM votes GROUP BY 1, 2, 3"
            ):
                counts[question].setdefault(rater, {})[method] = votes
        return counts

    def raters(self) -> tuple[int, int]:
        """Raters who have voted, and those of them who have answered everything."""
        with self._reading() as db:
            votes = db.execute(
                "SELECT count(*), (SELECT count(*) FROM shown WHERE shown.rater = votes.rater) "
                "FROM votes GROUP BY rater"
            ).fetchall()
        return len(votes), sum(given == len(QUESTIONS) * pairs for given, pairs in votes)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A connection; readers do not wait for a writer."""
        with closing(sqlite3.connect(self.path, timeout=WAIT_SECONDS, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            yield db

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, and on disk when it is over; closing without COMMIT rolls back."""
        with self._reading() as db:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")


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
