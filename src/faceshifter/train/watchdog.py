"""Names of what goes wrong in a training, found in its reports alone.

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
"""Reports in a row of a network that gets worse, before a run is stopped."""


def problems(history: Sequence[Report]) -> list[str]:
    """Name every failure that the last reports show; each message begins with its name."""
    found = [_lasting(history, key, check) for key, check in CHECKS]
    return [message for message in (*found, _growing_gradients(history)) if message]


def is_diverging(history: Sequence[Report]) -> bool:
    """Return whether the last report is of a network that has become much worse.

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
    """Return whether the last measurements all are of a network that gets worse."""
    looks = [idx for idx, report in enumerate(history) if "watch/rec" in report][-LOOKS:]
    return len(looks) == LOOKS and all(is_diverging(history[: idx + 1]) for idx in looks)


def _lasting(
    history: Sequence[Report], key: str, check: Callable[[Report], str | None]
) -> str | None:
    """Return a failure's message once all reports with a key show it for ``PATIENCE`` steps."""
    reports = [report for report in history if key in report]
    since = None
    for report in reversed(reports):
        if check(report) is None:
            break
        since = report["step"]
    if since is None or reports[-1]["step"] - since < PATIENCE:
        return None
    return check(reports[-1])


def _cosines(report: Report, of: str) -> list[float]:
    return [value for key, value in report.items() if key.startswith(f"watch/cos_{of}/")]


def _copies_target(report: Report) -> str | None:
    source, target = _cosines(report, "source"), _cosines(report, "target")
    if not target or min(target) <= 0.6 or max(source) >= 0.4:
        return None
    return (
        f"copies the target: cosine to target {min(target):.2f}, to source {max(source):.2f}; "
        "check the identity encoder with check-identity, then raise the identity weight"
    )


def _keeps_target(report: Report) -> str | None:
    target, strangers = _cosines(report, "target"), _cosines(report, "strangers")
    if not strangers or _copies_target(report) is not None:
        return None
    kept = min(t - s for t, s in zip(target, strangers, strict=True))
    if kept <= 0.25:
        return None
    return (
        f"keeps the target: the cosine of swaps to the target is {kept:.2f} above that of two "
        "strangers; raise the share of triplets or the target weight"
    )


def _fools_encoder(report: Report) -> str | None:
    source = _cosines(report, "source")
    if len(source) < 2 or max(source) - min(source) <= 0.45:
        return None
    return (
        f"fools an encoder: cosine to source {max(source):.2f} by one, {min(source):.2f} by "
        "another; lower the identity weight, or add --teachers"
    )


def _loses_target(report: Report) -> str | None:
    if report["watch/rec"] <= 0.3:
        return None
    return (
        "loses the target: given its own identity a target comes back with a mean error above "
        "0.3; raise the attributes and reconstruction weights"
    )


def _saturated_discriminator(report: Report) -> str | None:
    if report["loss/d"] >= 0.1:
        return None
    margin = report.get("score/real", 0) - report.get("score/fake", 0)
    return (
        f"discriminator saturated for {PATIENCE} steps: margin {margin:.1f}, the generator no "
        "longer learns from it; lower --adam-d.lr or the adversarial weight"
    )


def _blind_discriminator(report: Report) -> str | None:
    if abs(report["score/real"] - report["score/fake"]) >= 0.02:
        return None
    return (
        f"discriminator blind for {PATIENCE} steps: it scores targets and swaps alike; "
        "raise --adam-d.lr"
    )


def _dead_masks(report: Report) -> str | None:
    prefix = "watch/mask/"
    masks = {key.removeprefix(prefix): M for key, M in report.items() if key.startswith(prefix)}
    extreme = [k for k, M in masks.items() if not 0.02 < M < 0.98]
    if not masks or 2 * len(extreme) <= len(masks):
        return None
    return (
        f"masks are closed: M of the levels {', '.join(extreme)} is 0 or 1 everywhere, so that "
        "identity or attributes have no effect there; lower --adam-g.lr"
    )


def _growing_gradients(history: Sequence[Report]) -> str | None:
    for key in ("grad/g", "grad/d", "grad"):
        norms = [report[key] for report in history if key in report]
        if len(norms) > 10 and norms[-1] > 10 * median(norms[-50:-1]):
            return (
                f"gradients grow: {key} is {norms[-1]:.3g}, usually {median(norms[-50:-1]):.3g}; "
                "if this lasts, lower the learning rate"
            )
    return None


def _changes_nothing(report: Report) -> str | None:
    if report["watch/chg"] >= 0.005:
        return None
    return (
        "second stage changes nothing: mean change below 0.005; raise --lambda-rec, or see whether "
        "the first stage has errors left to repair (rank-errors)"
    )


def _undoes_swap(report: Report) -> str | None:
    if max(_cosines(report, "lost"), default=0.0) <= 0.15:
        return None
    return (
        "second stage undoes the swap: it lowers the cosine to the source by more than 0.15; raise "
        "--lambda-id or lower --lambda-rec"
    )


def _starves(report: Report) -> str | None:
    if report["time/data"] <= 0.05:
        return None
    return (
        f"waits for data {report['time/data']:.0%} of the time; give more --workers, or "
        "--faces memory"
    )


CHECKS: tuple[tuple[str, Callable[[Report], str | None]], ...] = (
    ("watch/rec", _copies_target),
    ("watch/rec", _keeps_target),
    ("watch/rec", _fools_encoder),
    ("watch/rec", _loses_target),
    ("loss/d", _saturated_discriminator),
    ("score/real", _blind_discriminator),
    ("watch/rec", _dead_masks),
    ("watch/chg", _changes_nothing),
    ("watch/chg", _undoes_swap),
    ("time/data", _starves),
)
"""Which reports say whether something is wrong, by a key of theirs, and the message if it is."""
