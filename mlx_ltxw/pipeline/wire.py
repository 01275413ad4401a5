"""What a step computes, and what it sends between machines, counted from sizes alone.

Bytes are those that each machine receives: (n - 1) parts of a gather, and 2 (n - 1) / n of a sum, as a ring does both.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlx_ltxw.adapter.names import kind
from mlx_ltxw.models.transformer import TransformerConfig
from mlx_ltxw.models.transformer.inputs import BlockSkips
from mlx_ltxw.pipeline.guidance import Pass, passes
from mlx_ltxw.pipeline.pass_shares import block_runs, pass_shares
from mlx_ltxw.pipeline.plan import Plan
from mlx_ltxw.pipeline.recipes import Stage
from mlx_ltxw.pipeline.samplers import res_2s
from mlx_ltxw.pipeline.split import PASSES, TENSOR, TOKENS
from mlx_ltxw.pipeline.takes import PlannedTake
from mlx_ltxw.world import share_of

TEXT = 1024
"""Tokens of a context."""


@dataclass(frozen=True)
class Sizes:
    """What a forward works on.

    Attributes:
        config: Of the transformer.
        video, audio: Tokens; no video for sound alone.
        rows: Adapted audios beside the base's.
        readings: Readings of the video by them: one for each voice.
        itemsize: Bytes of an activation.
        blended: Sounds whose strength changes in time: they attend to the text with their adapters and without them.
    """

    config: TransformerConfig
    video: int
    audio: int
    rows: int
    readings: int
    itemsize: int
    blended: int = 0

    @classmethod
    def of(cls, job: Plan, stage: Stage) -> Sizes:
        """Of one stage of a plan, without the tokens of pictures that guide it."""
        locked = job.settings.locked and stage.finishes_sound
        takes: tuple[PlannedTake, ...] = job.takes
        sounds = (len(takes) or 1) if locked else 0
        return cls(
            job.model.network_config("transformer"),
            0 if job.settings.audio_only else stage.geometry.video_tokens,
            stage.geometry.audio_tokens,
            sounds,
            (len({take.adapters for take in takes}) or 1) if locked else 0,
            job.dtype.size,
            (sounds or 1) if job.settings.register_at is not None and _adapts_text(job) else 0,
        )


def _adapts_text(job: Plan) -> bool:
    """Whether an adapter of the run acts where a sound attends to the text."""
    chosen = (job.adapters, *job.voices.values())
    return any(kind(path) == "audio_attn2" for one in chosen for placed in one.placements for path in placed.placed)


@dataclass(frozen=True)
class WireTraffic:
    """What one machine receives.

    Attributes:
        bytes: In all.
        collectives: Operations that all machines take part in, each of which waits for the slowest.
        summed: Of the bytes, those of sums.
    """

    bytes: int = 0
    collectives: int = 0
    summed: int = 0

    def __add__(self, other: WireTraffic) -> WireTraffic:
        return WireTraffic(
            self.bytes + other.bytes, self.collectives + other.collectives, self.summed + other.summed
        )  # fmt: skip

    def __mul__(self, count: int) -> WireTraffic:
        return WireTraffic(self.bytes * count, self.collectives * count, self.summed * count)


def step_traffic(sizes: Sizes, every: list[Pass], how: str, machines: int) -> WireTraffic:
    """What a machine receives in one guided prediction.

    Args:
        sizes: Of the forward.
        every: Its passes.
        how: `passes`, `tokens` or `tensor`; nothing for others.
        machines: How many.
    """
    config, layers = sizes.config, sizes.config.layers
    if how == PASSES:
        shares = pass_shares(tuple(every), layers, machines)
        values = sizes.video * config.video.out_channels + sizes.audio * (1 + sizes.rows) * config.audio.out_channels
        rounds = max(shares.owners.count(rank) for rank in shares.owners)
        total = WireTraffic(rounds * values * 4 * (machines - 1), 1)
        if shares.handover is not None:
            held = sizes.video * config.video.dim + sizes.audio * (1 + sizes.rows) * config.audio.dim
            total += WireTraffic(held * sizes.itemsize * (machines - 1), 1)
        return total
    total = WireTraffic()
    for skips in block_runs(every, layers) if how in (TOKENS, TENSOR) else ():
        total += _tokens(sizes, skips, machines) if how == TOKENS else _tensor(sizes, skips, machines)
    if how == TOKENS:
        each = share_of(sizes.video, machines)[0] * config.video.out_channels * sizes.itemsize * (machines - 1)
        total += WireTraffic(each, 1) * len(every)
    return total


def _tokens(sizes: Sizes, skips: BlockSkips, machines: int) -> WireTraffic:
    """Of one block: keys with values, of the video's attention to itself and of each reading of it."""
    config, most = sizes.config, share_of(sizes.video, machines)[0]
    token = most * sizes.itemsize * (machines - 1)  # bytes for each number that a token has
    own = WireTraffic() if skips.video_self else WireTraffic(2 * token * config.video.dim, 1)
    if skips.cross:
        return own
    return own + WireTraffic(2 * token * config.cross_dim, 1) * (1 + sizes.readings)


def _tensor(sizes: Sizes, skips: BlockSkips, machines: int) -> WireTraffic:
    """Of one block: what every attention and feed-forward network adds, and the squares of every norm."""
    config = sizes.config
    video, audio, rows = sizes.video, sizes.audio, sizes.rows

    def summed(tokens: int, dim: int, itemsize: int = sizes.itemsize) -> WireTraffic:
        received = 2 * tokens * dim * itemsize * (machines - 1) // machines
        return WireTraffic(received, 1, received)

    def norms(queries: int, keys: int) -> WireTraffic:
        return summed(queries + keys, 1, 4)

    of_video, of_audio = summed(video, config.video.dim), summed(audio, config.audio.dim)
    total = of_video * 3 + of_audio * 3 + norms(video, TEXT) + norms(audio, TEXT)
    if not skips.cross:
        total += of_video + of_audio + norms(video, audio) * 2
    if not skips.video_self:
        total += norms(video, video)
    if not skips.audio_self:
        total += norms(audio, audio)
    if rows:
        adapted = summed(rows * audio, config.audio.dim)
        total += adapted * 3 + norms(rows * audio, TEXT)
        if not skips.audio_self:
            total += norms(rows * audio, rows * audio)
        if not skips.cross:
            total += adapted + norms(rows * audio, sizes.readings * video)
    if sizes.blended:
        total += summed(sizes.blended * audio, config.audio.dim) + norms(sizes.blended * audio, TEXT)
    return total


@dataclass(frozen=True)
class PassWork:
    """Floating-point operations of one pass.

    Attributes:
        video: On the video's tokens, which `tokens` shares out.
        rest: On sound, which it does not.
        text: Keys and values of a text, which passes that read the same one share, and no machine has from another.
    """

    video: float
    rest: float
    text: float


def pass_work(sizes: Sizes) -> PassWork:
    """What one whole pass computes: matrix products and attention."""
    config = sizes.config
    v, a, cross = config.video.dim, config.audio.dim, config.cross_dim
    tokens, sound = sizes.video, sizes.audio * (1 + sizes.rows)
    video = tokens * (28 * v * v + 8 * v * cross) + 4 * tokens * (tokens * v + TEXT * v + sizes.audio * cross)
    rest = sound * (28 * a * a + 4 * a * cross) + 4 * sound * (sizes.audio * a + TEXT * a + tokens * cross)
    rest += 4 * sizes.audio * a * cross if tokens else 0
    rest += sizes.blended * sizes.audio * (4 * a * a + 4 * TEXT * a)
    text = 4 * TEXT * (a * config.audio.context_dim * (1 + sizes.rows + sizes.blended))
    text += 4 * TEXT * v * config.video.context_dim if tokens else 0
    return PassWork(*(float(one) * config.layers for one in (video, rest, text)))


def predictions(stage: Stage) -> int:
    """Guided predictions of a step."""
    return 2 if stage.sampler is res_2s else 1


def passes_of(job: Plan, stage: Stage) -> list[Pass]:
    """The passes of each prediction of a stage."""
    layers = job.model.network_config("transformer").layers
    return passes(stage.video_guidance, stage.audio_guidance, layers)
