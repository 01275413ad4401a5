"""Many clips, shared out: each machine makes the next one that nobody has, and the leading one writes all files.

Nothing is gathered while clips are made, so that a machine can be lost: its clip goes back to the others. A clip's bits
are those of a single machine, which makes it in the same way, into a folder of its own, and hands over the files.
"""

from __future__ import annotations

import collections
import json
import queue
import shutil
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import write_bytes
from mlx_ltxw.links import Message, log
from mlx_ltxw.machines import wire
from mlx_ltxw.machines.crew import Crew
from mlx_ltxw.pipeline.events import Adapted, Conditioned
from mlx_ltxw.scratch import temporary_folder
from mlx_ltxw.takes.events import Note, TakeEvent

_LOOK = 0.2
"""Seconds between two looks at what the others have made, while there is nothing else to do."""
_NEWS = 1.0
"""Seconds that a request to end waits for the news that it follows a loss: `mlx.launch` ends all when one is lost."""
Make = Callable[[int, Path], Generator[TakeEvent, None, None]]
"""Makes a piece of the work by its number, its files into a folder."""


@dataclass
class Board:
    """What is left to do, and who does what. Used by several threads."""

    todo: collections.deque[int]
    doing: dict[int, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, rank: int) -> int | None:
        """The next piece for a machine; None where nothing is left for now."""
        with self.lock:
            if not self.todo:
                return None
            self.doing[rank] = self.todo.popleft()
            return self.doing[rank]

    def done(self, rank: int) -> int | None:
        """A machine has finished what it had."""
        with self.lock:
            return self.doing.pop(rank, None)

    def handed_in(self, rank: int) -> None:
        """A machine's piece is here, and no loss of the machine takes it away."""
        with self.lock:
            if (piece := self.doing.pop(rank, None)) is not None:
                self.doing[_here(piece)] = piece

    def lost(self, rank: int) -> int | None:
        """A machine is gone; what it had goes back."""
        with self.lock:
            piece = self.doing.pop(rank, None)
            if piece is not None:
                self.todo.appendleft(piece)
            return piece

    @property
    def finished(self) -> bool:
        """Whether nothing is left and nobody is at work."""
        with self.lock:
            return not self.todo and not self.doing


def _here(piece: int) -> int:
    """Stands for the rank of a piece that is here and not written yet."""
    return -1 - piece


class Foreman:
    """The leading machine's side: hands out work, takes in files.

    Args:
        crew: The machines.
        pieces: Numbers of the work that is left, those that this machine has begun already first.
        name: Of a piece, for people: `seed 5`.
        folder: Where finished files go.
    """

    def __init__(self, crew: Crew, pieces: Sequence[int], name: Callable[[int], str], folder: Path) -> None:
        self._crew, self._name, self._folder = crew, name, folder
        self._board = Board(collections.deque(pieces))
        self._results: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._idle: set[int] = set()
        self._lost_at = -_NEWS
        self.gone: set[int] = set()

    def events(self, make: Make) -> Generator[TakeEvent, None, None]:
        """Makes this machine's pieces, and tells of all.

        Args:
            make: Makes a piece here; it knows where to.

        Raises:
            UserError: a piece cannot be made, here or elsewhere; names the machine.
        """
        crew = self._crew
        crew.listen(self._heard, self._lost)
        encoded = adapted = False
        with _keeping_on(lambda: time.monotonic() - self._lost_at < _NEWS):
            while not self._board.finished:
                piece = self._board.take(0)
                if piece is None:
                    yield from self._results_here(_LOOK)
                    continue
                with closing(make(piece, self._folder)) as events:
                    for event in events:
                        first = not isinstance(event, Conditioned | Adapted)
                        if isinstance(event, Conditioned):
                            first, encoded = not encoded, True
                        elif isinstance(event, Adapted):
                            first, adapted = not adapted, True
                        if first:
                            yield event
                        yield from self._results_here()
                self._board.done(0)
            yield from self._results_here()

    def _results_here(self, wait: float = 0.0) -> Iterator[TakeEvent]:
        """Writes what the others have made, and tells of it."""
        while True:
            try:
                message = self._results.get(timeout=wait) if wait else self._results.get_nowait()
            except queue.Empty:
                return
            wait, values = 0.0, message.values
            if "note" in values:
                yield Note(values["note"])
            elif "failed" in values:
                raise UserError(f"{self._crew.links.hosts[message.rank]}: {values['failed']}", "")
            else:
                at = 0
                for name, size in values["files"]:
                    write_bytes(self._folder / Path(name).name, message.payload[at : at + size])
                    at += size
                yield from wire.heard(values["events"], self._folder)
                self._board.done(_here(values["made"]))

    def _heard(self, message: Message) -> None:
        if "want" in message.values:
            self._idle.add(message.rank)
            self._hand_out()
        elif "made" in message.values or "failed" in message.values:
            self._board.handed_in(message.rank)
            self._results.put(message)

    def _hand_out(self) -> None:
        for rank in sorted(self._idle):
            piece = self._board.take(rank)
            if piece is None:
                return
            self._idle.discard(rank)
            self._crew.links.say({"piece": piece}, to=rank)

    def _lost(self, message: Message) -> None:
        self._lost_at = time.monotonic()
        self.gone.add(message.rank)
        self._idle.discard(message.rank)
        piece = self._board.lost(message.rank)
        back = "" if piece is None else f"; its clip, {self._name(piece)}, goes back to the others"
        self._results.put(Message(message.rank, {"note": f"{message.values['lost']}{back}"}))
        self._crew.links.say({"news": message.values["lost"]})
        self._hand_out()


def work(crew: Crew, make: Make) -> None:
    """The other machines' side: makes what it is given until the leading one takes leave, which ends the process.

    Args:
        crew: The machines.
        make: Makes a piece, its files into a folder.
    """
    given: queue.SimpleQueue[Message] = queue.SimpleQueue()
    news = [-_NEWS]

    def heard(message: Message) -> None:
        if "news" in message.values:
            news[0] = time.monotonic()
        elif "piece" in message.values:
            given.put(message)

    crew.listen(heard)
    with _keeping_on(lambda: time.monotonic() - news[0] < _NEWS):
        while True:
            crew.links.say({"want": True})
            piece = int(_next(given).values["piece"])
            log(f"makes {piece}")
            with temporary_folder() as folder:
                crew.tidy[:] = [lambda folder=folder: shutil.rmtree(folder, ignore_errors=True)]  # type: ignore[misc]
                with closing(make(piece, folder)) as events:
                    said = wire.told(events)
                files = sorted(folder.iterdir(), key=lambda path: (path.suffix != ".mp4", path.name))
                sizes = [[path.name, path.stat().st_size] for path in files]
                payload = b"".join(path.read_bytes() for path in files)
                crew.links.say({"made": piece, "events": said, "files": sizes}, payload)
            log(f"made {piece}: {json.dumps(sizes)}")


def _next(given: queue.SimpleQueue[Message]) -> Message:
    while True:
        try:
            return given.get(timeout=_LOOK)  # signals are answered between two looks
        except queue.Empty:
            continue


@contextmanager
def _keeping_on(lost: Callable[[], bool]) -> Iterator[None]:
    """SIGTERM that follows the loss of another machine ends nothing: `mlx.launch` sends it to all when one is lost.

    Args:
        lost: Whether there was such news just now.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: Any = signal.getsignal(signal.SIGTERM)
    spared = [1]

    def answer(number: int, frame: FrameType | None) -> None:
        since = time.monotonic()
        while spared[0] and not lost() and time.monotonic() - since < _NEWS / 2:
            time.sleep(0.01)
        if spared[0] and lost():
            spared[0] -= 1
            return
        signal.signal(number, before)  # which looks whether signals are still its own
        if callable(before):
            before(number, frame)
        else:
            raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, answer)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
