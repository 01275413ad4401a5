"""`mlx-ltxw generate`: flags to a Request, events to files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_ltxw.errors import UserError

if TYPE_CHECKING:
    from mlx_ltxw.pipeline.request import Defaults, Request
    from mlx_ltxw.weights.model_dir import ModelDir

GUIDANCE_FLAGS = ("video_cfg", "audio_cfg", "stg", "modality_scale", "rescale")
SENTENCE_FLAGS = ("scene", "speaker", "manner", "line")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("prompt", required=False)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The mp4 to write, or a wav for its sound."
)
@click.option("-m", "--model", type=click.Path(path_type=Path), help="A converted model.  [default: the built-in]")
@click.option("--scene", help="Instead of PROMPT: what is seen.")
@click.option("--speaker", type=click.Choice(["woman", "man"]), help="Who speaks.")
@click.option("--manner", type=click.Choice(["whispering", "soft", "normal"]), help="How.")
@click.option("--line", help="What is said.")
@click.option("--script", type=click.Path(path_type=Path), help="Parts of one clip each, cut together (YAML or lines).")
@click.option("--negative", "negative_prompt", help="What guidance steers away from.")
@click.option("--seed", "seeds", type=int, multiple=True, help="Repeat it for several clips.  [default: 10]")
@click.option("--steps", type=int, help="Denoising steps.")
@click.option("--width", type=int, help="Pixels.")
@click.option("--height", type=int, help="Pixels.")
@click.option("--frames", type=int, help="Video frames; also the length of the sound.")
@click.option("--frame-rate", type=float, help="Frames a second.")
@click.option("--audio-only", is_flag=True, help="Sound alone; loads nothing of the video side.")
@click.option("--video", type=click.Path(), help="Keep this clip's picture and give it a new voice.")
@click.option("--adapter", "adapters", multiple=True, metavar="NAME|FILE|REPO[:STRENGTH]", help="Repeat for several.")
@click.option(
    "--lock-video/--no-lock-video", default=None, help="Keep the picture exactly as without adapters.  [default: lock]"
)
@click.option(
    "--drift", "show_drift", is_flag=True, help="With --no-lock-video: how far the adapter moves the picture."
)
@click.option("--fuse", is_flag=True, default=None, help="Fuse adapters into quantised weights too.")
@click.option("--allow-partial", is_flag=True, default=None, help="Leave out what of an adapter has no place.")
@click.option("--register-at", metavar="0-2=whispering,2-4=normal", help="Strength in time (experimental).")
@click.option("--video-cfg", type=float, help="Guidance of the picture towards the prompt.")
@click.option("--audio-cfg", type=float, help="Guidance of the sound towards the prompt.")
@click.option("--stg", type=float, help="Spatio-temporal guidance of both.")
@click.option("--modality-scale", type=float, help="Guidance of picture and sound towards each other.")
@click.option("--rescale", type=float, help="How far guidance may not widen the spread, 0 to 1.")
@click.option(
    "--soften-onset/--keep-onset", default=None, help="Take down a click at the very start.  [default: soften]"
)
@click.option("--from-metadata", type=click.Path(path_type=Path), help="Make again what this mp4 or wav was made from.")
@click.option("--wav", is_flag=True, help="Write the sound as a wav beside the mp4 as well.")
@click.option("--spectrogram", is_flag=True, help="Write a picture of the sound's spectrum beside the output.")
@click.option("--json", "as_json", is_flag=True, help="Print one event a line.")
def generate(
    output: Path, model: Path | None, script: Path | None, from_metadata: Path | None, show_drift: bool, wav: bool,
    spectrogram: bool, as_json: bool, **flags: Any,
) -> None:  # fmt: skip
    """Make a clip of PROMPT, which says what is seen and, in quotes, what is said."""
    from mlx_ltxw.cli.output import Output
    from mlx_ltxw.cli.script import run_script
    from mlx_ltxw.pipeline.request import defaults_for
    from mlx_ltxw.weights.builtin import BUILTIN_MODEL
    from mlx_ltxw.weights.model_dir import ModelDir

    model_dir = ModelDir.open(model or BUILTIN_MODEL)
    defaults = defaults_for(model_dir.variant, model_dir.generation)
    request = _request(from_metadata, flags, defaults, needs_prompt=script is None)
    files = Output(output, wav=wav, spectrogram=spectrogram, as_json=as_json)
    if script is not None:
        run_script(script, request, model_dir, files)
    else:
        _run(request, defaults, model_dir, files, show_drift)


def _run(request: Request, defaults: Defaults, model: ModelDir, files: Any, show_drift: bool) -> None:
    from mlx_ltxw.cli.clip import fit_to_clip, read_picture
    from mlx_ltxw.cli.output import show, show_drifts
    from mlx_ltxw.pipeline.run import latent_grid, plan, run

    if request.video is not None:
        request = fit_to_clip(request, defaults, latent_grid(model))
    job = plan(request, model)
    settings = job.settings
    if show_drift and (not settings.adapters or settings.locked or settings.audio_only or settings.video):
        raise UserError(
            "--drift has nothing to measure: no adapter acts on a picture of this run.",
            "Give it together with --adapter and --no-lock-video.",
        )
    files.check(settings)
    picture = read_picture(settings, job.geometry.grid) if settings.video else None
    made = show(run(job, picture=picture), job, files)
    if show_drift:
        show_drifts(job, made, files)


def _request(source: Path | None, flags: dict[str, Any], defaults: Defaults, needs_prompt: bool) -> Request:
    """The request of the flags, over that of a file's metadata if one is given."""
    from mlx_ltxw.media.metadata import read_metadata
    from mlx_ltxw.pipeline.request import Request

    guidance = {name: flags.pop(name) for name in GUIDANCE_FLAGS}
    sentence = {name: flags.pop(name) for name in SENTENCE_FLAGS}
    flags["prompt"] = _prompt(flags["prompt"], sentence)
    flags["audio_only"] = flags["audio_only"] or None
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    if not needs_prompt:
        if source is not None or "prompt" in given:
            raise UserError("A script brings its own prompts.", "Leave PROMPT and --from-metadata out with --script.")
        request = Request(prompt="(script)", **given)
    elif source is not None:
        request = dataclasses.replace(Request.from_dict(read_metadata(source)), **given)
    elif "prompt" in given:
        request = Request(**given)
    else:
        raise UserError("There is no prompt.", "Say what is seen and said, or give --from-metadata FILE.")
    return _with_guidance(request, guidance, defaults)


def _prompt(prompt: str | None, sentence: dict[str, str | None]) -> str | None:
    """PROMPT, or the sentence built of `--scene --speaker --manner --line`."""
    from mlx_ltxw.prompts.registers import build

    if not any(sentence.values()):
        return prompt
    missing = [f"--{name}" for name in ("scene", "speaker", "line") if not sentence[name]]
    if prompt is not None or missing:
        fault = "PROMPT and --scene exclude each other" if prompt is not None else f"{', '.join(missing)} is missing"
        raise UserError(f"{fault}.", "Give either PROMPT, or --scene, --speaker, --line and, if wanted, --manner.")
    return build(
        sentence["scene"] or "", sentence["speaker"] or "", sentence["manner"] or "normal", sentence["line"] or ""
    )


def _with_guidance(request: Request, flags: dict[str, float | None], defaults: Defaults) -> Request:
    shared = {"stg": flags["stg"], "modality": flags["modality_scale"], "rescale": flags["rescale"]}
    for name, cfg in (("video_guidance", flags["video_cfg"]), ("audio_guidance", flags["audio_cfg"])):
        changes = {key: value for key, value in (shared | {"cfg": cfg}).items() if value is not None}
        if changes:
            base = getattr(request, name) or getattr(defaults, name)
            request = dataclasses.replace(request, **{name: dataclasses.replace(base, **changes)})
    return request
