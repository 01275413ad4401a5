"""The takes of a run: every choice of each made."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from mlx_ltxw.errors import UserError
from mlx_ltxw.pipeline.request import SEEDS, Settings
from mlx_ltxw.prompts.manner import with_manner
from mlx_ltxw.prompts.takes import check_number, read_take


@dataclass(frozen=True)
class PlannedTake:
    """One sound beside the picture.

    Attributes:
        prompt: What its own text says.
        adapters: Its own, `FILE|REPO|NAME[:STRENGTH]`; none for the base's voice.
        seed: Of its noise; None: the clip's, and `shift` more.
        shift: How far its seed lies beyond the clip's.
        spec: As the settings have it; empty for the one sound of a run without takes.
    """

    prompt: str
    adapters: tuple[str, ...]
    seed: int | None = None
    shift: int = 0
    spec: str = ""

    def seed_of(self, clip: int) -> int:
        """The seed of its noise in the clip of a seed."""
        return (clip + self.shift) % SEEDS if self.seed is None else self.seed

    def is_base(self, prompt: str) -> bool:
        """Whether it is the very sound that the picture reads, of a run with this prompt."""
        return not self.adapters and self.seed is None and not self.shift and self.prompt == prompt


def planned_takes(settings: Settings) -> tuple[PlannedTake, ...]:
    """The adapted sounds of a run: its takes, or under the lock the one that its adapters make; () for neither.

    Raises:
        UserError: takes that cannot be, or not together.
    """
    if not settings.takes:
        return (PlannedTake(settings.prompt, settings.adapters),) if settings.locked else ()
    _check_run(settings)
    takes = tuple(_planned(spec, settings) for spec in settings.takes)
    (one, count), *_ = Counter((take.prompt, take.adapters, take.seed, take.shift) for take in takes).most_common(1)
    if count > 1:
        number, other = [
            number for number, take in enumerate(takes, 1)
            if (take.prompt, take.adapters, take.seed, take.shift) == one
        ][:2]  # fmt: skip
        raise UserError(f"Takes {number} and {other} are the same.", "Leave one out, or give it another seed.")
    if settings.fuse and len({take.adapters for take in takes if take.adapters}) > 1:
        raise UserError(
            "Weights can hold one voice's adapters, and the takes have several.",
            "Leave {field:fuse} out, or give all takes the same adapters and strengths.",
        )
    if settings.register_at is not None and not any((settings.adapters, *(take.adapters for take in takes))):
        raise UserError("{field:register_at} has no adapter to act on.", "Add {field:adapters}.")
    return takes


def _check_run(settings: Settings) -> None:
    check_number(len(settings.takes))
    if settings.audio_only:
        raise UserError(
            "Takes share a picture, and {field:audio_only} makes none.",
            "Leave {field:audio_only} out, or make one sound for each of {field:seeds}.",
        )
    if not settings.makes_sound:
        raise UserError("Takes are sounds, and the sound of this run is given.", "Leave {field:takes} out.")
    if not settings.lock_video:
        raise UserError(
            "Takes share one picture, which {field:lock_video=False} lets each of them change.",
            "Leave {field:lock_video=False} out.",
        )


def _planned(spec: str, settings: Settings) -> PlannedTake:
    take = read_take(spec)
    prompt = settings.prompt if take.prompt is None else take.prompt
    if not prompt.strip():
        raise UserError(f"The take '{spec}' has an empty prompt.", "Say what is said, or leave prompt= out.")
    adapters = take.adapters
    if adapters is None:
        adapters = () if take.manner == "normal" else settings.adapters
        if not adapters and take.manner in ("whispering", "soft"):
            raise UserError(
                f"The take '{spec}' has no adapter, and without one the voice stays normal.",
                "Add {field:adapters}, or adapter=NAME to the take.",
            )
    if take.manner is not None:
        prompt = with_manner(prompt, take.manner)
    return PlannedTake(prompt, adapters, take.seed, take.shift, spec)
