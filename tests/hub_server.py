"""A small server that answers as huggingface.co does, and the environment in which the real client asks it."""

import base64
import http.server
import json
import re
import threading
from contextlib import contextmanager
from hashlib import sha1, sha256
from pathlib import Path
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", "v1", "next/v2", COMMIT)


class Hub(http.server.BaseHTTPRequestHandler):
    """Of models: information, trees, files with ranges; and what an upload asks for, with the token `hf_made`."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def do_POST(self):
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if self.refuses():
            return None
        if self.headers.get("Authorization") != "Bearer hf_made":
            return self.fail(401, "Unauthorized")
        if path == "/api/repos/create":
            asked = json.loads(raw)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.server.created[name] = asked
            there = name in self.server.repos
            self.server.repos.setdefault(name, {})
            return self.answer_json({"url": f"http://{self.headers['Host']}/{name}"}, 409 if there else 200)
        if path == "/api/validate-yaml":
            return self.answer_json({"errors": [], "warnings": []})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            modes = [{"path": one["path"], "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                      "shouldIgnore": False} for one in json.loads(raw)["files"]]  # fmt: skip
            return self.answer_json({"files": modes})
        if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self.answer_json({"objects": [self.lfs_object(one) for one in json.loads(raw)["objects"]]})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            return self.commit(found[1], raw)
        return self.fail(404, "EntryNotFound")

    def do_PUT(self):
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.puts_left == 0:
            return self.fail(507, "Full")  # which the client does not try again
        self.server.puts_left -= 1
        digest = self.path.rpartition("/")[2]
        assert sha256(raw).hexdigest() == digest
        self.server.store.mkdir(exist_ok=True)
        (self.server.store / digest).write_bytes(raw)
        self.server.put.append(len(raw))
        return self.answer_json({})

    def lfs_object(self, asked):
        """What the client has to do for a large file: nothing, if it is here."""
        if (self.server.store / asked["oid"]).exists():
            return asked
        host, port = self.server.server_address
        return {**asked, "actions": {"upload": {"href": f"http://{host}:{port}/lfs/{asked['oid']}"}}}

    def commit(self, name, raw):
        self.server.store.mkdir(exist_ok=True)
        for line in map(json.loads, raw.splitlines()):
            value = line["value"]
            if line["key"] == "lfsFile":
                self.server.repos[name][value["path"]] = self.server.store / value["oid"]
            elif line["key"] == "file":
                content = base64.b64decode(value["content"])
                path = self.server.store / sha256(content).hexdigest()
                path.write_bytes(content)
                self.server.repos[name][value["path"]] = path
            elif line["key"] == "deletedFile":
                del self.server.repos[name][value["path"]]
        self.server.commits.append([json.loads(line)["key"] for line in raw.splitlines()])
        return self.answer_json({"success": True, "commitOid": COMMIT, "commitUrl": f"http://{self.headers['Host']}/{name}/commit/{COMMIT}",
                                 "hookOutput": ""})  # fmt: skip

    def answer_json(self, value, status=200):
        self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json"}, True)

    def refuses(self):
        """Answers as `refusals` has it (part of a path -> status and body), as a Hub without words of its own does."""
        for part, (status, raw) in self.server.refusals.items():
            if part in self.path:
                self.send(status, raw, {}, True)
                return True
        return False

    def answer(self, body):
        path = self.path.partition("?")[0]
        if self.refuses():
            return None
        if path == "/api/whoami-v2":
            if self.headers.get("Authorization") != "Bearer hf_made":
                return self.fail(401, "Unauthorized")
            return self.answer_json(
                {"name": "me", "orgs": [{"name": "mine"}], "auth": {"accessToken": {"role": "write"}}}
            )
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
        if unquote(revision) not in REVISIONS:
            return self.fail(404, "RevisionNotFound")
        siblings = [{"rfilename": file, "blobId": blob(path)} for file, path in self.server.repos[name].items()]
        raw = json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode()
        return self.send(200, raw, {"Content-Type": "application/json"}, True)

    def tree(self, name, revision):
        if name not in self.server.repos or revision not in REVISIONS:
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
            half = len(raw) // 2 if self.path.rpartition("/")[2] in self.server.held else 0
            if half:
                self.wfile.write(raw[:half])
                self.server.release.wait()
            self.wfile.write(raw[half:])


def blob(path):
    """Git's hash of a file, as the Hub tells it of small ones."""
    raw = path.read_bytes()
    return sha1(b"blob %d\0" % len(raw) + raw).hexdigest()


@contextmanager
def serving(repos, cache):
    """A server of `repos`, name -> file -> path, and the client's `environment` with its cache folder."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.repos, server.gated, server.sent, server.refusals = repos, set(), [], {}
    server.held, server.release = set(), threading.Event()  # files of which half is sent until then
    server.created, server.commits, server.put, server.puts_left = {}, [], [], 1000
    server.store = Path(cache).with_name("store")
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
