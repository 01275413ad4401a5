"""One command in a forked process: bounded in memory and time, and looked at from outside. Linux alone."""

from __future__ import annotations

import atexit
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MORE_MEMORY = 2 << 30  # bytes over what the process has when it begins
PROCESSOR = 20  # seconds
CLOCK = 240.0  # seconds; the machine may be busy with others
LOADED = ("cli.entry", "cli.generate", "cli.train", "cli.measure", "cli.inspect", "cli.export", "cli.convert",
           "convert.run", "takes.script", "takes.describe", "train.start", "train.loop", "media.spectrogram",
           "adapter.describe")  # fmt: skip
"""Modules that every fork would load anew."""

_CRASHED = 99
_CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: Exit code; None where it did not come to one.
        output: Standard output and error.
        fault: What is wrong with that in any case; None for a sentence with exit 2, and for a run that ended well.
        peak: Resident bytes.
    """

    code: int | None
    output: str
    fault: str | None
    peak: int


def call(arguments: Sequence[object], work: Path) -> Outcome:
    """Runs `mlx-ltxw` with these arguments in a copy of this process; its folder is `work`."""
    log = work / ".output"
    child = os.fork()
    if child == 0:
        _child([str(argument) for argument in arguments], work, log)
    status, usage = _wait(child)
    output = log.read_bytes() if log.exists() else b""
    log.unlink(missing_ok=True)
    text = output.decode("utf-8", "replace")
    peak = usage.ru_maxrss * 1024
    if status is None:
        busy = usage.ru_utime + usage.ru_stime
        return Outcome(None, text, f"hangs: still there after {CLOCK:.0f} s, of which it computed {busy:.0f}", peak)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        said = "hangs" if number == signal.SIGXCPU else f"crashes ({signal.Signals(number).name})"
        return Outcome(None, text, said, peak)
    code = os.WEXITSTATUS(status)
    return Outcome(code, text, _fault(code, output), peak)


def _fault(code: int, output: bytes) -> str | None:
    if code == _CRASHED or b"Traceback (most recent" in output:
        last = output.decode("utf-8", "replace").strip().splitlines()[-1:]
        return f"traceback: {''.join(last)[:300]}"
    if code not in (0, 2):
        return f"exit {code}"
    if code == 2 and b"Error" not in output:
        return "exit 2 without a word"
    if found := _CONTROLS.search(output):
        return f"prints the control character {found[0]!r}"
    return None


def _child(arguments: list[str], work: Path, log: Path) -> None:
    """Does not come back."""
    code = _CRASHED
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.chdir(work)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR, PROCESSOR + 5))
        limit = _data_size() + MORE_MEMORY
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        sys.argv = ["mlx-ltxw", *arguments]
        sys.stdout = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
        sys.stderr = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace", buffering=1)
        from mlx_ltxw.cli import main

        main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        os.write(2, traceback.format_exc().encode("utf-8", "backslashreplace"))
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                code = code or 1
        os._exit(code)


def _data_size() -> int:
    """Bytes of private memory that this process has mapped, which `RLIMIT_DATA` bounds."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmData:\s+(\d+) kB", status)
    if found is None:
        raise RuntimeError("/proc tells no VmData; campaigns run on Linux alone")
    return int(found[1]) * 1024


def _wait(child: int) -> tuple[int | None, resource.struct_rusage]:
    begun = time.monotonic()
    while time.monotonic() - begun < CLOCK:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            return status, usage
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    _, _, usage = os.wait4(child, 0)
    return None, usage


class Forked:
    """The whole program, its last words to Python's own end included, in a copy of this process; as `Popen` has it.

    Attributes:
        pid: Of the copy.
        returncode: As `Popen`'s; None while it runs.
    """

    def __init__(self, arguments: Sequence[str], errors: Path) -> None:
        self._errors = errors
        errors.unlink(missing_ok=True)
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _program(arguments, errors)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def communicate(self, timeout: float) -> tuple[None, str]:
        """Waits for its end; nothing, and what it wrote to standard error."""
        begun = time.monotonic()
        while self.returncode is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.returncode = os.waitstatus_to_exitcode(status)
            elif time.monotonic() - begun > timeout:
                raise subprocess.TimeoutExpired("mlx-ltxw", timeout)
            else:
                time.sleep(0.002)
        return None, self._errors.read_text(errors="replace") if self._errors.exists() else ""


def _program(arguments: Sequence[str], errors: Path) -> None:
    """Does not come back."""
    code = 1
    try:
        atexit._clear()  # those of the campaign, which would take its folder away
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        sys.argv = ["mlx-ltxw", *arguments]
        sys.stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
        sys.stderr = os.fdopen(os.dup(2), "w", encoding="utf-8", buffering=1)
        from mlx_ltxw.__main__ import main

        code = main()
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException:
        os.write(2, traceback.format_exc().encode("utf-8", "backslashreplace"))
    finally:
        os._exit(code)
