"""The workflows, pre-commit and the gate say the same, and name what is there."""

import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def jobs(name):
    return yaml.safe_load((ROOT / f".github/workflows/{name}.yml").read_text())["jobs"]


def commands(job):
    return [step["run"] for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_scripts_that_are_run_are_there(path):
    lines = [line for job in jobs(path.stem).values() for command in commands(job) for line in command.splitlines()]
    scripts = [found for line in lines for found in re.findall(r"^\.(?:/|ci/)\S+", line)]
    assert scripts
    assert all(os.access(ROOT / script, os.X_OK) for script in scripts)


def test_every_python_is_tried():
    offered = {c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", c)}
    gate = jobs("tests")["gate"]
    assert set(gate["strategy"]["matrix"]["python"]) == offered
    assert commands(gate) == [".ci/run"]
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    assert offered == {"3.11", "3.12", "3.13"}


def test_what_the_gate_leaves_out_runs_too():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert "-m 'not slow'" in options["addopts"]
    assert commands(jobs("tests")["slow"]) == ["./scripts/test -m slow"]
    marked = [path for path in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.slow" in path.read_text()]
    assert len(marked) > 1  # this file names the mark too


def test_metal_is_checked_and_really_used():
    mac = jobs("tests")["mac"]
    assert mac["runs-on"].startswith("macos")
    assert mac["env"]["METAL_DEVICE_WRAPPER_TYPE"] == "1"
    assert any("mx.Device(mx.gpu)" in command and "mlx-ltxw generate" in command for command in commands(mac))


def test_a_release_is_checked_before_it_is_published():
    release = jobs("release")
    assert commands(release["build"])[0] == './scripts/package --tag "$TAG"'
    assert release["publish"]["needs"] == "build"
    assert release["publish"]["permissions"] == {"id-token": "write"}
    assert "permissions" not in release["build"]


def test_pre_commit_checks_what_the_gate_checks():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = {hook["entry"] for repo in config["repos"] for hook in repo["hooks"]}
    gate = {line.removeprefix("check ") for line in (ROOT / ".ci/run").read_text().splitlines() if line[:6] == "check "}
    assert hooks == gate - {"./scripts/test"}
    assert "./scripts/test" in gate
