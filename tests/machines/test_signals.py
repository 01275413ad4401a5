"""SIGTERM on a machine that makes clips of its own: it ends them, but not where it only tells of another's loss."""

import signal
import time

import pytest

from mlx_ltxw.cli.signals import caught, guarded, on_signals
from mlx_ltxw.machines import clips


@pytest.fixture
def stopped():
    """Signals that reached the command, which ends on each of them."""
    told = []

    def stop(number):
        told.append(number)
        raise KeyboardInterrupt

    with guarded(), on_signals(stop):
        yield told


def signalled(lost):
    def work():
        with clips._keeping_on(lost):
            signal.raise_signal(signal.SIGTERM)

    caught(work)


def test_who_is_asked_to_end_does_so_once(stopped, monkeypatch):
    monkeypatch.setattr(clips, "_NEWS", 0.2)
    before, began = signal.getsignal(signal.SIGTERM), time.process_time()
    with pytest.raises(KeyboardInterrupt):
        signalled(lambda: False)
    assert stopped == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before
    assert time.process_time() - began < 5


def test_the_launchers_signal_after_a_loss_ends_nothing(stopped):
    signalled(lambda: True)
    assert stopped == []


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN])
def test_outside_the_command_the_process_ends_with_143(before, monkeypatch):
    monkeypatch.setattr(clips, "_NEWS", 0.2)
    earlier = signal.signal(signal.SIGTERM, before)
    try:
        with pytest.raises(SystemExit) as ended:
            signalled(lambda: False)
    finally:
        signal.signal(signal.SIGTERM, earlier)
    assert ended.value.code == 143
