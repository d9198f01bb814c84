"""The bounded part of the fuzzer: the same few calls of every kind each time."""

import os

import pytest

from fuzz.run import GOOD, NAMES, fuzz
from fuzz.subjects import SUBJECTS

pytestmark = pytest.mark.skipif(os.name != "posix", reason="children are limited by POSIX means")
CALLS_EACH = 12


def test_every_subject_has_its_name() -> None:
    assert set(SUBJECTS) == set(NAMES)


def test_whatever_is_read_is_used_or_refused_in_a_sentence() -> None:
    tally = fuzz(NAMES, CALLS_EACH * len(NAMES), first_seed=0)
    found = [
        f"{name}: {answer['outcome']} {answer['left']} {call}\n{answer['error']}"
        for (name, _), (call, answer, _) in tally.findings.items()
    ]
    assert not found, "\n\n".join(found)
    for name in NAMES:  # each was made, and not all were refused before they were read
        assert sum(tally.counts[name][outcome] for outcome in GOOD) == CALLS_EACH, name
    assert sum(counts["ran"] for counts in tally.counts.values()) > len(NAMES)
