"""Models by name: the Hub is asked for what is no folder here."""

import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.hub import Repo
from mlx_ltxw.takes import models
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from tests.weights.split import split_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(monkeypatch):
    """A Hub whose only repo is the built-in model."""
    files = tuple(path.relative_to(BUILTIN_MODEL).as_posix() for path in BUILTIN_MODEL.rglob("*") if path.is_file())
    asked = []

    def open_repo(name, revision=""):
        asked.append((name, revision))
        return Repo(name, COMMIT, files if name == "owner/model" else ("README.md",), False)

    monkeypatch.setattr(models, "open_repo", open_repo)
    monkeypatch.setattr(Repo, "download", lambda self, file: BUILTIN_MODEL / file)
    monkeypatch.setattr(Repo, "fetch", lambda self, files, folder=None: BUILTIN_MODEL)
    return asked


def test_a_repository_is_opened_at_a_revision(hub):
    model = models.open_model("owner/model@v1")
    assert model.path == BUILTIN_MODEL
    assert model.identity["name"] == f"owner/model@{COMMIT}"
    assert hub == [("owner/model", "v1")]
    with pytest.raises(UserError, match=f"owner/other@{COMMIT} holds no model"):
        models.open_model("owner/other")


def test_a_folder_comes_first(hub, tmp_path, monkeypatch):
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "model").symlink_to(BUILTIN_MODEL)
    monkeypatch.chdir(tmp_path)
    models.open_model("owner/model")
    assert models.open_model().path == BUILTIN_MODEL
    with pytest.raises(UserError, match="no model directory"):
        models.open_model("nowhere")
    assert hub == []


@pytest.mark.parametrize("download", [False, True])
def test_the_usual_text_encoder_is_fetched_where_it_is_missing(hub, tmp_path, monkeypatch, download):
    monkeypatch.setattr(models, "text_encoder_files", lambda repo: [])
    monkeypatch.setattr(models, "cached", lambda repo, patterns: tmp_path)
    assert models.find_text_encoder(None, download) == tmp_path
    assert hub == []
    monkeypatch.setattr(models, "cached", lambda repo, patterns: None)
    found = models.find_text_encoder(None, download)
    assert (found, hub) == ((BUILTIN_MODEL, [(models.GEMMA, "")]) if download else (None, []))


def test_a_model_that_is_here_fetches_nothing(hub, made_checkpoint, tmp_path, monkeypatch):
    """Of the split layout without its text encoder: which that is, is known, and only used if it is here too."""
    folder = split_model(made_checkpoint, tmp_path / "split")
    monkeypatch.setattr(models, "text_encoder_files", lambda repo: [])
    for name in (folder, folder / "transformer-dev.safetensors"):
        monkeypatch.setattr(models, "cached", lambda repo, patterns: None)
        assert models.open_model(name).gemma is None
        monkeypatch.setattr(models, "cached", lambda repo, patterns: tmp_path)
        assert models.open_model(name).gemma == tmp_path
    assert hub == []


def test_a_text_encoder_is_a_folder_or_fetched(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "text_encoder_files", lambda repo: [])
    assert models.find_text_encoder(str(tmp_path), download=False) == tmp_path
    with pytest.raises(UserError, match="no text encoder directory"):
        models.find_text_encoder(str(tmp_path / "nowhere"), download=True)
    assert hub == []
    assert models.find_text_encoder("owner/text@v2", download=False) == BUILTIN_MODEL
    assert hub == [("owner/text", "v2")]
