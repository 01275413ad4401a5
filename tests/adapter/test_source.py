"""Finding adapters in files, folders and (a stand-in for) the Hub."""

import os
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError

from mlx_ltxw.adapter import source
from mlx_ltxw.adapter.source import locate
from mlx_ltxw.adapter.strength import parse_adapter
from mlx_ltxw.errors import UserError


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


class Response:
    status_code = 404
    headers: dict = {}  # noqa: RUF012
    request = None
    url = "x"


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub with one folder a repository, every branch at one commit; counts downloads."""
    root, asked = tmp_path / "hub", []

    def info(self, repo, revision=None):
        folder = root / repo
        if not folder.is_dir():
            raise RepositoryNotFoundError("no such repository", response=Response())
        names = [str(p.relative_to(folder)) for p in sorted(folder.rglob("*")) if p.is_file()]
        asked.append((repo, revision))
        return SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename=name) for name in names])

    def download(repo, name, revision=None, local_files_only=False):
        asked.append((repo, name, revision))
        return str(root / repo / name)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "scan_cache_dir", lambda: SimpleNamespace(repos=[]))
    monkeypatch.chdir(tmp_path)
    return root, asked


def test_files_and_folders(tmp_path):
    lone = touch(tmp_path / "one" / "lora.safetensors")
    assert locate(str(lone)).path == lone
    assert locate(str(lone)).config is None
    assert locate(str(lone.parent)).path == lone
    known = touch(tmp_path / "run" / "adapter.safetensors")
    touch(tmp_path / "run" / "checkpoints" / "step-100.safetensors")
    assert locate(str(known.parent)).path == known
    peft = touch(tmp_path / "peft" / "adapter_model.safetensors")
    config = touch(tmp_path / "peft" / "adapter_config.json")
    assert locate(str(peft.parent)).config == config
    assert locate(str(peft)).config == config


def test_a_folder_must_be_clear(tmp_path):
    touch(tmp_path / "many" / "a.safetensors")
    touch(tmp_path / "many" / "b.safetensors")
    with pytest.raises(UserError, match=r"2 \.safetensors files: a\.safetensors, b\.safetensors"):
        locate(str(tmp_path / "many"))
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"holds no \.safetensors"):
        locate(str(tmp_path / "none"))


def test_a_folder_that_is_no_adapter_s_is_not_searched_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "_MOST", 20)
    for number in range(30):
        (tmp_path / f"{number}.txt").touch()
    with pytest.raises(UserError, match="holds more than 20 files"):
        locate(str(tmp_path))


def test_folders_that_may_not_be_read_are_passed_over(tmp_path, monkeypatch):
    """As those of /proc answer once their process is gone."""
    (tmp_path / "a.safetensors").touch()
    (tmp_path / "gone").mkdir()
    scan = os.scandir

    def scandir(folder):
        if str(folder).endswith("gone"):
            raise OSError(22, "Invalid argument")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    assert locate(str(tmp_path)).path == tmp_path / "a.safetensors"


def test_built_in_names_come_first(tmp_path):
    path = touch(tmp_path / "whisper.safetensors")
    assert locate("whisper", {"whisper": path}).path == path
    with pytest.raises(UserError, match=r"no adapter 'hush'.*or whisper"):
        locate("hush", {"whisper": path})


def test_a_repository_with_one_adapter(hub):
    """Resolved to a commit first, so that what is listed and what is downloaded are the same."""
    root, asked = hub
    touch(root / "owner" / "name" / "whisper-v2.safetensors")
    touch(root / "owner" / "name" / "README.md")
    found = locate("owner/name")
    assert found.path.name == "whisper-v2.safetensors"
    assert found.name == "owner/name"
    assert found.pinned == f"owner/name@{COMMIT}"
    assert asked == [("owner/name", "main"), ("owner/name", "whisper-v2.safetensors", COMMIT)]
    assert locate(found.pinned).path == found.path
    assert asked[2] == ("owner/name", COMMIT)


def test_revision_file_and_configuration(hub):
    root, asked = hub
    touch(root / "owner" / "name" / "sub" / "a.safetensors")
    touch(root / "owner" / "name" / "sub" / "adapter_config.json")
    touch(root / "owner" / "name" / "b.safetensors")
    source, strength = parse_adapter("owner/name/sub/a.safetensors@v1.0:0.5")
    assert strength.default == 0.5
    found = locate(source)
    assert found.config.name == "adapter_config.json"
    assert found.pinned == f"owner/name/sub/a.safetensors@{COMMIT}"
    assert asked == [
        ("owner/name", "v1.0"),
        ("owner/name", "sub/a.safetensors", COMMIT),
        ("owner/name", "sub/adapter_config.json", COMMIT),
    ]
    with pytest.raises(UserError, match=r"holds 2 \.safetensors files"):
        locate("owner/name")
    with pytest.raises(UserError, match=r"no file 'c\.safetensors'"):
        locate("owner/name/c.safetensors")


def test_a_gated_repository(hub, monkeypatch):
    root, _ = hub
    touch(root / "owner" / "name" / "a.safetensors")

    def gated(*args, **kwargs):
        raise GatedRepoError("gated", response=Response())

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", gated)
    with pytest.raises(UserError, match=r"gated: .* https://huggingface\.co/owner/name .* `hf auth login`"):
        locate("owner/name")


def test_no_such_thing(hub):
    with pytest.raises(UserError, match="no file and no Hub repo owner/none"):
        locate("owner/none")
    with pytest.raises(UserError, match="There is no adapter"):
        locate("nothing.safetensors")
    with pytest.raises(UserError, match="There is no adapter"):
        locate("folder/lora.pt")


def test_offline(hub, monkeypatch):
    """Without a network an earlier download serves; without one the user hears so."""
    root, _ = hub
    cached = touch(root / "cache" / "whisper.safetensors")

    def unreachable(self, repo, revision=None):
        raise HTTPError("no route\nand more")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    with pytest.raises(UserError, match=r"not in the local cache, and the Hub cannot be reached \(no route\)"):
        locate("owner/name")
    kept = SimpleNamespace(
        commit_hash=COMMIT, refs=(), last_modified=0, snapshot_path=cached.parent,
        files=[SimpleNamespace(file_path=cached)],
    )  # fmt: skip
    repos = [SimpleNamespace(repo_id="owner/name", repo_type="model", revisions=[kept])]
    monkeypatch.setattr(huggingface_hub, "scan_cache_dir", lambda: SimpleNamespace(repos=repos))
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda repo, name, revision, local_files_only: cached.parent / name
    )
    assert locate("owner/name").path == cached
    assert locate("owner/name/whisper.safetensors").path == cached
    assert locate("owner/name").pinned == f"owner/name@{COMMIT}"
    with pytest.raises(UserError, match="has no file"):
        locate("owner/name/other.safetensors")


def test_what_is_beside_an_adapter(tmp_path):
    """The file that macOS keeps beside another on other disks is none; capitals in the ending are."""
    file = touch(tmp_path / "one" / "Lora.SAFETENSORS")
    touch(tmp_path / "one" / "._Lora.SAFETENSORS")
    assert locate(str(tmp_path / "one")).path == file


def test_a_model_is_no_adapter(hub, tmp_path):
    """In neither layout, here or on the Hub: not one of its files is named in its place."""
    root, asked = hub
    layouts = {"ours": ("manifest.json", "x.safetensors"), "theirs": ("vocoder.safetensors", "audio_vae.safetensors")}
    for repo, names in layouts.items():
        for name in names:
            touch(root / "me" / repo / name)
        for source_name in (str(root / "me" / repo), f"me/{repo}"):
            with pytest.raises(UserError, match="is a model, not an adapter") as error:
                locate(source_name)
            assert f"model={source_name}" in error.value.hint
    assert not [one for one in asked if len(one) == 3]
