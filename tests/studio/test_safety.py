"""Attacks: other origins, names that only point here, paths that lead out, bodies without end; nothing is let in."""

import asyncio
import base64
import http.client
import os
import socket

import pytest

from mlx_ltxw.studio.safety import COOKIE, LARGEST_BODY, Guard, Rules
from tests.studio.conftest import start
from tests.studio.drawn import drawn_take

OWN = "127.0.0.1:8188"


async def app(scope, receive, send):
    """Reads all of the body, and says yes."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


def call(rules, method="GET", path="/", query="", kind="http", body=(), **headers):
    """Status, headers and body of an answer; of a websocket what it was told first."""
    sent: list[dict] = []
    pieces = [*body] or [b""]

    async def receive():
        if kind == "websocket":
            return {"type": "websocket.connect"}
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message):
        sent.append(message)

    headers = {"host": OWN, **{name.replace("_", "-"): value for name, value in headers.items()}}
    raw = [(name.encode(), value.encode()) for name, value in headers.items() if value is not None]
    scope = {"type": kind, "method": method, "path": path, "query_string": query.encode(), "headers": raw}
    asyncio.run(Guard(app, rules, {"/upload": 5000})(scope, receive, send))
    if kind == "websocket":
        return sent[0]["type"]
    told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], told, b"".join(message.get("body", b"") for message in sent[1:])


LOCAL = Rules.of("127.0.0.1", 8188)


@pytest.mark.parametrize("host", [OWN, "localhost:8188", "LOCALHOST:8188", "[::1]:8188"])
def test_the_studios_own_names_are_let_in(host):
    assert call(LOCAL, host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example:8188", "127.0.0.1.evil.example:8188", "127.0.0.1", "127.0.0.1:80", "user@127.0.0.1:8188",
     "127.0.0.1:8188/x", "", "192.168.1.7:8188", "127.0.0.1:x", "[::1", "127.0.0.1:99999"],
)  # fmt: skip
def test_another_name_for_this_machine_is_not(host):
    """DNS rebinding: the browser takes evil.example for this server's name."""
    assert call(LOCAL, host=host)[0] == 421
    assert call(LOCAL, kind="websocket", host=host, origin=f"http://{host}") == "websocket.close"


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:8188", None]
)
def test_another_page_posts_nothing_and_opens_no_socket(origin):
    assert call(LOCAL, "POST", "/upload", origin=origin)[0] == 403
    assert call(LOCAL, kind="websocket", origin=origin) == "websocket.close"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_its_own_page_may(method):
    assert call(LOCAL, method, origin=f"http://{OWN}")[0] == 200
    assert call(LOCAL, kind="websocket", origin=f"http://{OWN}") == "websocket.accept"


def test_another_page_shows_none_of_its_files():
    """`<video src>` of another page sends no Origin; the browser says where it stands."""
    for site in ("cross-site", "same-site"):
        assert call(LOCAL, path="/media/take/1", sec_fetch_site=site, sec_fetch_mode="no-cors")[0] == 403
        assert call(LOCAL, path="/", sec_fetch_site=site, sec_fetch_mode="navigate")[0] == 200  # a link to it
    _, told, _ = call(LOCAL)
    assert "frame-ancestors 'none'" in told["content-security-policy"]
    assert "connect-src 'self'" in told["content-security-policy"]
    assert told["cross-origin-resource-policy"] == "same-origin"


def test_a_body_is_as_long_as_its_route_takes_whatever_its_header_says():
    own = {"origin": f"http://{OWN}"}
    assert call(LOCAL, "POST", "/upload", body=[b"x" * 1000] * 5, **own)[::2] == (200, b"5000")
    assert call(LOCAL, "POST", "/upload", body=[b"x" * 1000] * 6, **own)[0] == 413
    assert call(LOCAL, "POST", "/upload", body=[b"x" * 1000] * 6, content_length="10", **own)[0] == 413
    assert call(LOCAL, "POST", "/upload", content_length=str(2 << 30), **own)[0] == 413
    assert call(LOCAL, "POST", "/", content_length=str(LARGEST_BODY + 1), **own)[0] == 413
    assert call(LOCAL, "POST", "/", content_length="-1", **own)[0] == 400


def test_others_need_the_token_and_an_address():
    rules = Rules.of("0.0.0.0", 8188, names=["studio.lan"])
    assert rules.token is not None
    assert len(rules.token) >= 32
    for host in ("192.168.1.7:8188", "studio.lan:8188", f"{socket.gethostname()}:8188"):
        assert call(rules, host=host)[0] == 401
        assert call(rules, host=host, query="token=wrong")[0] == 401
        status, told, _ = call(rules, host=host, path="/hear", query=f"takes=3&token={rules.token}")
        assert (status, told["location"]) == (303, "/hear?takes=3")
        assert told["set-cookie"].startswith(f"{COOKIE}={rules.token}; HttpOnly; SameSite=Strict")
        assert call(rules, host=host, cookie=f"{COOKIE}={rules.token}")[0] == 200
        assert call(rules, host=host, cookie=f"{COOKIE}={rules.token}x")[0] == 401
        assert call(rules, kind="websocket", host=host, origin=f"http://{host}") == "websocket.close"
    assert call(rules, host="evil.example:8188", cookie=f"{COOKIE}={rules.token}")[0] == 421
    assert Rules.of("127.0.0.1", 1).token is None
    assert Rules.of("192.168.1.7", 1).token


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studio") / "folder"
    drawn_take(folder)
    server = start(folder)
    yield server
    server.stop()
    server.process.stdout.close()


def ask(server, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    given = {"host": f"127.0.0.1:{server.port}", "origin": server.url} | headers
    connection.putrequest(method, path, skip_host=True)
    for name, value in given.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders(body)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, answer.headers, text


def test_files_come_by_their_number_in_ranges_and_none_by_a_path(server):
    whole = (server.folder / "takes" / "000001.mp4").read_bytes()
    assert ask(server, "GET", "/media/take/1")[2] == whole
    status, told, part = ask(server, "GET", "/media/take/1", range="bytes=5-104")
    assert (status, part) == (206, whole[5:105])
    assert told["content-range"] == f"bytes 5-104/{len(whole)}"
    assert ask(server, "GET", "/media/take/1.wav")[2][:4] == b"RIFF"
    assert ask(server, "GET", "/media/take/1.png")[2][:4] == b"\x89PNG"
    secret = b"CREATE TABLE jobs"
    for path in (
        "/media/take/../../studio.db", "/media/take/..%2f..%2fstudio.db", "/static/../store.py", "/studio.db",
        "/static/%2e%2e/store.py", "/static/..%2fstore.py", "//etc/passwd", "/media/take/1%00.png", "/media/take/-1",
        "/media/take/99", "/media/upload/1", "/media/job/1/preview.db", "/media/job/1/preview.%2e%2e%2fstudio.db",
        "/static//etc/passwd", "/_nicegui/../../etc/passwd",
    ):  # fmt: skip
        status, _, text = ask(server, "GET", path)
        assert status in (307, 400, 403, 404), path
        assert secret not in text
        assert b"root:" not in text


def test_a_link_among_the_takes_is_not_followed(server, tmp_path):
    """Whoever can write there can read the folder anyway, but the page serves nothing outside of it."""
    (tmp_path / "secret.png").write_bytes(b"secret")
    made = server.folder / "takes" / "000009.preview.png"
    os.symlink(tmp_path / "secret.png", made)
    status, _, text = ask(server, "GET", "/media/job/9/preview.png")
    assert (status, b"secret" in text) == (404, False)


def test_a_socket_of_another_origin_is_closed_in_the_handshake(server):
    def shake(origin, host=None):
        with socket.create_connection(("127.0.0.1", server.port), 10) as wire:
            key = base64.b64encode(os.urandom(16)).decode()
            lines = [
                "GET /_nicegui_ws/socket.io/?EIO=4&transport=websocket HTTP/1.1", f"Host: {host or OWN}",
                "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13",
                f"Origin: {origin}", "", "",
            ]  # fmt: skip
            wire.sendall("\r\n".join(lines).encode())
            return int(wire.recv(4096).split()[1])

    own = f"127.0.0.1:{server.port}"
    assert shake(f"http://{own}", own) == 101
    assert shake("http://evil.example", own) == 403
    assert shake("http://evil.example:8188", "evil.example:8188") == 403


def test_two_gigabytes_are_refused_before_they_come(server):
    status, _, _ = ask(server, "POST", "/upload?name=a.mp4", content_length=str(2 << 30))
    assert status == 413
    assert list((server.folder / "uploads").iterdir()) == []


def test_what_is_no_picture_is_not_kept(server):
    status, _, text = ask(server, "POST", "/upload?name=..%2F..%2Fa.png", b"no picture", content_length="10")
    assert (status, b"error" in text) == (400, True)
    assert list((server.folder / "uploads").iterdir()) == []
    page = b"<script>window.hit = 1</script>"
    assert ask(server, "POST", "/upload?name=a.html", page, content_length=str(len(page)))[0] == 400
    assert ask(server, "POST", "/upload?name=a.svg", page, content_length=str(len(page)))[0] == 400
