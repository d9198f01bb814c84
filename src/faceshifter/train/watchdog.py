"""What goes wrong in a training, in words, from its reports alone.

A report is a line of ``stats.jsonl``: ``loss/...``, ``score/...`` and ``grad/...`` are means since
the line before; ``watch/...`` are of the averaged network on pairs that training never sees.
docs/training.md says what each message means and what helped.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

Report = Mapping[str, Any]

PATIENCE = 500
"""Steps that a failure must last before it is named."""
LOOKS = 3
"""Looks in a row at a network that gets worse before a run is stopped."""


def problems(history: Sequence[Report]) -> list[str]:
    """Name every failure that the last reports show; each message begins with its name."""
    found = [check(history) for check in CHECKS]
    return [message for message in found if message]


def is_diverging(history: Sequence[Report]) -> bool:
    """Whether the last report is of a network that has become much worse than it was.

    Its error on its own input has more than doubled from the lowest, or its gradients are a
    hundred times what is usual.
    """
    rec = [report["watch/rec"] for report in history if "watch/rec" in report]
    if len(rec) > 1 and "watch/rec" in history[-1] and rec[-1] > 2 * min(rec) + 0.05:
        return True
    for key in ("grad/g", "grad"):
        norms = [report[key] for report in history if key in report]
        if len(norms) > LOOKS and norms[-1] > 100 * median(norms[-50:-1]):
            return True
    return False


def has_diverged(history: Sequence[Report]) -> bool:
    """Whether the last looks all were at a network that gets worse."""
    looks = [idx for idx, report in enumerate(history) if "watch/rec" in report][-LOOKS:]
    return len(looks) == LOOKS and all(is_diverging(history[: idx + 1]) for idx in looks)


def _lasting(history: Sequence[Report], key: str, holds: Callable[[Report], bool]) -> bool:
    """Whether something has held for the last ``PATIENCE`` steps, in every report with a key."""
    reports = [report for report in history if key in report]
    since = None
    for report in reversed(reports):
        if not holds(report):
            break
        since = report["step"]
    return since is not None and reports[-1]["step"] - since >= PATIENCE


def _cosines(report: Report, of: str) -> list[float]:
    return [value for key, value in report.items() if key.startswith(f"watch/cos_{of}/")]


def _copies_target(history: Sequence[Report]) -> str | None:
    def holds(report: Report) -> bool:
        source, target = _cosines(report, "source"), _cosines(report, "target")
        return bool(target) and min(target) > 0.6 and max(source) < 0.4

    if not _lasting(history, "watch/rec", holds):
        return None
    report = next(report for report in reversed(history) if "watch/rec" in report)
    return (
        f"copies the target: cosine to target {min(_cosines(report, 'target')):.2f}, to source "
        f"{max(_cosines(report, 'source')):.2f}; check the identity encoder with "
        "check-identity, then raise the identity weight"
    )


def _fools_encoder(history: Sequence[Report]) -> str | None:
    def holds(report: Report) -> bool:
        source = _cosines(report, "source")
        return len(source) > 1 and max(source) - min(source) > 0.45

    if not _lasting(history, "watch/rec", holds):
        return None
    source = _cosines(next(r for r in reversed(history) if "watch/rec" in r), "source")
    return (
        f"fools an encoder: cosine to source {max(source):.2f} by one, {min(source):.2f} by "
        "another; lower the identity weight, or add --teachers"
    )


def _loses_target(history: Sequence[Report]) -> str | None:
    if not _lasting(history, "watch/rec", lambda report: report["watch/rec"] > 0.3):
        return None
    return (
        "loses the target: given its own identity a target comes back with a mean error above "
        "0.3; raise the attributes and reconstruction weights"
    )


def _saturated_discriminator(history: Sequence[Report]) -> str | None:
    def holds(report: Report) -> bool:
        return report["loss/d"] < 0.1

    if not _lasting(history, "loss/d", holds):
        return None
    margin = history[-1].get("score/real", 0) - history[-1].get("score/fake", 0)
    return (
        f"discriminator saturated for {PATIENCE} steps: margin {margin:.1f}, the generator no "
        "longer learns from it; lower --adam-d.lr or the adversarial weight"
    )


def _blind_discriminator(history: Sequence[Report]) -> str | None:
    def holds(report: Report) -> bool:
        return abs(report["score/real"] - report["score/fake"]) < 0.02

    if not _lasting(history, "score/real", holds):
        return None
    return (
        f"discriminator blind for {PATIENCE} steps: it scores targets and swaps alike; "
        "raise --adam-d.lr"
    )


def _dead_masks(history: Sequence[Report]) -> str | None:
    def masks(report: Report) -> dict[str, float]:
        prefix = "watch/mask/"
        return {key.removeprefix(prefix): m for key, m in report.items() if key.startswith(prefix)}

    def extreme(report: Report) -> list[str]:
        return [k for k, m in masks(report).items() if not 0.02 < m < 0.98]

    def holds(report: Report) -> bool:
        return bool(masks(report)) and 2 * len(extreme(report)) > len(masks(report))

    if not _lasting(history, "watch/rec", holds):
        return None
    report = next(report for report in reversed(history) if "watch/rec" in report)
    return (
        f"masks are closed: M of the levels {', '.join(extreme(report))} is 0 or 1 everywhere, so "
        "that identity or attributes have no say there; lower --adam-g.lr"
    )


def _growing_gradients(history: Sequence[Report]) -> str | None:
    for key in ("grad/g", "grad/d", "grad"):
        norms = [report[key] for report in history if key in report]
        if len(norms) > 10 and norms[-1] > 10 * median(norms[-50:-1]):
            return (
                f"gradients grow: {key} is {norms[-1]:.3g}, usually {median(norms[-50:-1]):.3g}; "
                "if it stays so, lower the learning rate"
            )
    return None


def _changes_nothing(history: Sequence[Report]) -> str | None:
    if not _lasting(history, "watch/chg", lambda report: report["watch/chg"] < 0.005):
        return None
    return (
        "second stage changes nothing: mean change below 0.005; raise --lambda-rec, or see whether "
        "the first stage has errors left to repair (rank-errors)"
    )


def _undoes_swap(history: Sequence[Report]) -> str | None:
    def holds(report: Report) -> bool:
        return max(_cosines(report, "lost"), default=0.0) > 0.15

    if not _lasting(history, "watch/chg", holds):
        return None
    return (
        "second stage undoes the swap: it lowers the cosine to the source by more than 0.15; raise "
        "--lambda-id or lower --lambda-rec"
    )


def _starves(history: Sequence[Report]) -> str | None:
    if not _lasting(history, "time/data", lambda report: report["time/data"] > 0.05):
        return None
    return (
        f"waits for data {history[-1]['time/data']:.0%} of the time; give more --workers, or "
        "--faces memory"
    )


CHECKS = (
    _copies_target,
    _fools_encoder,
    _loses_target,
    _saturated_discriminator,
    _blind_discriminator,
    _dead_masks,
    _growing_gradients,
    _changes_nothing,
    _undoes_swap,
    _starves,
)
