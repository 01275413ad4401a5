"""Strength in time."""

import numpy as np
import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.prompts.intervals import Interval, gate, parse_intervals


def test_parse():
    assert parse_intervals("0-2=whispering, 2-4=normal") == [Interval(0, 2, 1.0), Interval(2, 4, 0.0)]
    assert parse_intervals("0-1.5=0.25,1.5-3=soft") == [Interval(0, 1.5, 0.25), Interval(1.5, 3, 0.5)]


@pytest.mark.parametrize(
    "text",
    ["", "0-2", "0-2=loud", "1-2=normal", "0-2=normal,3-4=normal", "0-2=normal,1-4=normal", "0-0=normal", "2-1=normal",
     "0-2=nan", "0..1-2=1"],
)  # fmt: skip
def test_refused(text):
    with pytest.raises(UserError):
        parse_intervals(text)


def test_gate_by_hand():
    """From 1 to 0 at 2 s over 0.2 s: 1 before 1.9, cos²-shaped between, 0 after 2.1; 2 s lies half-way."""
    times = np.array([0.0, 1.9, 1.95, 2.0, 2.05, 2.1, 9.0])
    got = gate(parse_intervals("0-2=whispering,2-4=normal"), times, edge=0.2)
    assert got.dtype == np.float32
    assert got == pytest.approx([1, 1, 0.5 + np.sqrt(0.125), 0.5, 0.5 - np.sqrt(0.125), 0, 0], abs=1e-6)


def test_steps_and_many_stretches():
    intervals = parse_intervals("0-1=0,1-2=1,2-3=0.5")
    assert gate(intervals, np.array([0.5, 1.0, 1.5, 2.5, 99.0]), edge=0).tolist() == [0, 1, 1, 0.5, 0.5]
    smooth = gate(parse_intervals("0-1=0,1-1.05=1,1.05-2=0"), np.linspace(0, 2, 401), edge=0.3)
    assert smooth.min() >= 0
    assert smooth.max() <= 1
    assert smooth[0] == smooth[-1] == 0
