"""The machines of a run: they meet, agree, and end together.

The leading one (rank 0) speaks to the user and writes the files. The others write what they have to say into a log of
their own, ignore Ctrl-C, which is the leading one's to answer, and end when it ends. Where one clip is made by all, the
loss of any of them ends all: a collective of MLX that waits for a machine which is gone can be ended in no other way.
What is kept of the clip is on the leading one's disk by then (`takes/unfinished.py`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.links import HANGS, TIMEOUT, Links, Message, end_here, within
from mlx_ltxw.world import World

LOST = 2
"""The exit code of a run that lost a machine."""
_ALONE = "Not all machines of this run were there within {:g} s. See that each can be reached, and start them again."
_GUARD = """
import os, sys, time
parent, seconds, sentence = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
end = time.monotonic() + seconds
while os.getppid() == parent and time.monotonic() < end:
    time.sleep(0.1)
if os.getppid() == parent:
    sys.stderr.write(sentence + chr(10))
    sys.stderr.flush()
    os.kill(parent, 9)
"""
"""Ends the process that started it. MLX waits for its neighbours with Python's lock held, so that no thread could."""
_PATIENCE = 5.0
"""Seconds that an error of a collective waits for the news of which machine is gone."""


def log_file(rank: int) -> Path:
    """Where a machine that does not lead writes what it has to say."""
    return Path(tempfile.gettempdir()) / f"mlx-ltxw-{os.getuid()}-rank{rank}.log"


@dataclass
class Crew:
    """The machines of a run.

    Attributes:
        world: For collectives.
        links: For everything else.
        kept: What is kept of the clip that is being made, in a sentence, for when a machine is lost.
        on_lost: Takes the loss of a machine; by default it ends this process.
        tidy: Called before this process ends in the middle.
    """

    world: World
    links: Links
    kept: Callable[[], str] = lambda: ""
    on_lost: Callable[[Message], None] | None = None
    tidy: list[Callable[[], None]] = field(default_factory=list)
    _heard: Callable[[Message], None] | None = None
    _waiting: list[Message] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ending: threading.Lock = field(default_factory=threading.Lock)

    @property
    def leads(self) -> bool:
        """Whether this machine writes and speaks."""
        return self.world.leads

    def listen(
        self, heard: Callable[[Message], None], on_lost: Callable[[Message], None] | None = None
    ) -> None:  # fmt: skip
        """From now on messages go to `heard`, those first that came before; losses to `on_lost`, if there is one."""
        with self._lock:
            self.on_lost = on_lost
            for message in self._waiting:
                heard(message)
            self._waiting.clear()
            self._heard = heard

    def share(self, value: Any = None) -> Any:
        """What the leading machine gives, as JSON has it."""
        return json.loads(self.world.shared(json.dumps(value).encode()))

    def agree(self, facts: dict[str, Any]) -> None:
        """Compares what all machines must have alike.

        Args:
            facts: What it is -> this machine's; `error` for a sentence that says why it cannot take part.

        Raises:
            UserError: names a machine that has something else.
        """
        every = [json.loads(one) for one in self.world.exchange(json.dumps(facts).encode())]
        for host, other in zip(self.links.hosts, every, strict=True):
            if other.get("error"):
                raise UserError(f"{host}: {other['error']}", "")
        for host, other in zip(self.links.hosts, every, strict=True):
            for name in every[0]:
                if other.get(name) != every[0][name]:
                    raise UserError(
                        f"{host} has another {name} than {self.links.hosts[0]}: {other.get(name)} and not "
                        f"{every[0][name]}.",
                        "Give every machine the same version, the same model and the same files at the same paths.",
                    )

    def end(self, sentence: str, code: int = LOST) -> None:
        """Ends this process and, on the leading machine, all others; callable from any thread, and once: the others'
        ends are no further losses."""
        if not self._ending.acquire(blocking=False):
            return
        for one in self.tidy:
            one()
        self.links.say({"end" if self.leads else "failed": sentence})
        end_here(f"Error: {sentence}" if self.leads else sentence, code, 0.1)  # what was said is on its way

    def leave(self) -> None:
        """Ends this process, which is not the leading one and was asked to end: for the others it is lost."""
        for one in self.tidy:
            one()
        self.links.say({"lost": f"{self.links.hosts[self.world.rank]} was asked to end"})
        self.links.close()
        end_here("This machine was asked to end.", 143, 0.1)

    def take(self, message: Message) -> None:
        """Answers what another machine said, in the thread that heard it."""
        values = message.values
        if not self.leads and ("bye" in values or "end" in values or "lost" in values):
            for one in self.tidy:
                one()
            why = "." if "bye" in values else f": {values.get('end') or values['lost']}"
            end_here(f"The leading machine has ended{why}", 0 if "bye" in values else LOST)
        if "lost" in values and self.on_lost is not None:
            self.on_lost(message)
        elif "lost" in values:
            self.end(" ".join(filter(None, [f"{values['lost']}.", self.kept()])))
        elif "hung" in values:
            self.end(" ".join(filter(None, [f"{values['hung']}.", HANGS, self.kept()])))
        elif "failed" in values and self.on_lost is None:
            self.end(" ".join(filter(None, [f"{self.links.hosts[message.rank]}: {values['failed']}", self.kept()])))
        else:
            with self._lock:
                if self._heard is None:
                    self._waiting.append(message)
                    return
            self._heard(message)


def joined(timeout: float) -> World:
    """The machines of this run, when all are there.

    Raises:
        UserError: they cannot be reached. Where one never comes, the process ends with a sentence.
    """
    sentence = f"Error: {_ALONE.format(timeout)}"
    command = [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid()), str(timeout), sentence]
    guard = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        return World.join()
    finally:
        guard.kill()
        guard.wait()


@contextmanager
def meeting(world: World, timeout: float = TIMEOUT) -> Iterator[Crew]:
    """The machines of a run, from their meeting to their end.

    On a machine that does not lead, the context ends the process: when the leading one has ended.

    Args:
        world: From `World.join`; more than one.
        timeout: Seconds of silence after which a machine counts as lost.

    Raises:
        UserError: they do not reach each other.
    """
    waiting: list[Message] = []
    crew: Crew | None = None
    lock = threading.Lock()

    def heard(message: Message) -> None:
        with lock:
            if crew is None:
                waiting.append(message)
                return
        crew.take(message)

    if not world.leads:
        _speak_into(log_file(world.rank))
    with within(timeout, _ALONE.format(timeout)):
        links = Links.open(world.rank, world.size, world.exchange, timeout, heard, world.pulse)
    with lock:
        crew = Crew(world, links)
    for message in waiting:
        crew.take(message)
    try:
        yield crew
    except UserError as error:
        if not world.leads:
            crew.end(f"{error.message} {error.hint}".strip())
        raise
    except RuntimeError as error:
        time.sleep(_PATIENCE)  # a collective fails before the news comes of who is gone, which ends this process
        if not world.leads:
            crew.end(str(error))
        raise
    except KeyboardInterrupt:
        if not world.leads:
            crew.leave()
        raise
    except BaseException as error:
        if not world.leads:
            crew.end(f"{type(error).__name__}: {error}.")
        raise
    finally:
        if world.leads:
            links.close()
    if not world.leads:
        threading.Event().wait()  # for the leading machine's farewell, or its loss


def _speak_into(log: Path) -> None:
    """Sends all output, MLX's own too, into a file, and leaves Ctrl-C to the leading machine."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
    handle = os.open(log, flags, 0o600)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
