"""Latent upsamplers: found, checked, and put into a finished model directory as components of their own.

`upsampler.KIND-00001-of-0000N.safetensors`, their index, and `upsampler.KIND.json` with the file's own config and
origin. The manifest is rewritten last, so a directory is a whole model at every moment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import write_errors, write_text
from mlx_ltxw.hub import Repo, Spec, looks_like_repo, open_repo
from mlx_ltxw.models.upsampler import UpsamplerConfig
from mlx_ltxw.parsing import parse_json
from mlx_ltxw.paths import local_path
from mlx_ltxw.weights.components import component_named, upsampler_name
from mlx_ltxw.weights.header import Header, read_header
from mlx_ltxw.weights.loading import mismatches, parameter_shapes
from mlx_ltxw.weights.manifest import FileRecord, read_manifest, sha256, write_manifest
from mlx_ltxw.weights.names import natural_key
from mlx_ltxw.weights.opening import open_dir
from mlx_ltxw.weights.weight_files import is_weights

from .checkpoint import is_upsampler_file, version_of
from .journal import Journal
from .layout import FLOATS, axes
from .plan import Entry, index, plan_of
from .small_files import json_text
from .source import remote_header
from .writer import CONTINUES, write_shard

OFFICIAL = "Lightricks/LTX-2.3"
_NAMES = {
    "spatial-x2": "ltx-2.3-spatial-upscaler-x2-*.safetensors",
    "spatial-x1.5": "ltx-2.3-spatial-upscaler-x1.5-*.safetensors",
    "temporal-x2": "ltx-2.3-temporal-upscaler-x2-*.safetensors",
}
"""Kind -> the name of its official files, of whatever version."""

_GENERATION = re.compile(r"ltxv?-(?:video-)?(\d+(?:\.\d+)*)-|ltxv-()")
_USE_23 = f"Use LTX-2.3's own, such as {OFFICIAL}/ltx-2.3-spatial-upscaler-x2-1.1.safetensors."


@dataclass(frozen=True)
class UpsamplerSource:
    """An upsampler's file, whose tensors fit the network that its config describes.

    Attributes:
        header: Of the file.
        config: Its own, as it stands there.
        network: What the config says.
        repo, revision: Hub repo and commit, or None for a local file.
    """

    header: Header
    config: dict[str, Any]
    network: UpsamplerConfig
    repo: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.header.path.name}: {self.network.name} latent upsampler, {len(self.header.tensors)} tensors"


def names_upsampler(source: str) -> bool:
    """Whether what the user names as the source of a conversion is an upsampler, and no checkpoint."""
    path = local_path(source)
    if path.is_file():
        return is_weights(path.name) and is_upsampler_file(read_header(path))
    spec = Spec.parse(source)
    kind = re.fullmatch(r"(spatial|temporal)-x[\d.]+", source)  # one that there is not is told by `open_upsampler`
    return source in _NAMES or bool(kind) or bool(spec and re.search("upscaler|upsampler", spec.file))


def open_upsampler(source: str, beside: Path | None = None, data: bool = True) -> UpsamplerSource:
    """Finds an upsampler and checks it.

    Args:
        source: A file; `owner/name/file[@revision]` on the Hub; an official file's name or a kind (`spatial-x2`), which
            is looked for beside the checkpoint, then in the official repo.
        beside: The checkpoint's folder.
        data: Whether the tensors are needed; without, a Hub file's header alone is fetched.

    Raises:
        UserError: nothing there, no upsampler, one of another generation, or damaged.
    """
    path = local_path(source)
    if not path.is_file() and beside is not None and (found := _newest(_files(beside), source)):
        path = beside / found
    if path.is_file():
        return read_upsampler(read_header(path), data=data)
    spec = Spec.parse(source)
    if spec and spec.file and looks_like_repo(source):
        repo = open_repo(spec.repo, spec.revision)
        return _of_repo(repo, spec.file, data)
    if source in _NAMES or re.fullmatch(r"ltx-[\w.-]*up(scaler|sampler)[\w.-]*\.safetensors", source):
        repo = open_repo(OFFICIAL)
        file = _newest(repo.files, source)
        if file is None:
            raise UserError(f"{OFFICIAL} has no file {source}.", _USE_23)
        return _of_repo(repo, file, data)
    raise UserError(
        f"There is no upsampler '{source}'.",
        f"Give its file, owner/name/file on the Hub, or one of {', '.join(_NAMES)}.",
    )


def read_upsampler(
    header: Header, repo: str | None = None, revision: str | None = None, data: bool = True
) -> UpsamplerSource:
    """Checks an upsampler's file against the network that its config describes.

    Raises:
        UserError: see `open_upsampler`.
    """
    name = header.path.name
    if not is_upsampler_file(header):
        raise UserError(f"{name} is no latent upsampler.", _USE_23)
    _refuse_other_generations(header)
    if "config" not in header.metadata:
        raise UserError(f"{name} has no 'config' in its metadata.", "Use a file that keeps the official metadata.")
    config = parse_json(header.metadata["config"], f"The config in {name}", "Download the file again.")
    network = UpsamplerConfig.read(config)
    found = UpsamplerSource(header, config, network, repo, revision)
    wanted = parameter_shapes(component_named(upsampler_name(network.name)).build(network))
    if faults := mismatches(wanted, {entry.name: entry.shape for entry in _entries(found)}):
        raise UserError(f"{name} does not fit its own config: {'; '.join(faults)}.", "Download the file again.")
    if odd := sorted({tensor.dtype for tensor in header.tensors.values()} - FLOATS):
        raise UserError(f"{name} has tensors of dtype {', '.join(odd)}, which are no weights.", _USE_23)
    if data:
        header.check_complete()
    return found


def add_upsamplers(out: Path, found: Iterable[UpsamplerSource]) -> list[str]:
    """Puts upsamplers into a finished model directory, in place of those of the same kind; reads no other weights.

    Returns:
        A line for each: what was done.

    Raises:
        UserError: no finished model, an upsampler of another latent, a full or unwritable disk.
    """
    listed = list(found)
    if not listed:
        return []
    model = open_dir(out)
    if not model.takes_upsamplers:
        raise UserError(
            f"{out} is in the layout of ltx-2-mlx, into which nothing is converted.",
            "Put an upsampler of that layout beside the weights (spatial_upscaler_x2_v1_1.safetensors with its "
            "_config.json), or convert the official checkpoint.",
        )
    channels = model.network_config("video_vae").latent_channels
    for one in listed:
        if one.network.in_channels != channels:
            raise UserError(
                f"{one.header.path.name} is for latents of {one.network.in_channels} channels, and those of {out} have "
                f"{channels}: it is another model's.",
                _USE_23,
            )
    with write_errors(out, CONTINUES), closing(Journal.open(out)) as journal:
        lines = [_add(out, one) for one in listed]
        journal.remove()
    return lines


def _add(out: Path, one: UpsamplerSource) -> str:
    component = upsampler_name(one.network.name)
    record = sha256(one.header.path)
    origin = {
        "repo": one.repo,
        "revision": one.revision,
        "files": {one.header.path.name: asdict(record)},
    }
    about = json_text(
        {"config": one.config, "model_version": one.header.metadata.get("model_version"), "source": origin}
    )
    files, fingerprint = read_manifest(out)
    description = out / f"{component}.json"
    if description.name in files and description.read_text() == about:
        return f"{out} has the upsampler {one.network.name} of {one.header.path.name} already"
    old = {name for name in files if name.startswith((f"{component}-", f"{component}."))}
    if old:
        files = {name: value for name, value in files.items() if name not in old}
        write_manifest(out, files, fingerprint)  # whole without them, too, until the new ones are there
        for name in old:
            (out / name).unlink(missing_ok=True)
    plan = plan_of(component, _entries(one))
    written: dict[str, FileRecord] = {shard.file: write_shard(out, shard, lambda _: None) for shard in plan.shards}
    for name, content in (
        (f"{component}.safetensors.index.json", json_text(index(plan, component))),
        (description.name, about),
    ):
        write_text(out / name, content)
        written[name] = sha256(out / name)
    write_manifest(out, {**files, **written}, fingerprint)
    return f"{out} has the upsampler {one.network.name} now, of {one.header.path.name}"


def _entries(one: UpsamplerSource) -> list[Entry]:
    tensors = one.header.tensors
    return [
        Entry(name, tensors[name], axes("upsampler", name, len(tensors[name].shape)))
        for name in sorted(tensors, key=natural_key)
    ]


def _refuse_other_generations(header: Header) -> None:
    """By the file's `model_version`, else by its name; a file that tells neither is taken."""
    version = version_of(header.metadata.get("model_version", ""))
    named = _GENERATION.match(header.path.name.lower())
    told = version if version >= (2,) else version_of(named[1] or "0") if named else ()
    if told and told[:2] != (2, 3):
        generation = ".".join(map(str, told)) if told > (0,) else "Video"
        raise UserError(f"{header.path.name} is an upsampler of LTX-{generation}, not of LTX-2.3.", _USE_23)


def _files(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if is_weights(path.name)]


def _newest(files: Iterable[str], source: str) -> str | None:
    """The file of this name, or the newest of a kind's."""
    pattern = _NAMES.get(source, source)
    fitting = sorted((name for name in files if fnmatch(name, pattern)), key=natural_key)
    return fitting[-1] if fitting else None


def _of_repo(repo: Repo, file: str, data: bool) -> UpsamplerSource:
    header = read_header(repo.download(file)) if data else remote_header(repo, file)
    return read_upsampler(header, repo.name, repo.commit, data)
