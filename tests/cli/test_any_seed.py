"""`--seed -1` and other seeds that may be any: a run that was cut goes on with those that were drawn for it."""

import os

import pytest

from mlx_ltxw.media.metadata import read_metadata

PROMPT = 'a woman in dim light, (woman): "close your eyes"'
SOUND = ("--audio-only", "--frames", 9, "--steps", 2)
ANY = ("--seed", -1)
LINES = f'{PROMPT}\na man, (man): "close your eyes"\n'
TABLE = (
    "- {scene: a room, speaker: woman, manner: normal, line: close your eyes}\n"
    "- {speaker: man, manner: normal, line: close your eyes, seed: -1}\n"
    "- {speaker: man, manner: normal, line: close your eyes, seed: -1}\n"
)


@pytest.fixture
def cut(cli, monkeypatch):
    """Runs a command up to a step, counted over all its clips."""
    from mlx_ltxw.cli.progress import Bar

    def run(step, *words):
        steps = []

        def count(_, event):
            steps.append(event.seed)
            if len(steps) == step:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Bar, "step", count)
            assert cli(*words).code == 130
        return list(dict.fromkeys(steps))

    return run


def seeds(path):
    return [part["seeds"][0] for part in read_metadata(path)["parts"]]


def test_a_script_of_one_seed_for_all(cli, cut, tmp_path):
    """The first part is kept, the second goes on; a script that is whole draws anew, though its parts are kept."""
    script, path = tmp_path / "script.txt", tmp_path / "whole.wav"
    script.write_text(LINES)
    words = ("generate", "--script", script, "-o", path, *SOUND, *ANY, "--keep-parts")
    (drawn,) = cut(3, *words)
    done = cli(*words)
    assert done.code == 0, done.err
    assert "part 1 of 2 (kept)" in done.err
    assert f"seed {drawn} goes on from step 1 of 2" in done.err
    assert seeds(path) == [drawn, drawn]
    assert not [left for left in os.listdir(f"{path}.parts") if not left.endswith(".wav")]
    (other,) = cut(1, *words, "--overwrite")
    assert other != drawn


def test_a_script_that_is_cut_says_what_it_keeps(cli, monkeypatch, tmp_path):
    """As a clip does."""
    from mlx_ltxw.cli.progress import Bar

    def interrupt(*_):
        raise KeyboardInterrupt

    script, path = tmp_path / "script.txt", tmp_path / "whole.wav"
    script.write_text(LINES)
    words = ("generate", "--script", script, "-o", path, *SOUND)
    monkeypatch.setattr(Bar, "step", interrupt)
    said = f"{path}.parts keeps the parts that are done, and the same command goes on from there."
    assert said in cli(*words).err
    assert (tmp_path / "whole.wav.parts").is_dir()


def test_a_script_s_parts_of_seeds_of_their_own(cli, cut, tmp_path):
    script, path = tmp_path / "script.yaml", tmp_path / "whole.wav"
    script.write_text(TABLE)
    words = ("generate", "--script", script, "-o", path, *SOUND)
    fixed, *drawn = cut(5, *words)
    done = cli(*words)
    assert done.code == 0, done.err
    assert done.err.count("(kept)") == 2
    assert (seeds(path), fixed) == ([10, *drawn], 10)
    assert sorted(os.listdir(tmp_path)) == ["script.yaml", "whole.wav"]


def test_parts_that_are_made_again(cli, cut, tmp_path):
    """Those that the cut run has made again stay; and the whole as its metadata tell it."""
    script, path = tmp_path / "script.txt", tmp_path / "whole.wav"
    script.write_text(LINES)
    assert cli("generate", "--script", script, "-o", path, *SOUND, "--keep-parts").code == 0
    words = ("generate", "--script", script, "-o", path, *SOUND, "--part", 1, "--part", 2, "--overwrite")
    (drawn,) = cut(3, *words)
    done = cli(*words)
    assert done.code == 0, done.err
    assert "part 1 of 2 (kept)" in done.err
    assert seeds(path) == [drawn, drawn]
    words = ("generate", "--from-metadata", path, "-o", tmp_path / "again.wav", *ANY)
    drawn = cut(3, *words)
    done = cli(*words)
    assert done.code == 0, done.err
    assert seeds(tmp_path / "again.wav") == drawn


def test_a_script_that_goes_on_from_nothing_draws_anew(cli, cut, tmp_path):
    """`--no-resume`, other words, and a file that is no list of seeds."""
    script, path = tmp_path / "script.txt", tmp_path / "whole.wav"
    script.write_text(LINES)
    words = ("generate", "--script", script, "-o", path, *SOUND, *ANY)
    found = {*cut(1, *words), *cut(1, *words, "--no-resume"), *cut(1, *words, "--steps", 3)}
    assert len(found) == 3
    for damaged in ("[", "{}", '["1", 2]', "[-1, -1]", "[10]"):
        (tmp_path / "whole.wav.parts" / "drawn-seeds.json").write_text(damaged)
        found |= {*cut(1, *words)}
    assert len(found) == 8


def test_seeds_that_follow_one_another(cli, cut, tmp_path):
    words = ("generate", PROMPT, "-o", tmp_path / "out.wav", *SOUND, *ANY)
    first, second = cut(3, *words, "--num", 2)
    assert second == first + 1
    done = cli(*words, "--num", 2)
    assert done.code == 0, done.err
    assert f"seed {second} goes on from step 1 of 2" in done.err
    assert sorted(os.listdir(tmp_path)) == [f"out-{seed}.wav" for seed in sorted((str(first), str(second)))]


def test_takes_of_any_seed(cli, cut, tmp_path):
    words = ("generate", PROMPT, "-o", tmp_path / "out.mp4", *SOUND[1:], "--width", 64, "--height", 32)
    words = (*words, "--take", "seed=-1", "--take", "manner=soft adapter=whisper")
    (drawn,) = cut(1, *words)
    done = cli(*words)
    assert done.code == 0, done.err
    assert f"seed {drawn} goes on from step 1 of 2" in done.err
