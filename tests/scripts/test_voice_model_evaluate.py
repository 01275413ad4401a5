# ruff: noqa: E402
"""The evaluation of the released voice model: its figures, table, gates and page, and a small run of all of it."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ltx_core")

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import read_audio
from mlx_ltxw.media.measure import measure as measure_file
from mlx_ltxw.models.transformer import Transformer
from mlx_ltxw.tree import linears, size_of
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from mlx_ltxw.weights.model_dir import ModelDir
from scripts.voice_model import evaluate, evaluate_clips, faces, measure, mouth, true_clips
from scripts.voice_model.corpus import SENTENCES, VOICES, WHISPERED_SENTENCES
from scripts.voice_model.evaluate_clips import Condition, Figures, Prompt, prompts
from scripts.voice_model.evaluate_page import write_page
from scripts.voice_model.evaluate_table import gates_of, rows_of, table
from tests.adapter.helpers import factors, official_file

GOOD = {  # figures that pass every gate
    "base-plain": (0.93, -16.0),
    "base-whisper": (0.87, -16.5),
    "base-soft": (0.88, -15.5),
    "new-whisper": (0.05, -24.0),
    "new-soft": (0.9, -26.0),
    "new-plain": (0.9, -26.0),
    "new-whisper-unlocked": (0.1, -24.0),
    "new-soft-unlocked": (0.9, -20.0),
    "new-mixed-whisper": (0.05, -24.0),
    "new-mixed-soft": (0.9, -26.0),
    "new-mixed-plain": (0.85, -17.5),
}


def condition(name):
    said = next(word for word in name.split("-") if word in evaluate_clips.SAID)
    subject = name.partition(f"-{said}")[0]
    return Condition(subject, said, locked=not name.endswith("unlocked"))


def made(figures=GOOD, count=16, **changes):
    """Clips whose figures are those of their condition; `changes` by condition name with _ for -."""
    clips = {}
    for name, (voiced, lufs) in figures.items():
        one, base = condition(name), name.startswith("base")
        values = {"voiced": voiced, "lufs": lufs, "mouth": 0.8, "seconds": 2.0}
        values |= {"change": None, "psnr": None} if base else {"change": 0.0, "psnr": float("inf")}
        if not one.locked:
            values |= {"change": 0.02, "psnr": 30.0}
        values |= changes.get(name.replace("-", "_"), {})
        clips[one] = [(p, Figures(**{"sentence": p.sentence} | values)) for p in prompts(count)]
    return clips


def failed(clips):
    return {str(gate).split(maxsplit=1)[1].partition(" ")[0] for gate in gates_of(rows_of(clips)) if not gate.passed}


def test_names_and_registers_compared():
    assert [condition(name).name for name in GOOD] == list(GOOD)
    assert [condition(name).compared for name in ("base-whisper", "new-whisper", "new-soft-unlocked", "new-plain")] == [
        "normal", "whisper", "soft", "normal",
    ]  # fmt: skip


def test_prompts_cover_every_voice_evenly():
    every = prompts(64)
    assert [sum(p.voice == v for p in every) for v in range(8)] == [8] * 8
    assert len({p.sentence for p in every}) == 32
    assert len(set(every)) == 64
    assert prompts(5) == every[:5]  # a longer run goes on from a shorter one
    assert Prompt(0, 4, 0).text("whisper") == 'a man with black hair, (man, whispering quietly): "close your eyes"'
    assert Prompt(0, 4, 0).text("plain") == 'a man with black hair, (man): "close your eyes"'


def test_rows_are_means_by_gender():
    clips = made({"base-plain": GOOD["base-plain"], "new-whisper": GOOD["new-whisper"]}, count=8)
    one = condition("new-whisper")
    clips[one] = [
        (p, dataclasses.replace(f, lufs=-20.0 - i, sentence=0, voiced=i / 10)) for i, (p, f) in enumerate(clips[one])
    ]
    woman, man = rows_of(clips)[2:]
    assert (woman.gender, man.gender, woman.n) == ("woman", "man", 4)
    assert woman.voiced == pytest.approx((0 + 1 + 2 + 3) / 40)
    assert woman.lufs == pytest.approx(-21.5)
    assert woman.difference == pytest.approx(-5.5)
    assert man.difference == pytest.approx(-9.5)
    said = [p.sentence for p in prompts(8)]  # 0, 11, 22, 33, 0, 11, 22, 33
    assert said[:4] == [0, 11, 22, 33]
    assert woman.identity == 0.25
    assert {11, 33}.isdisjoint(WHISPERED_SENTENCES)
    assert woman.unseen == 0.0
    assert woman.change == 0.0
    assert woman.psnr == float("inf")
    assert woman.facts()["psnr"] is None


def test_good_figures_pass_every_gate():
    assert failed(made()) == set()
    assert len(gates_of(rows_of(made()))) == 2 * (3 + 3 + 3 + 4 + 3 + 1 + 4 + 3 + 3)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("base-plain", {"voiced": 0.79}),
        ("base-plain", {"sentence": 1}),
        ("base-plain", {"mouth": 0.69}),
        ("base-whisper", {"lufs": -17.6}),
        ("base-soft", {"lufs": -14.4}),
        ("base-soft", {"voiced": 0.82}),
        ("base-soft", {"mouth": float("nan")}),
        ("new-whisper", {"voiced": 0.26}),
        ("new-whisper", {"sentence": 1}),
        ("new-whisper", {"change": 1e-9}),
        ("new-soft", {"lufs": -23.9}),
        ("new-soft", {"sentence": 1}),
        ("new-plain", {"change": 1e-9}),
        ("new-mixed-plain", {"lufs": -19.1}),
        ("new-mixed-plain", {"voiced": 0.77}),
    ],
)
def test_a_figure_beyond_its_limit_fails_its_gate_alone(name, change):
    clips = made(**{name.replace("-", "_"): change})
    assert failed(clips) == {name}
    text = [str(gate) for gate in gates_of(rows_of(clips)) if not gate.passed]
    assert all(line.startswith(f"FAIL  {name} ") for line in text)


def test_unseen_sentences_have_a_gate_of_their_own():
    clips = made()
    one = condition("new-whisper")
    clips[one] = [
        (p, f if p.sentence in WHISPERED_SENTENCES else dataclasses.replace(f, sentence=0)) for p, f in clips[one]
    ]
    gates = {(g.row.condition, g.row.gender, g.figure): g for g in gates_of(rows_of(clips))}
    assert not gates["new-whisper", "man", "identity, unseen"].passed
    clips[one] = [(p, f) for p, f in made()[one] if p.sentence in WHISPERED_SENTENCES]
    unseen = [g for g in gates_of(rows_of(clips)) if g.row.condition == "new-whisper" and "unseen" in g.figure]
    assert all(not g.passed and "not measured" in str(g) for g in unseen)


def test_table_is_aligned():
    lines = table(rows_of(made())).splitlines()
    assert len(lines) == 1 + 2 * len(GOOD)
    assert len({len(line) for line in lines}) == 1
    assert " ".join(lines[1].split()) == "base-plain woman 8 0.93 -16.0 +0.0 1.00 1.00 0.80 - - 2.0"
    assert " ".join(lines[7].split()) == "new-whisper woman 8 0.05 -24.0 -8.0 1.00 1.00 0.80 0 inf 2.0"


def test_conditions_bring_what_they_are_compared_with(tmp_path):
    for name in ("quiet", "quiet-mixed"):
        (tmp_path / f"{name}.safetensors").touch()
    files = [str(tmp_path / f"{name}.safetensors") for name in ("quiet", "quiet-mixed")]

    def names(*only, adapters=files):
        return [one.name for one in evaluate.conditions(adapters, only)]

    base = ["base-plain", "base-whisper", "base-soft"]
    mixed = ["quiet-mixed-whisper", "quiet-mixed-soft", "quiet-mixed-plain"]
    assert names("base", adapters=["not there"]) == base
    assert names("quiet-mixed") == [*base, *mixed]
    assert names("quiet-soft-unlocked") == ["base-plain", "base-soft", "quiet-soft-unlocked"]
    locked = ["quiet-whisper", "quiet-soft", "quiet-plain"]
    assert names() == [*base, *locked, "quiet-whisper-unlocked", "quiet-soft-unlocked", *mixed]
    with pytest.raises(UserError, match="no condition loud"):
        names("loud")
    with pytest.raises(UserError, match="same name"):
        names(adapters=files[:1] * 2)


def test_page_escapes_what_it_shows(tmp_path):
    one = Condition("<b>&", "plain")
    clips = {Condition("base", "plain"): made(count=1)[condition("base-plain")]}
    clips[one] = clips[Condition("base", "plain")]
    files = {(c, p): tmp_path / "clips" / c.name / "a b.mp4" for c, every in clips.items() for p, _ in every}
    rows = rows_of(clips)
    write_page(tmp_path / "index.html", "<i>title", rows, gates_of(rows), clips, files)
    text = (tmp_path / "index.html").read_text()
    assert "<b>&" not in text
    assert "<i>" not in text
    assert "&lt;b&gt;&amp;-plain" in text
    assert 'src="clips/%3Cb%3E%26-plain/a%20b.mp4"' in text
    assert "(woman): &quot;close your eyes&quot;" in text


@pytest.mark.parametrize("samples", [64000, 64160, 20000])
def test_heard_opening_is_that_of_the_training_data(samples):
    draw = np.random.default_rng(0)
    wave = draw.normal(size=samples) * np.repeat(draw.random(samples // 1000 + 1), 1000)[:samples] * 0.2
    want = faces.mouth_opening(torch.tensor(wave)[None])[0].numpy()
    np.testing.assert_allclose(mouth.heard_opening(wave, 97), want, atol=1e-6)


def test_seen_opening_is_that_of_the_training_data():
    opening = torch.rand(1, 12, generator=torch.Generator().manual_seed(0))
    video = faces.render(torch.tensor([3]), torch.tensor([2]), opening)  # (1, 3, 12, 128, 128)
    frames = torch.round((video + 1) * 127.5).to(torch.uint8)
    want = faces.measured_opening(frames / 127.5 - 1)[0].numpy()
    got = mouth.seen_opening(frames[0].permute(1, 2, 3, 0).numpy())
    np.testing.assert_allclose(got, want, rtol=1e-4)
    expected = float(faces.correlation(torch.tensor(want)[None], opening)[0])
    assert mouth.correlation(got, opening[0].numpy()) == pytest.approx(expected, abs=1e-5)
    assert mouth.correlation(np.ones(5), np.arange(5.0)) == 0.0


def test_ready_cepstra_give_the_plain_answer():
    draw = np.random.default_rng(2)
    others = [np.cumsum(draw.normal(size=(40 + 6 * i, 64)), 0) for i in range(6)]
    ready = [measure.cepstra(other) for other in others]
    probes = [np.cumsum(draw.normal(size=(50, 64)), 0) for _ in range(8)] + [np.repeat(others[4], 2, 0)[::3]]
    answers = [measure.nearest(measure.cepstra(probe), ready) for probe in probes]
    assert answers == [measure.identify(probe, others) for probe in probes]
    assert answers[-1] == 4
    assert len(set(answers)) > 1


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")
def test_true_clips_are_spoken_once_in_their_register(tmp_path):
    true_clips.speak_missing(tmp_path, [(0, "normal"), (0, "whisper")], sentences=(0, 1))
    config = ModelDir.open(BUILTIN_MODEL).network_config("audio_vae")
    for register, least, most in (("normal", 0.8, 1.0), ("whisper", 0.0, 0.3)):
        path = true_clips.path_of(tmp_path, 0, register)
        waves = np.load(path)["waves"]
        assert waves.shape == (2, 64000)
        assert least <= measure_file(waves[0] / 32768, 16000).voiced <= most
        assert [c.shape for c in true_clips.true_cepstra(tmp_path, 0, register, config)] == [(200, 12)] * 2
        changed = path.stat().st_mtime_ns
        true_clips.speak_missing(tmp_path, [(0, register)], sentences=(0, 1))
        assert path.stat().st_mtime_ns == changed


def test_nothing_of_pytorch_is_loaded():
    code = "import sys, scripts.voice_model.evaluate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def save_adapter(path, seed):
    """A small random one in the official spelling, for the first two blocks of the built-in model."""
    network = Transformer(ModelDir.open(BUILTIN_MODEL).network_config("transformer"))
    sizes = {name: size_of(module) for name, module in linears(network).items()}
    return official_file(path, factors(sizes, seed=seed))


def evaluate_short(folder, adapter, *more):
    sizes = ("--count", "2", "--steps", "2", "--frames", "9", "--size", "64")
    return evaluate.main(["--out", str(folder), "--adapter", str(adapter), *sizes, *more])


@pytest.mark.slow
def test_a_short_run_makes_everything_and_a_second_one_nothing(tmp_path, monkeypatch, capsys):
    adapter, draw = save_adapter(tmp_path / "quiet.safetensors", 1), np.random.default_rng(0)
    folder, names = tmp_path / "out", ("whisper", "soft", "plain", "whisper-unlocked", "soft-unlocked")
    expected = ["base-plain", "base-whisper", "base-soft", *(f"quiet-{name}" for name in names)]
    (folder / "true").mkdir(parents=True)
    for voice, register in ((v, r) for v in (0, 1) for r in ("normal", "whisper", "soft")):
        waves = draw.integers(-9000, 9000, (len(SENTENCES), 6000), dtype=np.int16)
        np.savez(true_clips.path_of(folder / "true", voice, register), waves=waves)  # stands in for espeak-ng

    assert evaluate_short(folder, adapter) == 1  # noise says no sentence
    shown = capsys.readouterr().out
    report = json.loads((folder / "table.json").read_text())
    rows = {row["condition"]: row for row in report["rows"]}
    assert list(rows) == expected
    assert all((row["gender"], row["n"]) == ("woman", 2) for row in rows.values())
    assert shown.splitlines()[: len(expected) + 1] == table(rows_of(_read(folder, expected))).splitlines()
    for name, row in rows.items():
        if name.startswith("base"):
            assert row["change"] is None
        elif name.endswith("unlocked"):
            assert row["change"] > 0
            assert row["psnr"] < 100
        else:
            assert row["change"] == 0  # exactly
            assert row["psnr"] is None
    clips = sorted(path.relative_to(folder).as_posix() for path in (folder / "clips").rglob("*.mp4"))
    assert len(clips) == 2 * len(expected)
    assert sorted(re.findall(r'src="([^"]+)"', (folder / "index.html").read_text())) == clips
    heard = [read_audio(folder / "clips" / name / "00-anna-00.mp4", 48000) for name in ("base-soft", "quiet-soft")]
    assert not np.allclose(*heard, atol=1e-3)  # under the lock the adapter is heard all the same

    again, make = [], evaluate_clips._make
    monkeypatch.setattr(
        evaluate_clips, "_make", lambda path, *rest: (again.append(path.parent.name), make(path, *rest))
    )
    evaluate_short(folder, adapter, "--json", "--measure-again")
    assert not again
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == report["rows"]
    save_adapter(adapter, 2)
    evaluate_short(folder, adapter, "--only", "quiet-soft-unlocked")
    assert again == ["quiet-soft-unlocked"] * 2


def _read(folder, names):
    """The figures that lie beside the clips."""
    return {
        condition(name): [
            (prompt, Figures(**json.loads(path.with_suffix(".json").read_text())["figures"]))
            for prompt in prompts(2)
            for path in (folder / "clips" / name).glob(f"{prompt.number:02d}-{VOICES[prompt.voice].name}-*.mp4")
        ]
        for name in names
    }
