"""`mlx-ltxw doctor`: every fault it names comes with what to do, and what is right passes."""

import json
import os
import shutil
import sys

import mlx.core as mx
import numpy as np
import pytest

from mlx_ltxw import machine as devices
from mlx_ltxw.doctor import machine as machines
from mlx_ltxw.doctor import models, self_test
from mlx_ltxw.doctor.diagnosis import Diagnosis
from mlx_ltxw.doctor.fits import CLIPS, PRECISIONS, table
from mlx_ltxw.doctor.paper import CONFIGS, PaperModel
from mlx_ltxw.machine import Machine
from mlx_ltxw.weights.memory import network_bytes
from scripts.made_sizes import GEMMA_12B, REAL_CONFIG
from tests.convert.made import command, converted, made
from tests.hub_server import serving
from tests.weights.split import split_model

GB = 10**9
FACTS = {
    "system": {"system", "processor", "mlx-ltxw", "MLX", "Python", "macOS"},
    "device": {"backend", "device"},
    "memory": {"total", "budget"},
    "disk": {"folder", "writable", "free"},
    "prompts": {"folder"},
    "TF32": {"variable", "used"},
    "tools": {"av"},
    "Hub login": {"login"},
    "model": {"model", "variant", "tensors", "bytes", "verified"},
    "self-test": {"errors", "seconds"},
}
"""What scripts may read of `--json`, on a machine whose device is the CPU."""
MAC = Machine("metal", 16 * 2**30, 11 * GB)


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """An empty folder and an empty cache."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    for module in ("constants", "utils._cache_manager"):  # which keeps what it read
        monkeypatch.setattr(f"huggingface_hub.{module}.HF_HUB_CACHE", str(tmp_path / "cache"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


def test_the_command(tmp_path):
    """As people see it, and as JSON; a machine that is right ends with 0."""
    quiet = {"HF_HOME": str(tmp_path), "HF_TOKEN": "", "COLUMNS": "100"}
    done = command("doctor", **quiet)
    assert done.returncode == 0, done.stdout + done.stderr
    for part in ("Nothing to mend", "self-test", "What fits into", "-q 4", "1280x704x121"):
        assert part in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    done = command("doctor", "--json", "-m", converted().path, **quiet)
    found = json.loads(done.stdout)
    assert found["ok"] is True
    areas = {check["area"]: check for check in found["checks"]}
    assert areas["model"]["facts"]["tensors"] > 600
    assert areas["self-test"]["facts"]["errors"]["sound, float32"] < 5e-3
    assert all(check["advice"] for check in found["checks"] if check["state"] != "good")
    assert set(found) == {"schema", "ok", "checks", "fits"}
    assert found["schema"] == 1
    assert all(check.keys() == {"area", "state", "text", "advice", "facts"} for check in found["checks"])
    assert {area: set(areas[area]["facts"]) for area in FACTS} == FACTS
    assert set(found["fits"]) == {"budget", "rows"}
    assert all(set(row) == {"precision", "disk", "clips"} for row in found["fits"]["rows"])


def test_a_damaged_model_ends_with_1(tmp_path):
    folder = shutil.copytree(converted().path, tmp_path / "model")
    os.truncate(next(folder.glob("vocoder-*")), 100)
    done = command("doctor", "-m", folder, HF_HOME=str(tmp_path))
    assert done.returncode == 1
    shown = " ".join(done.stdout.split())
    assert "has 100 bytes instead of" in shown
    assert "Copy it again" in shown
    assert "1 thing to mend" in shown


def test_models_here(alone):
    """Ours, one of ltx-2-mlx's that lacks its text encoder, and nothing else."""
    assert [one.state for one in models.models()] == ["note"]
    (alone / "ours").symlink_to(converted("8", 32).path)
    split_model(made().checkpoint, alone / "theirs", bits=4)
    (alone / "photos").mkdir()
    ours, theirs = models.models()
    assert (ours.state, theirs.state) == ("good", "note")
    assert "8 bits" in ours.text
    assert "4 bits" in theirs.text
    assert "pull mlx-community/gemma-3-12b-it-4bit" in theirs.advice
    assert len(list(models.models(given="ours"))) == 2  # the one that is named is not told twice


def test_what_is_not_finished_is_told(alone):
    """Where it lies, as what to know; a fault where it was asked for, and so is a damaged one of the other layout."""
    (alone / "begun" / ".convert").mkdir(parents=True)
    (alone / "cut").mkdir()
    (alone / "cut" / "transformer.audio-00001-of-00002.safetensors").touch()
    found = list(models.models())
    assert [one.state for one in found] == ["note", "note"]
    assert all("not a finished model" in one.text and "goes on" in one.advice for one in found)
    assert models.examined("begun").state == "fault"
    shutil.rmtree(alone / "begun")
    shutil.rmtree(alone / "cut")
    (alone / "theirs").mkdir()
    for file in ("split_model.json", "vocoder.safetensors"):
        (alone / "theirs" / file).write_text("{}")
    (one,) = models.models()
    assert (one.state, bool(one.advice)) == ("fault", True)


def test_models_in_the_hubs_cache(alone, monkeypatch):
    """By the name that `-m` takes; a download that was cut is no fault, and what was only looked at is none at all."""
    tree = split_model(made().checkpoint, alone.parent / "q8", bits=8)
    small = [path.name for path in tree.iterdir() if path.suffix == ".json"]
    for repo, files in (
        ("me--ltx--8bit", [path.name for path in tree.iterdir()]),
        ("me--cut", [*small, "vocoder.safetensors"]),
        ("me--seen", small),
    ):
        folder = alone.parent / "cache" / f"models--{repo}" / "snapshots" / ("ab" * 20)
        folder.mkdir(parents=True)
        for name in files:
            shutil.copy(tree / name, folder / name)
    whole = alone.parent / "cache" / "models--me--ltx--8bit" / "snapshots" / ("ab" * 20)
    shutil.copy(whole / "transformer-dev.safetensors", whole / "transformer-distilled.safetensors")
    cut, *both = models.models()
    assert (cut.state, "has no" in cut.text, bool(cut.advice)) == ("note", True, True)
    names = [f"me/ltx--8bit/transformer-{variant}.safetensors@{'ab' * 20}: LTX" for variant in ("dev", "distilled")]
    assert [one.text[: len(name)] for one, name in zip(both, names, strict=True)] == names


def test_a_folder_that_is_gone(tmp_path, monkeypatch):
    """Of the user's own, and one that may not be read: all else is looked at as ever."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLX_LTXW_CACHE", "relative")
    monkeypatch.chdir(gone)
    gone.rmdir()
    first, *_ = machines.disk()
    assert (first.state, "folder is gone" in first.text, bool(first.advice)) == ("fault", True, True)
    assert [one.area for one in models.models()] == ["models"]
    assert machines.kept().area == "prompts"


def test_a_user_without_a_home(monkeypatch):
    monkeypatch.delenv("MLX_LTXW_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(machines.Path, "home", homeless)
    one = machines.kept()
    assert (one.state, "no home" in one.text, "MLX_LTXW_CACHE" in one.advice) == ("note", True, True)


def test_a_cache_that_is_none(alone, monkeypatch):
    """A file in its place, a token that cannot be read, and a disk that takes nothing."""
    file = alone / "file"
    file.touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(file))
    assert [one.area for one in models.models()] == ["models"]
    (told,) = [one for one in machines.disk() if one.state != "good" and "is no folder" in one.text]
    assert "HF_HOME" in told.advice
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(alone / "cache"))
    monkeypatch.setattr(machines.os, "access", lambda *_: False)
    assert ["may not be written" in one.text and bool(one.advice) for one in machines.disk()] == [True, True]

    def unreadable():
        raise PermissionError(13, "Permission denied", "token")

    monkeypatch.setattr("huggingface_hub.get_token", unreadable)
    one = models.login()
    assert (one.state, "Permission denied" in one.text, "hf auth login" in one.advice) == ("fault", True, True)


@pytest.mark.parametrize(
    ("chip", "version", "states"),
    [
        ("Apple M1", "13.6.9", ("fault", "note")), ("Apple M2 Pro", "14.0", ("good", "note")),
        ("Apple M4", "15.7", ("good", "good")), ("Apple M5 Max", "26.1", ("good", "note")),
        ("Apple M5", "26.2", ("good", "good")), ("Apple M5", "16.0", ("good", "good")),
        ("Apple M3", "10.16", ("good", "good")), ("Apple M4", "27", ("good", "good")),
    ],
)  # fmt: skip
def test_versions_of_macos(monkeypatch, chip, version, states):
    """MLX needs 14; the M5's units are used from 26.2; 16.0 and 10.16 are what macOS tells old programs."""
    monkeypatch.setattr(machines.platform, "mac_ver", lambda: (version, ("", "", ""), "arm64"))
    monkeypatch.setattr(machines.platform, "machine", lambda: "arm64")
    monkeypatch.setattr(mx, "device_info", lambda *_: {"device_name": chip})
    monkeypatch.setattr(devices, "on_metal", lambda: True)
    found = machines.system(), machines.device(MAC)
    assert tuple(one.state for one in found) == states
    assert all(one.advice for one in found if one.state != "good")
    assert f"macOS {version}" in found[0].text


def test_hashes_are_asked_for(alone):
    folder = shutil.copytree(converted().path, alone / "model")
    file = folder / "text_encoder" / "tokenizer.json"
    file.write_bytes(file.read_bytes().replace(b"a", b"b", 1))
    assert models.examined(folder).state == "good"
    assert "sha256" in models.examined(folder, verify=True).text


@pytest.mark.parametrize(
    ("token", "state", "said"),
    [("hf_made", "good", "logged in as me"), ("hf_other", "fault", "does not take this machine's token")],
)
def test_login(tmp_path, token, state, said):
    with serving({}, tmp_path / "cache") as server:
        done = command("doctor", "--json", **server.environment, HF_TOKEN=token)
    (login,) = [check for check in json.loads(done.stdout)["checks"] if check["area"] == "Hub login"]
    assert (login["state"], said in login["text"]) == (state, True)
    assert done.returncode == (1 if state == "fault" else 0)


def test_login_without_the_network(tmp_path):
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    done = command("doctor", "--json", **nowhere, HF_TOKEN="hf_made")
    assert done.returncode == 0
    (login,) = [check for check in json.loads(done.stdout)["checks"] if check["area"] == "Hub login"]
    assert login["text"].startswith("unknown")


def test_login_that_takes_too_long(monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_made")
    monkeypatch.setattr(models, "_whoami", lambda: __import__("time").sleep(5))
    assert models.login(patience=0.05).facts == {"login": "unknown"}


def test_sizes_of_weights_are_the_published_ones():
    """As `python -m scripts.sizes` counts them from the official names and shapes (`docs/real_model.md`)."""
    counted = {}
    for name, packing in PRECISIONS.items():
        model = PaperModel.at(packing)
        sizes = [network_bytes(model, each, mx.bfloat16) for each in ("text_encoder", "transformer")]
        alone = network_bytes(model, "transformer", mx.bfloat16, audio_only=True)
        counted[name] = [round(n / GB, 1) for n in (model.disk, *sizes, alone)]
    assert counted["bf16"] == [69.7, 23.5, 38.0, 6.6]
    assert counted["-q 8"] == [42.2, 13.4, 20.6, 3.6]
    assert counted["-q 4"] == [27.6, 8.1, 11.4, 1.9]


def test_the_published_configs():
    config, gemma = json.loads(REAL_CONFIG.read_text()), json.loads(CONFIGS.read_text())["gemma"]
    config["transformer"]["caption_channels"] = gemma["hidden_size"]
    assert json.loads(CONFIGS.read_text())["checkpoint"] == config
    assert gemma == {"model_type": "gemma3_text", **GEMMA_12B}


def test_what_fits():
    """By hand: at 8 bits and 704x480x97 the transformer's 20.62 GB, a forward's 0.72, and what of
    a block is there twice while it arrives, 0.13; in bf16 2.35 blocks of 0.774 GB
    on their way, 0.86 outside of them, and then as many as fit into 95 % of 23 GB, 21.85. The connectors' 4.03 GB and
    the 0.4 beside them are the largest moment where the transformer is small."""
    rows = {row["precision"]: row["clips"] for row in table(Machine("metal", 23 * GB, 23 * GB), program=0)}
    assert rows["-q 8"]["704x480x97"]["blocks"] == 48
    assert rows["-q 8"]["704x480x97"]["peak"] == pytest.approx(21.47 * GB, rel=2e-3)
    assert rows["-q 8"]["1280x704x121"]["blocks"] == 43  # (21.85 - 0.86 - 2.2 - 2.35 * 0.411) / 0.411
    assert rows["bf16"]["704x480x97"]["blocks"] == 23  # (21.85 - 0.86 - 0.72 - 2.35 * 0.774) / 0.774
    assert rows["-q 4"]["sound alone"]["peak"] == pytest.approx(4.43 * GB, rel=2e-3)
    beside = table(Machine("metal", 24 * GB, 24 * GB), program=GB)[1]["clips"]["704x480x97"]
    assert beside["blocks"] == 48
    assert beside["peak"] == pytest.approx(22.47 * GB, rel=2e-3)
    card = table(Machine("cuda", 24 * GB, 24 * GB))[1]["clips"]["704x480x97"]  # has its memory to itself
    assert card["peak"] == rows["-q 8"]["704x480x97"]["peak"]
    none = table(Machine("metal", 3 * GB, 3 * GB), program=0)[0]["clips"]["704x480x97"]
    assert (none["blocks"], none["of"]) == (None, 48)
    assert all(list(clips) == list(CLIPS) for clips in rows.values())


def test_a_mac(monkeypatch):
    """Its wired limit, its watchdog, its chip."""
    one = machines.memory(MAC, ask=lambda name: "0")
    assert one.facts["wired_limit_mb"] == 0
    assert "sudo sysctl iogpu.wired_limit_mb=13926" in one.advice  # 85 % of 16384
    assert machines.memory(MAC, ask=lambda name: "12000").advice == ""
    assert machines.memory(MAC, ask=lambda name: "").facts["wired_limit_mb"] is None
    for name, state in (("Apple M1 Max", "note"), ("Apple M2", "note"), ("Apple M3", "good"), ("Apple M10", "good")):
        monkeypatch.setattr(mx, "device_info", lambda *_, name=name: {"device_name": name})
        monkeypatch.setattr(devices, "on_metal", lambda: True)
        assert machines.device(MAC).state == state, name
    monkeypatch.setattr(machines, "on_metal", lambda: True)
    assert "AGX_RELAX_CDM_CTXSTORE_TIMEOUT" in " ".join(one.advice for one in machines.settings(MAC))


def test_intel_python_on_a_mac(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(machines.platform, "machine", lambda: "x86_64")
    one = machines.system()
    assert (one.state, "Apple silicon" in one.advice) == ("fault", True)


def test_settings_that_are_wrong(monkeypatch):
    monkeypatch.setattr(machines, "on_cpu", lambda: False)
    monkeypatch.setattr(machines, "tf32_is_used", lambda mx: True)
    monkeypatch.setenv("MLX_ENABLE_TF32", "1")
    tf32, *_ = machines.settings(MAC)
    assert (tf32.state, "Unset MLX_ENABLE_TF32" in tf32.advice) == ("fault", True)
    monkeypatch.setattr(machines, "on_cpu", lambda: True)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(machines, "slow_blas", lambda: ["OpenBLAS is not installed, and so on. Then: `sudo apt`"])
    tf32, blas, *_ = machines.settings(MAC)
    assert (tf32.state, tf32.facts["used"]) == ("good", False)
    assert (blas.state, blas.advice) == ("fault", "Then: `sudo apt`")


def test_little_disk(monkeypatch, alone):
    usage = shutil._ntuple_diskusage(100, 99, 10 * GB)
    monkeypatch.setattr(machines.shutil, "disk_usage", lambda path: usage)
    one, *_ = machines.disk()
    assert (one.state, "10.00 GB free" in one.text, bool(one.advice)) == ("note", True, True)


def test_a_folder_for_prompts_that_takes_none_is_told(monkeypatch, tmp_path):
    """A run says nothing of it: that a prompt is not kept is no reason to stop."""
    (tmp_path / "file").write_bytes(b"")
    states = {}
    for name in ("0", str(tmp_path / "new" / "one"), str(tmp_path / "file"), str(tmp_path / "file" / "below")):
        monkeypatch.setenv("MLX_LTXW_CACHE", name)
        one = machines.kept()
        states[name.rpartition("/")[2]] = one.state
        assert (one.state == "note") == (f"{tmp_path / 'file'} is no folder" in one.text) == bool(one.advice)
    assert states == {"0": "good", "one": "good", "file": "note", "below": "note"}


def test_a_wrong_result_is_a_fault():
    """A sign, a NaN, a value a tenth off; and the noise of another backend is none."""
    wanted = np.sin(np.arange(64.0)).tolist()
    for values in ((-np.array(wanted)).tolist(), [float("nan")] * 64, (1.1 * np.array(wanted)).tolist(), wanted[:9]):
        verdict = self_test.judged({"sound, float32": self_test._error(values, wanted)}, 1.0)
        assert (verdict.state, bool(verdict.advice)) == ("fault", True)
    near = (np.array(wanted) * (1 + 1e-5)).tolist()
    assert self_test.judged({"sound, float32": self_test._error(near, wanted)}, 1.0).state == "good"


def test_a_gpu_that_fails_is_told(monkeypatch):
    def fail(dtype):
        raise RuntimeError("[METAL] Command buffer execution failed: Internal Error (0000000e:Internal Error).")

    monkeypatch.setattr(self_test, "measured", fail)
    one = self_test.self_test()
    assert (one.state, "error of its own" in one.text) == ("fault", True)
    assert "convert the model with --quantize 4" in one.advice
    assert one.as_dict() == Diagnosis(**one.as_dict()).as_dict()
