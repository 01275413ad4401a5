"""`convert --upload`, through the real client against a small server: what lands there is a model."""

import pytest

from mlx_ltxw.weights.model_dir import ModelDir
from tests.convert.made import command, contents, made
from tests.hub_server import serving


@pytest.fixture
def hub(tmp_path):
    with serving({}, tmp_path / "cache") as server:
        server.environment["HF_TOKEN"] = "hf_made"
        yield server


def asked(out, repo="me/ltx-8bit", *more):
    return ("convert", made().checkpoint, "--text-encoder", made().gemma, "-q", "8", "-o", out, "--upload", repo, *more)


def test_what_was_uploaded_is_pulled_and_used(hub, tmp_path):
    """All files of the manifest, the card with the repository's name, and a clip by that name."""
    done = command(*asked(tmp_path / "model", "me/ltx-8bit", "--private"), **hub.environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("/me/ltx-8bit")
    assert hub.created["me/ltx-8bit"].get("private") or hub.created["me/ltx-8bit"].get("visibility") == "private"
    there = {name: path.read_bytes() for name, path in hub.repos["me/ltx-8bit"].items() if name != ".gitattributes"}
    here = contents(tmp_path / "model")
    assert there.keys() == here.keys() | {"NOTICE"}
    assert {name for name in here if there[name] != here[name]} == {"README.md", "manifest.json"}
    card = there["README.md"].decode()
    for part in ("license: other", "base_model: Lightricks/LTX-2.3\nbase_model_relation: quantized", "- 8-bit\n",
                 "affine, 8 bits", "-m me/ltx-8bit", "--adapter MLXBits/", "| vocoder |"):  # fmt: skip
        assert part in card
    notice = there["NOTICE"].decode()  # the first line is asked for by Gemma's terms, 3.1, in these words
    assert notice.startswith(
        "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms\n"
    )
    assert "The files here were changed" in notice
    assert "affine, 8 bits" in notice
    done = command("pull", "me/ltx-8bit", "-o", tmp_path / "again", "--verify", **hub.environment)
    assert done.returncode == 0, done.stderr
    assert ModelDir.open(tmp_path / "again").config == ModelDir.open(tmp_path / "model").config


def test_the_manifest_comes_last(hub, tmp_path):
    """A push that was cut leaves no model; the next one sends what is missing, and the manifest."""
    hub.puts_left = 3
    done = command(*asked(tmp_path / "model"), **{**hub.environment, "HF_HUB_DOWNLOAD_TIMEOUT": "2"})
    assert done.returncode == 2
    assert f"The model is in {tmp_path / 'model'}, but could not be uploaded to me/ltx-8bit" in done.stderr
    assert "manifest.json" not in hub.repos["me/ltx-8bit"]
    sent, hub.puts_left = sum(hub.put), 1000
    done = command(*asked(tmp_path / "model"), **hub.environment)
    assert done.returncode == 0, done.stderr
    assert "is converted already" in done.stderr
    weights = sum(path.stat().st_size for path in (tmp_path / "model").rglob("*.safetensors"))
    assert sum(hub.put) == weights
    assert sent > 0
    assert "manifest.json" in hub.repos["me/ltx-8bit"]


def test_shards_of_an_earlier_upload_leave_with_it(hub, tmp_path):
    """Of our own names; nothing else in the repository is touched."""
    other = tmp_path / "other"
    other.write_bytes(b"other")
    stale = {
        f"{name}-0000{n}-of-00002.safetensors" for name in ("transformer.video", "text_encoder/model") for n in (1, 2)
    }
    mine = {"notes.txt", "lora-00001-of-00002.safetensors", "more/transformer.video-00001-of-00002.safetensors"}
    hub.repos["me/ltx-8bit"] = dict.fromkeys(stale | mine, other)
    done = command(*asked(tmp_path / "model"), **hub.environment)
    assert done.returncode == 0, done.stderr
    assert set(hub.repos["me/ltx-8bit"]) - {".gitattributes", "NOTICE"} == mine | set(contents(tmp_path / "model"))


def test_login_is_checked_before_the_work(hub, tmp_path):
    nobody = {**hub.environment, "HF_TOKEN": "hf_other"}
    done = command(*asked(tmp_path / "model"), **nobody)
    assert done.returncode == 2
    assert "hf auth login" in done.stderr
    done = command(*asked(tmp_path / "model", "others/ltx"), **hub.environment)
    assert done.returncode == 2
    assert "The account me cannot write to others/ltx. Name a repository of me or mine" in done.stderr
    assert not (tmp_path / "model").exists()
    assert hub.created == {}


def test_without_a_connection_or_a_login(hub, tmp_path):
    """Before the work: to log in helps only where the Hub answers."""
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
    for changes, said in (
        (nowhere, "Connection refused). Connect and run it again"),
        ({"HF_HUB_OFFLINE": "1"}, "Connect and run it again, or leave --upload out"),
        ({"HF_TOKEN": "", "HF_HOME": str(tmp_path)}, "this machine is not logged in to the Hub. Log in with `hf auth"),
    ):
        done = command(*asked(tmp_path / "model"), **{**hub.environment, **changes})
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "model").exists()


def test_flags_that_need_each_other(tmp_path):
    done = command("convert", made().checkpoint, "-o", tmp_path / "model", "--private")
    assert (done.returncode, "--private belongs to --upload" in done.stderr) == (2, True)
    done = command("convert", made().checkpoint, "--dry-run", "--upload", "me/x")
    assert (done.returncode, "--dry-run writes nothing to upload" in done.stderr) == (2, True)
