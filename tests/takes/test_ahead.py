"""What a repository is, told before anything large of it is fetched."""

import json
import re
import shutil
from pathlib import Path

import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.hub import Repo
from mlx_ltxw.takes.models import needed_files, text_encoder_files
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from mlx_ltxw.weights.split_layout import STEMS
from tests.hub_server import COMMIT

SMALL = {"embedded_config.json", "split_model.json", "config.json"}


@pytest.fixture
def tree(tmp_path):
    """The small files of a model in the split layout."""
    folder = tmp_path / "tree"
    folder.mkdir()
    numbers = json.loads((BUILTIN_MODEL / "config.json").read_text())["config"]
    (folder / "embedded_config.json").write_text(json.dumps(numbers))
    (folder / "split_model.json").write_text(json.dumps({"transformer_variants": ["dev"]}))
    return folder


@pytest.fixture
def repo(tree, tmp_path, monkeypatch):
    """A repository of that tree with other small files, in a cache as the Hub's; only those may be downloaded."""

    def download(self, file):
        assert file in SMALL, f"{file} is fetched"
        path = self_folder(self.name) / file
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tree / file, path)
        return path

    def self_folder(name):
        return tmp_path / f"models--{name.replace('/', '--')}" / "snapshots" / COMMIT

    def named(name, *, files=None, split_model=None, **texts):
        for file, text in (texts | ({"split_model": split_model} if split_model else {})).items():
            path = self_folder(name) / f"{file}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(text))
        transformer = "transformer.safetensors" if split_model else "transformer-dev.safetensors"
        weights = {f"{stem}.safetensors" for stem in STEMS if stem != "transformer"}
        there = files or [*SMALL, transformer, *weights]
        return Repo(name, COMMIT, tuple(sorted(there)), offline=False)

    monkeypatch.setattr(Repo, "download", download)
    return named


NOTHING_TOLD = {"split": True}


def test_the_repositorys_name_tells_the_variant(repo):
    """Of a transformer that is called no more than that, as older conversions have it."""
    one = repo("me/ltx-2.3-distilled-mlx-q4", split_model=NOTHING_TOLD)
    assert "transformer.safetensors" in needed_files(one)


@pytest.mark.parametrize("name", ["me/ltx-2.3-mlx-q4", "me/device-model", "distilled/ltx", "me/distilled-dev"])
def test_what_nothing_tells_is_told_before_the_download(repo, name):
    """With a way out that a folder in the Hub's cache has not: it cannot be called otherwise."""
    one = repo(name, split_model=NOTHING_TOLD)
    with pytest.raises(UserError, match=f"Nothing in {name} tells whether transformer.safetensors is dev or") as told:
        needed_files(one)
    folder = re.search("-o ([^`]+)`", told.value.hint)[1]
    assert needed_files(one, folder=Path(folder))  # the hint's own words help
    with pytest.raises(UserError, match="Nothing in models tells"):
        needed_files(one, folder=Path("models"))


def test_a_config_that_lacks_a_number(repo, tree):
    """As some repositories have it: without two of the four keys about captions."""
    config = json.loads((tree / "embedded_config.json").read_text())
    del config["transformer"]["caption_proj_before_connector"]
    with pytest.raises(UserError, match="caption_proj_before_connector"):
        needed_files(repo("me/x", embedded_config=config))


def test_another_language_model(repo):
    files = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    with pytest.raises(
        UserError, match=r"^me/llama@\w+ is no text encoder for LTX-2\.3\..* 'llama', not a Gemma-3"
    ) as told:
        text_encoder_files(repo("me/llama", files=files, config={"model_type": "llama", "hidden_size": 64}))
    assert "gemma-3-12b" in told.value.hint
    gemma = json.loads((BUILTIN_MODEL / "text_encoder" / "config.json").read_text())
    assert set(text_encoder_files(repo("me/gemma", files=files, config=gemma))) == set(files)


@pytest.mark.parametrize(
    ("name", "files", "hint"),
    [
        ("Lightricks/LTX-2.3", ["ltx-2.3-22b-dev.safetensors", "ltx-2.3-22b-distilled-lora-384.safetensors"],
         "`mlx-ltxw convert Lightricks/LTX-2.3/ltx-2.3-22b-dev.safetensors -o DIR`"),
        ("me/voice", ["lora_weights.safetensors", "README.md"], "to `generate` as adapter=me/voice."),
        ("me/whisper-lora", ["whisper.safetensors"], "as adapter=me/whisper-lora."),
        ("me/LTX-2.3-Diffusers", ["model_index.json", "vae/diffusion_pytorch_model.safetensors"], "diffusers' layout"),
        ("me/LTX-2.3-GGUF", ["ltx-2.3-22b-dev-Q4_K_M.gguf"], "GGUF files are not read"),
        ("me/comfy", ["ltx23_fp8.safetensors"], "`mlx-ltxw convert me/comfy/ltx23_fp8.safetensors -o DIR`"),
        ("me/notes", ["README.md"], "name another repo"),
    ],
)  # fmt: skip
def test_what_can_be_done_with_it(name, files, hint):
    """Beside that it is no model."""
    with pytest.raises(UserError, match="holds no model that convert wrote") as told:
        needed_files(Repo(name, COMMIT, tuple(files), offline=False))
    assert hint in told.value.hint
