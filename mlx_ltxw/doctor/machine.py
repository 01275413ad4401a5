"""The machine: system and versions, memory and its limits, disk, and the settings that MLX's backends have."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_ltxw import __version__
from mlx_ltxw.blas import LOADED
from mlx_ltxw.blas import VARIABLE as BLAS
from mlx_ltxw.cache_folder import VARIABLE as CACHE
from mlx_ltxw.cache_folder import cache_folder
from mlx_ltxw.doctor.diagnosis import Diagnosis
from mlx_ltxw.machine import Machine, avoid_tf32, device_name, emulates_bfloat16, on_cpu, on_metal, slow_blas
from mlx_ltxw.printing import readable
from mlx_ltxw.tf32 import VARIABLE, tf32_is_used

_OTHER_CACHE = "HF_HOME names another folder for it; `pull -o` writes elsewhere."
_LITTLE_DISK = 60_000_000_000  # bytes; a model of 8 bits takes 42 GB, one of 4 bits 28
OLDEST = (14,)
"""Of macOS, for MLX."""
ACCELERATED = (26, 2)
"""From which on MLX's Metal backend uses the M5's matrix units (`mlx/backend/metal/device.cpp`)."""
WIRED = "iogpu.wired_limit_mb"
"""The system's own limit of what the GPU may hold, on a Mac; 0 is its default."""


def system() -> Diagnosis:
    """The operating system, the processor, and the versions of everything that computes."""
    parts = {"mlx-ltxw": __version__, "MLX": _version("mlx"), "Python": platform.python_version()}
    facts: dict[str, Any] = {"system": _system_name(), "processor": platform.machine(), **parts}
    versions = ", ".join(f"{name} {number}" for name, number in parts.items())
    text = f"{facts['system']} on {facts['processor']}; {versions}"
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        return Diagnosis(
            "system", "fault", f"{text}: Python runs as an Intel program, without the GPU.",
            "Install a Python for Apple silicon (python.org, or `uv python install`), and mlx-ltxw into it.", facts,
        )  # fmt: skip
    found = macos()
    facts["macOS"] = None if found is None else ".".join(map(str, found))
    if found is not None and found < OLDEST:
        return Diagnosis("system", "fault", f"{text}: MLX needs macOS {OLDEST[0]} or later.", "Update macOS.", facts)
    return Diagnosis("system", "good", text, facts=facts)


def device(machine: Machine) -> Diagnosis:
    """What MLX computes on."""
    name = device_name()
    text = f"{name}, by MLX's {machine.backend.upper() if machine.backend != 'metal' else 'Metal'} backend"
    facts = {"backend": machine.backend, "device": name}
    if machine.backend == "cpu" and sys.platform == "darwin":
        return Diagnosis(
            "device", "fault", f"{text}: a Mac's GPU is not used.",
            "Unset what sets MLX's default device; over SSH, log in on the Mac's own screen once.", facts,
        )  # fmt: skip
    if machine.backend == "cpu":
        return Diagnosis("device", "note", f"{text}: the built-in model runs, the 22B one would take hours.",
                         "On Linux with an NVIDIA card: `pip install 'mlx-ltxw[cuda]'`.", facts)  # fmt: skip
    if emulates_bfloat16():
        return Diagnosis(
            "device", "note", f"{text}; it computes bfloat16 in float32's units.",
            "So the transformer runs in float16 there, unless `--dtype bfloat16` says otherwise.", facts,
        )  # fmt: skip
    found, chip = macos(), re.search(r"Apple M(\d+)\b", name)
    if machine.backend == "metal" and found and chip and int(chip[1]) >= 5 and found < ACCELERATED:
        version = ".".join(map(str, ACCELERATED))
        return Diagnosis(
            "device", "note", f"{text}, without its neural accelerators.",
            f"Update macOS: MLX uses them from {version} on.", facts,
        )  # fmt: skip
    return Diagnosis("device", "good", text, facts=facts)


def memory(machine: Machine, ask: Callable[[str], str] | None = None) -> Diagnosis:
    """Memory, what one process should use of it, and on a Mac the wired limit.

    Args:
        machine: From `this_machine`.
        ask: Reads a `sysctl` name; the system's own by default.
    """
    facts: dict[str, Any] = {"total": machine.total, "budget": machine.budget}
    text = f"{readable(machine.total)}, of which a run should use {readable(machine.budget)}"
    if machine.backend != "metal":
        return Diagnosis("memory", "good", text, facts=facts)
    wired = (ask or _sysctl)(WIRED)
    facts["wired_limit_mb"] = int(wired) if wired.isdigit() else None
    higher = int(machine.total * 0.85 / 2**20)
    advice = f"If a model only just does not fit: `sudo sysctl {WIRED}={higher}`, until the next start of the Mac."
    limit = "the system's own limit" if wired in ("", "0") else f"{WIRED} {wired}"
    return Diagnosis("memory", "good", f"{text} ({limit})", "" if wired not in ("", "0") else advice, facts)


def disk() -> Iterator[Diagnosis]:
    """Space where files go, and where models are downloaded to."""
    from huggingface_hub.constants import HF_HUB_CACHE

    seen: set[int] = set()
    here = current_folder()
    if here is None:
        yield Diagnosis("disk", "fault", "The current folder is gone.", "Change into one that is there (`cd`).")
    places = (("here", here, "Give -o a path elsewhere."), ("the Hub's cache", Path(HF_HUB_CACHE), _OTHER_CACHE))
    for name, folder, elsewhere in places:
        if folder is None:
            continue
        there = _existing(folder)
        if why := _unwritable(there):
            facts = {"folder": str(folder), "writable": False}
            yield Diagnosis("disk", "note", f"Nothing can be written {name}: {why}.", elsewhere, facts)
            continue
        if (number := there.stat().st_dev) in seen:
            continue
        seen.add(number)
        free = shutil.disk_usage(there).free
        facts = {"folder": str(folder), "writable": True, "free": free}
        if free < _LITTLE_DISK:
            advice = "A model takes 28 GB (4 bits) to 70 GB (bf16); HF_HOME moves the cache, -o a model."
            yield Diagnosis("disk", "note", f"{readable(free)} free for {name} ({folder})", advice, facts)
        else:
            yield Diagnosis("disk", "good", f"{readable(free)} free for {name} ({folder})", facts=facts)


def kept() -> Diagnosis:
    """Whether the folder in which prompts' contexts are kept takes any: a run that keeps none says nothing of it."""
    folder = cache_folder("prompts")
    facts = {"folder": None if folder is None else str(folder)}
    if folder is None and os.environ.get(CACHE) != "0":
        text = "What they are encoded to is not kept, and each run encodes them again: this user has no home."
        return Diagnosis("prompts", "note", text, f"{CACHE} names a folder; {CACHE}=0 keeps nothing.", facts)
    if folder is None:
        return Diagnosis("prompts", "good", f"encoded anew by each run, as {CACHE}=0 asks for", facts=facts)
    why = _unwritable(_existing(folder))
    if not why:
        return Diagnosis("prompts", "good", f"what they are encoded to is kept in {folder}", facts=facts)
    text = f"What they are encoded to is not kept, and each run encodes them again: {why}."
    return Diagnosis("prompts", "note", text, f"{CACHE} names another folder; {CACHE}=0 keeps nothing.", facts)


def current_folder() -> Path | None:
    """Where the command was called; None where that folder is gone."""
    try:
        return Path.cwd()
    except OSError:
        return None


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    folder = folder if folder.is_absolute() else (current_folder() or Path("/")) / folder
    return next(path for path in (folder, *folder.parents) if path.exists())


def _unwritable(there: Path) -> str:
    """Why nothing can be written into a folder; '' where it can."""
    if not there.is_dir():
        return f"{there} is no folder"
    return "" if os.access(there, os.W_OK | os.X_OK) else f"{there} may not be written to"


def settings(machine: Machine) -> Iterator[Diagnosis]:
    """TF32, the BLAS of a Linux CPU, the watchdog, and what is not needed."""
    if on_cpu():
        facts = {"variable": os.environ.get(VARIABLE), "used": False}
        yield Diagnosis("TF32", "good", "none: a CPU multiplies float32 as float32", facts=facts)
    else:
        avoid_tf32()
        used = tf32_is_used(mx)
        facts = {"variable": os.environ.get(VARIABLE), "used": used}
        if used:
            yield Diagnosis("TF32", "fault", "MLX multiplies float32 in TF32; the sound is less exact.",
                            f"Unset {VARIABLE}, or set it to 0.", facts)  # fmt: skip
        else:
            yield Diagnosis("TF32", "good", "off: float32 is multiplied as float32", facts=facts)
    if on_cpu() and sys.platform.startswith("linux"):
        if notes := slow_blas():
            text, _, advice = notes[0].partition(". ")
            yield Diagnosis("BLAS", "fault", f"{text}.", advice, {"openblas": False})
        else:
            text = "OpenBLAS is loaded ahead of MLX's own" if LOADED else f"MLX's own, as {BLAS} asks for"
            if not LOADED and BLAS not in os.environ:
                yield Diagnosis("BLAS", "fault", "MLX was imported before mlx-ltxw, and computes without OpenBLAS.",
                                "Import mlx_ltxw first.", {"openblas": False})  # fmt: skip
            else:
                yield Diagnosis("BLAS", "good", text, facts={"openblas": LOADED})
    if on_metal():
        yield Diagnosis(
            "watchdog", "note", "macOS ends GPU work that holds up the display; runs hand it over in small pieces.",
            "If it ends one all the same: let the display sleep, or set AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1.",
        )  # fmt: skip
    yield Diagnosis("tools", "good", "FFmpeg's libraries come with PyAV; no ffmpeg, espeak-ng or PyTorch is needed",
                    facts={"av": _version("av")})  # fmt: skip


def macos() -> tuple[int, ...] | None:
    """The version of macOS; None elsewhere, and where Python was built for so old a system that it is told another
    (10.16 for 11 to 15, 16 for 26)."""
    numbers = tuple(int(part) for part in platform.mac_ver()[0].split(".") if part.isdigit())
    return None if not numbers or numbers[:2] == (10, 16) or numbers[0] == 16 else numbers


def _system_name() -> str:
    if release := platform.mac_ver()[0]:
        return f"macOS {release}"
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        name = ""
    return name or f"{platform.system()} {platform.release()}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _sysctl(name: str) -> str:
    try:
        done = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
