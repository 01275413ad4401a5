"""Who may talk to the studio: its own pages in a browser on this machine, or whoever has the token.

Every request and every websocket passes here first. Another page in the same browser is told apart by `Origin` and
`Sec-Fetch-Site`, a name that points at this machine (DNS rebinding) by `Host`, and no body is longer than its route
takes.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_ltxw.studio import texts

COOKIE = "mlx_ltxw_studio"
LARGEST_BODY = 1 << 20
"""Bytes of a request that is no upload."""
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self'; "
        "object-src 'none'; frame-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
"""With every answer. NiceGUI's page is built by scripts in it, so those are allowed; they may load nothing from
elsewhere and send nothing there."""


@dataclass(frozen=True)
class Rules:
    """What is let in.

    Attributes:
        port: Of the server.
        hosts: Names it may be called by.
        any_address: Whether any IP address may stand for it (it listens on all of them).
        token: What others than this machine need; None for none.
    """

    port: int
    hosts: frozenset[str]
    any_address: bool = False
    token: str | None = None

    @classmethod
    def of(cls, host: str, port: int, token: str | None = None, names: Iterable[str] = ()) -> Rules:
        """For a server that listens on `host`; one that others reach has a token.

        Args:
            host, port: It listens there.
            token: Of the user's choice.
            names: Other names by which it is reached.
        """
        local = is_loopback(host)
        own = {*_LOOPBACK, *(name.lower() for name in names)}
        if not local:
            name = socket.gethostname().lower()
            own |= {_bracketed(host.lower()), name, f"{name.removesuffix('.local')}.local"}
            token = token or secrets.token_urlsafe(24)
        return cls(port, frozenset(own), host in ("0.0.0.0", "::"), token)

    def knows(self, host: str) -> bool:
        """Whether a `Host` is one of ours; a name that only points here is not."""
        try:
            parts = urlsplit(f"//{host}")
            name, port = _bracketed(parts.hostname or ""), parts.port or 80
        except ValueError:
            return False
        if port != self.port or parts.username is not None or parts.path:
            return False
        return name in self.hosts or (self.any_address and _is_address(name))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """The outermost part of the server.

    Args:
        app: What lies behind it.
        rules: What is let in.
        largest: Path -> the bytes its body may have, where that is not `LARGEST_BODY`.
    """

    def __init__(self, app: ASGIApp, rules: Rules, largest: MutableMapping[str, int] | None = None) -> None:
        self._app, self._rules, self._largest = app, rules, largest or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        if refused := self._refused(scope, headers):
            await _refuse(scope, receive, send, *refused)
            return
        token = self._rules.token
        if token is not None and not _has_cookie(headers, token):
            await self._ask(scope, receive, send, token)
            return
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        limit = self._largest.get(scope["path"], LARGEST_BODY)
        if int(headers.get("content-length") or 0) > limit:
            await _refuse(scope, receive, send, 413, texts.TOO_LARGE)
            return
        await _bounded(self._app, limit, scope, receive, _with_headers(send))

    def _refused(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """Why a request is not let in; None for one that is."""
        hosts = [value for key, value in scope["headers"] if key.lower() == b"host"]
        if len(hosts) != 1 or not self._rules.knows(headers.get("host", "")):
            return 421, texts.WRONG_HOST
        if not headers.get("content-length", "0").isdigit():
            return 400, texts.WRONG_REQUEST
        harmless = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
        origin = headers.get("origin")
        if origin is None and not harmless:
            return 403, texts.WRONG_ORIGIN
        if origin is not None and urlsplit(origin).netloc.lower() != headers["host"].lower():
            return 403, texts.WRONG_ORIGIN
        elsewhere = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if elsewhere and not (harmless and headers.get("sec-fetch-mode") == "navigate"):
            return 403, texts.WRONG_ORIGIN
        return None

    async def _ask(self, scope: Scope, receive: Receive, send: Send, token: str) -> None:
        """Takes the token from the address, as the command prints it, into a cookie; else says what is missing."""
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        given = query.pop("token", [""])[0]
        if scope["type"] == "websocket" or not hmac.compare_digest(given.encode(), token.encode()):
            await _refuse(scope, receive, send, 401, texts.NO_TOKEN)
            return
        rest = urlencode(query, doseq=True)
        cookie = f"{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/"
        headers = [
            (b"location", f"{scope['path']}{'?' if rest else ''}{rest}".encode("ascii", "ignore")),
            (b"set-cookie", cookie.encode()), (b"content-length", b"0"),
        ]  # fmt: skip
        send = _with_headers(send)
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


class TooLarge(Exception):
    """A body that is longer than its route takes."""


async def _bounded(app: ASGIApp, limit: int, scope: Scope, receive: Receive, send: Send) -> None:
    """Calls the app with a body of at most so many bytes, whatever its header said."""
    seen, begun = 0, False

    async def receiving() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b"")) if message["type"] == "http.request" else 0
        if seen > limit:
            raise TooLarge
        return message

    async def sending(message: Message) -> None:
        nonlocal begun
        begun = True
        await send(message)

    try:
        await app(scope, receiving, sending)
    except TooLarge:
        if not begun:
            await _refuse(scope, receive, send, 413, texts.TOO_LARGE)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            there = {key.lower() for key, _ in message.get("headers", [])}
            added = [(key.encode(), value.encode()) for key, value in _HEADERS.items() if key.encode() not in there]
            message = {**message, "headers": [*message.get("headers", []), *added]}
        await send(message)

    return sending


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, text: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    body = text.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]  # fmt: skip
    send = _with_headers(send)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _has_cookie(headers: dict[str, str], token: str) -> bool:
    try:
        morsel: Any = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return False
    return morsel is not None and hmac.compare_digest(morsel.value.encode(), token.encode())


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
