"""One clip over several machines: the bits of one machine where passes or tokens are split, within 1e-5 of it where
weights are.

The oracle is the run of one machine, which other tests hold to the official classes.
"""

import json

import numpy as np
import pytest

from mlx_ltxw.media.spectrogram import write_png
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from tests.adapter.helpers import factors, official_file
from tests.convert.made import converted
from tests.machines.launched import launch

GUIDED = {
    "video_guidance": {"cfg": 3.0, "stg": 1.0, "modality": 3.0, "rescale": 0.7, "stg_blocks": [1]},
    "audio_guidance": {"cfg": 7.0, "stg": 1.0, "modality": 3.0, "rescale": 0.7, "stg_blocks": [1]},
}
SMALL = {"prompt": "a woman whispers", "width": 64, "height": 96, "frames": 25, "steps": 2, "seeds": [3]}
LINEARS = (
    "audio_attn1.to_q",
    "audio_attn2.to_v",
    "audio_attn2.to_out.0",
    "video_to_audio_attn.to_k",
    "video_to_audio_attn.to_v",
    "audio_ff.net.2",
)
CLOSE = 1e-5


@pytest.fixture(scope="module")
def adapter(made_model, tmp_path_factory):
    sizes = {tensor.name.removesuffix(".weight"): tensor.shape for tensor in made_model.tensors("transformer")}
    targets = [name for name in sizes if name.endswith(LINEARS)]
    return str(official_file(tmp_path_factory.mktemp("adapter") / "a.safetensors", factors(sizes, targets, size=1.0)))


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "p.png"
    write_png(path, np.random.default_rng(0).integers(0, 256, (96, 64, 3), dtype=np.uint8))
    return str(path)


def cases(made_model, adapter, picture):
    """By name, all that one launch has time for."""
    tiny, packed = str(made_model.path), str(converted("8", 32).path)
    takes = ["seed=+1", f"adapter={adapter}:0.5 seed=+2"]
    whole = [
        {"name": "guided", "model": tiny, "request": SMALL | GUIDED, "splits": ["passes", "tokens", "tensor"],
         "tiles": True},
        {"name": "locked", "model": tiny, "request": SMALL | {"adapters": [adapter], "takes": takes},
         "splits": ["tokens", "tensor"]},
        {"name": "fused", "model": tiny, "request": SMALL | {"adapters": [adapter], "lock_video": False},
         "splits": ["tensor"]},
        {"name": "given", "model": tiny, "request": SMALL | {"images": [picture, f"{picture}@-1:0.7"]},
         "splits": ["tokens"]},
        {"name": "packed", "model": packed, "request": SMALL | {"adapters": [adapter]}, "splits": ["tokens", "tensor"],
         "stream": True},
        {"name": "in time", "model": tiny, "request": SMALL | {"adapters": [adapter], "register_at": "0-1=soft"},
         "splits": ["tokens", "tensor"]},
        {"name": "one step", "model": packed,
         "request": SMALL | GUIDED | {"frames": 9, "steps": 1, "adapters": [adapter]}, "splits": ["tensor"],
         "resident": True},
    ]  # fmt: skip
    return {case["name"]: case for case in whole}


def told(count, cases, folder, timeout=200):
    file = folder / f"cases{count}.json"
    file.write_text(json.dumps(cases))
    out, err = launch(count, folder, "tests.machines.splits", file, timeout=timeout)
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert [line["case"] for line in lines][-1:] == ["world"], out + err  # it came to the end
    return lines


def check(lines, close=CLOSE):
    for line in lines:
        if line["split"] == "tiles":
            assert line["same"], line
            assert line["counts"] == [line["whole"]] + [0] * (len(line["counts"]) - 1), line  # the leading one has all
        elif line["split"] == "tensor":
            assert line["error"] <= close, line
        else:
            assert line["same"], line
        if line["split"] in ("tokens", "tensor") and line["case"] != "given":  # the plan does not count guiding tokens
            assert line["planned"] == pytest.approx(line["bytes"], rel=0.05), line


def test_two_machines_make_the_clip_of_one(made_model, adapter, picture, tmp_path):
    those = cases(made_model, adapter, picture)
    *lines, world = told(2, [those["guided"], those["one step"]], tmp_path)
    check(lines)
    assert len(lines) == 6
    assert world["said"] == ["rank 0", "rank 1" * 2]
    assert world["shared"] == "first"


@pytest.mark.slow
def test_three_machines_split_unevenly(made_model, adapter, picture, tmp_path):
    """Neither tokens nor heads divide by three."""
    *lines, _ = told(3, [cases(made_model, adapter, picture)["locked"]], tmp_path)
    check(lines)
    assert len(lines) == 2


@pytest.mark.slow
def test_three_machines_in_every_case(made_model, adapter, picture, tmp_path):
    *lines, _ = told(3, [*cases(made_model, adapter, picture).values()], tmp_path)
    check(lines)
    assert len(lines) == 14


@pytest.mark.slow
def test_the_voice_model_on_up_to_four_machines(tmp_path):
    """Each split but `tensor` has the bits of one machine. `tensor` is as near, in one forward and in a guided run, as
    one machine is to itself when each norm is moved by one unit in the last place."""
    request = SMALL | {"width": 128, "height": 128, "frames": 49, "adapters": ["whisper"]}
    voice = {"name": "voice", "model": str(BUILTIN_MODEL), "splits": ["passes", "tokens", "tensor"]}
    forward = voice | {"request": request | {"steps": 1}, "splits": ["tensor"]}
    guided = voice | {"request": request | GUIDED | {"steps": 4}}
    moved = {"splits": [], "moved": [1, 2, 3]}
    *noise, _ = told(2, [forward | moved, guided | moved], tmp_path)
    print(noise)
    of_one, of_run = (max(line["error"] for line in lines) for lines in (noise[:3], noise[3:]))
    assert of_one < 1e-4
    for count in (2, 3, 4):
        one, *lines, _ = told(count, [forward, guided], tmp_path, timeout=1800)
        print(count, one, lines, flush=True)
        check([one], close=2 * of_one)
        check(lines, close=4 * of_run)
