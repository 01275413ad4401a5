"""What a job of the studio asks for, as it is kept: a request, or a script's parts, and the model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.parsing import build
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.prompts.manner import REGISTERS
from mlx_ltxw.prompts.registers import MANNERS, build_prompt, parse
from mlx_ltxw.prompts.script import Part
from mlx_ltxw.takes.record import requests_of

MOST_PARTS = 200


@dataclass(frozen=True)
class AskedPart:
    """A part of a script, as the table has it.

    Attributes:
        scene, speaker, manner, line: As for `build_prompt`.
        seconds: Its length; None leaves it to the model.
        seed: Of its noise; None leaves it to the whole.
        adapters: Its own; None leaves them to the whole, and a `normal` part then has none.
    """

    scene: str
    speaker: str
    manner: str
    line: str
    seconds: float | None = None
    seed: int | None = None
    adapters: tuple[str, ...] | None = None

    @property
    def part(self) -> Part:
        """As a script has it.

        Raises:
            UserError: it cannot be said so.
        """
        prompt = build_prompt(self.scene, self.speaker, self.manner, self.line)
        if self.seconds is not None and not 0 < self.seconds <= 600:
            raise UserError(f"A part of {self.seconds} seconds cannot be made.", "Give it up to 600 seconds.")
        return Part(prompt, self.seconds, self.adapters, None, self.seed, self.manner == "normal")


@dataclass(frozen=True)
class Asked:
    """What to make, and with what.

    Attributes:
        request: Of a clip; of a script what all parts share.
        model: A directory or repository; None for the built-in model.
        text_encoder: For a model that has none.
        memory: Bytes to use; None for what there is.
        parts: Of a script; empty for a clip.
    """

    request: Request
    model: str | None = None
    text_encoder: str | None = None
    memory: int | None = None
    parts: tuple[AskedPart, ...] = ()

    @classmethod
    def read(cls, values: dict[str, Any]) -> Asked:
        """From JSON, strictly.

        Raises:
            UserError: it is none.
        """
        asked = build(cls, values, "What is asked for", "Fill the page in again.")
        if len(asked.parts) > MOST_PARTS:
            raise UserError(f"{len(asked.parts)} parts are too many.", f"Give a script up to {MOST_PARTS}.")
        return asked

    @property
    def kind(self) -> str:
        """Of its job."""
        return "script" if self.parts else "clip"

    @property
    def title(self) -> str:
        """For lists: what is said, or the prompt."""
        if self.parts:
            lines = " · ".join(part.line for part in self.parts)
            return f"{len(self.parts)} parts: {lines}"[:200]
        return self.request.prompt[:200]

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return dataclasses.asdict(self)


def asked_of_record(record: dict[str, Any], model: str | None) -> Asked:
    """What makes a kept take again.

    Args:
        record: What its file says of itself; of the studio's own database.
        model: As its job named it.

    Raises:
        UserError: it is of a version that this one does not read.
    """
    requests = requests_of(record)
    if record.get("kind") != "script":
        return Asked(requests[0], model)
    parts = tuple(_asked_part(one) for one in requests)
    first = requests[0]
    shared = next((one.adapters for one in requests if one.adapters), ())
    return Asked(dataclasses.replace(first, prompt="", adapters=shared, frames=None), model, parts=parts)


def _asked_part(request: Request) -> AskedPart:
    turn, *others = parse(request.prompt).turns or (None,)
    if turn is None or others:
        raise UserError("A part of the script is no sentence of one speaker.", "Make it again with the command.")
    manner = next((one for one in REGISTERS if MANNERS.get((turn.speaker, one)) == turn.manner), "")
    seconds = request.frames / request.frame_rate if request.frames and request.frame_rate else None
    return AskedPart(
        parse(request.prompt).scene, turn.speaker, manner, turn.line, seconds, request.seeds[0], request.adapters
    )
