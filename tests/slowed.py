"""Programs whose steps take a second longer from one on: a signal sent after it comes in time on a busy machine.

`python -m tests.slowed ...` is `mlx-ltxw ...`; SLOW_FROM in its environment is the number of the step.
"""

import os
import sys
import time


def wait(step):
    """Called before the step is told."""
    if step >= int(os.environ.get("SLOW_FROM", sys.maxsize)):
        time.sleep(1)


def main():
    import mlx_ltxw.__main__ as program
    from mlx_ltxw.pipeline import run
    from mlx_ltxw.pipeline.events import Step

    class Slowed(Step):
        def __post_init__(self):
            wait(self.index)

    run.Step = Slowed
    sys.argv[0] = "mlx-ltxw"
    sys.exit(program.main())


if __name__ == "__main__":
    main()
