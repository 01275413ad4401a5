"""A small server that answers as huggingface.co does, and the environment in which the real client asks it."""

import http.server
import json
import re
import threading
from contextlib import contextmanager
from hashlib import sha256

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """Of models: information, trees, files with ranges."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            return self.model_info(*found.groups())
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            return self.tree(*found.groups())
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not found:
            return self.fail(404, "EntryNotFound")
        name, revision, file = found.groups()
        files = self.server.repos.get(name, {})
        if revision != COMMIT or file not in files:
            return self.fail(404, "EntryNotFound")
        if name in self.server.gated:
            return self.fail(403, "GatedRepo")
        return self.send_file(name, file, files[file].read_bytes(), body)

    def model_info(self, name, revision):
        if name not in self.server.repos:
            return self.fail(404, "RepoNotFound")
        if revision not in ("main", "v1", COMMIT):
            return self.fail(404, "RevisionNotFound")
        siblings = [{"rfilename": file} for file in self.server.repos[name]]
        raw = json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode()
        return self.send(200, raw, {"Content-Type": "application/json"}, True)

    def tree(self, name, revision):
        if name not in self.server.repos or revision not in ("main", "v1", COMMIT):
            return self.fail(404, "RepoNotFound")
        entries = []
        for file, path in self.server.repos[name].items():
            raw = path.read_bytes()
            large = {"oid": sha256(raw).hexdigest(), "size": len(raw), "pointerSize": 134}
            entries.append({"type": "file", "path": file, "size": len(raw), "oid": "0" * 40, "lfs": large})
        return self.send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"}, True)

    def send_file(self, name, file, raw, body):
        headers = {"ETag": f'"{sha256(raw).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        status, whole = 200, len(raw)
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(asked[1]), min(int(asked[2] or whole - 1), whole - 1)
            raw, status = raw[start : stop + 1], 206
            headers["Content-Range"] = f"bytes {start}-{stop}/{whole}"
        if body:
            self.server.sent.append((f"{name}/{file}", len(raw)))
        self.send(status, raw, headers, body)

    def fail(self, status, code):
        self.send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code}, True)

    def send(self, status, raw, headers, body):
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(raw))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(raw)


@contextmanager
def serving(repos, cache):
    """A server of `repos`, name -> file -> path, and the client's `environment` with its cache folder."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.repos, server.gated, server.sent = repos, set(), []
    server.environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def files_of(folder):
    """The files below a folder, by their path in it, as `serving` takes them."""
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
