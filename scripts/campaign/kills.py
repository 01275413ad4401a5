"""Runs that are killed at moments all through them, start-up included, and then finished.

Of each command a run is begun and killed again and again; after some kills it is let finish. What it leaves must be the
bytes that an undisturbed run leaves, and nothing else may lie beside them.
"""

from __future__ import annotations

import hashlib
import importlib
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.campaign.forked import LOADED, Forked
from scripts.campaign.made import FRAMES, PROMPT, SMALL, Made, command

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_WHOLE = 4  # of so many runs one is a program of its own; the others are copies of this one, without its start
_CHAIN = 5  # kills of one run before it may finish
_LONGEST = 300.0  # seconds for a tiny run on a busy machine
_BEST_STOP = 20.0  # seconds from a signal to the process's end


@dataclass(frozen=True)
class Run:
    """One command that is killed.

    Attributes:
        name: Of the command.
        arguments: Of it, for a folder and whether a run is there to go on with.
        results: Patterns of the files that must come out the same.
        others: Patterns of files that may differ, for they tell times.
        ended: Whether all is done in a folder.
    """

    name: str
    arguments: Callable[[Path], list[object]]
    results: tuple[str, ...]
    others: tuple[str, ...]
    ended: Callable[[Path], bool]


@dataclass
class Tally:
    """What one command did.

    Attributes:
        kills: Signals that met a living process.
        finished: Runs that were let finish and compared.
        faults: What was wrong.
    """

    kills: int
    finished: int
    faults: list[str]


def run(
    made: Made, folder: Path, count: int, seed: int, commands: Sequence[str] = (), signals: Sequence[str] = ()
) -> list[str]:
    """Prints a table, and gives back all faults.

    Args:
        made: The model and clips.
        folder: Works in it.
        count: Kills for each signal and each command.
        seed: Of the moments.
        commands: Names of those to run; empty for all.
        signals: Names of those to send; empty for all.
    """
    for name in LOADED:
        importlib.import_module(f"mlx_ltxw.{name}")
    faults: list[str] = []
    print(f"{'command':<10} {'signal':<8} kills  finished  faults")
    for each in runs(made):
        if commands and each.name not in commands:
            continue
        work = folder / each.name  # the same for all: records hold paths
        seconds, expected = _timed(each, work, True)
        forked, again = _timed(each, work, False)
        faults += [f"{each.name} makes other files in a copy of this process"] if again != expected else []
        for number in SIGNALS:
            if signals and number.name not in signals:
                continue
            dice = random.Random(f"{seed} {each.name} {number}")
            found = _killed(each, work, count, number, dice, (seconds, forked), expected)
            print(
                f"{each.name:<10} {number.name:<8} {found.kills:<6} {found.finished:<9} {len(found.faults)}", flush=True
            )
            for fault in found.faults:
                print(f"    {fault}", flush=True)
            faults += found.faults
    return faults


def runs(made: Made) -> list[Run]:
    """The commands, on tiny models so that a run takes seconds."""
    script = made.clips.parent / "script.yaml"
    script.write_text(
        "- {scene: a dim room, speaker: woman, manner: whispering, line: close your eyes}\n"
        "- {speaker: woman, manner: normal, line: good night}\n"
    )
    training = ["steps=6", "rank=2", "preview_steps=1", "preview_every=3", f"preview_prompts={PROMPT!r}", "width=64",
                "height=64", f"frames={FRAMES}", "checkpoint_every=2"]  # fmt: skip
    sets = [word for text in training for word in ("--set", text)]

    # of the checkpoints the last one alone: a signal saves one more, and the oldest makes room for it
    def train(work: Path) -> list[object]:
        there = (work / "run" / "run.json").exists()
        given = ["--resume"] if there else ["--data", made.clips, "-m", made.model, *sets]
        return ["train", "-o", work / "run", *given]

    return [
        Run(
            "convert", lambda work: ["convert", made.checkpoint, "--text-encoder", made.gemma, "-o", work / "model"],
            ("model/**/*",), (), lambda work: _converted(work / "model"),
        ),
        Run(
            "train", train,
            ("run/adapter.safetensors", "run/checkpoints/step-000006/*.safetensors", "run/cache/**/*.safetensors",
             "run/samples/*/*.wav", "run/samples/*/samples.json", "run/clips.jsonl", "run/config.yaml"),
            ("run/**/*",), lambda work: all((work / "run" / name).exists() for name in ("index.html", "README.md")),
        ),
        Run(
            "generate",
            lambda work: ["generate", "--script", script, "-o", work / "out.mp4", "-m", made.model, *SMALL],
            ("out.mp4",), (), lambda work: (work / "out.mp4").exists(),
        ),
    ]  # fmt: skip


def _timed(each: Run, work: Path, whole: bool) -> tuple[float, dict[str, str]]:
    """How long a run takes that nobody disturbs, and what it makes."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    begun = time.monotonic()
    _finish(each, work, whole=whole)
    return time.monotonic() - begun, _results(each, work)


def _converted(model: Path) -> bool:
    """Whether the last thing is done: the list of what was written goes when the manifest is there."""
    return (model / "manifest.json").exists() and not (model / ".convert").exists()


def _killed(
    each: Run, work: Path, count: int, number: signal.Signals, dice: random.Random, lengths: tuple[float, float],
    expected: dict[str, str],
) -> Tally:  # fmt: skip
    """Kills one run after another; `lengths` are the seconds that a whole program and a copy of this one take."""
    seconds, forked = lengths
    tally = Tally(0, 0, [])
    moments = _moments(count, dice)
    while tally.kills < count:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        for _ in range(_CHAIN):
            if tally.kills < count and not each.ended(work):
                whole = dice.randrange(_WHOLE) == 0
                length = seconds if whole else forked
                tally.kills += _kill(each, work, number, next(moments) * length, tally.faults, whole)
        _finish(each, work, tally.faults)
        tally.finished += 1
        tally.faults += _differences(each, work, expected)
    shutil.rmtree(work, ignore_errors=True)
    return tally


def _moments(count: int, dice: random.Random) -> Iterator[float]:
    """Places in a run, from 0 to 1: one in each of `count` equal parts of it, in any order, and then again."""
    while True:
        yield from ((part + dice.random()) / count for part in dice.sample(range(count), count))


def _kill(each: Run, work: Path, number: signal.Signals, moment: float, faults: list[str], whole: bool = True) -> bool:
    """Starts a run and signals it at a moment; whether it was still alive."""
    process = _start(each, work, whole)
    try:
        process.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        pass
    else:
        if process.returncode:
            faults.append(f"after {number.name}, exit {process.returncode} at the next start")
        return False
    answered = number == signal.SIGKILL or _answers(process.pid)
    process.send_signal(number)
    asked = time.monotonic()
    try:
        _, errors = process.communicate(timeout=_LONGEST)
    except subprocess.TimeoutExpired:
        process.kill()
        faults.append(f"{number.name} at {moment:.2f} s: still there after {_LONGEST:.0f} s")
        return True
    took = time.monotonic() - asked
    allowed = (-number if number == signal.SIGKILL else 128 + number, 0)  # 0: it had just come to its end
    if answered and process.returncode not in allowed:
        faults.append(f"{number.name} at {moment:.2f} s: exit {process.returncode}: {errors[-300:]!r}")
    elif answered and "Traceback" in errors:
        faults.append(f"{number.name} at {moment:.2f} s: {errors[-300:]!r}")
    elif took > _BEST_STOP:
        faults.append(f"{number.name} at {moment:.2f} s: took {took:.0f} s to end")
    return True


def _answers(process: int) -> bool:
    """Whether a process has come to the program's own first lines, from which on it answers SIGTERM.

    What Python says to a signal before that, while it starts, is its own; what it leaves behind still counts.
    """
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"SigCgt:\s+([0-9a-f]+)", status)
    return found is not None and bool(int(found[1], 16) >> (signal.SIGTERM - 1) & 1)


def _start(each: Run, work: Path, whole: bool = False) -> subprocess.Popen[str] | Forked:
    """A run: a program of its own where it is to be `whole`, else a copy of this process, which has all modules."""
    arguments = [str(argument) for argument in each.arguments(work)]
    if not whole:
        return Forked(arguments, work.parent / "errors")
    return subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _finish(each: Run, work: Path, faults: list[str] | None = None, whole: bool = False) -> None:
    """Lets a run come to its end, unless it is there."""
    if each.ended(work):
        return
    process = _start(each, work, whole)
    _, errors = process.communicate(timeout=_LONGEST)
    if process.returncode:
        text = f"{each.name} does not go on: exit {process.returncode}: {errors[-300:]!r}"
        if faults is None:
            raise RuntimeError(text)
        faults.append(text)


def _results(each: Run, work: Path) -> dict[str, str]:
    """The hash of every file that must come out the same."""
    files = sorted({path for pattern in each.results for path in work.glob(pattern) if path.is_file()})
    return {str(path.relative_to(work)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _differences(each: Run, work: Path, expected: dict[str, str]) -> list[str]:
    found = _results(each, work)
    faults = [f"{name} is missing" for name in expected.keys() - found.keys()]
    faults += [f"{name} is left over" for name in found.keys() - expected.keys()]
    faults += [f"{name} differs" for name in found.keys() & expected.keys() if found[name] != expected[name]]
    there = {path for path in work.rglob("*") if path.is_file()}
    for pattern in each.others:
        there -= {path for path in work.glob(pattern) if not path.name.startswith(".")}
    left = [str(path.relative_to(work)) for path in there if str(path.relative_to(work)) not in expected]
    empty = [str(path.relative_to(work)) for path in work.rglob("*.parts") if path.is_dir()]
    return faults + [f"{name} is left behind" for name in [*left, *empty]]
