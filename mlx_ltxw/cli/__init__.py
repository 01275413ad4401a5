"""The command line, `mlx-ltxw COMMAND`: each command is a module of its name here, loaded when it is asked for.

This module loads the standard library alone, so that Ctrl-C finds the handlers in place from the start.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mlx_ltxw.cli.signals import caught, guarded, on_signals
from mlx_ltxw.cli.streams import lenient_stderr

COMMANDS = {
    "pull": "Download a ready-made model.",
    "convert": "Turn an official LTX-2.3 checkpoint into a model directory.",
    "generate": "Make a video with sound, or sound alone, from a prompt.",
    "train": "Train an adapter on clips.",
    "measure": "Loudness, voicing and vocal register of sound files.",
    "inspect": "Say what a model directory, checkpoint, adapter or made file holds.",
    "studio": "Make, keep and compare takes in a page of the browser.",
    "doctor": "Say what this machine can run, and what is wrong with it.",
    "export": "Write an adapter in another tool's spelling.",
}
"""Command names and their one-line help, so that `-h` imports none of them."""


def main() -> None:
    """Runs the command that `sys.argv` names and ends with its exit code.

    Errors a user can mend are one message and exit 2; Ctrl-C exits 130, SIGTERM 143, a closed terminal 129.
    """
    sys.exit(run())


def run(ended: Callable[[int], None] | None = None) -> int:
    """Runs the command that `sys.argv` names.

    Args:
        ended: Called with the exit code while signals still do nothing but wait.

    Returns:
        The exit code.
    """
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        raise KeyboardInterrupt

    with guarded(), on_signals(stop), lenient_stderr():
        try:
            code = caught(lambda: _called(received))
        except KeyboardInterrupt:
            code = _stopped(received)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except Exception:
            if not received:
                raise
            code = _stopped(received)  # a library turned the interruption into an error of its own
        if ended is not None:
            ended(code)
            if received:
                _leave(code)
    return code


def _called(received: list[int]) -> int:
    from mlx_ltxw.cli.entry import call
    from mlx_ltxw.machine import settle

    settle()
    return call(lambda: bool(received))


def __getattr__(name: str) -> Any:
    if name == "group":
        from mlx_ltxw.cli.entry import group

        return group
    raise AttributeError(name)


def _leave(code: int) -> None:
    """Ends the process now where threads of libraries would hold it up, such as a download's."""
    if all(thread.daemon or thread is threading.main_thread() for thread in threading.enumerate()):
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _stopped(received: list[int]) -> int:
    print("Stopped; nothing half-written was left behind.", file=sys.stderr)
    return 128 + (received[-1] if received else signal.SIGINT)
