"""The process that answers questions which need MLX but no computing: plans, what a file holds.

`python -m mlx_ltxw.studio.helper FOLDER`. It downloads nothing: what is not on this disk is not known yet.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mlx_ltxw.machine import settle
from mlx_ltxw.studio.answers import answer
from mlx_ltxw.studio.folder import StudioFolder
from mlx_ltxw.studio.worker import private_stdout, reason, say


def main() -> None:
    """Answers until the server ends."""
    out = private_stdout()
    settle()
    folder = StudioFolder(Path(sys.argv[1]))
    for line in sys.stdin:
        question = json.loads(line)
        number = question["number"]
        try:
            say(out, number=number, answer=answer(question["ask"], question["values"], folder))
        except Exception as error:
            say(out, number=number, refused=reason(error))


if __name__ == "__main__":
    main()
