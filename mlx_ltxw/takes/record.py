"""What a made file says of itself: one schema for clips, scripts and listening samples, so that each is made again."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlx_ltxw import __version__
from mlx_ltxw.adapter.source import Located
from mlx_ltxw.adapter.strength import parse_adapter
from mlx_ltxw.errors import UserError
from mlx_ltxw.files import read_errors
from mlx_ltxw.media.metadata import read_metadata
from mlx_ltxw.pipeline.given import images_of
from mlx_ltxw.pipeline.plan import Plan
from mlx_ltxw.pipeline.recipes import lora_source
from mlx_ltxw.pipeline.request import ONE_STAGE, Request, Settings
from mlx_ltxw.prompts.takes import Take, read_take
from mlx_ltxw.takes.sources import is_local, pinned
from mlx_ltxw.weights.dtype import name_of

Kind = Literal["clip", "script", "sample"]

_ABOUT = ("kind", "mlx_ltxw", "model", "adapter_sha256", "training_step")
"""Keys beside the settings."""

_SINGLE = ("video", "audio", "distilled_lora")
"""Fields that name one file of this machine."""


@dataclass(frozen=True)
class Record:
    """What a made file carries.

    Attributes:
        kind: A clip, a script's parts cut together, or a listening sample of a training run.
        requests: What makes it again: one, or a script's parts in order.
        model: What names the model that made it; empty in old files.
        version: Of the program; None in files of others.
        training_step: Steps that a sample's adapter had been trained for.
        adapter_sha256: Local adapter, as the request names it -> its content.
    """

    kind: Kind
    requests: tuple[Request, ...]
    model: dict[str, Any]
    version: str | None
    training_step: int | None
    adapter_sha256: dict[str, str]


def clip_record(job: Plan, seed: int | None) -> dict[str, Any]:
    """Of one clip of a run, with all its takes; without a seed, of all its clips."""
    return {"kind": "clip", **_settings(job, seed), **_about([job])}


def take_record(job: Plan, seed: int, number: int) -> dict[str, Any]:
    """Of one take of a clip, from 1: what makes it again alone."""
    return clip_record(only_take(job, number), seed)


def only_take(job: Plan, number: int) -> Plan:
    """A run of one of its takes, from 1. Its adapters are then the run's own."""
    take = job.takes[number - 1]
    prompt = None if take.prompt == job.settings.prompt else take.prompt
    spec = str(Take(None, None if take.adapters else (), take.seed, take.shift, prompt))
    settings = dataclasses.replace(
        job.settings, adapters=take.adapters, takes=(spec,),
        register_at=job.settings.register_at if take.adapters else None,
    )  # fmt: skip
    return dataclasses.replace(
        job, settings=settings, adapters=job.voices[take.adapters], takes=(dataclasses.replace(take, spec=spec),)
    )


def script_record(jobs: Sequence[Plan]) -> dict[str, Any]:
    """Of a script's parts, each a run of one seed."""
    return {"kind": "script", "parts": [_settings(job, None) for job in jobs], **_about(jobs)}


def sample_record(job: Plan, seed: int, step: int) -> dict[str, Any]:
    """Of a listening sample; its adapter is the training run's own at that step."""
    return {"kind": "sample", "training_step": step, **_settings(job, seed), **_about([job])}


def read_record(path: Path | str) -> Record:
    """Reads the record of an mp4, wav or png. Files written before records had a kind are read too.

    Raises:
        UserError: the file cannot be read, carries none, or fields this version does not know.
    """
    values = read_metadata(path)
    old = "script" if "script" in values else "sample" if "training_step" in values else "clip"
    kind = values.get("kind", old)
    about = {name: values[name] for name in _ABOUT if name in values}
    model, hashes = about.get("model", {}), about.get("adapter_sha256", {})
    parts = _parts(values) if kind == "script" else [values]
    if (
        kind not in ("clip", "script", "sample") or not isinstance(parts, list) or not parts
        or not isinstance(model, dict) or not isinstance(hashes, dict)
        or not all(isinstance(part, dict) for part in parts)
    ):  # fmt: skip
        raise UserError(f"The settings in {path} are no clip's, script's or sample's.", "Give a file of generate's.")
    step, version = about.get("training_step"), about.get("mlx_ltxw")
    return Record(
        kind,
        tuple(_request(part) for part in parts),
        model,
        version if isinstance(version, str) else None,
        step if isinstance(step, int) else None,
        {str(name): str(value) for name, value in hashes.items()},
    )


def requests_of(record: dict[str, Any]) -> tuple[Request, ...]:
    """What makes again a file that keeps this record: one request, or a script's parts in order.

    Raises:
        UserError: fields this version does not know.
    """
    parts = _parts(record) if record.get("kind") == "script" else [record]
    return tuple(map(_request, parts))


def _parts(values: dict[str, Any]) -> Any:
    return values.get("parts", values.get("script"))


def _request(part: dict[str, Any]) -> Request:
    """What makes a clip or part again; files of before there were recipes were made in one stage."""
    return Request.from_dict({"pipeline": ONE_STAGE} | {name: part[name] for name in part if name not in _ABOUT})


def local_files(request: Request) -> dict[str, list[str]]:
    """The files of this machine that a request reads, by field: `{"adapters": [...], "video": [...], ...}`."""
    named = dict.fromkeys((*request.adapters, *(spec for take in request.takes for spec in _own(take))))
    single = {name: getattr(request, name) for name in _SINGLE}
    if request.distilled_lora is not None and not is_local(lora_source(request.distilled_lora)):
        single["distilled_lora"] = None
    return {
        "adapters": [spec for spec in named if is_local(parse_adapter(spec)[0])],
        "images": list(request.images),
        **{name: [] if file is None else [file] for name, file in single.items()},
    }


def with_given(
    record: Record, adapters: Iterable[str], video: str | None, name: str, *, images: Sequence[str] = (),
    audio: str | None = None, distilled_lora: str | None = None,
) -> tuple[Request, ...]:  # fmt: skip
    """The requests of a record, reading no file of this machine but those that were given beside it.

    A file that somebody sent must not make the program read others that it names. Of a script, each part's adapter is
    taken from those given: the one of the same content, or of the same name.

    Args:
        record: What made the file.
        adapters: Given ones, as `FILE[:STRENGTH]`; a clip's or sample's take the place of all of its own.
        video: The given clip.
        name: The file's, for the message.
        images: Given ones; they take the place of all of its own.
        audio: The given sound.
        distilled_lora: The given one, as `FILE[:STRENGTH]`.

    Raises:
        UserError: lists the files that are wanted.
    """
    given = tuple(adapters)
    given_files = {"video": video, "audio": audio, "images": tuple(images), "distilled_lora": distilled_lora}
    chosen = {field: value for field, value in given_files.items() if value}
    requests = [dataclasses.replace(one, **chosen) for one in record.requests]  # type: ignore[arg-type]
    several = record.kind == "script" or any(_own(take) for one in requests for take in one.takes)
    if several:
        requests = [_matched(one, given, record.adapter_sha256) for one in requests]
    elif given:
        requests = [dataclasses.replace(one, adapters=given) for one in requests]
    sources = {parse_adapter(spec)[0] for spec in given}
    wanted: dict[str, None] = {}
    for request in requests:
        files = local_files(request)
        if any(parse_adapter(spec)[0] not in sources for spec in files["adapters"]):
            specs = files["adapters"] if several else request.adapters
            wanted |= {f"{{field:adapters={spec}}}": None for spec in specs}
        for field in ("images", *_SINGLE):
            if field not in chosen:
                wanted |= {f"{{field:{field}={file}}}": None for file in files[field]}
    if wanted:
        raise UserError(
            f"{name} was made with files of its maker's machine, which are read only when you give them too.",
            f"Add {' '.join(wanted)}, or files of yours in their place.",
        )
    return tuple(requests)


def _own(take: str) -> tuple[str, ...]:
    """The adapters that a take names."""
    return read_take(take).adapters or ()


def _matched(request: Request, given: tuple[str, ...], hashes: dict[str, str]) -> Request:
    """A script's part, or a clip of several takes, with its local adapters found among those given."""

    def found(specs: tuple[str, ...]) -> tuple[str, ...]:
        return _found(specs, given, hashes)

    read = [read_take(take) for take in request.takes]
    takes = [
        dataclasses.replace(take, adapters=found(take.adapters) if take.adapters else take.adapters) for take in read
    ]
    return dataclasses.replace(request, adapters=found(request.adapters), takes=tuple(map(str, takes)))


def _found(specs: tuple[str, ...], given: tuple[str, ...], hashes: dict[str, str]) -> tuple[str, ...]:
    """Adapters, those of this machine by the ones given: of the same content, or of the same name."""
    chosen = []
    for spec in specs:
        source, _ = parse_adapter(spec)
        strength = spec.removeprefix(source)
        if is_local(source):
            files = [parse_adapter(one)[0] for one in given]
            same = [file for file in files if spec in hashes and _content(file) == hashes[spec]]
            same += [file for file in files if os.path.basename(file) == os.path.basename(source)]
            source = same[0] if same else source
        chosen.append(source + strength)
    return tuple(chosen)


def adapter_hashes(job: Plan) -> dict[str, str]:
    """The content of a run's adapters and of its distilled LoRA, by the names its settings have."""
    located = _located(job)
    if job.distilled is not None and job.settings.distilled_lora is not None:
        located[job.settings.distilled_lora] = job.distilled.located[0]
    return {spec: sha256_of(one.path) for spec, one in located.items()}


def _located(job: Plan) -> dict[str, Located]:
    """Where the adapters of a run and of its takes were found."""
    pairs: dict[str, Located] = dict(zip(job.settings.adapters, job.adapters.located, strict=True))
    for take in job.takes:
        pairs |= dict(zip(take.adapters, job.voices[take.adapters].located, strict=True))
    return pairs


def given_hashes(job: Plan) -> list[str]:
    """The content of the pictures, the sound and the clip that a run is given, and of its adapters, in order."""
    settings = job.settings
    given = [image.file for image in images_of(settings)] + [
        file for file in (settings.audio, settings.video) if file is not None
    ]
    return [*map(sha256_of, map(Path, given)), *adapter_hashes(job).values()]


def sha256_of(path: Path) -> str:
    """Of a file's content; read once while the file stays the same.

    Raises:
        UserError: it is gone, or cannot be read.
    """
    with read_errors(path):
        stat = path.stat()
        return _hashed(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _hashed(path: Path, size: int, time: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _content(file: str) -> str | None:
    path = Path(file)
    return sha256_of(path) if path.is_file() else None


def _settings(job: Plan, seed: int | None) -> dict[str, Any]:
    """As metadata keeps them: adapters of the Hub with the commit they were taken from."""
    settings: Settings = job.settings
    names = {spec: pinned(spec, located) for spec, located in _located(job).items()}
    read = [read_take(take) for take in settings.takes]
    takes = [
        take if not take.adapters else dataclasses.replace(take, adapters=tuple(names[one] for one in take.adapters))
        for take in read
    ]
    named = tuple(names[spec] for spec in settings.adapters)
    lora = settings.distilled_lora
    if lora is not None and job.distilled is not None:
        lora = pinned(lora, job.distilled.located[0], lora_source(lora))
    changes = {"adapters": named, "takes": tuple(map(str, takes)), "distilled_lora": lora}
    return dataclasses.replace(settings, **changes).to_dict(seed)  # type: ignore[arg-type]


def _about(jobs: Sequence[Plan]) -> dict[str, Any]:
    hashes: dict[str, str] = {}
    for job in jobs:
        local = [spec for spec in _located(job) if is_local(parse_adapter(spec)[0])]
        lora = job.settings.distilled_lora
        local += [lora] if lora is not None and is_local(lora_source(lora)) else []
        hashes |= {spec: adapter_hashes(job)[spec] for spec in local}
    model = {**jobs[0].model.identity, "dtype": name_of(jobs[0].dtype)}
    about: dict[str, Any] = {"mlx_ltxw": __version__, "model": model}
    return about | ({"adapter_sha256": hashes} if hashes else {})
