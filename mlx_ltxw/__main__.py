"""The program: `mlx-ltxw`, and `python -m mlx_ltxw`.

Importing this module answers Ctrl-C and SIGTERM, from its first lines to the process's end; nothing else imports it.
Before the command begins they end the process at once, silently. While the command runs they are its own
(`mlx_ltxw.cli`). When it has come to its end its exit code stands: the first signal is too late, and a second one ends
the process without waiting for what still goes on in it.
"""

import atexit
import os
import signal

_code: int | None = None
_late = False


def _answer(number: int, frame: object) -> None:
    global _late
    if _code is None:
        os._exit(128 + number)
    if _late:
        os._exit(_code)
    _late = True


signal.signal(signal.SIGINT, _answer)
signal.signal(signal.SIGTERM, _answer)


@atexit.register  # the first of all, so the last that is called: Python would put the system's own answers back now
def _ignore() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _ended(code: int) -> None:
    global _code
    _code = code


def main() -> int:
    """Runs the command that `sys.argv` names; its exit code."""
    from mlx_ltxw.cli import run

    return run(_ended)


if __name__ == "__main__":
    raise SystemExit(main())
