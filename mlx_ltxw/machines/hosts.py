"""What the machines of a run are and have, told before one begins (`mlx-ltxw doctor --hosts`)."""

from __future__ import annotations

import concurrent.futures
import json
import platform
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlx_ltxw import __version__
from mlx_ltxw.errors import UserError
from mlx_ltxw.files import read_text
from mlx_ltxw.machine import this_machine
from mlx_ltxw.machines.cost import speeds
from mlx_ltxw.takes.models import open_model
from mlx_ltxw.weights.dtype import default_dtype
from mlx_ltxw.world import World

_LONGEST = 300.0
"""Seconds that the hosts have to answer."""
_ANSWER = 60.0
"""Seconds that one host has to say its version."""
_SSH = 255
"""What `ssh` ends with when it is not the other's command that failed."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
ALIKE = ("mlx_ltxw", "mlx", "system", "model")
"""What all must have alike for the bits of one machine."""


@dataclass(frozen=True)
class HostFacts:
    """One machine.

    Attributes:
        host: Its name.
        mlx_ltxw, mlx: Versions.
        system: What MLX computes on, and the processor.
        model: The start of the model's hash, or why it cannot be opened.
        memory: Bytes that a run may use.
        flops: Operations a second in large products.
        bandwidth: Bytes a second that it receives from the others.
        latency: Seconds of a collective of next to nothing.
    """

    host: str
    mlx_ltxw: str
    mlx: str
    system: str
    model: str
    memory: int
    flops: float
    bandwidth: float
    latency: float


def answer(model: str | None) -> list[HostFacts] | None:
    """One machine's part in the examination, which all that `mlx.launch` started play; the leading one gets all.

    Raises:
        UserError: there is only one.
    """
    world = World.join()
    if world.size == 1:
        raise UserError("This is one machine.", "Give {field:hostfile=FILE}, which names several.")
    machine = this_machine()
    try:
        digest = open_model(model).digest[:16]
    except UserError as error:
        digest = error.message
    found = speeds(world, default_dtype())
    own = {
        "host": socket.gethostname(), "mlx_ltxw": __version__, "mlx": version("mlx"),
        "system": f"{machine.backend} {platform.machine()}", "model": digest, "memory": machine.budget,
    }  # fmt: skip
    every = [json.loads(one) for one in world.exchange(json.dumps(own).encode())]
    if not world.leads:
        return None
    speeds_told: list[dict[str, Any]] = [
        {"flops": one.flops, "bandwidth": one.bandwidth, "latency": one.latency} for one in found
    ]
    return [HostFacts(**facts, **speed) for facts, speed in zip(every, speeds_told, strict=True)]


def examine_hosts(hostfile: Path, model: str | None) -> list[HostFacts]:
    """Asks every host of a hostfile, by `mlx.launch`, which must find this program at the same path on each.

    Raises:
        UserError: they do not answer; names those that cannot be reached, or have no such program.
    """
    names = named_hosts(hostfile)
    with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
        missing = [why for why in pool.map(_unreachable, names) if why]
    if missing:
        raise UserError(
            " ".join(missing),
            "`ssh HOST true` must work without a password for each, and the same program be at the same path.",
        )
    beside = Path(sys.executable).with_name("mlx.launch")
    launcher = str(beside) if beside.exists() else shutil.which("mlx.launch")
    if launcher is None:
        raise UserError("`mlx.launch` is not installed.", "It comes with MLX: install mlx again.")
    command = [launcher, "--hostfile", str(hostfile), "--", sys.executable, "-m", "mlx_ltxw", "doctor", "--as-host"]
    command += ["-m", model] if model else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"The hosts did not answer within {_LONGEST:g} s.",
            "See that `ssh HOST true` works without a password for each, and that their addresses reach each other.",
        ) from error
    for line in done.stdout.splitlines():
        if line.startswith('{"hosts"'):
            return [HostFacts(**one) for one in json.loads(line)["hosts"]]
    said = [_COLOUR.sub("", line).strip() for line in (done.stderr + done.stdout).splitlines()]
    last = next((line for line in reversed(said) if line and "[WARN]" not in line), "no word")
    raise UserError(f"The hosts cannot be examined: {last}", "Run `mlx.launch --verbose` with the same hostfile.")


def named_hosts(hostfile: Path) -> list[str]:
    """The names that a hostfile has for `ssh`.

    Raises:
        UserError: there is none, or it is no hostfile.
    """
    if not hostfile.is_file():
        raise UserError(f"There is no hostfile {hostfile}.", "Write one, or let `mlx.distributed_config` write it.")
    try:
        said = json.loads(read_text(hostfile))
        names = [str(one["ssh"]) for one in (said["hosts"] if isinstance(said, dict) else said)]
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{hostfile} is not a hostfile.", "It is a JSON list of entries with `ssh` and `ips` (docs/machines.md)."
        ) from error
    if len(names) < 2:
        raise UserError(f"{hostfile} names {len(names)} host.", "Name two or more.")
    return names


def _unreachable(host: str) -> str | None:
    """Why a host cannot take part; None where its program answers. `mlx.launch` takes 127.0.0.1 for this one."""
    if host == "127.0.0.1":
        return None
    command = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "--", host]
    command += [shlex.join([sys.executable, "-m", "mlx_ltxw", "--version"])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        return "There is no `ssh` here."
    except subprocess.TimeoutExpired:
        return f"{host} does not answer within {_ANSWER:g} s."
    if not done.returncode:
        return None
    last = (done.stderr.strip() or "no word").splitlines()[-1].rstrip(".")
    return f"{host} does not answer ({last})." if done.returncode == _SSH else f"{host} has no such program ({last})."


def as_line(hosts: Sequence[HostFacts]) -> str:
    """For the process that asked."""
    return json.dumps({"hosts": [asdict(one) for one in hosts]})


def differences(hosts: Sequence[HostFacts]) -> list[str]:
    """What is not alike, a sentence each."""
    first: Any = asdict(hosts[0])
    return [
        f"{one.host} has {name.replace('_', '-')} {values[name]}, and {hosts[0].host} has {first[name]}."
        for one in hosts[1:]
        for values in [asdict(one)]
        for name in ALIKE
        if values[name] != first[name]
    ]
