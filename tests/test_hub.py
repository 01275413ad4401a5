"""What is said when the Hub refuses, is away, or is another's page: the real client against a small server."""

import json
import os
import subprocess
import sys

import pytest

from mlx_ltxw.hub import Spec
from tests.convert.made import ROOT
from tests.hub_server import COMMIT, serving

PORTAL = (200, b"<html>Welcome to the hotel</html>")
STATUSES = (401, 403, 404, 429, 503)

ASK = """
import json, sys
from pathlib import Path
import huggingface_hub
from mlx_ltxw import hub
from mlx_ltxw.errors import UserError

folder, said = Path(sys.argv[1]), {}

def ask(case, work):
    try:
        said[case] = [str(work()), ""]
    except UserError as error:
        said[case] = [error.message, error.hint]

for name in (*"401 403 404 429 503".split(), "portal", "empty", "list"):
    ask(name, lambda: hub.open_repo(f"owner/{name}"))
for status in (401, 403, 404):
    ask(f"file {status}", lambda: hub.open_repo(f"owner/file{status}").download("a.txt"))
for name in ("kept", "kept2"):
    hub.open_repo(f"owner/{name}", "v1").download("a.txt")
    repo = hub.open_repo(f"owner/{name}")
    ask(name, lambda: (repo.commit, repo.offline, repo.download("a.txt").read_text()))
    ask(f"{name}, a part", lambda: repo.fetch(["a.txt", "b.txt"], folder / "new"))
    ask(f"{name}, missing", lambda: repo.missing(["a.txt", "b.txt"], folder / "new"))
for name in ("", "alone", "a/b/c", "me/x@v1"):
    ask(f"name '{name}'", lambda: hub.check_upload(name))
ask("whoami", lambda: hub.check_upload("me/x"))
for name in ("401", "403", "odd", "portal"):
    ask(f"push {name}", lambda: hub.push(folder, f"me/{name}", "It is here, but", "Again.", commit_message="x"))
hub.open_repo("owner/named", "v1").download("a.txt")
hub.open_repo("owner/named2", "next/v2").fetch(["a.txt"])
huggingface_hub.constants.HF_HUB_OFFLINE = True
for name, revision in (("named", "v1"), ("named2", "next/v2"), ("named", "v2"), ("kept", "main")):
    ask(f"{name}@{revision}", lambda: hub.open_repo(f"owner/{name}", revision).download("a.txt").relative_to(folder))
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """Of one process that asks for all of it: case -> what came back, or message and hint."""
    folder = tmp_path_factory.mktemp("hub")
    file = folder / "a.txt"
    file.write_text("content")
    names = ("file401", "file403", "file404", "kept", "kept2", "named", "named2")
    refusals = {f"/owner/{status}/": (status, b"") for status in STATUSES}
    refusals |= {"/owner/portal/": PORTAL, "/owner/empty/": (200, b"{}"), "/owner/list/": (200, b"[]")}
    refusals |= {f"/owner/file{status}/resolve": (status, b"") for status in (401, 403, 404)}
    refusals |= {"/owner/kept/revision/main": (503, b""), "/owner/kept2/revision/main": PORTAL}
    refusals |= {f"/me/{status}/preupload": (status, b"") for status in (401, 403)}
    refusals |= {"/me/odd/preupload": (200, b"{}"), "/me/portal/preupload": PORTAL, "whoami": PORTAL}
    with serving({f"owner/{name}": {"a.txt": file} for name in names}, folder / "cache") as server:
        server.refusals = refusals
        done = subprocess.run(
            [sys.executable, "-c", ASK, folder], capture_output=True, text=True, cwd=ROOT, timeout=120,
            env={**os.environ, **server.environment, "HF_TOKEN": "hf_made"},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("case", "message", "hint"),
    [
        ("401", "refused owner/401 (it answered 401 Unauthorized)", "Log in with `hf auth login`"),
        ("403", "refused owner/403 (it answered 403 Forbidden)", "Log in with `hf auth login`"),
        ("404", "refused owner/404 (it answered 404 Not Found)", "Check the name"),
        ("429", "the Hub cannot serve (it answered 429 Too Many Requests)", "Wait a while"),
        ("503", "the Hub cannot serve (it answered 503)", "Wait a while"),
        ("portal", "what answers is not the Hub; a proxy or a login page", "Connect once"),
        ("empty", "what answers is not the Hub", "Connect once"),
        ("list", "what answers is not the Hub", "Connect once"),
        ("file 401", "cannot be downloaded (it answered 401 Unauthorized)", "Log in with `hf auth login`"),
        ("file 403", "cannot be downloaded (it answered 403 Forbidden)", "Log in with `hf auth login`"),
        ("file 404", "cannot be downloaded (it answered 404 Not Found)", "Check the name"),
        ("kept, a part", f"Only a part of owner/kept@{COMMIT} is in the local cache", "Connect"),
        ("kept2, missing", f"Only a part of owner/kept2@{COMMIT} is in the local cache", "Connect"),
        ("named@v2", "owner/named at v2 is not in the local cache", "Connect once"),
        ("name ''", "'' is no name of a Hub repo", "upload as OWNER/REPO"),
        ("name 'alone'", "'alone' is no name of a Hub repo", "upload as OWNER/REPO"),
        ("name 'a/b/c'", "'a/b/c' is no name of a Hub repo", "upload as OWNER/REPO"),
        ("name 'me/x@v1'", "'me/x@v1' is no name of a Hub repo", "upload as OWNER/REPO"),
        ("whoami", "uploaded to me/x: what answers is not the Hub", "Connect and run it again"),
        ("push 401", "It is here, but could not be uploaded to me/401", "a token that may write to it"),
        ("push 403", "It is here, but could not be uploaded to me/403", "a token that may write to it"),
        ("push odd", "uploaded to me/odd: what answers is not the Hub", "Again."),
        ("push portal", "uploaded to me/portal: what answers is not the Hub", "Again."),
    ],
)
def test_refusals(said, case, message, hint):
    assert message in said[case][0]
    assert hint in said[case][1]


PUSH = """
import sys
from pathlib import Path
from mlx_ltxw import hub
for text in ("one", "one", "two"):
    (Path(sys.argv[1]) / "a.txt").write_text(text)
    last = {"card": text, "mark": text}
    hub.push(Path(sys.argv[1]), "me/x", "It", "Again.", last=last, mark="mark", allow_patterns=["a.txt"],
             commit_message="x")
"""


def test_an_upload_of_something_else_first_takes_the_mark_away(tmp_path):
    """So that a push over another model that is cut leaves none; what is there already leaves it alone."""
    (tmp_path / "files").mkdir()
    with serving({}, tmp_path / "cache") as server:
        environment = {**os.environ, **server.environment, "HF_TOKEN": "hf_made"}
        done = [sys.executable, "-c", PUSH, tmp_path / "files"]
        subprocess.run(done, cwd=ROOT, timeout=120, check=True, env=environment)
    kinds = [[key for key in keys if key != "header"] for keys in server.commits]
    assert [one for one in kinds if "deletedFile" in one] == [["deletedFile"]]
    assert kinds[-3:] == [["deletedFile"], ["file"], ["file", "file"]]
    assert server.repos["me/x"]["mark"].read_text() == "two"


@pytest.mark.parametrize("case", ["kept", "kept2"])
def test_a_hub_that_cannot_serve_is_done_without(said, case):
    """What is in the cache serves, as where there is no connection."""
    assert said[case] == [f"('{COMMIT}', True, 'content')", ""]


@pytest.mark.parametrize("case", ["named@v1", "named2@next/v2", "kept@main"])
def test_a_branch_is_found_by_its_name_without_the_hub(said, case):
    """As the Hub's client finds what it fetched by that name; `main` is the newest commit where nothing says which."""
    name = case.partition("@")[0]
    assert said[case] == [f"cache/hub/models--owner--{name}/snapshots/{COMMIT}/a.txt", ""]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://huggingface.co/owner/name", ("owner/name", "", "")),
        ("https://huggingface.co/owner/name/", ("owner/name", "", "")),
        ("hf://owner/name", ("owner/name", "", "")),
        ("https://huggingface.co/owner/name/tree/v1.0", ("owner/name", "", "v1.0")),
        ("https://huggingface.co/owner/name/blob/main/a/b.safetensors", ("owner/name", "a/b.safetensors", "main")),
        ("https://hf.co/owner/name/resolve/main/b.safetensors?download=true", ("owner/name", "b.safetensors", "main")),
        ("https://huggingface.co/datasets/owner/name", None),
        ("https://example.org/owner/name", None),
    ],
)
def test_addresses(text, expected):
    """As they are copied from a browser."""
    found = Spec.parse(text)
    assert (found and (found.repo, found.file, found.revision)) == expected
