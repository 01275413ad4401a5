"""Ctrl-C, SIGTERM, a closed terminal at any moment: no traceback, the right exit status, one sentence at most."""

import re
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest

from mlx_ltxw.cli.signals import SIGNALS, caught, guarded, on_signals
from mlx_ltxw.errors import UserError

ADAPTER = Path(__file__).parents[2] / "mlx_ltxw" / "builtin" / "adapters" / "whisper.safetensors"
SENTENCE = "Stopped; nothing half-written was left behind."
MOMENTS = 11

AT_CALL = """
import atexit, os, sys
number, moment = int(sys.argv[1]), int(sys.argv[2])
del sys.argv[1:3]
calls = 0

def count(frame, event, argument):
    global calls
    calls += 1
    if calls == moment:
        os.kill(os.getpid(), number)

def tell():  # called last
    sys.setprofile(None)
    if not moment:
        os.write(2, b"%d calls" % calls)

atexit.register(tell)
import mlx_ltxw.__main__ as program
sys.setprofile(count)
sys.exit(program.main())
"""
"""Sends a signal at the moment of one of all calls and returns, from the program's first to Python's leave."""


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True)


def test_a_signal_at_any_call_ends_the_program_with_one_sentence():
    counted = re.search(r"(\d+) calls", python(AT_CALL, 0, 0, "inspect", ADAPTER).stderr)
    last = int(counted[1])

    def signalled(index: int) -> tuple[int, int, subprocess.CompletedProcess[str]]:
        number, moment = SIGNALS[index % 3], 1 + index * (last - 1) // MOMENTS
        return number, moment, python(AT_CALL, number, moment, "inspect", ADAPTER)

    with ThreadPoolExecutor(2) as pool:
        for number, moment, done in pool.map(signalled, range(MOMENTS)):
            where = f"signal {number} at call {moment} of {last}: {done.stderr}"
            assert done.returncode == 128 + number, where
            assert done.stderr.split("\n") in ([""], ["", SENTENCE, ""]), where  # a line after the terminal's ^C
            assert done.stdout == "", where


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_before_the_command_is_loaded_ends_the_program_silently(number):
    done = python(f"import mlx_ltxw.__main__, os; os.kill(os.getpid(), {number}); print('goes on')")
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", "")


def test_a_closed_terminal_ends_nothing_that_was_told_not_to_end():
    """`nohup`: before the command, and while it runs."""
    code = """
        import signal
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        import mlx_ltxw.__main__, mlx_ltxw.cli, mlx_ltxw.cli.signals as signals
        signal.raise_signal(signal.SIGHUP)
        with signals.guarded(), signals.on_signals(print):
            signals.caught(lambda: signal.raise_signal(signal.SIGHUP))
        print("goes on")
    """
    done = python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "goes on\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_python_leaves_changes_nothing(number):
    """Python puts the system's own answers back before it takes modules down, which takes long with MLX."""
    code = """
        import atexit, os, sys

        class Last:
            kill, pid = os.kill, os.getpid()

            def __del__(self):
                self.kill(self.pid, NUMBER)

        last = Last()
        from mlx_ltxw.__main__ import main
        atexit.register(os.kill, os.getpid(), NUMBER)
        sys.exit(main())
    """
    done = python(code.replace("NUMBER", str(int(number))), "--version")
    assert done.returncode == 0
    assert "version" in done.stdout
    assert done.stderr == ""


def test_a_second_signal_while_python_leaves_ends_at_once():
    code = """
        import atexit, os, signal, sys, time
        from mlx_ltxw.__main__ import main

        def stuck():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)

        atexit.register(stuck)
        sys.exit(main())
    """
    assert python(code, "--version").returncode == 0


def interrupted(work, number=signal.SIGINT):
    """What comes out of `work` when the first signal raises KeyboardInterrupt; and how often it did."""
    times = []

    def stop(got):
        assert got == number
        times.append(got)
        raise KeyboardInterrupt

    try:
        with guarded(), on_signals(stop):
            return caught(work), len(times)
    except KeyboardInterrupt:
        return KeyboardInterrupt, len(times)


def wait():
    import time

    for _ in range(500):
        time.sleep(0.01)
    return "not interrupted"


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "except BaseException: pass",
        "except BaseException as error: raise ImportError('numpy is broken') from error",
        "except BaseException as error: raise SystemError('the module raised') from error",
    ],
)
def test_a_module_is_imported_before_a_signal_is_heard(tmp_path, monkeypatch, rest):
    rest = rest or "finally: pass"
    (tmp_path / "signalled_module.py").write_text(
        f"import os\ntry:\n    os.kill(os.getpid(), {int(signal.SIGINT)})\n    done = sum(range(10))\n{rest}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "signalled_module", raising=False)

    def work():
        import signalled_module

        assert signalled_module.done == 45
        return wait()

    assert interrupted(work) == (KeyboardInterrupt, 1)


def test_an_interruption_that_a_destructor_swallows_comes_again(capfd):
    class Loud:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    def work():
        Loud()
        return wait()

    assert interrupted(work, signal.SIGTERM) == (KeyboardInterrupt, 2)
    assert capfd.readouterr().err == ""


def test_an_interruption_that_a_library_swallows_comes_again(monkeypatch):
    """As MLX does with an error of the numbers that it is given."""
    monkeypatch.delitem(sys.modules, "asyncio", raising=False)

    def work():
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        return wait()

    assert interrupted(work, signal.SIGTERM) == (KeyboardInterrupt, 2)


def cleaned_up(how):
    """Takes longer than it takes a lost interruption to come again."""
    begun, done = time.monotonic(), []

    def clean():
        while time.monotonic() < begun + 0.2:
            time.sleep(0.01)
        done.append(True)

    def writing():
        try:
            yield
        finally:
            clean()

    def work():
        if how == "generator":
            with closing(writing()) as events:
                next(events)
                signal.raise_signal(signal.SIGINT)
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException as error:
            if how == "another":
                raise UserError("a library's", "error") from error
            raise
        finally:
            clean()

    if how != "another":
        return interrupted(work), done

    def told():
        try:
            work()
        except UserError:
            clean()
            raise KeyboardInterrupt from None

    return interrupted(told), done[1:]


@pytest.mark.parametrize("how", ["finally", "generator", "another"])
def test_who_cleans_up_after_an_interruption_is_not_interrupted(how):
    assert cleaned_up(how) == ((KeyboardInterrupt, 1), [True])


def test_a_second_signal_is_heard_while_somebody_cleans_up():
    def work():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)
            wait()

    assert interrupted(work) == (KeyboardInterrupt, 2)


def test_a_signal_that_interrupts_nothing_is_told_once():
    times = []
    with guarded(), on_signals(times.append):
        caught(lambda: (signal.raise_signal(signal.SIGINT), time.sleep(0.1)))
    assert times == [signal.SIGINT]


def test_a_signal_before_the_work_waits_for_it():
    def stop(number):
        raise KeyboardInterrupt

    with guarded(), on_signals(stop):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            caught(wait)
        signal.raise_signal(signal.SIGINT)  # too late
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_an_error_that_an_interruption_became_is_not_told(cli, monkeypatch):
    """A library makes an ImportError of it, and the command a sentence for the user."""
    import mlx_ltxw.cli.inspect as command

    def callback(*arguments, **options):
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt as error:
            raise UserError("numpy is not installed.", "Install it.") from error

    monkeypatch.setattr(command.inspect, "callback", callback)
    done = cli("inspect", ADAPTER)
    assert (done.code, done.out, done.err) == (143, "", SENTENCE + "\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_waited_goes_to_who_handles_it_by_then(number):
    """A server handles signals itself from its start on; one that came during an import before is its own too. It knows
    nothing of a closed terminal, which is a request to end."""
    told, others = [], []
    with guarded(), on_signals(told.append):  # beside `caught` it waits
        signal.raise_signal(number)
        before = signal.signal(signal.SIGTERM, lambda number, _: others.append(number))
        time.sleep(0.1)
        signal.signal(signal.SIGTERM, before)
    assert (told, others) == ([], [signal.SIGTERM])
