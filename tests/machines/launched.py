"""Starts commands on several processes of this machine, over MLX's ring."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.train.made import free_ports

ROOT = Path(__file__).parents[2]


def ranks(count, folder, *arguments, **environment):
    """The processes as `mlx.launch` starts them, without its own answer to one that is lost.

    Args:
        folder: Of the test: they run there, and their logs go there.
    """
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(count)]))
    own = {"MLX_HOSTFILE": str(hosts), "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    return [
        subprocess.Popen(
            [sys.executable, "-m", *map(str, arguments)], cwd=folder,
            env=os.environ | own | environment | {"MLX_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(count)
    ]  # fmt: skip


def ended(processes, timeout=120):
    """How the leading one ended and what it printed; the others must end too."""
    out, err = processes[0].communicate(timeout=timeout)
    for other in processes[1:]:
        other.communicate(timeout=30)
    return processes[0].returncode, out, err


def launch(count, folder, *arguments, timeout=200):
    """What a command under `mlx.launch` printed, on stdout and on stderr; prompts are encoded once, into a folder."""
    launcher = [str(Path(sys.executable).parent / "mlx.launch"), "-n", str(count), "--backend", "ring"]
    launcher += ["--starting-port", str(free_ports(1)[0])]
    own = ["--env", f"PYTHONPATH={ROOT}", "--env", "OPENBLAS_NUM_THREADS=1", "--env", f"MLX_LTXW_CACHE={folder}"]
    done = subprocess.run(
        [*launcher, *own, "--", sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    return done.stdout, done.stderr
