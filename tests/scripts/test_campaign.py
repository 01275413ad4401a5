"""The campaigns' own instruments: they see a crash, a hang, memory, a traceback, and files that are left or differ."""

import atexit
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from scripts.campaign import forked, kills, mutate
from scripts.campaign.groups import GROUPS
from scripts.campaign.inputs import run
from scripts.campaign.kinds import Kind, _spoiling
from scripts.campaign.made import Made

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA and /proc are Linux's")


def called(monkeypatch, work, main):
    import mlx_ltxw.cli

    monkeypatch.setattr(mlx_ltxw.cli, "main", main)
    return forked.call(["measure", "x"], work)


@linux
@pytest.mark.parametrize(
    ("main", "fault"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "crashes (SIGSEGV)"),
        (lambda: np.ones(3 << 30, np.uint8), "traceback: numpy._core._exceptions._ArrayMemoryError"),
        (lambda: sum(iter(lambda: 0, 1)), "hangs"),
        (lambda: {}["x"], "traceback: KeyError: 'x'"),
        (lambda: sys.exit(3), "exit 3"),
        (lambda: sys.exit(2), "exit 2 without a word"),
        (lambda: print("\x1b[31mred"), r"prints the control character b'\x1b'"),
        (lambda: (print("Error: no such file"), sys.exit(2)), None),
        (lambda: print("done"), None),
    ],
)
def test_what_a_command_does_is_seen_from_outside(tmp_path, monkeypatch, main, fault):
    monkeypatch.setattr(forked, "PROCESSOR", 1)
    found = called(monkeypatch, tmp_path, main).fault
    assert found == fault if fault is None else found.startswith(fault)
    assert not (tmp_path / ".output").exists()


@pytest.mark.parametrize(
    ("damage", "data"),
    [
        (mutate.damaged_bytes, bytes(range(256)) * 20),
        (mutate.damaged_text, b"a: 1\nb: two\n"),
        (mutate.damaged_json, json.dumps({"a": [1, 2.5, {"b": "c"}], "d": None}).encode()),
        (mutate.damaged_safetensors, save({"x": np.ones(3, "f")}, {"config": "{}", "name": "x"})),
    ],
)
def test_damage_follows_its_seed_and_is_seldom_none(damage, data):
    made = [damage(data, random.Random(seed)) for seed in range(200)]
    assert made == [damage(data, random.Random(seed)) for seed in range(200)]
    assert sum(one != data for one in made) > 180
    assert len(set(made)) > 100


def test_files_that_are_left_missing_or_other_are_faults(tmp_path):
    def write(**files):
        shutil.rmtree(tmp_path / "work", ignore_errors=True)
        (tmp_path / "work" / "run").mkdir(parents=True)
        for name, text in files.items():
            (tmp_path / "work" / "run" / name).write_text(text)

    each = kills.Run("train", lambda work: [], ("run/a*",), ("run/log",), lambda work: True)
    write(a1="one", a2="two", log="at ten")
    expected = kills._results(each, tmp_path / "work")
    assert kills._differences(each, tmp_path / "work", expected) == []
    write(a1="other", log="at eleven", **{".mlx-ltxw-1-0.part": ""})
    faults = kills._differences(each, tmp_path / "work", expected)
    assert sorted(faults) == ["run/.mlx-ltxw-1-0.part is left behind", "run/a1 differs", "run/a2 is missing"]


@linux
def test_a_small_campaign(tmp_path, monkeypatch, capsys):
    """Damaged lists of clips and a command that falls over some of them: just those are told."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "list.json").write_text(json.dumps({"a": [1, 2, 3]}))
    import mlx_ltxw.cli

    def main():
        json.loads(Path(sys.argv[2]).read_bytes())["a"]

    monkeypatch.setattr(mlx_ltxw.cli, "main", main)
    spoil = _spoiling(source, ["list.json"], mutate.damaged_json)
    kind = Kind("lists", spoil, lambda work: [["read", work / "source" / "list.json"]], lambda *_: None)
    monkeypatch.setitem(GROUPS, "lists", lambda made, folder: iter([kind]))
    made = Made(tmp_path, tmp_path, tmp_path, tmp_path)
    faults = run(made, tmp_path, 12, 0, ["lists"], tmp_path / "kept")
    assert 0 < len(faults) < 12
    assert all("traceback" in fault for fault in faults)
    assert len(list((tmp_path / "kept").iterdir())) == len(faults)
    assert f"12 inputs, {len(faults)} faults" in capsys.readouterr().out


@linux
def test_a_copy_of_this_process_runs_the_whole_program(tmp_path, capfd):
    """Its end included; files of this process that are taken away at exit stay."""
    kept = tmp_path / "kept"
    kept.write_text("")
    atexit.register(kept.unlink)
    try:
        done = forked.Forked(["measure", str(tmp_path / "none.wav")], tmp_path / "errors")
        assert "none.wav does not exist" in done.communicate(60)[1]
    finally:
        atexit.unregister(kept.unlink)
    assert done.returncode == 2
    assert kept.exists()


@linux
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_counts_from_the_programs_first_line_on(number):
    """Python answers SIGINT itself before, and SIGTERM not at all."""
    begin = "import sys, time; print(flush=True); sys.stdin.readline()"
    script = f"{begin}; import mlx_ltxw.__main__; print(flush=True); time.sleep(60)"
    call = [sys.executable, "-c", script]
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        assert not kills._answers(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        assert kills._answers(process.pid)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
