"""The model of cost: held to what was measured of NCCL, and what it says of two GPUs and of equal machines."""

import pytest

from mlx_ltxw.machines.cost import Speed, estimate
from mlx_ltxw.models.transformer import TransformerConfig
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.guidance import DEV_AUDIO, DEV_VIDEO, passes
from mlx_ltxw.pipeline.split import PASSES, TENSOR, TOKENS, WHOLE
from mlx_ltxw.pipeline.wire import Sizes, WireTraffic, step_traffic
from scripts.machines_cost import H200, NCCL, NCCL_LATENCY, nccl_link
from scripts.random_model import GRID, REAL_CONFIG, read_sections

CONFIG = TransformerConfig.read(read_sections(REAL_CONFIG, None, 1)["transformer"])
EVERY = passes(DEV_VIDEO, DEV_AUDIO, CONFIG.layers)


def sizes(size):
    clip = Geometry(*size, 24.0, GRID)
    return Sizes(CONFIG, clip.video_tokens, clip.audio_tokens, 0, 0, 2)


@pytest.mark.parametrize("how", NCCL)
def test_the_measured_collectives(how):
    """Latency and a rate from the smaller ones give the larger ones within 15 %, and both within as much of 17.6 MB of
    keys: 4290 / 2 tokens of 4096 numbers in bf16."""
    (small, seconds), (large, wanted) = NCCL[how]
    assert small == 4290 // 2 * 4096 * 2
    assert large == 14_080 // 2 * 4096 * 2
    for received, took in ((small, seconds), (large, wanted), (0, NCCL_LATENCY)):
        summed = received if how == "sum" else 0
        assert nccl_link().carrying(WireTraffic(received, 1, summed)) == pytest.approx(took, rel=0.15)


@pytest.mark.parametrize("size", H200)
def test_two_gpus_by_passes_and_by_tokens(size):
    """Projected, from one GPU's measured step and these collectives: what the splits are to reach."""
    work, alone = sizes(size), H200[size]
    link = nccl_link()
    speed = Speed(
        estimate(work, EVERY, WHOLE, 1, link).seconds / alone, link.bandwidth, link.latency, 0.0, link.summing
    )
    found = {how: alone / estimate(work, EVERY, how, 2, speed).seconds for how in (PASSES, TOKENS)}
    assert found[PASSES] >= 1.9
    assert found[TOKENS] >= 1.7


def test_keys_and_values_are_one_collective():
    """Worked by hand for two machines: of a block's own attention 2 x 4096 numbers of each of the other's 2145 tokens,
    of the audio's reading 2 x 2048; then once a pass the velocities, 128 numbers a token."""
    found = step_traffic(sizes((704, 480, 97)), EVERY, TOKENS, 2)
    own, reads = 2145 * 2 * 4096 * 2, 2145 * 2 * 2048 * 2
    runs = 48 + 20 + 48 + 48  # plain, perturbed from block 28 on, negative, without the other modality
    attended, read = runs - 1, runs - 48  # the perturbed pass leaves out one attention
    assert found == WireTraffic(attended * own + read * reads + 4 * 2145 * 128 * 2, attended + read + 4)
    tensor = step_traffic(sizes((704, 480, 97)), EVERY, TENSOR, 2)
    assert tensor.summed == tensor.bytes
