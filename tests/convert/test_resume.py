"""A conversion cut at any moment continues, ends as if it had never been cut, and is no model before."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys

import pytest

from mlx_ltxw.convert import run
from mlx_ltxw.convert.journal import WORK, Journal
from mlx_ltxw.convert.quantize import Quantization
from mlx_ltxw.errors import UserError
from mlx_ltxw.weights.model_dir import ModelDir
from tests.convert.made import ROOT, contents, converted, edited, made, prepare

CUT = """
import os, signal, sys, threading, time
from pathlib import Path
from mlx_ltxw.convert import run
files, seconds = int(sys.argv[4]), float(sys.argv[5])
fsync, seen = os.fsync, 0
def counted(file):
    global seen
    fsync(file)
    seen += 1
    if seen == files:
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
    elif seen == files + 2:
        time.sleep(60)
os.fsync = counted
job = run.prepare(sys.argv[1], sys.argv[2], shard_bytes=100_000)
run.convert(job, Path(sys.argv[3]))
"""
"""A conversion that is killed some seconds after so many files are safe, and before the second one after them."""


def state(folder):
    """What a reader makes of a directory."""
    try:
        ModelDir.open(folder)
    except UserError as error:
        return str(error)
    return "model"


def test_killed_at_random_moments(tmp_path):
    """SIGKILL five times: never a model in between, and the same bytes as an undisturbed run in the end."""
    source, out = made(), tmp_path / "cut" / "out"
    moment = random.Random(3)
    done_at_kill = []
    for files in (1, 2, 5, 11, 21):
        after = [str(files), str(moment.uniform(0, 0.05))]
        command = [sys.executable, "-c", CUT, source.checkpoint, source.gemma, out, *after]
        assert subprocess.run(command, capture_output=True, cwd=ROOT, timeout=120).returncode == -signal.SIGKILL
        assert "not a finished model" in state(out) or "no model directory" in state(out)
        journal = out / WORK / "journal.json"
        done_at_kill.append(len(json.loads(journal.read_text())["files"]) if journal.exists() else 0)
    assert done_at_kill == sorted(done_at_kill)  # no cut loses a finished file
    assert max(done_at_kill) > 0
    run.convert(prepare(source.checkpoint, source.gemma, shard_bytes=100_000), out)
    assert state(out) == "model"
    whole = run.convert(prepare(source.checkpoint, shard_bytes=100_000), tmp_path / "whole" / "out")
    assert contents(out) == contents(whole.path)


class Cut(BaseException):
    """Stands for anything that ends the process."""


def cut_after(monkeypatch, files):
    """Makes the conversion end when so many files are whole."""
    write, count = run.write_shard, iter(range(files))

    def counting(*arguments):
        if next(count, None) is None:
            raise Cut
        return write(*arguments)

    monkeypatch.setattr(run, "write_shard", counting)


def convert_cut(monkeypatch, conversion, out, files=3):
    with monkeypatch.context() as patch:
        cut_after(patch, files)
        with pytest.raises(Cut):
            run.convert(conversion, out)


def test_finished_files_are_not_written_again(tmp_path, monkeypatch, capsys):
    conversion, out = prepare(made().checkpoint), tmp_path / "out"
    convert_cut(monkeypatch, conversion, out)
    before = {p.name: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    assert len(before) == 3
    run.convert(conversion, out)
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert f"Continuing: 3 of {len(conversion.plan.shards)} files" in capsys.readouterr().err


def test_finished_file_that_was_lost_is_written_again(tmp_path, monkeypatch):
    conversion, out = prepare(made().checkpoint), tmp_path / "a" / "out"
    convert_cut(monkeypatch, conversion, out)
    first, second, _ = sorted(out.rglob("*.safetensors"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    run.convert(conversion, out)
    assert contents(out) == contents(run.convert(conversion, tmp_path / "b" / "out").path)


def test_changed_source_starts_over(tmp_path, monkeypatch, capsys):
    """Same name and size, other weights: none of the first run's files stay."""
    source, out = tmp_path / "ltx-dev.safetensors", tmp_path / "a" / "out"
    source.write_bytes(made().checkpoint.read_bytes())
    convert_cut(monkeypatch, prepare(source), out)

    def change(tensors, metadata):
        for name, (dtype, shape, raw) in tensors.items():
            if name.endswith("to_q.weight"):
                tensors[name] = (dtype, shape, bytes(len(raw)))

    edited(made().checkpoint, source, change)
    run.convert(prepare(source), out)
    assert "starting over" in capsys.readouterr().err
    assert contents(out) == contents(run.convert(prepare(source), tmp_path / "b" / "out").path)


def test_touched_source_continues(tmp_path, monkeypatch, capsys):
    """Another time stamp on the same bytes costs a hash and nothing else."""
    source, out = tmp_path / "ltx-dev.safetensors", tmp_path / "out"
    source.write_bytes(made().checkpoint.read_bytes())
    convert_cut(monkeypatch, prepare(source), out)
    os.utime(source, (1, 1))
    run.convert(prepare(source), out)
    said = capsys.readouterr().err
    assert "Continuing: 3" in said
    assert "starting over" not in said


def test_changed_options_start_over(tmp_path, monkeypatch, capsys):
    out = tmp_path / "a" / "out"
    convert_cut(monkeypatch, prepare(made().checkpoint, shard_bytes=50_000), out, files=6)
    wanted = prepare(made().checkpoint, quantization=Quantization.parse("4", 32))
    run.convert(wanted, out)
    assert "starting over" in capsys.readouterr().err
    assert contents(out) == contents(run.convert(wanted, tmp_path / "b" / "out").path)


def test_finished_model_is_left_alone(tmp_path, capsys):
    conversion, out = prepare(made().checkpoint), tmp_path / "out"
    run.convert(conversion, out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    run.convert(conversion, out)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p != out} == before
    assert "converted already" in capsys.readouterr().err
    other = prepare(made().checkpoint, variant="distilled")
    with pytest.raises(UserError, match="made from other files or with other options"):
        run.convert(other, out)
    assert state(out) == "model"


def test_finished_model_that_lost_a_file_is_written_again(tmp_path):
    conversion, out = prepare(made().checkpoint), tmp_path / "out"
    run.convert(conversion, out)
    whole = contents(out)
    next(out.glob("vocoder*.safetensors")).unlink()
    assert "missing" in state(out)
    run.convert(conversion, out)
    assert contents(out) == whole


def test_killed_after_the_manifest(tmp_path):
    """The one moment when the work folder is left in a finished model: it is a model, and the next run tidies."""
    conversion, out = prepare(made().checkpoint), tmp_path / "out"
    run.convert(conversion, out)
    whole = contents(out)
    (out / WORK).mkdir()
    assert state(out) == "model"
    run.convert(conversion, out)
    assert contents(out) == whole


def test_only_one_at_a_time(tmp_path):
    out = tmp_path / "out"
    first = Journal.open(out)
    with pytest.raises(UserError, match="in use by a conversion, process"):
        run.convert(prepare(made().checkpoint), out)
    first.close()
    run.convert(prepare(made().checkpoint), out)


def test_damaged_journal(tmp_path, monkeypatch):
    conversion, out = prepare(made().checkpoint), tmp_path / "out"
    convert_cut(monkeypatch, conversion, out)
    (out / WORK / "journal.json").write_text("{")
    with pytest.raises(UserError, match="Delete"):
        run.convert(conversion, out)


def test_verify_finds_a_flipped_bit(tmp_path):
    conversion, out = prepare(made().checkpoint), tmp_path / "out"
    run.convert(conversion, out, verify=True)
    file = next(out.glob("video_vae*.safetensors"))
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(UserError, match=f"sha256 of {file.name}"):
        run.convert(conversion, out, verify=True)


def test_same_files_from_the_same_source(tmp_path):
    """Byte for byte, whatever ran before in the process."""
    again = run.convert(prepare(made().checkpoint, shard_bytes=run.SHARD_BYTES), tmp_path / converted().path.name)
    assert contents(again.path) == contents(converted().path)


def test_a_source_changed_with_its_size_and_time_kept(tmp_path, monkeypatch, capsys):
    """What no time of the file's own tells: the entry's time of change does, and some of the content is looked at."""
    source, out = tmp_path / "ltx-dev.safetensors", tmp_path / "a" / "out"
    source.write_bytes(made().checkpoint.read_bytes())
    times = source.stat().st_atime_ns, source.stat().st_mtime_ns
    convert_cut(monkeypatch, prepare(source), out)

    def change(tensors, metadata):
        name = next(name for name in tensors if name.endswith("to_q.weight"))
        dtype, shape, raw = tensors[name]
        tensors[name] = (dtype, shape, bytes(len(raw)))

    edited(made().checkpoint, source, change)
    os.utime(source, ns=times)
    run.convert(prepare(source), out)
    assert "starting over" in capsys.readouterr().err
    assert contents(out) == contents(run.convert(prepare(source), tmp_path / "b" / "out").path)
    kept = json.loads((out / "config.json").read_text())["source"]["files"]["ltx-dev.safetensors"]["sha256"]
    assert kept == hashlib.sha256(source.read_bytes()).hexdigest()


def test_a_source_that_changes_during_the_run(tmp_path, monkeypatch):
    """The directory would carry a sha256 of other bytes than those it was made of."""
    source, out = tmp_path / "ltx-dev.safetensors", tmp_path / "out"
    source.write_bytes(made().checkpoint.read_bytes())
    conversion, write = prepare(source), run.write_shard

    def writing(*arguments):
        raw = bytearray(source.read_bytes())
        raw[-1] ^= 1
        source.write_bytes(raw)
        return write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(run, "write_shard", writing)
        with pytest.raises(UserError, match="changed while it was converted"):
            run.convert(conversion, out)
    assert "not a finished model" in state(out)
    run.convert(prepare(source), out)
    assert state(out) == "model"


@pytest.mark.parametrize("field", ["planned", "files"])
def test_a_journal_that_names_files_elsewhere(tmp_path, monkeypatch, field):
    """Neither deleted nor trusted."""
    conversion, out = prepare(made().checkpoint), tmp_path / "out"
    convert_cut(monkeypatch, conversion, out)
    mine = tmp_path / "mine.txt"
    mine.write_text("kept")
    journal = json.loads((out / WORK / "journal.json").read_text())
    for name in ("../mine.txt", str(mine)):
        changed = {**journal, "fingerprint": "other"}
        changed[field] = [name] if field == "planned" else {name: {"size": 4, "sha256": ""}}
        (out / WORK / "journal.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match="no file in it"):
            run.convert(conversion, out)
        assert mine.read_text() == "kept"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x").write_text("kept")
    (out / "link").symlink_to(tmp_path / "elsewhere")
    changed = {**journal, "fingerprint": "other", "planned": ["link/x"]}
    (out / WORK / "journal.json").write_text(json.dumps(changed))
    run.convert(conversion, out)
    assert (tmp_path / "elsewhere" / "x").read_text() == "kept"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "{",
        lambda text: text.replace("<bos>", "<nos>"),
        lambda text: text.replace('"type": "BPE"', '"type": "PEB"'),
        lambda text: json.dumps({**json.loads(text), "model": None}),
    ],
)
def test_a_broken_tokenizer_is_noticed_at_once(tmp_path, change):
    gemma = shutil.copytree(made().gemma, tmp_path / "gemma")
    file = gemma / "tokenizer.json"
    file.write_text(change(file.read_text()))
    with pytest.raises(UserError, match="okenizer"):
        prepare(made().checkpoint, gemma)
