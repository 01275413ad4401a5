"""The memory plan: what is predicted is what a run takes, and what is chosen fits."""

import dataclasses
import gc
import json
import math
import re
import shutil
import subprocess
import sys

import mlx.core as mx
import pytest
from click.testing import CliRunner
from mlx.utils import tree_flatten

from mlx_ltxw.cli.generate import generate
from mlx_ltxw.errors import UserError
from mlx_ltxw.machine import Machine
from mlx_ltxw.models.transformer import Walk
from mlx_ltxw.pipeline import adapter_needs, budget, needs, text_needs
from mlx_ltxw.pipeline.events import Step
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import plan
from mlx_ltxw.pipeline.refusal import budget_for
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import run
from mlx_ltxw.pipeline.work import Work
from mlx_ltxw.printing import read_bytes
from mlx_ltxw.weights import header
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from mlx_ltxw.weights.memory import layer_bytes
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.streaming import RESIDENT, STREAMED, Residency
from scripts.stage_peaks import measured, predicted
from tests.memory import check_plan

GB = 10**9
HUGE = Machine("cpu", 64 * GB, 64 * GB)
SLACK = 1_000_000
"""Bytes, of parts that are small: a prompt's tokens are guessed from its letters."""
REQUEST = Request('a woman, (woman, whispering): "close your eyes"', seeds=(1,), steps=1, frames=97)


@pytest.fixture(scope="module")
def built_in():
    return ModelDir.open(BUILTIN_MODEL)


def work(model, request=REQUEST, **changes):
    job = plan(request, model)
    made = Work(
        model, job.dtype, request.audio_only or False, job.stages, job.prompts, [job.adapters], None, False, False,
        0, job.steps,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


@pytest.mark.parametrize(
    "request_",
    [
        dataclasses.replace(REQUEST, frames=49),
        dataclasses.replace(REQUEST, frames=25, adapters=("whisper",)),
        dataclasses.replace(REQUEST, audio_only=True),
        dataclasses.replace(REQUEST, width=192, height=192, frames=25),
    ],
    ids=["plain", "locked", "sound alone", "larger"],
)
def test_parts_take_what_was_predicted(built_in, request_, monkeypatch):
    """Of the built-in model on a CPU, where activations are nearly all of it."""
    monkeypatch.setenv("MLX_LTXW_CACHE", "0")
    job = plan(request_, built_in)
    said = {part: peak for part, peak in predicted(job).items() if peak}
    found = check_plan(said, lambda: measured(job), SLACK)
    assert set(found) == set(said)


@pytest.mark.parametrize("layers", [0, 1])
def test_streamed_blocks_take_what_was_predicted(dev, layers):
    """Of the made model's two, as many stay."""
    job = plan(Request("a woman whispers", width=128, height=128, frames=49, steps=1, seeds=(1,)), dev)
    clip = needs.Subject(dev, job.dtype, job.machine, False, job.prompts)
    blocks, fixed = layer_bytes(dev, "transformer", job.dtype)
    stored, _ = layer_bytes(dev, "transformer", stored=True)
    beside = fixed + needs.streaming(blocks, stored, job.machine)
    said = needs.denoising(clip, job.stages[0], Residency(layers), blocks, stored, beside, 4)
    check_plan(
        {"denoising": said.peak},
        lambda: {"denoising": measured(job, Networks(dev, job.dtype, residency=Residency(layers)))["denoising"]},
    )
    streamed = sum(nbytes for index, nbytes in enumerate(stored) if not Residency(layers).stays(index, len(stored)))
    assert said.read == sum(stored) + 3 * streamed  # four times over the blocks


@pytest.mark.parametrize("window", [0, 1])
def test_all_that_stays_lies_beside_a_streamed_block_from_the_second_walk_on(built_in, window):
    """On a CPU a block that stays is read when its turn first comes: of six, the last one after both that are streamed.
    A run of one step holds a block less than is counted, and any other what is counted. The block before a streamed one
    is gone, whether a walk waits for it or not."""
    blocks, _ = layer_bytes(built_in, "transformer", mx.float32)
    stored, _ = layer_bytes(built_in, "transformer", stored=True)
    said = 4 * blocks[0] + needs.streaming(blocks, stored, HUGE)
    network = built_in.load_transformer(mx.float32, residency=Residency(4))

    def touched(block, streams, *_):
        return (sum((value.sum() for _, value in tree_flatten(block.parameters())), streams[0]),)

    def peak():
        mx.reset_peak_memory()
        mx.eval(Walk(1, window).through(network.transformer_blocks, touched, (mx.zeros(()),)))
        return mx.get_peak_memory() - before

    gc.collect()
    before = mx.get_active_memory()
    first, second = peak(), peak()
    assert second == pytest.approx(said, rel=0.01)
    assert 0.9 * blocks[0] <= second - first <= blocks[0]


class Big:
    """LTX-2.3's sizes without its files: 48 blocks of 0.79 GB."""

    blocks, rest, layers = [790_000_000] * 48, 900_000_000, [450_000_000] * 48


def big_layers(_, name, *__, share=None, **___):
    """Of a machine's share: its heads of 32."""
    if name != "transformer":
        return Big.layers, 2 * GB
    of_heads = 1 if share is None else (share.heads.stop - share.heads.start) / share.heads.total
    return [int(block * of_heads) for block in Big.blocks], Big.rest


@pytest.fixture
def big(monkeypatch):
    for module in (budget, text_needs):
        monkeypatch.setattr(module, "layer_bytes", big_layers)
    networks = {"text_projection": 2_300_000_000, "connectors": GB, "vocoder": 5 * 10**8}
    for module in (needs, text_needs):
        monkeypatch.setattr(module, "network_bytes", lambda model, component, dtype: networks[component])


def test_a_plan_parses_each_header_once(made_model, tmp_path, monkeypatch):
    """Of thousands of tensors each, and asked for dozens of times."""
    model, parsed, parse = shutil.copytree(made_model.path, tmp_path / "model"), [], header.parse_header
    monkeypatch.setattr(header, "parse_header", lambda path, *a: (parsed.append(path), parse(path, *a))[1])
    plan(Request("hello", width=64, height=64, frames=9, steps=2), ModelDir.open(model))
    assert len(parsed) == len(set(parsed)) >= 8


# 0.95 of the memory, less what is outside the blocks (0.9 GB), 2.35 blocks on their way and a little, by blocks.
@pytest.mark.parametrize(("gigabytes", "stay"), [(10.5, 9), (16, 15), (22, 22), (36, 39), (48, None)])
def test_as_many_blocks_stay_as_fit(big, built_in, gigabytes, stay):
    made = budget_for(work(built_in), Machine("metal", 2 * GB * round(gigabytes), int(gigabytes * GB)), program=0)
    assert made.peak <= made.limit
    if stay is None:
        assert made.residency is RESIDENT
        assert "all 48 blocks" in made.line
    else:
        assert made.residency.layers == stay
        verb = "stays" if made.residency.layers == 1 else "stay"
        assert f"{made.residency.layers} of 48 blocks {verb} in memory" in made.line
        needed = made.peak + Big.blocks[0]
        assert needed > made.limit  # one more would not fit


# As above, of blocks of 0.4 GB on two machines.
@pytest.mark.parametrize(("gigabytes", "stay"), [(8, 14), (16, 32), (24, None)])
def test_a_machines_share_of_the_blocks_is_streamed_too(big, built_in, gigabytes, stay):
    config = built_in.network_config("transformer")
    made = budget_for(
        work(built_in, tensor=2), Machine("metal", 2 * GB * gigabytes, gigabytes * GB), program=0
    )  # fmt: skip
    heads = config.video.heads
    of_two = -(-heads // 2) / heads
    assert made.peak <= made.limit
    assert made.residency.layers == (None if stay is None else pytest.approx(stay, abs=1))
    denoising = next(need for need in made.needs if need.name.startswith("denoising"))
    kept = 48 if stay is None else made.residency.layers + 2.35
    assert denoising.weights == pytest.approx(0.9 * GB + kept * of_two * 0.79 * GB, rel=0.01)


def test_a_machines_share_is_counted_to_the_byte(dev):
    """Of four heads over three machines the first has two, and bytes of the files are those it reads."""
    from mlx_ltxw.models.transformer.tensor import TensorShare
    from mlx_ltxw.world import World

    shares = [TensorShare.of(4, World(rank, 3)) for rank in range(3)]
    loaded = [dev.load_transformer(mx.float32, share=(one, None)) for one in shares]
    for share, network in zip(shares, loaded, strict=True):
        blocks, rest = layer_bytes(dev, "transformer", mx.float32, share=share)
        inside = [sum(x.nbytes for _, x in tree_flatten(one.parameters())) for one in network.transformer_blocks]
        assert blocks == inside
        assert rest == sum(x.nbytes for _, x in tree_flatten(network.parameters())) - sum(inside)


def test_previews_are_decoded_beside_the_transformer(big, built_in):
    """Of one picture and the whole sound; a forward is over then, and one of the two is what counts."""
    machine = Machine("metal", 48 * GB, 48 * GB)
    plain, looked_at = (budget_for(work(built_in, previews=one), machine, program=0) for one in (False, True))
    needs_ = {need.name.split()[0]: need for need in looked_at.needs}
    assert "previews" not in {need.name for need in plain.needs}
    assert needs_["previews"].weights == needs_["denoising"].weights
    assert needs_["previews"].activations >= needs_["sound"].peak > 0
    tight = Machine("metal", 48 * GB, int((plain.peak + 10**8) / 0.95))
    assert budget_for(work(built_in), tight, program=0).residency is RESIDENT
    made = budget_for(work(built_in, previews=True), tight, program=0)
    assert made.residency.layers is not None
    assert made.peak <= made.limit


def test_linears_that_are_laid_together_are_counted_where_they_are(built_in):
    """On a card, of a block that comes its largest attention; of a streamed one, whose other linears are not there yet,
    nothing."""
    for memory in (24 * GB, GB // 100):
        stayed_or_streamed = [
            budget.best_budget(work(built_in, dtype=mx.float32), Machine(name, memory, memory), program=0).needs[-3]
            for name in ("cuda", "metal")
        ]
        assert stayed_or_streamed[0].name.startswith("denoising")
        assert stayed_or_streamed[0].weights == stayed_or_streamed[1].weights
    clip = needs.Subject(built_in, mx.float32, Machine("cuda", GB, GB), False, ())
    assert needs.arriving(clip, [10**9], [10**8]) == 135 * 10**6
    assert needs.arriving(clip, [10**8], [10**8]) == 10**8
    assert needs.arriving(dataclasses.replace(clip, fused=10**9), [10**9], [10**8]) == 1135 * 10**6
    assert needs.arriving(dataclasses.replace(clip, machine=HUGE, fused=10**9), [10**9], [10**8]) == 0


@pytest.mark.parametrize("locked", [True, False])
def test_weights_that_an_adapter_takes_the_place_of_are_counted_while_they_come(built_in, locked):
    """Without the lock, a block's at a time, and of one that is streamed what is made on the way to the largest; under
    it the base stays, and copies are counted beside it."""
    request = dataclasses.replace(REQUEST, adapters=("whisper",), lock_video=locked)
    one = work(built_in, request, locked=locked)
    (chosen,) = one.chosen
    ((adapter, _),) = chosen.adapters
    largest = max(math.prod(delta.shape) for delta in adapter.deltas.values())
    first = sum(
        math.prod(delta.shape) * one.dtype.size
        for path, delta in adapter.deltas.items()
        if path.startswith("transformer_blocks.0.")
    )
    used_up = adapter_needs.by_block(one, adapter_needs.used_up(one))
    assert max(used_up, default=0) == (0 if locked else first) != first * locked
    assert adapter_needs.fusing(one) == (0 if locked else 4 * largest)
    assert adapter_needs.fusing(dataclasses.replace(one, dtype=mx.bfloat16, chosen=[chosen] * 2)) == 12 * largest * (
        not locked
    )
    assert bool(adapter_needs.copies(one)) == locked
    small = Machine("cuda", GB // 100, GB // 100)
    bare = dataclasses.replace(one, chosen=[])
    with_it, without = (budget.best_budget(each, small, program=0).needs[-3] for each in (one, bare))
    assert "0 of 6 blocks" in without.choice
    if not locked:
        assert with_it.weights == without.weights


def test_what_is_made_of_a_streamed_block_decides_where_it_is_more_than_a_forward(built_in):
    """As of packed weights that are fused: it goes on between two blocks, and no forward beside it."""
    clip = needs.Subject(built_in, mx.float32, HUGE, False, ())
    stage = plan(REQUEST, built_in).stages[0]

    def activations(fusing, layers):
        one = dataclasses.replace(clip, fusing=fusing)
        return needs.denoising(one, stage, Residency(layers), [10] * 4, [5] * 4, 0, 1).activations

    own = needs.forward(clip, stage)
    assert [activations(fusing, layers) for fusing, layers in ((own - 1, 0), (own + 7, 0), (own + 7, 4))] == [
        own, own + 7, own,
    ]  # fmt: skip


def test_the_program_itself_takes_of_unified_memory_alone(built_in):
    unified, card = (budget_for(work(built_in), Machine(name, 24 * GB, 24 * GB)) for name in ("metal", "cuda"))
    assert card.program == 0
    assert unified.program > 10**8
    assert unified.peak == card.peak + unified.program
    assert "The program itself takes" in unified.table()


def test_the_text_encoder_never_decides(big, built_in):
    made = budget_for(work(built_in), Machine("metal", 16 * GB, int(10.5 * GB)), program=0)
    encoder = made.needs[0]
    assert encoder.name == "text encoder"
    assert encoder.weights < 4 * GB  # of 24


@pytest.mark.parametrize(("backend", "itemsize"), [("cpu", 4), ("metal", 2)])
def test_the_text_encoder_counts_layers_on_their_way_and_no_embedding(built_in, backend, itemsize):
    """Of the built-in model's: width 96, 192 in the middle, 4 heads of 24, 2 of keys. One is at work and
    one is read, in bf16."""
    matrices = 3 * 96 * 192 + 2 * 96 * 96 + 2 * 48 * 96
    layer, last = matrices + 4 * 96 + 2 * 24, 96
    made = work(built_in, dtype=mx.float32 if backend == "cpu" else mx.bfloat16)
    encoder = budget_for(made, Machine(backend, 64 * GB, 64 * GB)).needs[0]
    assert encoder.weights == itemsize * layer + 2 * layer + itemsize * last


def test_what_cannot_fit_is_refused(big, built_in):
    with pytest.raises(UserError, match=r"may use 1\.90 GB, and a part of it needs 2\.90 GB: text encoder"):
        budget_for(work(built_in), Machine("metal", 2 * GB, 2 * GB), program=0)


def test_a_clip_too_long_to_be_decoded_may_be_shorter(built_in):
    """Of the built-in model's parts the sound is the largest, and the picture where it is large."""
    for size, worst in ((128, "sound"), (512, "picture")):
        made = work(built_in, dataclasses.replace(REQUEST, width=size, height=size))
        with pytest.raises(UserError, match=f"a part of it needs .*: {worst}") as told:
            budget_for(made, Machine("cpu", GB // 8, GB // 8), program=0)
        assert "frames" in told.value.hint


def test_who_asked_for_less_is_told_what_would_do(built_in):
    machine = Machine("cpu", 64 * GB, 64 * GB)
    with pytest.raises(UserError) as told:
        budget_for(work(built_in), machine.within(GB // 8), program=0)
    assert "programs" not in told.value.hint
    enough = re.search(r"let it use (.*) \(memory\)", told.value.hint)
    assert enough
    budget_for(work(built_in), machine.within(read_bytes(enough[1].replace(" ", ""))), program=0)
    with pytest.raises(UserError) as told:
        budget_for(work(built_in), Machine("cpu", GB // 50, GB // 50), program=0)
    assert "Close other programs" in told.value.hint


def test_memory_that_the_machine_does_not_have_is_not_named(built_in):
    """Where there is as much as is needed, it is; where less of a clip needs all that there is, that is said."""
    made = work(built_in, dataclasses.replace(REQUEST, width=512, height=512))
    with pytest.raises(UserError) as told:
        budget_for(made, Machine("cpu", 2 * GB, 2 * GB).within(GB // 8), program=0)
    assert re.search(r"or let it use (.*) \(memory\)", told.value.hint)
    with pytest.raises(UserError) as told:
        budget_for(made, Machine("cpu", GB // 4, GB // 4).within(GB // 8), program=0)
    assert "memory" not in told.value.hint
    assert "width=" in told.value.hint
    with pytest.raises(UserError) as told:
        budget_for(made, Machine("cpu", GB // 4, GB // 4).within(GB // 50), program=0)
    with pytest.raises(UserError) as nearly:  # what is needed, but not a hundredth more
        budget_for(made, Machine("cpu", 1_390_000_000, 1_390_000_000).within(GB // 8), program=0)
    assert nearly.value.hint.endswith(", or leave memory out.")
    found = re.match(r"Leave memory out and make it smaller \(width=(\d+), height=(\d+)\)", told.value.hint)
    assert found
    small = dataclasses.replace(REQUEST, width=int(found[1]), height=int(found[2]))
    budget_for(work(built_in, small), Machine("cpu", GB // 4, GB // 4), program=0)


def test_a_run_follows_its_plan(dev, monkeypatch):
    job = plan(Request("a woman", width=64, height=64, frames=9, steps=2, seeds=(3,)), dev)
    asked = []
    load = ModelDir.load_transformer

    def loading(self, dtype=None, audio_only=False, residency=None, *more, **options):
        asked.append(residency)
        return load(self, dtype, audio_only, residency, *more, **options)

    monkeypatch.setattr(ModelDir, "load_transformer", loading)
    small = dataclasses.replace(job, budget=dataclasses.replace(job.budget, residency=STREAMED))
    whole, streamed = ([event.latents for event in run(one) if isinstance(event, Step)][-1] for one in (job, small))
    assert asked == [RESIDENT, STREAMED]
    assert all(mx.array_equal(a, b) for a, b in zip(streamed, whole, strict=True) if a is not None)


def test_limits_are_put_back(dev):
    job = plan(Request("a woman", width=64, height=64, frames=9, steps=1, seeds=(3,)), dev)
    before = mx.set_memory_limit(10 * GB)
    try:
        list(run(job))
        assert mx.set_memory_limit(before) == 10 * GB
    finally:
        mx.set_memory_limit(before)


@pytest.mark.parametrize(
    ("text", "size"),
    [("12GB", 12 * GB), ("11.5 gb", 11_500_000_000), ("8GiB", 8 << 30), ("800M", 800_000_000), ("4096", 4096)],
)
def test_sizes_as_people_write_them(text, size):
    assert read_bytes(text) == size


@pytest.mark.parametrize("text", ["", "0", "GB", "-3GB", "12 XB", "1e9", "9" * 400])
def test_no_sizes(text):
    with pytest.raises(ValueError, match="no size"):
        read_bytes(text)


def test_plan_shows_a_table_and_makes_nothing(tmp_path):
    out = tmp_path / "a.mp4"
    result = CliRunner().invoke(generate, [REQUEST.prompt, "-o", str(out), "--plan", "--frames", "25"])
    assert result.exit_code == 0, result.output
    for part in ("text encoder", "denoising 25 frames of 128x128", "sound", "picture", "all 6 blocks stay in memory"):
        assert part in result.stdout
    assert not out.exists()


def test_sound_alone_is_planned_without_a_video_encoder(built_in):
    """Beside MLX x264 holds 290 bytes a pixel, of 704x480 98 MB: none where no picture is written."""
    sound = budget_for(work(built_in, dataclasses.replace(REQUEST, audio_only=True, width=704, height=480)), HUGE)
    clip = budget_for(work(built_in, dataclasses.replace(REQUEST, width=704, height=480)), HUGE)
    assert clip.program - sound.program == pytest.approx(290 * 704 * 480, abs=20e6)


def test_memory_that_is_no_size_is_refused(tmp_path):
    result = CliRunner().invoke(generate, [REQUEST.prompt, "-o", str(tmp_path / "a.mp4"), "--memory", "lots"])
    assert "'lots' is no size" in str(result.exception)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the process's memory")
@pytest.mark.parametrize(
    ("frames", "threads"),
    [(25, 2), *(pytest.param(97, threads, marks=pytest.mark.slow) for threads in (1, 2))],
)
def test_the_process_takes_what_was_predicted(tmp_path, monkeypatch, frames, threads):
    """MLX's memory, the program's own, what its libraries take, and what OpenBLAS's threads keep; MLX keeps no freed
    buffers beside them. On a single core, where OpenBLAS has one thread whatever it is told, it takes a tenth less."""
    monkeypatch.setenv("MLX_LTXW_CACHE", "0")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", str(threads))
    out = tmp_path / "a.mp4"
    words = [sys.executable, "-m", "mlx_ltxw", "generate", REQUEST.prompt, "-o", str(out), "--json"]
    words += ["--steps", "1", "--frames", str(frames), "--no-resume"]

    def told(*more):
        out.unlink(missing_ok=True)
        done = subprocess.run([*words, *more], capture_output=True, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    (planned,) = told("--plan")
    check_plan(
        {"process": planned["budget"]["peak"]},
        lambda: {"process": max(line.get("peak_memory", 0) for line in told())},
        within=1.2,
    )
