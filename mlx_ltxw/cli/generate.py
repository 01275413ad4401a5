"""`mlx-ltxw generate`: flags to a Request, events to the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_ltxw.cli.fields import FileName, missing, once, size
from mlx_ltxw.cli.groups import Grouped
from mlx_ltxw.cli.prompt import prompt_of
from mlx_ltxw.errors import UserError

if TYPE_CHECKING:
    from mlx_ltxw.cli.show import Show
    from mlx_ltxw.pipeline.request import Request
    from mlx_ltxw.takes.output import Output
    from mlx_ltxw.weights.model_dir import ModelDir

GUIDANCE_FLAGS = ("video_cfg", "audio_cfg", "stg", "modality_scale", "rescale")
SENTENCE_FLAGS = ("scene", "speaker", "manner", "line")
DEFAULT_REVOICE = 0.7
"""As measured on the built-in model (`docs/log.md`)."""
UNNAMED = Path("clip.mp4")
"""Stands for the output of a plan that has none; nothing of that name is read or written."""


@click.command(cls=Grouped, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("prompt", required=False)
@click.option(
    "-o", "--output", type=FileName(path_type=Path),
    help="The mp4 to write, or a wav for its sound.  [required, but with --plan]",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace files that are there already.")
@click.option(
    "--resume/--no-resume", default=True,
    help="Go on where the same command was cut, from OUTPUT.unfinished.  [default: resume]",
)  # fmt: skip
@click.option(
    "-m", "--model", type=FileName(), metavar="DIR|REPO",
    help="A model: converted, pulled, or OWNER/REPO[@REVISION] of the Hub, which is downloaded once.  "
    "[default: the built-in]",
)  # fmt: skip
@click.option("--text-encoder", type=FileName(), metavar="DIR|REPO", help="Gemma-3, for a model of ltx-2-mlx's layout.")
@click.option("--prompt-file", type=FileName(path_type=Path), help="Instead of PROMPT: a text file that holds it.")
@click.option("--scene", help="Instead of PROMPT: what is seen.")
@click.option("--speaker", type=click.Choice(["woman", "man"]), help="Who speaks.")
@click.option("--manner", type=click.Choice(["whispering", "soft", "normal"]), help="How.")
@click.option("--line", help="What is said.")
@click.option("--script", type=FileName(path_type=Path), help="Parts of one clip each, cut together (YAML or lines).")
@click.option(
    "--part", "parts", type=int, multiple=True, metavar="N",
    help="Of a script made before: make this part again, with --seed or a random one; repeat for more.",
)  # fmt: skip
@click.option("--keep-parts", is_flag=True, help="Leave a script's parts in OUTPUT.parts, so that they are not remade.")
@click.option("--negative", "negative_prompt", help="What guidance steers away from.")
@click.option(
    "--seed", "seeds", type=int, multiple=True, help="Repeat it for several clips; -1 is a random one.  [default: 10]"
)
@click.option("--num", type=int, metavar="N", help="Make N clips, of the seed and those that follow it.")
@click.option("--steps", type=int, help="Denoising steps; of the first stage, where there are two.")
@click.option(
    "--pipeline", type=click.Choice(["one-stage", "two-stage", "hq"]),
    help="two-stage: half the size first, then upsampled and refined; hq: so with a second-order sampler, for the dev "
    "model.  [default: two-stage for a distilled model with an upsampler, else one-stage]",
)  # fmt: skip
@click.option(
    "--upsampler", type=click.Choice(["spatial-x2", "spatial-x1.5"]),
    help="Between two stages.  [default: spatial-x2]",
)  # fmt: skip
@click.option(
    "--distilled-lora", metavar="FILE|REPO[:STRENGTH]",
    help="LTX-2.3's own, for the dev model: needed by two-stage and hq; in one stage it makes a clip in 8 steps. hq "
    "takes FILE:0.25/0.5, a strength for each stage.",
)  # fmt: skip
@click.option("--width", type=int, help="Pixels.")
@click.option("--height", type=int, help="Pixels.")
@click.option("--frames", type=int, help="Video frames; also the length of the sound.")
@click.option("--frame-rate", type=float, help="Frames a second.")
@click.option("--audio-only", is_flag=True, help="Sound alone; loads nothing of the video side.")
@click.option(
    "--video", type=FileName(), multiple=True, callback=once, help="Keep this clip's picture and give it a new voice."
)
@click.option(
    "--retake", multiple=True, callback=once, metavar="1.2-2.4", help="Of --video's clip, make only these seconds anew."
)
@click.option("--retake-what", type=click.Choice(["picture", "sound", "both"]), help="What of them.  [default: both]")
@click.option(
    "--extend",
    type=float,
    multiple=True,
    callback=once,
    metavar="SECONDS",
    help="Make --video's clip longer; negative: before it begins.",
)
@click.option(
    "--image", "images", multiple=True, metavar="FILE[@FRAME][:STRENGTH]",
    help="A picture the clip begins with, or goes through at FRAME (a number, `last`, or negative from the end); "
    "STRENGTH below 1 lets the model move away from it. Repeat for several.",
)  # fmt: skip
@click.option(
    "--audio", type=FileName(), multiple=True, callback=once, help="Keep this sound and make a picture to it."
)
@click.option(
    "--revoice", type=float, is_flag=False, flag_value=DEFAULT_REVOICE, metavar="[STRENGTH]",
    help="Say the line of --audio, or of --video's clip, again in the prompt's register: from noise of STRENGTH, "
    f"0 to 1, higher for more of the register and less of the line.  [default: {DEFAULT_REVOICE}]",
)  # fmt: skip
@click.option(
    "--adapter", "adapters", multiple=True, metavar="NAME|FILE|REPO[:STRENGTH]",
    help="Built in, for the built-in model: whisper, and whisper-mixed, which leaves plain captions normal. Repeat for "
    "several.",
)  # fmt: skip
@click.option(
    "--takes", multiple=True, metavar="N|MANNERS", help="Several sounds on one picture, which is made once: a "
    "number of seeds, or 'whispering, soft, normal'; repeat for both.",
)  # fmt: skip
@click.option(
    "--take", "single_takes", multiple=True, metavar="'adapter=whisper:0.8 manner=soft seed=3'",
    help="One such sound; repeat for more. Also seed=+2 and prompt='...'; what is left out is the run's.",
)  # fmt: skip
@click.option("--take-tracks", is_flag=True, help="One mp4 with a sound track for each take, in place of one mp4 each.")
@click.option(
    "--lock-video/--no-lock-video", default=None, help="Keep the picture exactly as without adapters.  [default: lock]"
)
@click.option(
    "--drift", "show_drift", is_flag=True, help="With --no-lock-video: how far the adapter moves the picture."
)
@click.option("--fuse", is_flag=True, default=None, help="Fuse adapters into quantised weights too.")
@click.option("--allow-partial", is_flag=True, default=None, help="Leave out what of an adapter has no place.")
@click.option(
    "--register-at", multiple=True, metavar="0-2=whispering,2-4=normal",
    help="Strength in time (experimental); repeat for more.",
)  # fmt: skip
@click.option("--video-cfg", type=float, help="Guidance of the picture towards the prompt.")
@click.option("--audio-cfg", type=float, help="Guidance of the sound towards the prompt.")
@click.option("--stg", type=float, help="Spatio-temporal guidance of both.")
@click.option("--modality-scale", type=float, help="Guidance of picture and sound towards each other.")
@click.option("--rescale", type=float, help="How far guidance may not widen the spread, 0 to 1.")
@click.option(
    "--soften-onset/--keep-onset", default=None, help="Take down a click at the very start.  [default: soften]"
)
@click.option("--remove-offset/--keep-offset", default=None, help="Take out what lies below 20 Hz.  [default: remove]")
@click.option(
    "--dtype", type=click.Choice(["bfloat16", "float16", "float32"]),
    help="Numbers of the transformer.  [default: bfloat16 on a GPU, float32 on a CPU]",
)  # fmt: skip
@click.option("--from-metadata", type=FileName(path_type=Path), help="Make again what this mp4 or wav was made from.")
@click.option(
    "--memory", metavar="12GB", callback=size,
    help="Use no more than this; the rest of the model is read from disk as it is needed.  [default: what there is]",
)  # fmt: skip
@click.option(
    "--cache/--no-cache", default=True,
    help="Read what a prompt is encoded to from the user's cache folder, and keep it there.  [default: cache]",
)  # fmt: skip
@click.option("--plan", "plan_only", is_flag=True, help="Show what each part needs, and how it fits; make nothing.")
@click.option(
    "--split", type=click.Choice(["auto", "clips", "passes", "tokens", "tensor"]),
    help="On several machines (`mlx.launch`): share out clips, or split one by its guidance passes, its tokens or the "
    "model's heads.  [default: auto]",
)  # fmt: skip
@click.option(
    "--link-timeout", type=click.FloatRange(2, 86_400), metavar="SECONDS",
    help="On several machines: how long one may be silent.  [default: 120]",
)  # fmt: skip
@click.option("--wav", is_flag=True, help="Write the sound as a wav beside the mp4 as well.")
@click.option("--spectrogram", is_flag=True, help="Write a picture of the sound's spectrum beside the output.")
@click.option(
    "--preview", type=click.IntRange(1, 1000), is_flag=False, flag_value=1, metavar="[K]",
    help="Every K steps (1 without a number) write what the clip will be to OUTPUT.preview.png and .preview.wav.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one event a line.")
@click.option("-q", "--quiet", is_flag=True, help="Print the files' names and errors alone.")
def generate(
    output: Path | None, overwrite: bool, resume: bool, model: str | None, text_encoder: str | None,
    script: Path | None, from_metadata: Path | None, parts: tuple[int, ...], keep_parts: bool, show_drift: bool,
    take_tracks: bool, preview: int | None, memory: int | None, cache: bool, plan_only: bool, split: str | None,
    link_timeout: float | None, wav: bool, spectrogram: bool, as_json: bool, quiet: bool, **flags: Any,
) -> None:  # fmt: skip
    """Make a clip of PROMPT, which says what is seen and, in quotes, what is said; `-` reads it from standard input.

    Nothing is replaced without --overwrite. A run that is cut, by Ctrl-C, a crash or a power failure, goes on from its
    last step when the same command is given again. What a prompt is encoded to is kept in the user's cache folder, 2 GB
    at most, unless --no-cache is given; MLX_LTXW_CACHE names another folder, and MLX_LTXW_CACHE=0 none.
    """
    from mlx_ltxw.cli.machines import JointRun, check_single, follow, lead, machines
    from mlx_ltxw.cli.show import Show
    from mlx_ltxw.takes.models import open_model
    from mlx_ltxw.takes.output import Output

    if output is None and not plan_only:
        raise missing("output")
    files = Output(
        output or UNNAMED, wav=wav, spectrogram=spectrogram, overwrite=overwrite, tracks=take_tracks,
        preview=preview or 0, resume=resume and output is not None,
    )  # fmt: skip
    show, how = Show(as_json, quiet), _How(memory, cache, plan_only)
    with machines(split, link_timeout) as crew:
        model_dir = open_model(model, text_encoder)
        asked = JointRun(split or "auto", memory, cache, plan_only, keep=keep_parts or bool(parts), again=parts)
        if crew is not None and not crew.leads:
            follow(crew, asked, model_dir, files)
            return
        given = _given(flags)
        requests = _requests(script, from_metadata, given, model_dir)
        scripted = script is not None or len(requests) > 1
        check_single(scripted, parts, keep_parts, preview, show_drift, crew)
        if parts:
            from mlx_ltxw.takes.script import with_new_parts

            seed, *_ = given.get("seeds", (-1,))
            if (made := from_metadata or output) is None:
                raise missing("output")
            requests = with_new_parts(requests, made, parts, seed)
        if crew is not None:
            with _telling_kept(files, scripted, show):
                lead(crew, dataclasses.replace(asked, scripted=scripted), requests, model_dir, files, show)
        elif scripted:
            _make_script(requests, model_dir, files, show, asked.keep, parts, how)
        else:
            _make(requests[0], model_dir, files, show, show_drift, how)


@dataclasses.dataclass(frozen=True)
class _How:
    """How a run is gone about, which changes nothing of what it makes.

    Attributes:
        memory: Bytes to plan for; None for what the machine has.
        cache: Whether contexts of prompts are kept on disk.
        plan_only: Whether the plan is all that is wanted.
    """

    memory: int | None
    cache: bool
    plan_only: bool


def _make(request: Request, model: ModelDir, files: Output, show: Show, show_drift: bool, how: _How) -> None:
    from mlx_ltxw.pipeline.networks import Networks
    from mlx_ltxw.pipeline.request import RANDOM
    from mlx_ltxw.takes.make import begun, fit_again, make

    job = dataclasses.replace(fit_again(request, model, files, how.memory), cache=how.cache)
    settings = job.settings
    if show_drift and (not settings.adapters or settings.locked or not settings.makes_picture):
        raise UserError(
            "{field:show_drift} has nothing to measure: no adapter acts on a picture of this run.",
            "Give it together with {field:adapters} and {field:lock_video=False}.",
        )
    if how.plan_only:
        show.planned([job])
        return
    begun(job, files)
    if RANDOM in request.seeds:
        show.note(f"seed {', '.join(map(str, settings.seeds))}")
    show.started([job])
    networks = Networks(job.model, job.dtype)
    with _telling_kept(files, False, show):
        made = show.follow(make(job, files, networks))
    if show_drift:
        show.drifts(job, made, networks)


@contextmanager
def _telling_kept(files: Output, scripted: bool, show: Show) -> Iterator[None]:
    """Says after Ctrl-C what is kept of a clip or a script."""
    from mlx_ltxw.takes.script import parts_folder
    from mlx_ltxw.takes.unfinished import file_beside

    try:
        yield
    except KeyboardInterrupt:
        kept, what = (parts_folder(files), "parts") if scripted else (file_beside(files.path), "steps")
        if kept.exists():
            show.note(f"{kept} keeps the {what} that are done, and the same command goes on from there.")
        raise


def _make_script(
    requests: list[Request], model: ModelDir, files: Output, show: Show, keep: bool, again: tuple[int, ...],
    how: _How,
) -> None:  # fmt: skip
    from mlx_ltxw.takes.script import check_parts, make_script, plan_parts

    jobs = [dataclasses.replace(job, cache=how.cache) for job in plan_parts(requests, model, how.memory, files)]
    if how.plan_only:
        show.planned(jobs)
        return
    check_parts(jobs, files, again)
    show.started(jobs)
    with _telling_kept(files, True, show):
        show.follow(make_script(jobs, files, keep=keep, again=again))


def _requests(script: Path | None, source: Path | None, given: dict[str, Any], model: ModelDir) -> list[Request]:
    """What is asked for: one request, or one for each part of a script."""
    from mlx_ltxw.pipeline.request import Request
    from mlx_ltxw.takes.record import read_record, with_given

    guidance = given.pop("guidance")
    if script is not None:
        from mlx_ltxw.prompts.script import read_script
        from mlx_ltxw.takes.script import part_requests

        if source is not None or "prompt" in given:
            raise UserError(
                "A script brings its own prompts.",
                "Leave {field:prompt} and {field:from_metadata} out with {field:script}.",
            )
        shared = _with_guidance(Request(prompt="", **given), guidance, model)
        return part_requests(read_script(script), shared, model)
    if source is not None:
        record = read_record(source)
        if record.kind == "script" and "prompt" in given:
            raise UserError(f"{source} is a script of several prompts.", "Leave {field:prompt} out.")
        files = {name: given.pop(name) for name in ("images", "audio", "distilled_lora") if name in given}
        again = with_given(record, given.pop("adapters", ()), given.pop("video", None), str(source), **files)
        changed = [dataclasses.replace(request, **given) for request in again]
        return [_with_guidance(request, guidance, model) for request in changed]
    if "prompt" not in given:
        raise UserError(
            "There is no prompt.",
            "Say what is seen and said, or give {field:prompt_file=FILE} or {field:from_metadata=FILE}.",
        )
    return [_with_guidance(Request(**given), guidance, model)]


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags that were given, as fields of a request, and `guidance`."""
    guidance = {name: flags.pop(name) for name in GUIDANCE_FLAGS}
    sentence = {name: flags.pop(name) for name in SENTENCE_FLAGS}
    flags["prompt"] = prompt_of(flags["prompt"], flags.pop("prompt_file"), sentence)
    flags["audio_only"] = flags["audio_only"] or None
    flags["takes"] = _takes(flags["takes"], flags.pop("single_takes"))
    flags["register_at"] = ",".join(flags["register_at"]) if flags["register_at"] else None
    flags["seeds"] = _seeds(flags["seeds"], flags.pop("num"))
    return {name: value for name, value in flags.items() if value not in (None, ())} | {"guidance": guidance}


def _takes(several: tuple[str, ...], single: tuple[str, ...]) -> tuple[str, ...]:
    """Those of every `--takes`, then those of `--take`."""
    from mlx_ltxw.prompts.takes import takes_of

    return tuple(take for one in (*several, *filter(None, [single])) for take in takes_of(one))


def _seeds(seeds: tuple[int, ...], num: int | None) -> tuple[int, ...]:
    """The seeds given, or one of them and those that follow it."""
    from mlx_ltxw.pipeline.resolve import following_seeds

    if num is None:
        return seeds
    if len(seeds) > 1:
        raise UserError("{field:num} counts from one seed on.", "Leave {field:num} out, or give one of {field:seeds}.")
    return following_seeds(num, *seeds)


def _with_guidance(request: Request, flags: dict[str, float | None], model: ModelDir) -> Request:
    from mlx_ltxw.pipeline.resolve import defaults_of

    defaults = defaults_of(request, model)
    shared = {"stg": flags["stg"], "modality": flags["modality_scale"], "rescale": flags["rescale"]}
    for name, cfg in (("video_guidance", flags["video_cfg"]), ("audio_guidance", flags["audio_cfg"])):
        changes = {key: value for key, value in (shared | {"cfg": cfg}).items() if value is not None}
        if changes:
            base = getattr(request, name) or getattr(defaults, name)
            request = dataclasses.replace(request, **{name: dataclasses.replace(base, **changes)})
    return request
