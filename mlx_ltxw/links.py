"""A wire from the leading machine to each of the others, beside MLX's collectives: who is there, and who has gone.

A collective of MLX waits for ever when another machine hangs, and cannot be interrupted. So each machine says once a
second on a plain TCP connection that it lives. One that ends closes its connection; one that hangs falls silent, and
after the time-out counts as lost. Each also says how long ago it got on with what all do together: when all live and
none has for as long as the time-out, the link that data goes over hangs. What is said here is small: whose turn it is,
what failed, finished files. All numbers of a clip in the making go through MLX.
"""

from __future__ import annotations

import hmac
import json
import os
import queue
import secrets
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import abandon
from mlx_ltxw.world import Pulse

TIMEOUT = 120.0
"""Seconds of silence after which a machine counts as lost."""
_GRACE = 10.0
"""Seconds that work has to end by itself, and save what it has, when a machine is lost: a ring tells neighbours."""
_BEAT = 1.0
_LARGEST = 1 << 34  # bytes of one message's payload
_LARGEST_HEAD = 1 << 24
_HEAD = struct.Struct("!QQ")
HANGS = "The link that data goes over hangs: see its cable and its addresses."
_CALL = 5.0
"""Seconds that one address has to answer."""
_WELCOME = b"mlx-ltxw"
_ADDRESSES = ("NCCL_HOST_IP", "MLX_JACCL_COORDINATOR")


@dataclass(frozen=True)
class Message:
    """Something another machine said.

    Attributes:
        rank: Which.
        values: What, as JSON has it; `lost` is said for a machine that is gone.
        payload: Bytes that go with it.
    """

    rank: int
    values: dict[str, Any]
    payload: bytes = b""


class Links:
    """The connections of one machine: the leading one has one to each of the others, and those to it alone.

    Attributes:
        hosts: Names of all machines, by rank.
        timeout: Seconds.

    Args:
        rank, hosts, timeout: This machine's number; see above.
        sockets: Connected, by the other's rank.
        heard: Called with each message in a thread of its own; a lost machine is the last message of its rank.
        pulse: Whether this machine gets on with what all do; on the leading one `hung` is heard when none does.
    """

    def __init__(
        self, rank: int, hosts: list[str], timeout: float, sockets: dict[int, socket.socket],
        heard: Callable[[Message], None] | None = None, pulse: Pulse | None = None,
    ) -> None:  # fmt: skip
        self.rank, self.hosts, self.timeout = rank, hosts, timeout
        self._pulse = pulse or Pulse()
        self._quiet: dict[int, float | None] = dict.fromkeys(sockets)
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._heard = heard or self.inbox.put
        self._sockets = sockets
        self._locks = {other: threading.Lock() for other in sockets}
        self._closing = False
        for other in sockets:
            threading.Thread(target=self._listen, args=(other,), daemon=True).start()
        threading.Thread(target=self._beat, daemon=True).start()

    @classmethod
    def open(
        cls, rank: int, size: int, exchange: Callable[[bytes], list[bytes]], timeout: float = TIMEOUT,
        heard: Callable[[Message], None] | None = None, pulse: Pulse | None = None,
    ) -> Links:  # fmt: skip
        """Connects the machines of a run; all call it at once.

        Args:
            rank, size: This machine's number, of so many.
            exchange: Says something to all and gives what each has said (`World.exchange`).
            timeout: Seconds of silence.
            heard, pulse: See the class; without `heard` messages lie in `inbox`.

        Raises:
            UserError: they do not reach each other.
        """
        host = socket.gethostname()
        if rank:
            said = [json.loads(one) for one in exchange(json.dumps({"host": host}).encode())]
            sockets = {0: _called(said[0], rank, timeout)}
        else:
            with socket.create_server(("", 0), backlog=size) as server:
                token = secrets.token_hex(16)
                port = server.getsockname()[1]
                place = {"host": host, "addresses": own_addresses(), "port": port, "token": token}
                said = [json.loads(one) for one in exchange(json.dumps(place).encode())]
                sockets = _answered(server, size, token, timeout)
        return cls(rank, [f"{one['host']} (rank {n})" for n, one in enumerate(said)], timeout, sockets, heard, pulse)

    def say(self, values: dict[str, Any], payload: bytes = b"", to: int | None = None) -> None:
        """Says something to one machine, or to all that are connected; one that is gone does not hear it."""
        head = json.dumps(values).encode()
        for other in [to] if to is not None else list(self._sockets):
            if (wire := self._sockets.get(other)) is None:
                continue
            with suppress(OSError), self._locks[other]:
                wire.sendall(_HEAD.pack(len(head), len(payload)) + head)
                if payload:
                    wire.sendall(payload)

    def close(self) -> None:
        """Takes leave: what the others hear then is `bye`, and no loss."""
        self._closing = True
        self.say({"bye": True})
        for wire in list(self._sockets.values()):  # those who listen take theirs out
            with suppress(OSError):
                wire.shutdown(socket.SHUT_WR)

    def _beat(self) -> None:
        while not self._closing:
            own = self._pulse.quiet
            self.say({} if own is None or not self.rank else {"quiet": own})
            every = [own, *self._quiet.values()]
            least = min((one for one in every if one is not None), default=0.0)
            if not self.rank and None not in every and least > self.timeout:
                self._heard(Message(0, {"hung": f"No machine has got on for {least:.0f} s, though all of them live"}))
            time.sleep(_BEAT)

    def _listen(self, other: int) -> None:
        wire, why = self._sockets[other], "was lost"
        try:
            while True:
                head, body = _HEAD.unpack(_read(wire, _HEAD.size))
                if head > _LARGEST_HEAD or body > _LARGEST:
                    raise ValueError("no message of ours")
                values, payload = json.loads(_read(wire, head)), _read(wire, body)
                self._quiet[other] = values.pop("quiet", None)
                if "bye" in values:
                    self._sockets.pop(other, None)
                    self._quiet.pop(other, None)
                    self._heard(Message(other, values))
                    return
                if values:
                    self._heard(Message(other, values, payload))
        except TimeoutError:
            why = f"has been silent for {self.timeout:g} s"
        except (OSError, EOFError, ValueError):
            pass
        self._sockets.pop(other, None)
        self._quiet.pop(other, None)
        with suppress(OSError):
            wire.close()
        if not self._closing:
            self._heard(Message(other, {"lost": f"{self.hosts[other]} {why}"}))


def log(text: str) -> None:
    """A line to stderr; a disk that is full, where that is a file, ends nothing."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def end_here(text: str, code: int, wait: float = 0.0) -> None:
    """Ends this process in the middle, from any thread: with a line, and without what is half-written.

    Args:
        text: The line, the last on stderr: what libraries say of their broken connections after it is left out.
        code: Of the exit.
        wait: Seconds that what was said to others may take.
    """
    log(text)
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    time.sleep(wait)
    abandon()
    os._exit(code)


@contextmanager
def within(seconds: float, sentence: str) -> Iterator[None]:
    """Ends the process with a sentence if what is inside takes longer: a wait of MLX's own cannot be interrupted."""
    done = threading.Event()

    def watch() -> None:
        if not done.wait(seconds):
            end_here(f"Error: {sentence}", 2)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def own_addresses() -> list[str]:
    """Where the others may reach this machine, best first: as `mlx.launch` was told, then by its other networks.

    In a ring of cables only two of the machines have one to this one; the others come over the network that they are
    started by.
    """
    found = []
    if (file := os.environ.get("MLX_HOSTFILE")) and Path(file).is_file():
        with suppress(ValueError, LookupError, AttributeError, OSError):
            found.append(str(json.loads(Path(file).read_text())[0][0]))
    found += [os.environ[name] for name in _ADDRESSES if name in os.environ]
    found = [one.rpartition(":")[0] or one for one in found]
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.connect(("192.0.2.1", 9))  # sends nothing, and tells by which address this machine goes out
        found.append(way.getsockname()[0])
    with suppress(OSError):
        found += socket.gethostbyname_ex(socket.gethostname())[2]
    local = found[:1] if found and found[0].startswith("127.") else []
    return [*dict.fromkeys(local + [one for one in found if not one.startswith("127.")])] or ["127.0.0.1"]


def _called(place: dict[str, Any], rank: int, timeout: float) -> socket.socket:
    hello = json.dumps({"token": place["token"], "rank": rank}).encode()
    failed = []
    for address in place["addresses"]:
        try:
            wire = socket.create_connection((address, place["port"]), min(timeout, _CALL))
            wire.sendall(_HEAD.pack(len(hello), 0) + hello)
            if _read(wire, len(_WELCOME)) == _WELCOME:
                return _settled(wire, timeout)
            failed.append(f"{address} is another machine")
        except (OSError, EOFError) as error:
            failed.append(f"{address}: {error or 'it hangs up'}")
    raise UserError(
        f"{socket.gethostname()} (rank {rank}) does not reach {place['host']} ({'; '.join(failed)}).",
        "Let connections between the machines through (a firewall?), or give other addresses to mlx.launch.",
    )


def _answered(server: socket.socket, size: int, token: str, timeout: float) -> dict[int, socket.socket]:
    """The others' connections; a stranger without the token is sent away."""
    wires: dict[int, socket.socket] = {}
    server.settimeout(min(timeout, 30))
    while len(wires) < size - 1:
        try:
            wire, _ = server.accept()
        except TimeoutError as error:
            missing = ", ".join(str(rank) for rank in range(1, size) if rank not in wires)
            raise UserError(
                f"Rank {missing} did not call {socket.gethostname()}.",
                "Let connections between the machines through (a firewall?).",
            ) from error
        wire.settimeout(10)
        try:
            head, _ = _HEAD.unpack(_read(wire, _HEAD.size))
            hello = json.loads(_read(wire, min(head, 4096)))
            if hmac.compare_digest(str(hello["token"]), token) and 0 < int(hello["rank"]) < size:
                wire.sendall(_WELCOME)
                wires[int(hello["rank"])] = _settled(wire, timeout)
                continue
        except (OSError, EOFError, ValueError, TypeError, LookupError):
            pass
        wire.close()
    return wires


def _settled(wire: socket.socket, timeout: float) -> socket.socket:
    wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    wire.settimeout(timeout)
    return wire


def _read(wire: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = wire.recv(min(1 << 20, count - len(data)))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


@contextmanager
def watched(
    rank: int, size: int, exchange: Callable[[bytes], list[bytes]], sentence: str, timeout: float = TIMEOUT,
    pulse: Pulse | None = None,
) -> Iterator[None]:  # fmt: skip
    """Ends this process when another machine is lost while the work inside goes on and does not end by itself, or when
    the link that data goes over hangs.

    Args:
        rank, size, exchange, timeout, pulse: As for `Links.open`.
        sentence: What to do then; the lost machine's name goes before it.
    """
    if size == 1:
        yield
        return

    def heard(message: Message) -> None:
        if "lost" in message.values:
            links.say(message.values)  # the others may not be connected to the one that is gone
            time.sleep(_GRACE)
            end_here(f"Error: {message.values['lost']}. {sentence}", 2)
        elif "hung" in message.values:
            end_here(f"Error: {message.values['hung']}. {HANGS} {sentence}", 2)

    links = Links.open(rank, size, exchange, timeout, heard, pulse)
    try:
        yield
    finally:
        links.close()
