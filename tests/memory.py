"""What work holds in memory, beside what a plan says: a bound in every run, and no loose one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

RUNS = 5
"""At most, of work that seems to hold less than its plan."""


def check_plan(
    said: Mapping[str, float], measure: Callable[[], Mapping[str, float]], slack: float = 0, within: float = 1.1
) -> dict[str, float]:
    """A plan is right: never more than a tenth beyond it, and of several runs the highest no more than a tenth below.

    MLX's CPU backend runs ahead of its work, so that a run on busy cores may hold a sixth less than on idle ones: the
    describing thread waits for its turn while the computing one goes on and frees. It is measured again then. More
    than on idle ones it never holds.

    Args:
        said: Bytes by part.
        measure: Does the work anew; bytes that each part held, of some or all of those.
        slack: Bytes that do not matter.
        within: How many times the highest a plan may be.

    Returns:
        The highest of each part.

    Raises:
        AssertionError: with the parts and all their runs.
    """
    runs: dict[str, list[float]] = {}
    for _ in range(RUNS):
        for part, peak in measure().items():
            runs.setdefault(part, []).append(peak)
        more = {part: (said[part], peaks) for part, peaks in runs.items() if peaks[-1] > 1.1 * said[part] + slack}
        assert not more, f"hold more than their plan: {more}"
        loose = {part: (said[part], peaks) for part, peaks in runs.items() if said[part] > within * max(peaks) + slack}
        if not loose:
            return {part: max(peaks) for part, peaks in runs.items()}
    raise AssertionError(f"hold less than their plan in {RUNS} runs: {loose}")
