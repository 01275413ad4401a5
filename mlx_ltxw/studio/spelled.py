"""A request as somebody else would write it: the command line, and Python."""

from __future__ import annotations

import json
import shlex
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.pipeline.request import SEED, Defaults, Request
from mlx_ltxw.studio.asked import Asked

_VALUES = {
    "negative_prompt": "--negative", "width": "--width", "height": "--height", "frames": "--frames",
    "frame_rate": "--frame-rate", "steps": "--steps", "pipeline": "--pipeline", "upsampler": "--upsampler",
    "distilled_lora": "--distilled-lora", "register_at": "--register-at", "video": "--video", "audio": "--audio",
    "revoice": "--revoice", "retake": "--retake", "extend": "--extend", "dtype": "--dtype",
}  # fmt: skip
_LISTS = {"seeds": "--seed", "adapters": "--adapter", "images": "--image", "takes": "--take"}
_SWITCHES = {
    ("audio_only", True): "--audio-only", ("lock_video", False): "--no-lock-video", ("fuse", True): "--fuse",
    ("allow_partial", True): "--allow-partial", ("soften_onset", False): "--keep-onset",
    ("remove_offset", False): "--keep-offset",
}  # fmt: skip
_BOTH = {"stg": "--stg", "modality": "--modality-scale", "rescale": "--rescale"}
_PYTHON = (
    *_VALUES,
    "audio_only",
    "lock_video",
    "fuse",
    "allow_partial",
    "soften_onset",
    "remove_offset",
    "retake_what",
)


def command_of(asked: Asked, output: str, defaults: Defaults, script: str = "script.json") -> list[str]:
    """The words of the command that makes it.

    Args:
        asked: What to make.
        output: Its file.
        defaults: Of the model, which stay unsaid where guidance is the same.
        script: The file that holds `script_of`, where there are parts.

    Raises:
        UserError: no flags say its guidance.
    """
    request = asked.request
    words = ["mlx-ltxw", "generate", "-o", output]
    for flag, value in (("--model", asked.model), ("--text-encoder", asked.text_encoder)):
        words += [] if value is None else [flag, value]
    words += [] if asked.memory is None else ["--memory", f"{asked.memory / 1e9:g}GB"]
    words += ["--script", script] if asked.parts else []
    for name, flag in _VALUES.items():
        value = getattr(request, name)
        if value is not None and (name != "negative_prompt" or value != defaults.negative_prompt):
            words += _flag(flag, value)
    words += ["--retake-what", request.retake_what] if request.retake_what != "both" else []
    for name, flag in _LISTS.items():
        values = getattr(request, name)
        if name != "seeds" or values != (SEED,):
            words += [word for value in values for word in _flag(flag, value)]
    words += [flag for (name, value), flag in _SWITCHES.items() if getattr(request, name) is value]
    words += _guidance(request, defaults)
    return words if asked.parts else [*words, "--", request.prompt]


def shell_line(words: list[str]) -> str:
    """A command as a shell takes it."""
    return shlex.join(words)


def script_of(asked: Asked) -> str:
    """The parts as a script file (`--script FILE.json`)."""
    parts = []
    for part in asked.parts:
        values: dict[str, Any] = {name: getattr(part, name) for name in ("scene", "speaker", "manner", "line")}
        values |= {name: getattr(part, name) for name in ("seconds", "seed") if getattr(part, name) is not None}
        if part.adapters is not None:
            values["adapter"] = list(part.adapters) or "none"
        parts.append(values)
    return json.dumps(parts, ensure_ascii=False, indent=1) + "\n"


def python_of(asked: Asked, output: str) -> str:
    """A Python program that makes it.

    Raises:
        UserError: it is a script, which the command makes.
    """
    if asked.parts:
        raise UserError("A script is made by the command alone.", "Take its command line.")
    request = asked.request
    loaded = {"text_encoder": asked.text_encoder, "memory": asked.memory}
    model = ", ".join(
        [
            *([] if asked.model is None else [repr(asked.model)]),
            *(f"{k}={v!r}" for k, v in loaded.items() if v is not None),
        ]
    )
    seeds = list(request.seeds) if len(request.seeds) > 1 else request.seeds[0]
    given: dict[str, str] = {"seed": repr(seeds)}
    for name, argument in (("adapters", "adapter"), ("images", "image"), ("takes", "takes")):
        if values := getattr(request, name):
            given[argument] = repr(list(values))
    plain = Request("")
    for name in _PYTHON:
        if (value := getattr(request, name)) != getattr(plain, name):
            given[name] = repr(value)
    for name in ("video_guidance", "audio_guidance"):
        if (guidance := getattr(request, name)) is not None:
            given[name] = f"ltx.{guidance!r}"
    arguments = "".join(f"    {name}={value},\n" for name, value in given.items())
    several = len(request.seeds) > 1 or request.takes
    call = f"model.generate(\n    {request.prompt!r},\n{arguments})"
    save = f"clip.save({output!r})\n"
    if several:
        stem, dot, ending = output.rpartition(".")
        name = f"f{(stem.replace('{', '{{').replace('}', '}}') + '-{number}' + dot + ending)!r}"
        save = f"for number, clip in enumerate(clips, 1):\n    clip.save({name})\n"
    return f"import mlx_ltxw as ltx\n\nmodel = ltx.load({model})\n{'clips' if several else 'clip'} = {call}\n{save}"


def _flag(flag: str, value: Any) -> list[str]:
    text = f"{value:.17g}" if isinstance(value, float) else str(value)
    return [f"{flag}={text}"] if text.startswith("-") or flag == "--revoice" else [flag, text]


def _guidance(request: Request, defaults: Defaults) -> list[str]:
    """The flags that make the model's guidance the request's."""
    changed: dict[str, float] = {}
    pairs = (
        ("--video-cfg", request.video_guidance, defaults.video_guidance),
        ("--audio-cfg", request.audio_guidance, defaults.audio_guidance),
    )
    for cfg, own, usual in pairs:
        if own is None:
            continue
        if own.stg_blocks != usual.stg_blocks:
            raise UserError("No flag of the command names the blocks of its guidance.", "Take its Python.")
        if own.cfg != usual.cfg:
            changed[cfg] = own.cfg
    for name, flag in _BOTH.items():
        values = {getattr(own or usual, name) for _, own, usual in pairs}
        if all(getattr(own or usual, name) == getattr(usual, name) for _, own, usual in pairs):
            continue
        if len(values) > 1:
            raise UserError(f"The command has one {flag} for picture and sound.", "Take its Python.")
        changed[flag] = values.pop()
    return [word for flag, value in changed.items() for word in _flag(flag, value)]
