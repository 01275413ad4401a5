"""Processes that train on a made model directory."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start(model, run, *settings, **environment):
    """Begins or resumes a run in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.train.driver", str(model), str(run), *settings],
        cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def steps_done(run):
    """Lines of the run's metrics."""
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def wait_for_step(process, run, step):
    """Returns when the run has done `step` steps, or has ended."""
    import time

    while steps_done(run) < step and process.poll() is None:
        time.sleep(0.005)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
