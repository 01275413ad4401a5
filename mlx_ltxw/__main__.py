"""The program: `mlx-ltxw`, and `python -m mlx_ltxw`.

Importing this module answers Ctrl-C, SIGTERM and a closed terminal's SIGHUP, from its first lines to the process's end;
nothing else imports it. A SIGHUP that is to be ignored (`nohup`) is.
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


_NUMBERS = [signal.SIGINT, signal.SIGTERM]
if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
    _NUMBERS.append(signal.SIGHUP)
for _number in _NUMBERS:
    signal.signal(_number, _answer)


@atexit.register  # the first of all, so the last that is called: Python would put the system's own answers back now
def _ignore() -> None:
    for number in _NUMBERS:
        signal.signal(number, signal.SIG_IGN)


def _ended(code: int) -> None:
    global _code
    _code = code


def main() -> int:
    """Runs the command that `sys.argv` names; its exit code."""
    from mlx_ltxw.cli import run

    return run(_ended)


if __name__ == "__main__":
    raise SystemExit(main())
