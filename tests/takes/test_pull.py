"""`mlx-ltxw pull` and `-m OWNER/REPO`: what is fetched, where it lies, and that it makes a clip."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mlx_ltxw.hub import Repo
from mlx_ltxw.media.audio import read_audio
from mlx_ltxw.takes import pull
from mlx_ltxw.weights import fit
from mlx_ltxw.weights.components import IN_CHECKPOINT, component_named, upsampler_name
from tests.convert.made import ROOT, command, contents, converted, made
from tests.hub_server import COMMIT, files_of, serving
from tests.weights.split import split_model, split_upsampler

GEMMA = "mlx-community/gemma-3-12b-it-4bit"
SMALL = ("embedded_config.json", "split_model.json")
MADE = ("--audio-only", "--frames", "9", "--steps", "1", "-q")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A model in ltx-2-mlx's layout, 8 bits, beside files that no network needs."""
    folder = split_model(made().checkpoint, tmp_path_factory.mktemp("split") / "ltx-2.3-mlx-q8", bits=8)
    split_upsampler(folder, converted().network_config("video_vae").latent_channels)
    (folder / "temporal_upscaler_x2_v1_0.safetensors").write_bytes(b"not fetched")
    (folder / "ltx-2.3-22b-distilled-lora-384.safetensors").write_bytes(b"not read")
    (folder / "README.md").write_text("---\nlicense: other\n---\n")
    return folder


@pytest.fixture
def hub(tree, tmp_path):
    """Our layout, ltx-2-mlx's, its text encoder, and a repository of nothing."""
    other = tmp_path / "other"
    other.write_text("not read")
    both = files_of(tree) | {"transformer-distilled.safetensors": tree / "transformer-dev.safetensors"}
    repos = {
        "owner/ours": files_of(converted().path) | {".gitattributes": other},
        "owner/theirs": files_of(tree),
        "owner/both": both,
        "owner/neither": {"README.md": other},
        GEMMA: files_of(converted().text_encoder) | {"pytorch_model.bin": other},
    }
    with serving(repos, tmp_path / "cache") as server:
        yield server


def test_pulls_our_layout_into_a_folder(hub, tmp_path):
    done = command("pull", "owner/ours", "-o", tmp_path / "model", "--verify", **hub.environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "model")
    assert "placed" in done.stderr
    assert f"-m {tmp_path / 'model'}" in done.stderr
    ours = {name: raw for name, raw in contents(tmp_path / "model").items() if not name.startswith(".cache/")}
    assert ours == contents(converted().path)


def test_a_cut_download_goes_on(hub, tmp_path):
    """Only the file that is missing is fetched again."""
    assert command("pull", "owner/ours", "-o", tmp_path / "model", **hub.environment).returncode == 0
    gone = next((tmp_path / "model").glob("vocoder-*"))
    gone.unlink()
    hub.sent.clear()
    done = command("pull", "owner/ours", "-o", tmp_path / "model", **hub.environment)
    assert done.returncode == 0, done.stderr
    assert "are there already" in done.stderr
    assert {name for name, _ in hub.sent} == {f"owner/ours/{gone.name}"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_download_that_is_asked_to_end_ends(hub, tmp_path, number):
    """Not when the file is there, which may be hours later: here the Hub sends the rest when the program has ended."""
    file = next(name for name in hub.repos["owner/ours"] if name.startswith("vocoder-"))
    hub.held = {file}
    words = [sys.executable, "-m", "mlx_ltxw", "pull", "owner/ours", "-o", str(tmp_path / "model")]
    environment = {**os.environ, **hub.environment}
    with subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as program:
        while f"owner/ours/{file}" not in {name for name, _ in hub.sent} and program.poll() is None:
            time.sleep(0.02)
        program.send_signal(number)
        told = program.communicate(timeout=100)[1]
    hub.release.set()
    assert program.returncode == 128 + number, told
    assert "stays; the same command goes on." in told
    assert told.endswith("Stopped; nothing half-written was left behind.\n")
    assert not (tmp_path / "model" / file).exists()


def test_a_clip_by_the_name_of_a_repository(hub, tmp_path):
    """Downloaded once, by its commit; then without the Hub; the clip tells what made it."""
    flags = ("generate", "a room", *MADE, "-m", "owner/ours@v1")
    done = command(*flags, "-o", tmp_path / "a.wav", **hub.environment)
    assert done.returncode == 0, done.stderr
    assert not any(name.endswith(".gitattributes") for name, _ in hub.sent)
    about = json.loads(command("inspect", tmp_path / "a.wav", "--json").stdout)
    assert about["model"]["name"] == f"owner/ours@{COMMIT}"
    offline = {**hub.environment, "HF_HUB_OFFLINE": "1"}
    for name in ("owner/ours@v1", f"owner/ours@{COMMIT}"):
        done = command(*flags[:-1], name, "-o", tmp_path / "b.wav", "--overwrite", **offline)
        assert done.returncode == 0, done.stderr


def test_ltx_2_mlx_layout_comes_with_its_text_encoder(hub, tmp_path):
    """The upscaler and the LoRA stay on the Hub; Gemma is fetched from where ltx-2-mlx fetches it."""
    done = command("pull", "owner/theirs", **hub.environment)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert f"-m owner/theirs@{COMMIT}" in done.stderr
    names = {name for name, _ in hub.sent}
    assert f"{GEMMA}/model-00001-of-00001.safetensors" in names
    assert not [name for name in names if "temporal" in name or "lora" in name or name.endswith(".bin")]
    assert {f"owner/theirs/spatial_upscaler_x2_v1_1{end}" for end in (".safetensors", "_config.json")} <= set(names)
    offline = {**hub.environment, "HF_HUB_OFFLINE": "1"}
    flags = ("generate", "a room", *MADE)
    done = command(*flags, "-m", "owner/theirs", "-o", tmp_path / "a.wav", **offline)
    assert done.returncode == 0, done.stderr
    # a file that came short is fetched again; a copy of it all anywhere else finds the text encoder in the cache
    vocoder = folder / "vocoder.safetensors"
    whole = vocoder.read_bytes()
    vocoder.write_bytes(whole[:-9])
    shutil.copytree(done_path(hub, "owner/theirs"), tmp_path / "copy")
    assert vocoder.read_bytes() == whole
    done = command(*flags, "-m", tmp_path / "copy", "-o", tmp_path / "b.wav", **offline)
    assert done.returncode == 0, done.stderr
    sounds = [read_audio(tmp_path / name, 48000) for name in ("a.wav", "b.wav")]
    np.testing.assert_array_equal(*sounds)


def done_path(hub, name):
    """The folder that `pull` prints."""
    return command("pull", name, "-q", **hub.environment).stdout.strip()


def test_a_model_is_checked_once(tree, tmp_path, monkeypatch):
    """And once more the network whose width the text encoder gives, when that is there."""
    folders = {"owner/theirs": tree, GEMMA: converted().text_encoder}
    checked = []

    def fetch(repo, files, _):
        for file in files:
            (tmp_path / repo.name / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folders[repo.name] / file, tmp_path / repo.name / file)
        return tmp_path / repo.name

    def build(component):
        checked.append(component)
        return component_named(component)

    monkeypatch.setattr(
        pull, "open_repo", lambda name, _: Repo(name, COMMIT, tuple(files_of(folders[name])), offline=False)
    )
    monkeypatch.setattr(Repo, "download", lambda self, file: folders[self.name] / file)
    monkeypatch.setattr(Repo, "fetch", fetch)
    monkeypatch.setattr(Repo, "missing", lambda self, files, folder: (0, 1))
    monkeypatch.setattr(fit, "component_named", build)
    done = pull.pull("owner/theirs")
    assert done.tensors == sum(len(done.model.tensors(one)) for one in {*checked})
    assert checked == [*IN_CHECKPOINT, *map(upsampler_name, done.model.upsamplers), "text_projection"]


def test_into_a_folder_with_everything(hub, tmp_path):
    """Model and text encoder lie together, and need nothing else; of either a file that is missing is fetched again.
    The command that is printed quotes a space."""
    folder = tmp_path / "my model"
    done = command("pull", "owner/theirs", "-o", folder, **hub.environment)
    assert done.returncode == 0, done.stderr
    gone = next((folder / "text_encoder").glob("model*.safetensors"))
    gone.unlink()
    hub.sent.clear()
    done = command("pull", "owner/theirs", "-o", folder, **hub.environment)
    assert done.returncode == 0, done.stderr
    assert f"-m '{folder}' -o out.mp4" in done.stderr
    assert f"{GEMMA}/{gone.name}" in {name for name, _ in hub.sent} <= {f"{GEMMA}/{gone.name}", f"{GEMMA}/config.json"}
    alone = {"HF_HOME": str(tmp_path / "empty"), "HF_HUB_OFFLINE": "1"}
    done = command("generate", "a room", *MADE, "-m", folder, "-o", tmp_path / "a.wav", **alone)
    assert done.returncode == 0, done.stderr


def test_folders_that_are_somebodys(hub, tmp_path):
    """A file in the folder's place, and one whose own file would be replaced."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "config.json").write_text("mine")
    for folder, said in (("file", "is a file"), ("thesis", "holds other files, such as config.json")):
        done = command("pull", "owner/ours", "-o", tmp_path / folder, **hub.environment)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert contents(tmp_path / "thesis") == {"config.json": b"mine"}


def test_of_several_transformers_one(hub, tmp_path):
    done = command("pull", "owner/both", **hub.environment)
    assert done.returncode == 2
    assert "several transformers: transformer-dev.safetensors, transformer-distilled.safetensors" in done.stderr
    assert hub.sent == []
    name = "owner/both/transformer-distilled.safetensors"
    done = command("pull", name, **hub.environment)
    assert done.returncode == 0, done.stderr
    assert "LTX-2.3 distilled, placed" in done.stderr
    assert f"-m {name}@{COMMIT}" in done.stderr
    assert not [sent for sent, _ in hub.sent if sent.endswith("transformer-dev.safetensors")]
    done = command("generate", "a room", *MADE[:3], "-q", "-m", name, "-o", tmp_path / "a.wav", **hub.environment)
    assert done.returncode == 0, done.stderr


def test_a_text_encoder_alone(hub, tmp_path):
    done = command("pull", GEMMA, "-o", tmp_path / "gemma", **hub.environment)
    assert done.returncode == 0, done.stderr
    assert f"--text-encoder {tmp_path / 'gemma'}" in done.stderr
    flags = ("-m", "owner/theirs", "--text-encoder", tmp_path / "gemma", "-o", tmp_path / "a.wav")
    del hub.repos[GEMMA]
    done = command("generate", "a room", *MADE, *flags, **hub.environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("owner/neither", "holds no model that convert wrote, nor one of ltx-2-mlx's"),
        ("owner/nothing", "There is no file and no Hub repo owner/nothing"),
        ("owner/theirs/transformer-x.safetensors", "has no transformer transformer-x.safetensors"),
        ("nothing", "nothing is no repository of the Hub"),
    ],
)
def test_what_is_said(hub, name, said):
    done = command("pull", name, **hub.environment)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_of_ours_has_its_own_text_encoder(hub, tmp_path):
    done = command("generate", "x", "-m", converted().path, "--text-encoder", GEMMA, "-o", tmp_path / "a.mp4")
    assert done.returncode == 2
    assert "has a text encoder of its own. Leave --text-encoder out." in done.stderr


def test_the_text_encoder_comes_first(hub, tmp_path):
    """What it is and whether it may be had is told before the model is fetched; and the command names it."""
    hub.gated = {GEMMA}
    hub.repos["owner/gemma"] = hub.repos[GEMMA]
    done = command("pull", "owner/theirs", **hub.environment)
    assert (done.returncode, "is gated" in done.stderr) == (2, True)
    assert {name for name, _ in hub.sent} == {f"owner/theirs/{name}" for name in SMALL}
    done = command("pull", "owner/ours", "--text-encoder", "owner/gemma", **hub.environment)
    assert (done.returncode, "has a text encoder of its own" in done.stderr) == (2, True)
    done = command("pull", "owner/theirs", "--text-encoder", "owner/gemma", **hub.environment)
    assert done.returncode == 0, done.stderr
    assert f"-m owner/theirs@{COMMIT} --text-encoder owner/gemma@{COMMIT} -o out.mp4" in done.stderr


def test_a_file_that_came_damaged_is_fetched_again(hub):
    """One bit is another: the download is whole for the Hub's client, which leaves it alone."""
    file = "connectors-00001-of-00001.safetensors"
    path = Path(done_path(hub, "owner/ours")) / file
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    hub.sent.clear()
    done = command("pull", "owner/ours", "--verify", **hub.environment)
    assert done.returncode == 0, done.stderr
    assert f"downloaded again: {file}." in done.stderr
    assert path.read_bytes() == whole
    assert {sent.rpartition("/")[2] for sent, _ in hub.sent} <= {file, "manifest.json"}
