"""What a campaign damages: of each kind, files that are sound, how one is spoilt, and the commands that read it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from mlx_ltxw.media.audio import read_audio
from scripts.campaign.made import FRAMES, PROMPT, SMALL, Made, command
from scripts.campaign.mutate import Damage, damaged_bytes, damaged_json, damaged_safetensors, damaged_text

Command = list[object]

_SIZES = ["width=64", "height=64", f"frames={FRAMES}", "steps=2", "rank=2", "preview_steps=1", "preview_every=0",
          "checkpoint_every=1", f"preview_prompts={PROMPT!r}"]  # fmt: skip
SETS = [word for text in _SIZES for word in ("--set", text)]
MEDIA = {
    "a.wav": [], "a.mp3": ["-b:a", "64k"], "a.flac": [], "a.ogg": ["-c:a", "libopus"], "a.aiff": [],
    "a.mp4": ["-c:v", "libx264", "-g", "12", "-c:a", "aac"], "a.mov": ["-c:v", "mjpeg", "-c:a", "pcm_s16le"],
    "a.mkv": ["-c:v", "libx264", "-c:a", "libopus"], "a.webm": ["-c:v", "libvpx", "-c:a", "libvorbis"],
    "a.avi": ["-c:v", "mpeg4", "-c:a", "mp3"], "a.ts": ["-c:v", "libx264", "-c:a", "aac"],
    "a.mpg": ["-c:v", "mpeg2video", "-c:a", "mp2"], "a.flv": ["-c:v", "flv1", "-c:a", "mp3"],
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        name: For the table.
        damage: Puts a damaged input into an empty folder.
        commands: That read it.
        silence: What a run that ended well left unsaid, by its folder, command and output; None for nothing.
    """

    name: str
    damage: Callable[[Path, Random], None]
    commands: Callable[[Path], list[Command]]
    silence: Callable[[Path, Command, str], str | None]


def _spoiling(source: Path, names: list[str], damage: Damage, seal: bool = False) -> Callable[[Path, Random], None]:
    """Copies a folder, one of these files damaged; `seal` makes a model's manifest agree with it."""

    def spoil(work: Path, dice: Random) -> None:
        shutil.copytree(source, work / source.name, symlinks=True)
        path = work / source.name / dice.choice(names)
        path.write_bytes(damage(path.read_bytes(), dice))
        if seal and dice.random() < 0.9:
            _seal(work / source.name, path)

    return spoil


def _seal(model: Path, path: Path) -> None:
    manifest = json.loads((model / "manifest.json").read_text())
    data = path.read_bytes()
    record = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest["files"][path.relative_to(model).as_posix()] = record
    (model / "manifest.json").write_text(json.dumps(manifest))


def _nothing(work: Path, arguments: Command, output: str) -> str | None:
    return None


def written(work: Path, arguments: Command, output: str) -> str | None:
    """Whether a command that ended well wrote its file."""
    if "-o" not in arguments:
        return None if output.strip() else "says nothing"
    path = Path(str(arguments[arguments.index("-o") + 1]))
    return None if path.exists() else f"ends well and writes no {path.name}"


def _generate(made: Made, out: Path, *more: object) -> Command:
    return ["generate", PROMPT, "-m", made.model, "-o", out, *SMALL, "--audio-only", *more]


def adapters(made: Made, folder: Path) -> Iterator[Kind]:
    plain, peft = folder / "adapters", folder / "peft"
    plain.mkdir()
    peft.mkdir()
    from safetensors.numpy import save_file

    config = json.loads((made.model / "config.json").read_text())["config"]["transformer"]
    width = config["audio_num_attention_heads"] * config["audio_attention_head_dim"]
    random = np.random.default_rng(0)
    modules = [f"transformer_blocks.{i}.audio_attn1.{p}" for i in range(2) for p in ("to_q", "to_v")]
    pairs = {m: (random.normal(size=(2, width)), random.normal(size=(width, 2))) for m in modules}

    def save(path: Path, prefix: str, a: str, b: str, metadata: dict[str, str] | None, alpha: bool = False) -> None:
        tensors: dict[str, Any] = {}
        for module, (down, up) in pairs.items():
            name = f"{prefix}{module.replace('.', '_') if prefix.startswith('lora_') else module}"
            tensors |= {f"{name}.{a}": down.astype("f"), f"{name}.{b}": up.astype("f")}
            tensors |= {f"{name}.alpha": np.array(2.0, "f")} if alpha else {}
        save_file(tensors, path, metadata)

    fields: dict[str, Any] = {"r": 2, "lora_alpha": 4, "target_modules": ["to_q", "to_v"]}
    table = json.dumps({f"transformer.{name}": value for name, value in fields.items()})
    ends = "lora_A.weight", "lora_B.weight"
    save(plain / "comfy.safetensors", "diffusion_model.", *ends, {"rank": "2", "alpha": "4"})
    save(plain / "kohya.safetensors", "lora_unet_", "lora_down.weight", "lora_up.weight", {"ss_network_dim": "2"}, True)
    save(plain / "diffusers.safetensors", "transformer.", *ends, {"lora_adapter_metadata": table})
    save(peft / "adapter_model.safetensors", "base_model.model.", *ends, {"format": "pt"})
    fields |= {"peft_type": "LORA", "use_dora": False, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {},
               "init_lora_weights": True, "bias": "none", "modules_to_save": None, "lora_dropout": 0.0,
               "base_model_name_or_path": "x"}  # fmt: skip
    (peft / "adapter_config.json").write_text(json.dumps(fields))
    without = folder / "without.wav"
    subprocess.run(command(*_generate(made, without)), check=True, stderr=subprocess.DEVNULL)
    base = read_audio(without, 48000)

    def silence(work: Path, arguments: Command, output: str) -> str | None:
        if arguments[0] == "generate" and np.array_equal(read_audio(work / "out.wav", 48000), base):
            noted = "strength" in output or "changes nothing" in output
            return None if noted else "the adapter does nothing"
        return written(work, arguments, output)

    def commands(work: Path) -> list[Command]:
        file = next(path for path in (work / "peft", *work.glob("adapters/*.safetensors")) if path.exists())
        return [
            ["inspect", file], ["export", file, "--to", "comfyui", "-o", work / "to.safetensors"],
            _generate(made, work / "out.wav", "--adapter", file, "--allow-partial"),
        ]  # fmt: skip

    def one(work: Path, dice: Random) -> None:
        path = dice.choice(sorted(plain.iterdir()))
        (work / "adapters").mkdir()
        (work / "adapters" / path.name).write_bytes(damaged_safetensors(path.read_bytes(), dice))

    yield Kind("adapter", one, commands, silence)
    yield Kind("adapter_config.json", _spoiling(peft, ["adapter_config.json"], damaged_json), commands, silence)


def models(made: Made, folder: Path) -> Iterator[Kind]:
    def use(work: Path) -> list[Command]:
        model = ["-m", work / "model"]
        return [["inspect", work / "model"], ["generate", PROMPT, *model, "-o", work / "out.mp4", *SMALL]]

    names = [str(path.relative_to(made.model)) for path in sorted(made.model.rglob("*.json"))]
    indexes = [name for name in names if name.endswith("index.json")]
    rest = [name for name in names if name.startswith("text_encoder") and name not in indexes]
    shards = [str(path.relative_to(made.model)) for path in sorted(made.model.rglob("*.safetensors"))]
    yield Kind("model config", _spoiling(made.model, ["config.json"], damaged_json, True), use, written)
    yield Kind("model text encoder", _spoiling(made.model, rest, damaged_json, True), use, written)
    yield Kind("model index", _spoiling(made.model, indexes, damaged_json, True), use, written)
    yield Kind("model manifest", _spoiling(made.model, ["manifest.json"], damaged_json), use, written)
    yield Kind("model shard", _spoiling(made.model, shards, damaged_safetensors, True), use, written)

    sources = folder / "sources"
    shutil.copytree(made.gemma, sources / "gemma")
    shutil.copy(made.checkpoint, sources)
    checkpoint = made.checkpoint.name
    tables = [f"gemma/{path.name}" for path in sorted(made.gemma.glob("*.json"))]

    def convert(work: Path) -> list[Command]:
        source = work / "sources" / checkpoint
        again = ["convert", source, "--text-encoder", work / "sources" / "gemma", "-o", work / "sources" / "out"]
        return [["inspect", source], again]

    def converted(work: Path, arguments: Command, output: str) -> str | None:
        if arguments[0] != "convert":
            return written(work, arguments, output)
        return None if (work / "sources" / "out" / "manifest.json").exists() else "ends well and makes no model"

    yield Kind("checkpoint", _spoiling(sources, [checkpoint], damaged_safetensors), convert, converted)
    yield Kind("gemma", _spoiling(sources, tables, damaged_json), convert, converted)
    begun = folder / "begun"
    shutil.copytree(sources, begun / "sources")
    _begin_conversion(begun / "sources", checkpoint)
    journal = [str(path.relative_to(begun / "sources")) for path in (begun / "sources").rglob("journal.json")]
    yield Kind("journal", _spoiling(begun / "sources", journal, damaged_json), convert, converted)


def _begin_conversion(sources: Path, checkpoint: str) -> None:
    """A conversion that was cut when its first shards were there."""
    out = sources / "out"
    again = command("convert", sources / checkpoint, "--text-encoder", sources / "gemma", "-o", out)
    while not list(out.glob("*.safetensors")):
        process = subprocess.Popen(again, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while process.poll() is None and not list(out.glob("*.safetensors")):
            pass
        process.kill()
        process.wait()
    for part in out.rglob(".mlx-ltxw-*.part"):
        part.unlink()
    if not list(out.rglob("journal.json")):
        raise RuntimeError("the conversion was done before it was cut")


def made_files(made: Made, folder: Path) -> Iterator[Kind]:
    files = folder / "files"
    files.mkdir()
    making: Command = ["generate", PROMPT, "-m", made.model, "-o", files / "clip.mp4", *SMALL, "--wav"]
    subprocess.run(command(*making), check=True, stderr=subprocess.DEVNULL)
    words = re.compile(rb'\{"kind": .*\}')

    def spoil(work: Path, dice: Random) -> None:
        path = dice.choice(sorted(files.iterdir()))
        data = path.read_bytes()
        found = words.search(data)
        assert found is not None
        # of the same length, so that the container stays sound
        text = damaged_json(found[0], dice)[: len(found[0])].ljust(len(found[0]))
        (work / path.name).write_bytes(data[: found.start()] + text + data[found.end() :])

    def commands(work: Path) -> list[Command]:
        (file,) = work.glob("clip.*")
        again: Command = ["generate", "--from-metadata", file, "-m", made.model, "-o", work / "out.mp4", *SMALL]
        return [["inspect", file], again]

    yield Kind("metadata", spoil, commands, written)


def texts(made: Made, folder: Path) -> Iterator[Kind]:
    texts = folder / "texts"
    texts.mkdir()
    (texts / "script.yaml").write_text(
        "- scene: a dim room\n  speaker: woman\n  manner: whispering\n  line: close your eyes\n  seconds: 0.3\n"
        "- speaker: woman\n  manner: normal\n  line: good night\n  seed: 3\n  adapter: none\n"
    )
    (texts / "script.txt").write_text(f'# a script\n{PROMPT}\n\na dim room, (woman): "good night"\n')
    (texts / "prompt.txt").write_text(PROMPT)
    (texts / "options.yaml").write_text("\n".join(text.replace("=", ": ", 1) for text in _SIZES) + "\n")

    def script(work: Path) -> list[Command]:
        (path,) = work.glob("script.*")
        return [["generate", "--script", path, "-m", made.model, "-o", work / "out.wav", "--audio-only", *SMALL]]

    def prompt(work: Path) -> list[Command]:
        return [["generate", "--prompt-file", work / "prompt.txt", "-m", made.model, "-o", work / "out.wav",
                 "--audio-only", *SMALL]]  # fmt: skip

    def options(work: Path) -> list[Command]:
        return [["train", "--data", made.clips, "-m", made.model, "-o", work / "run", "--prepare-only", "--config",
                 work / "options.yaml"]]  # fmt: skip

    def one(name: str) -> Callable[[Path, Random], None]:
        def spoil(work: Path, dice: Random) -> None:
            path = dice.choice(sorted(texts.glob(name)))
            (work / path.name).write_bytes(damaged_text(path.read_bytes(), dice))

        return spoil

    yield Kind("script", one("script.*"), script, written)
    yield Kind("prompt file", one("prompt.txt"), prompt, written)
    yield Kind("training options", one("options.yaml"), options, _prepared)
    yield Kind("captions", _spoiling(made.clips, ["0.txt", "1.txt"], damaged_text), _prepare(made, "clips"), _prepared)
    listing = folder / "listing"
    listing.mkdir()
    lines = [
        {"file": str(made.clips / f"{number}.wav"), "caption": f'a room, (woman): "{number}"', "voice": "anna",
         "start": 0.0, "end": 1.4, "words": [{"word": "close", "start": 0.1, "end": 0.4}]}
        for number in range(3)
    ]  # fmt: skip
    (listing / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    yield Kind(
        "JSONL", _spoiling(listing, ["data.jsonl"], damaged_json), _prepare(made, "listing/data.jsonl"), _prepared
    )


def _prepare(made: Made, data: str) -> Callable[[Path], list[Command]]:
    return lambda work: [
        ["train", "--data", work / data, "-m", made.model, "-o", work / "run", "--prepare-only", *SETS]
    ]


def _prepared(work: Path, arguments: Command, output: str) -> str | None:
    listing = work / "run" / "clips.jsonl"
    if not listing.exists():
        return "ends well and lists no clips"
    count = len(listing.read_text().splitlines())
    wanted = 1 if "--audio-only" in arguments else 3
    return None if count == wanted or "warning" in output else f"{count} of {wanted} clips, and no word"


def runs(made: Made, folder: Path) -> Iterator[Kind]:
    """A training run between its first and its last step."""
    source = folder / "run"
    first: Command = ["train", "--data", made.clips, "-m", made.model, "-o", source, *SETS, "--set", "preview_every=1"]
    subprocess.run(command(*first), check=True, stderr=subprocess.DEVNULL)
    (source / "adapter.safetensors").unlink()
    shutil.rmtree(source / "checkpoints" / "step-000002")

    def resume(work: Path) -> list[Command]:
        return [["train", "-o", work / "run", "--resume"]]

    def ended(work: Path, arguments: Command, output: str) -> str | None:
        return None if (work / "run" / "adapter.safetensors").exists() else "ends well and writes no adapter"

    tables = [str(path.relative_to(source)) for path in sorted(source.rglob("*.json*"))]
    tensors = [str(path.relative_to(source)) for path in sorted(source.rglob("*.safetensors"))]
    yield Kind("run records", _spoiling(source, tables, damaged_json), resume, ended)
    yield Kind("run checkpoints", _spoiling(source, tensors, damaged_safetensors), resume, ended)


def media(made: Made, folder: Path) -> Iterator[Kind]:
    clips = folder / "media"
    clips.mkdir()
    sound: list[str | Path] = ["-i", made.clips / "0.wav"]
    for name, options in MEDIA.items():
        kinds = ["-pix_fmt", "yuvj420p" if "mjpeg" in options else "yuv420p"]
        picture = ["-f", "lavfi", "-i", "testsrc2=s=64x64:r=24:d=2.1", *kinds] if "-c:v" in options else []
        rate = ["-af", "apad=whole_dur=2.1"]
        rate += [] if "libopus" in options else ["-ar", "44100"]
        call: list[str | Path] = ["ffmpeg", "-v", "error", *sound, *picture, *rate, *options, "-t", "2.1", clips / name]
        subprocess.run(call, check=True)

    def spoil_one(name: str) -> Callable[[Path, Random], None]:
        def spoil(work: Path, dice: Random) -> None:
            (work / "data").mkdir()
            path = work / "data" / name
            path.write_bytes(damaged_bytes((clips / name).read_bytes(), dice))
            path.with_suffix(".txt").write_text('a room, (woman): "close your eyes now"')

        return spoil

    def use(name: str) -> Callable[[Path], list[Command]]:
        def commands(work: Path) -> list[Command]:
            path = work / "data" / name
            alone = ["--audio-only"] if "-c:v" not in MEDIA[name] else []
            data: Command = [
                "train",
                "--data",
                work / "data",
                "-m",
                made.model,
                "-o",
                work / "run",
                "--prepare-only",
                *SETS,
            ]
            video: Command = ["generate", PROMPT, "-m", made.model, "-o", work / "out.mp4", *SMALL, "--video", path]
            return [["measure", path], ["inspect", path], [*data, *alone], *([] if alone else [video])]

        return commands

    def silence(work: Path, arguments: Command, output: str) -> str | None:
        if arguments[0] == "train":
            return _prepared(work, [*arguments, "--audio-only"], output)
        return written(work, arguments, output)

    for name in MEDIA:
        yield Kind(name[2:], spoil_one(name), use(name), silence)
