"""The command that opens the studio: what it refuses, and in which words."""

import sys

import pytest

from tests.cli.conftest import cli  # noqa: F401


def test_without_the_extra_it_says_what_to_install(cli, monkeypatch, tmp_path):  # noqa: F811
    for name in [name for name in sys.modules if name.startswith("mlx_ltxw.studio.") or name == "nicegui"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nicegui", None)
    done = cli("studio", "--folder", tmp_path / "studio", "--no-browser")
    assert done.code == 2
    assert "The studio needs nicegui, which is not installed." in done.err
    assert "pip install 'mlx-ltxw[studio]'" in done.err


@pytest.mark.parametrize(
    ("options", "reason"),
    [(("--token", "short"), "less than 8 letters"), (("--host", "203.0.113.7"), "cannot listen on 203.0.113.7:8188"),
     (("--port", "70000"), "70000")],
)  # fmt: skip
def test_what_it_cannot_do_is_told(cli, tmp_path, options, reason):  # noqa: F811
    done = cli("studio", "--folder", tmp_path / "studio", "--no-browser", *options)
    assert done.code == 2
    assert reason in done.err
    assert "Traceback" not in done.err
