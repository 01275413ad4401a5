"""The conversion from end to end: resolve, plan, write, and only then name the directory a model."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import read_bytes, read_errors, write_bytes, write_errors, write_text
from mlx_ltxw.printing import readable, some
from mlx_ltxw.weights.manifest import NAME as MANIFEST
from mlx_ltxw.weights.manifest import FileRecord, check_sizes, read_manifest, sha256, write_manifest
from mlx_ltxw.weights.model_dir import ModelDir

from .checkpoint import Checkpoint, read_checkpoint
from .gemma import missing_gemma
from .journal import Journal, SourceRecord
from .plan import SHARD_BYTES, ConversionPlan, make_plan
from .quantize import Quantization
from .report import describe_checkpoint
from .small_files import Hashes, copies, json_text, texts
from .source import Source, TextSource, check_access, open_checkpoint, open_gemma, variant_of
from .verify import verify_model
from .writer import CONTINUES, header_bytes, write_shard

_LARGEST_COPY = 1 << 30  # bytes of a tokenizer's files
_MARGIN = 64 << 20  # bytes that a disk should keep free, for indexes and the file system itself


@dataclass(frozen=True)
class Conversion:
    """Everything a conversion knows before it writes.

    Attributes:
        source: The checkpoint's resolved files.
        checkpoint: What they hold.
        text: The text encoder; None only for a dry run.
        variant: `dev`, `distilled`, or None where nothing tells.
        quantization: Or None.
        plan: What goes where.
    """

    source: Source
    checkpoint: Checkpoint
    text: TextSource | None
    variant: str | None
    quantization: Quantization | None
    plan: ConversionPlan


def prepare(
    source: str,
    text_encoder: str | None = None,
    *,
    quantization: Quantization | None = None,
    revision: str | None = None,
    variant: str | None = None,
    data: bool = True,
    shard_bytes: int = SHARD_BYTES,
) -> Conversion:
    """Resolves the sources and plans the conversion; writes nothing.

    Args:
        source: Checkpoint: a file, a directory of component files, or a Hub repo (`owner/name[/file]`).
        text_encoder: Gemma-3: a directory or a Hub repo (`owner/name[@revision]`).
        quantization: For the linears of the transformer's blocks and of Gemma.
        revision: Branch, tag or commit of the checkpoint's repo.
        variant: `dev` or `distilled`, where the file's name does not tell.
        data: False plans from headers alone: nothing large is downloaded, and cut files are accepted.
        shard_bytes: Largest output file.

    Raises:
        UserError: whatever is wrong with the sources, but for mismatches, which the plan lists.
    """
    if data and text_encoder is None:
        raise missing_gemma()
    if text_encoder:
        check_access(text_encoder)
    found = open_checkpoint(source, revision, variant, data)
    for name in found.left_out:
        _say(f"{name} is an adapter (LoRA) and is left out; give it to `generate` with --adapter.")
    checkpoint = read_checkpoint(found.headers)
    text = open_gemma(text_encoder, data) if text_encoder else None
    plan = make_plan(checkpoint, text.gemma if text else None, quantization, shard_bytes)
    return Conversion(found, checkpoint, text, variant_of(found, variant), quantization, plan)


def dry_run(conversion: Conversion) -> Iterator[str]:
    """The plan's lines; then, if something does not fit, a UserError that lists all of it."""
    gemma = conversion.text.gemma if conversion.text else None
    yield from describe_checkpoint(conversion.plan, conversion.checkpoint, gemma, conversion.variant)
    _check_plan(conversion.plan)


def convert(conversion: Conversion, out: Path, verify: bool = False) -> ModelDir:
    """Writes the model directory, or continues one that was cut; messages and progress go to stderr.

    Args:
        conversion: From `prepare`.
        out: New, empty, unfinished, or finished from the same sources and options.
        verify: Hashes and loads everything again at the end.

    Raises:
        UserError: mismatches (all at once), no variant or text encoder, damaged weights, a directory that holds
            something else, a full or unwritable disk. The files written so far stay, and the next run continues.
    """
    _check_plan(conversion.plan)
    text, variant = conversion.text, conversion.variant
    if text is None:
        raise missing_gemma()
    if variant is None:
        raise UserError(
            f"The name of {conversion.source.label} does not tell whether the checkpoint is dev or distilled.",
            "Add {field:variant=dev} or {field:variant=distilled}.",
        )
    with write_errors(out, CONTINUES), closing(Journal.open(out)) as journal:
        hashes = _hash_sources(journal, {"checkpoint": conversion.source.paths, "text_encoder": text.source.paths})
        fingerprint = _fingerprint(conversion, hashes, copies(text))
        if _is_done(out, fingerprint):
            _say(f"{out} is converted already.")
        else:
            _write(conversion, text, variant, out, journal, fingerprint, hashes)
        journal.remove()
    model = ModelDir.open(out)
    if verify:
        verify_model(model)
    return model


def _write(
    conversion: Conversion,
    text: TextSource,
    variant: str,
    out: Path,
    journal: Journal,
    fingerprint: str,
    hashes: Hashes,
) -> None:
    plan, copied = conversion.plan, copies(text)
    name, source, checkpoint = out.resolve().name, conversion.source, conversion.checkpoint
    written = texts(name, source, checkpoint, text, variant, conversion.quantization, plan, hashes)
    if journal.fingerprint != fingerprint:
        if journal.fingerprint:
            _say(f"The sources or options changed since the unfinished run in {out}: starting over.")
        journal.restart(fingerprint, [*(shard.file for shard in plan.shards), *written, *copied])
    records = _write_shards(plan, out, journal)
    _check_unchanged(conversion, text, journal)
    for name, path in copied.items():
        write_bytes(out / name, read_bytes(path, _LARGEST_COPY))
    for name, content in written.items():
        write_text(out / name, content)
    records.update({name: sha256(out / name) for name in [*copied, *written]})
    write_manifest(out, records, fingerprint)


def _write_shards(plan: ConversionPlan, out: Path, journal: Journal) -> dict[str, FileRecord]:
    """Writes the weight files that an earlier run did not finish."""
    left = [shard for shard in plan.shards if not journal.finished(shard.file)]
    if len(left) < len(plan.shards):
        _say(f"Continuing: {len(plan.shards) - len(left)} of {len(plan.shards)} files are done.")
    todo = sum(entry.nbytes for shard in left for entry in shard.entries)
    free = shutil.disk_usage(out).free
    if free < todo + _MARGIN:
        raise UserError(
            f"{out} needs {readable(todo + _MARGIN)} more, and its disk has {readable(free)} free.",
            "Free some space, or name a directory on another disk with -o.",
        )
    with _bar("converting", todo) as bar:
        for shard in left:
            journal.files[shard.file] = write_shard(out, shard, bar.update)
            journal.save()
    return {shard.file: journal.files[shard.file] for shard in plan.shards}


def _hash_sources(journal: Journal, roles: dict[str, list[Path]]) -> Hashes:
    """Hashes every source file, but for those that an earlier run hashed and that are unchanged since."""
    known: Hashes = {role: {} for role in roles}
    for role, paths in roles.items():
        for path in paths:
            entry = journal.sources.get(f"{role}/{path.name}")
            if entry and entry.holds(path):
                known[role][path.name] = FileRecord(entry.size, entry.sha256)
    unknown = [(role, path) for role, paths in roles.items() for path in paths if path.name not in known[role]]
    with _bar("hashing", sum(_size(path) for _, path in unknown)) as bar:
        for role, path in unknown:
            before = SourceRecord.of(path, "")
            record = sha256(path, bar.update)
            journal.sources[f"{role}/{path.name}"] = replace(before, sha256=record.sha256)
            journal.save()
            known[role][path.name] = record
    return known


def _size(path: Path) -> int:
    with read_errors(path):
        return path.stat().st_size


def _check_unchanged(conversion: Conversion, text: TextSource, journal: Journal) -> None:
    """Raises a UserError where a source is not the file any more that was hashed, for then other bytes were written."""
    for role, source in (("checkpoint", conversion.source), ("text_encoder", text.source)):
        for path in source.paths:
            if not journal.sources[f"{role}/{path.name}"].holds(path):
                journal.restart("", ())
                raise UserError(f"{path} changed while it was converted.", "Run the same command again.")


def _fingerprint(conversion: Conversion, hashes: Hashes, copied: dict[str, Path]) -> str:
    """Changes with the sources' content, the options, and the layout of the outputs."""
    sources = {role: {name: asdict(record) for name, record in files.items()} for role, files in hashes.items()}
    config = conversion.checkpoint.config
    digest = hashlib.sha256(json_text([sources, conversion.variant, config]).encode())
    for shard in conversion.plan.shards:
        digest.update(shard.file.encode() + header_bytes(shard))
    for name, path in copied.items():
        digest.update(name.encode() + read_bytes(path, _LARGEST_COPY))
    return digest.hexdigest()


def _check_plan(plan: ConversionPlan) -> None:
    if plan.faults:
        raise UserError(
            f"{plan.placed} of {plan.total} tensors have a place, and this does not fit: "
            f"{'; '.join(some(plan.faults, 20))}.",
            "Use an unchanged LTX-2.3 checkpoint with its own config, and the Gemma-3 that belongs to it.",
        )


def _is_done(out: Path, fingerprint: str) -> bool:
    """Whether `out` is this very model already; one that lost files is written again.

    Raises:
        UserError: it is another model.
    """
    if not (out / MANIFEST).exists():
        return False
    files, made_from = read_manifest(out)
    if made_from != fingerprint:
        raise UserError(
            f"{out} holds a model that was made from other files or with other options.",
            "Name a new directory with -o, or delete that one first.",
        )
    try:
        check_sizes(out, files)
    except UserError as error:
        _say(f"{error.message} Writing it again.")
        (out / MANIFEST).unlink()
        return False
    return True


def _bar(label: str, total: int) -> tqdm[Any]:
    return tqdm(total=total, desc=label, unit="B", unit_scale=True, file=sys.stderr, disable=None)


def _say(line: str) -> None:
    print(line, file=sys.stderr)
