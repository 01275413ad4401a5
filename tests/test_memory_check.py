"""The check of a plan by what is measured: a bound in every run, and of several runs the highest."""

import pytest

from tests.memory import RUNS, check_plan


def runs_of(*peaks):
    left = iter(peaks)
    return lambda: {"part": next(left)}


def test_a_run_that_holds_less_is_measured_again():
    assert check_plan({"part": 100}, runs_of(80, 70, 95)) == {"part": 95}


def test_a_loose_plan_is_told_after_some_runs():
    with pytest.raises(AssertionError, match=f"less than their plan in {RUNS} runs"):
        check_plan({"part": 100}, runs_of(*[80] * RUNS))


@pytest.mark.parametrize("peaks", [(111,), (80, 111)])
def test_more_than_the_plan_is_never_measured_again(peaks):
    with pytest.raises(AssertionError, match="more than their plan"):
        check_plan({"part": 100}, runs_of(*peaks))
