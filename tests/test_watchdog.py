"""The watchdog names each failure when it lasts, and nothing else."""

from typing import Any

import pytest

from faceshifter.train.watchdog import PATIENCE, has_diverged, is_diverging, problems

HEALTHY: dict[str, Any] = {
    "loss/d": 1.2,
    "score/real": 0.5,
    "score/fake": -0.4,
    "grad/g": 3.0,
    "grad/d": 1.0,
    "time/data": 0.01,
    "watch/rec": 0.1,
    "watch/change": 0.3,
    "watch/cos_source/dlib": 0.6,
    "watch/cos_target/dlib": 0.2,
    "watch/cos_strangers/dlib": 0.0,
    "watch/mask/1": 0.4,
    "watch/mask/2": 0.6,
    "watch/mask/3": 0.5,
}
GOOD = {"watch/cos_source/other": 0.5, "watch/chg": 0.05, "watch/cos_lost/dlib": 0.02}
FAILURES: dict[str, dict[str, Any]] = {
    "copies the target: cosine to target 0.90, to source 0.10": {
        "watch/cos_source/dlib": 0.1,
        "watch/cos_target/dlib": 0.9,
    },
    "keeps the target: the cosine of swaps to the target is 0.35 above": {
        "watch/cos_target/dlib": 0.35
    },
    "fools an encoder: cosine to source 0.60 by one, 0.10 by another": {
        "watch/cos_source/other": 0.1
    },
    "loses the target": {"watch/rec": 0.4},
    "discriminator saturated for 500 steps: margin 3.0": {
        "loss/d": 0.05,
        "score/real": 1.5,
        "score/fake": -1.5,
    },
    "discriminator blind for 500 steps": {"score/fake": 0.5},
    "masks are closed: M of the levels 1, 3": {"watch/mask/1": 0.0, "watch/mask/3": 0.999},
    "second stage changes nothing": {"watch/chg": 0.001},
    "second stage undoes the swap": {"watch/chg": 0.05, "watch/cos_lost/dlib": 0.3},
    "waits for data 30% of the time": {"time/data": 0.3},
}


def history(*parts: tuple[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """Reports every 25 steps, with a look at every fourth, of parts that last some steps."""
    reports: list[dict[str, Any]] = []
    for steps, changes in parts:
        for _ in range(steps // 25):
            step = 25 * (len(reports) + 1)
            watched = step % 100 == 0
            values = {
                key: value
                for key, value in (HEALTHY | changes).items()
                if watched or not key.startswith("watch/")
            }
            reports.append({"step": step, **values})
    return reports


def test_a_healthy_training_has_no_problems() -> None:
    assert problems(history((3000, {}))) == []
    assert problems([]) == []


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_named_once_it_lasts_and_not_before(name) -> None:
    changes = FAILURES[name]
    (message,) = problems(history((1000, {}), (PATIENCE + 100, changes)))
    assert message.startswith(name)
    assert len(message) > len(name) + 10  # and what to do
    assert problems(history((1000, {}), (PATIENCE - 100, changes))) == []
    recovered = {key: GOOD.get(key, HEALTHY.get(key)) for key in changes}
    assert problems(history((1000, {}), (PATIENCE + 100, changes), (200, recovered))) == []


def test_gradients_that_grow_tenfold_are_named_at_once() -> None:
    (message,) = problems(history((1000, {}), (25, {"grad/g": 40.0})))
    assert message.startswith("gradients grow: grad/g is 40, usually 3")


def test_divergence_is_an_error_that_more_than_doubles_at_three_looks() -> None:
    one = history((1000, {}), (100, {"watch/rec": 0.3}))
    assert is_diverging(one)
    assert not has_diverged(one)
    assert has_diverged(history((1000, {}), (300, {"watch/rec": 0.3})))
    assert not has_diverged(history((1000, {}), (200, {"watch/rec": 0.3}), (100, {})))
    assert not is_diverging(history((1000, {}), (300, {"watch/rec": 0.2})))


def test_gradients_a_hundred_times_the_usual_hold_back_checkpoints() -> None:
    assert is_diverging(history((1000, {}), (25, {"grad/g": 400.0})))
    assert not is_diverging(history((1000, {}), (25, {"grad/g": 200.0})))
