"""Hub repos, through the real client against a small server: what is fetched, at which commit, and what is said."""

import json
import re
from hashlib import sha256

import pytest

from mlx_ltxw.hub import looks_like_repo
from tests.convert.made import command, contents, converted, made
from tests.hub_server import COMMIT, serving


@pytest.fixture
def hub(tmp_path):
    """A server with a checkpoint repo, a Gemma repo and a gated one; and the client's environment."""
    source = made()
    lora = tmp_path / "lora"
    lora.write_bytes(b"not read")
    gemma = {file.name: file for file in source.gemma.iterdir()}
    repos = {
        "owner/ltx": {
            "ltx-2.3-tiny-dev.safetensors": source.checkpoint,
            "ltx-2.3-tiny-distilled.safetensors": source.checkpoint,
            "ltx-2.3-tiny-distilled-lora-384.safetensors": lora,
            "ltx-2.3-spatial-upscaler-x2.safetensors": lora,
            "README.md": lora,
        },
        "owner/gemma": {**gemma, "pytorch_model.bin": lora, "original/weights.pth": lora},
        "owner/gated": gemma,
        "owner/empty": {"README.md": lora},
    }
    with serving(repos, tmp_path / "cache") as server:
        server.gated = {"owner/gated"}
        yield server


def test_converts_from_the_hub_and_then_without_it(hub, tmp_path):
    """Only the files needed are fetched, at one commit, which is recorded; the cache serves when the Hub is away."""
    asked = ("owner/ltx", "--variant", "dev", "--text-encoder", "owner/gemma@v1")
    done = command("convert", *asked, "-o", tmp_path / "a" / "out", **hub.environment)
    assert done.returncode == 0, done.stderr
    names = {name for name, _ in hub.sent}
    wanted = {f"owner/gemma/{file.name}" for file in made().gemma.iterdir() if "index" not in file.name}
    assert names == wanted | {"owner/ltx/ltx-2.3-tiny-dev.safetensors"}
    config = json.loads((tmp_path / "a" / "out" / "config.json").read_text())
    for role, repo in (("source", "owner/ltx"), ("text_encoder", "owner/gemma")):
        assert (config[role]["repo"], config[role]["revision"]) == (repo, COMMIT)
    expected = sha256(made().checkpoint.read_bytes()).hexdigest()
    assert config["source"]["files"]["ltx-2.3-tiny-dev.safetensors"]["sha256"] == expected
    weights = {name: raw for name, raw in contents(converted().path).items() if name.endswith(".safetensors")}
    assert {name: contents(tmp_path / "a" / "out").get(name) for name in weights} == weights

    offline = {**hub.environment, "HF_HUB_OFFLINE": "1"}
    done = command("convert", *asked[:-1], "owner/gemma@v2", "-o", tmp_path / "b" / "out", **offline)
    assert done.returncode == 2
    assert "owner/gemma at v2 is not in the local cache" in done.stderr
    done = command("convert", *asked[:-1], f"owner/gemma@{COMMIT[:8]}", "-o", tmp_path / "b" / "out", **offline)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "b" / "out") == contents(tmp_path / "a" / "out")


def test_dry_run_fetches_headers_alone(hub):
    """A few hundred kB of names for a checkpoint of any size."""
    done = command(
        "convert", "owner/ltx/ltx-2.3-tiny-dev.safetensors", "--dry-run", "--text-encoder", "owner/gemma",
        **hub.environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"placed (\d+) of \1 tensors", done.stdout.splitlines()[-1])
    whole = made().checkpoint.stat().st_size
    assert 0 < sum(size for name, size in hub.sent if name.endswith("dev.safetensors")) < whole / 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("owner/ltx",), "several checkpoints: ltx-2.3-tiny-dev.safetensors, ltx-2.3-tiny-distilled.safetensors"),
        (("owner/nothing",), "There is no file and no Hub repo owner/nothing"),
        (("owner/empty",), "has no checkpoint in its root"),
        (("owner/ltx", "--revision", "v9"), "has no such revision"),
        (("owner/ltx@v1", "--revision", "v9"), "names another revision than --revision v9"),
        (("owner/ltx/nothing.safetensors",), "has no such file"),
        (("owner/ltx", "--variant", "dev", "--text-encoder", "owner/gated"), "is gated"),
        (("owner/ltx", "--variant", "dev", "--text-encoder", "owner/empty"), "holds no text encoder"),
    ],
)
def test_what_is_said(hub, arguments, said):
    done = command("convert", *arguments, "--dry-run", **hub.environment)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_hub_that_is_not_there(tmp_path):
    """Nothing listens: told as no connection, not as a traceback."""
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    done = command("convert", "owner/ltx", "--dry-run", **environment)
    assert done.returncode == 2
    assert "the Hub cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Lightricks/LTX-2.3", True),
        ("Lightricks/LTX-2.3/ltx-2.3-22b-dev.safetensors", True),
        ("google/gemma-3-12b-it-qat-q4_0-unquantized@main", True),
        ("models/ltx.safetensors", False),
        ("ltx.safetensors", False),
        ("/models/ltx", False),
        ("./models/ltx", False),
        ("~/models/ltx", False),
    ],
)
def test_what_looks_like_a_repo(text, expected):
    assert looks_like_repo(text) == expected
