"""`mlx-ltxw generate`: flags to a Request, events to files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_ltxw.errors import UserError

if TYPE_CHECKING:
    from mlx_ltxw.pipeline.request import Request


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("prompt", required=False)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The mp4 to write; a wav with --audio-only."
)
@click.option("-m", "--model", type=click.Path(path_type=Path), help="A converted model. Default: the small built-in.")
@click.option("--negative", "negative_prompt", help="What guidance steers away from.")
@click.option("--seed", "seeds", type=int, multiple=True, help="Repeat it for several clips.  [default: 10]")
@click.option("--steps", type=int, help="Denoising steps.")
@click.option("--width", type=int, help="Pixels.")
@click.option("--height", type=int, help="Pixels.")
@click.option("--frames", type=int, help="Video frames; also the length of the sound.")
@click.option("--frame-rate", type=float, help="Frames a second.")
@click.option("--audio-only", is_flag=True, help="Sound alone; loads nothing of the video side.")
@click.option("--video-cfg", type=float, help="Guidance of the picture towards the prompt.")
@click.option("--audio-cfg", type=float, help="Guidance of the sound towards the prompt.")
@click.option("--stg", type=float, help="Spatio-temporal guidance of both.")
@click.option("--modality-scale", type=float, help="Guidance of picture and sound towards each other.")
@click.option("--rescale", type=float, help="How far guidance may not widen the spread, 0 to 1.")
@click.option("--adapter", "adapters", multiple=True, metavar="NAME|FILE|REPO[:STRENGTH]", help="Repeat for several.")
@click.option(
    "--lock-video/--no-lock-video", default=None, help="Keep the picture exactly as without adapters.  [default: lock]"
)
@click.option("--fuse", is_flag=True, help="Fuse adapters into quantised weights too.")
@click.option("--allow-partial", is_flag=True, help="Leave out what of an adapter has no place in the model.")
@click.option("--register-at", metavar="0-2=whispering,2-4=normal", help="Strength in time (experimental).")
@click.option("--video", type=click.Path(), help="Keep this clip's picture and give it a new voice.")
@click.option("--from-metadata", type=click.Path(path_type=Path), help="Make again what this mp4 or wav was made from.")
@click.option("--wav", is_flag=True, help="Write the sound as a wav beside the mp4 as well.")
@click.option("--spectrogram", is_flag=True, help="Write a picture of the sound's spectrum beside the output.")
@click.option("--json", "as_json", is_flag=True, help="Print one event a line.")
def generate(
    prompt: str | None, output: Path, model: Path | None, from_metadata: Path | None, wav: bool, spectrogram: bool,
    as_json: bool, **flags: Any,
) -> None:  # fmt: skip
    """Make a clip of PROMPT, which says what is seen and, in quotes, what is said."""
    from mlx_ltxw.cli.clip import fit_to_clip, read_picture
    from mlx_ltxw.cli.output import Output, show
    from mlx_ltxw.pipeline.request import defaults_for
    from mlx_ltxw.pipeline.run import latent_grid, plan, run
    from mlx_ltxw.weights.builtin import BUILTIN_MODEL
    from mlx_ltxw.weights.model_dir import ModelDir

    model_dir = ModelDir.open(model or BUILTIN_MODEL)
    defaults = defaults_for(model_dir.variant, model_dir.generation)
    request = _request(prompt, from_metadata, flags, defaults)
    if request.video is not None:
        request = fit_to_clip(request, defaults, latent_grid(model_dir))
    job = plan(request, model_dir)
    files = Output(output, job.settings, model_dir, wav=wav, spectrogram=spectrogram)
    files.check()
    picture = read_picture(job.settings) if job.settings.video else None
    show(run(job, picture=picture), job, files, as_json)


def _request(prompt: str | None, source: Path | None, flags: dict[str, Any], defaults: Any) -> Request:
    """The request of the flags, over that of a file's metadata if one is given."""
    from mlx_ltxw.media.metadata import read_metadata
    from mlx_ltxw.pipeline.request import Request

    guidance = {name: flags.pop(name) for name in ("video_cfg", "audio_cfg", "stg", "modality_scale", "rescale")}
    given = {
        name: value
        for name, value in flags.items()
        if value not in (None, ()) and (value is not False or name == "lock_video")
    }
    if prompt is not None:
        given["prompt"] = prompt
    if source is not None:
        request = dataclasses.replace(Request.from_dict(read_metadata(source)), **given)
    elif "prompt" not in given:
        raise UserError("There is no prompt.", "Say what is seen and said, or give --from-metadata FILE.")
    else:
        request = Request(**given)
    return _with_guidance(request, guidance, defaults)


def _with_guidance(request: Request, flags: dict[str, float | None], defaults: Any) -> Request:
    shared = {"stg": flags["stg"], "modality": flags["modality_scale"], "rescale": flags["rescale"]}
    for name, cfg in (("video_guidance", flags["video_cfg"]), ("audio_guidance", flags["audio_cfg"])):
        changes = {key: value for key, value in (shared | {"cfg": cfg}).items() if value is not None}
        if changes:
            base = getattr(request, name) or getattr(defaults, name)
            request = dataclasses.replace(request, **{name: dataclasses.replace(base, **changes)})
    return request
