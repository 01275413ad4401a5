"""Starts commands on several processes of this machine, over MLX's ring."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.train.made import free_ports

ROOT = Path(__file__).parents[2]


def ranks(count, folder, *arguments, relay=None, own=lambda rank: {}, **environment):
    """The processes as `mlx.launch` starts them, without its own answer to one that is lost.

    Args:
        folder: Of the test: they run there, and their logs go there.
        relay: What rank 0 takes for rank 1 (`Relay`).
        own: The environment of a rank beside that of all.
    """
    ports = free_ports(count)

    def hosts(rank):
        taken = [relay.to(port) if relay and (rank, number) == (0, 1) else port for number, port in enumerate(ports)]
        file = folder / f"hosts{rank}.json"
        file.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in taken]))
        return str(file)

    common = {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)} | environment
    return [
        subprocess.Popen(
            [sys.executable, "-m", *map(str, arguments)], cwd=folder,
            env=os.environ | common | {"MLX_HOSTFILE": hosts(rank), "MLX_RANK": str(rank)} | own(rank),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(count)
    ]  # fmt: skip


class Relay:
    """A link between two processes that hangs when it is told to: what comes is taken, and nothing goes on."""

    def __init__(self):
        self._server = socket.create_server(("127.0.0.1", 0))
        self._port = 0
        self._hangs = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def to(self, port):
        """The port that leads to another."""
        self._port = port
        return self._server.getsockname()[1]

    def hang(self):
        self._hangs.set()

    def _accept(self):
        while True:
            near, _ = self._server.accept()
            far = self._call()
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _call(self):
        """The other process may not listen yet; the first one takes a connection for the other's own."""
        until = time.monotonic() + 60
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self._port))
            except ConnectionRefusedError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.02)

    def _forward(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if not self._hangs.is_set():
                    target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def ended(processes, timeout=120):
    """How the leading one ended and what it printed; the others must end too."""
    out, err = processes[0].communicate(timeout=timeout)
    for other in processes[1:]:
        other.communicate(timeout=60)
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
