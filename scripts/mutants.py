"""Plants small faults in the package, one at a time, and says which of them its tests do not notice.

    pip install "cosmic-ray>=8.3"
    git worktree add ../mutants && cd ../mutants
    python -m scripts.mutants --sample 400 --seed 1 --out mutants.jsonl

cosmic-ray makes the faults; a random sample of places, spread over the modules as their sizes, gets one each. The tests
of a module are those of `TESTS`, the quickest that say what it is for. Each run is a fork of a process that has loaded
what all need, in files that are changed in place: use a checkout of its own. What survives is either a hole in the
tests or says the same in other words; look at each. With `--again FILE`, only the survivors of FILE are tried.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import json
import os
import random
import resource
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("pipeline", "adapter", "takes", "prompts")

TESTS = {
    "pipeline/adapters": "tests/pipeline/test_lock.py -k 'refused_under or strength_zero'",
    "pipeline/budget": "tests/pipeline/test_budget.py",
    "pipeline/contexts": "tests/pipeline/test_end_to_end.py -k six_guided",
    "pipeline/decode": "tests/pipeline -k 'six_guided or test_audio_alone or each_clip'",
    "pipeline/denoise": "tests/pipeline -k 'mask or six_guided or second_stage'",
    "pipeline/drift": "tests/pipeline/test_stages.py -k drift",
    "pipeline/encode": "tests/pipeline/test_end_to_end.py -k given_picture",
    "pipeline/events": "tests/pipeline/test_stages.py -k each_clip",
    "pipeline/geometry": "tests/pipeline/test_geometry.py tests/pipeline/test_request.py",
    "pipeline/given": "tests/pipeline/test_given.py tests/pipeline/test_end_to_end.py -k 'test_given or given_picture'",
    "pipeline/given_checks": "tests/pipeline/test_given.py tests/pipeline/test_request.py tests/cli/test_given.py",
    "pipeline/guidance": "tests/pipeline/test_guidance.py tests/pipeline/test_request.py",
    "pipeline/keyframes": "tests/pipeline/test_given.py",
    "pipeline/latents": "tests/pipeline -k 'mask or second_stage or given_picture'",
    "pipeline/networks": "tests/pipeline -k 'test_walk or each_clip or networks_that_stay'",
    "pipeline/numbers": "tests/takes/test_suspect.py",
    "pipeline/plan": "tests/pipeline -k 'test_request or test_walk or second_stage or each_clip'",
    "pipeline/prompt_cache": "tests/pipeline/test_prompt_cache.py",
    "pipeline/recipes": "tests/pipeline -k 'test_request or default_sizes or refused or plan_says or in_two_stages'",
    "pipeline/request": "tests/pipeline/test_request.py tests/pipeline/test_guidance.py",
    "pipeline/resolve": "tests/pipeline/test_request.py tests/pipeline/test_guidance.py",
    "pipeline/run": "tests/pipeline -k 'each_clip or second_stage or test_walk or six_guided'",
    "pipeline/samplers": "tests/pipeline -k 'second_stage or six_guided'",
    "pipeline/schedule": "tests/pipeline/test_guidance.py",
    "pipeline/spans": "tests/pipeline/test_given.py tests/takes/test_compose.py -k 'stretch or compose or token'",
    "pipeline/streams": "tests/pipeline -k 'test_takes or test_lock'",
    "pipeline/takes": "tests/pipeline/test_takes.py tests/cli/test_takes.py",
    "pipeline/transformers": "tests/pipeline -k 'one_transformer or without_the_lock or quantised or dev_in_two'",
    "pipeline/upsample": "tests/pipeline/test_two_stages.py -k distilled_in_two_stages",
    "pipeline/voices": "tests/pipeline/test_takes.py",
    "adapter/apply": "tests/adapter tests/pipeline -k 'test_apply or test_fuse or (bit and dev-in and residency0)'",
    "adapter/branches": "tests/adapter/test_apply.py tests/adapter/test_formats.py",
    "adapter/container": "tests/adapter/test_container.py -k 'not so_many'",
    "adapter/deltas": "tests/adapter/test_formats.py tests/adapter/test_describe.py tests/adapter/test_fuse.py",
    "adapter/describe": "tests/adapter/test_describe.py -k 'not huge'",
    "adapter/export": "tests/adapter/test_export.py",
    "adapter/fields": "tests/adapter/test_fields.py tests/adapter/test_formats.py tests/adapter/test_peft.py",
    "adapter/formats": "tests/adapter -k 'test_formats or test_fields or test_peft or of_zeros'",
    "adapter/fuse": "tests/adapter/test_fuse.py",
    "adapter/keys": "tests/adapter/test_names.py tests/adapter/test_formats.py tests/adapter/test_fields.py",
    "adapter/names": "tests/adapter/test_names.py tests/adapter/test_formats.py -k 'not audio_stream_is'",
    "adapter/outline": "tests/adapter/test_describe.py tests/adapter/test_fields.py",
    "adapter/parts": "tests/adapter/test_formats.py tests/adapter/test_fields.py tests/adapter/test_peft.py",
    "adapter/placing": "tests/adapter/test_apply.py tests/adapter/test_formats.py",
    "adapter/rows": "tests/adapter/test_apply.py tests/pipeline/test_takes.py",
    "adapter/scales": "tests/adapter/test_formats.py tests/adapter/test_fields.py tests/adapter/test_peft.py",
    "adapter/source": "tests/adapter/test_source.py",
    "adapter/streamed": "tests/pipeline -k 'test_streaming or without_the_lock'",
    "adapter/strength": "tests/adapter/test_strength.py",
    "takes/audition": "tests/cli/test_takes.py",
    "takes/clip": "tests/test_api.py",
    "takes/compose": "tests/takes/test_compose.py tests/cli/test_given.py",
    "takes/describe": "tests/adapter/test_describe.py tests/takes",
    "takes/events": "tests/takes/test_preview.py tests/takes/test_script.py tests/takes/test_suspect.py",
    "takes/export": "tests/cli/test_export.py",
    "takes/given": "tests/takes/test_given.py tests/cli/test_given.py",
    "takes/headroom": "tests/takes/test_headroom.py",
    "takes/make": "tests/takes tests/test_api.py",
    "takes/models": "tests/takes/test_models.py",
    "takes/output": "tests/takes/test_output.py tests/takes/test_script.py",
    "takes/preview": "tests/takes/test_preview.py",
    "takes/pull": "tests/takes/test_pull.py",
    "takes/ranking": "tests/cli/test_takes.py",
    "takes/record": "tests/takes/test_record.py",
    "takes/script": "tests/takes/test_script.py",
    "takes/sources": "tests/takes/test_record.py tests/adapter/test_source.py",
    "takes/suspect": "tests/takes/test_suspect.py",
    "takes/write": "tests/takes/test_output.py tests/takes/test_script.py tests/test_api.py",
    "prompts/intervals": "tests/prompts/test_intervals.py",
    "prompts/lines": "tests/prompts/test_lines.py",
    "prompts/manner": "tests/prompts",
    "prompts/registers": "tests/prompts/test_registers.py",
    "prompts/script": "tests/prompts/test_script.py",
    "prompts/takes": "tests/pipeline/test_takes.py tests/cli/test_takes.py -k 'prompt or cannot_be or cli'",
}
"""A module's tests; those that are missing here have their room's."""

ARITHMETIC = {"Add", "Sub", "Mul", "Div", "FloorDiv", "Mod"}
SPARED = ("RemoveDecorator", "VariableReplacer", "VariableInserter", "_Is")
"""Left out: what no program survives, or what changes nothing."""


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        module: `pipeline/plan`.
        operator: cosmic-ray's name of the change.
        occurrence: Which of its places in the file.
        line: Where, from 1.
        diff: What it does.
    """

    module: str
    operator: str
    occurrence: int
    line: int
    diff: str

    @property
    def path(self) -> Path:
        return ROOT / "mlx_ltxw" / f"{self.module}.py"


def mutated(source: str, operator: str, occurrence: int) -> str | None:
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    result: str | None = mutate_code(source, get_operator(operator)(), occurrence)
    return result


def places(source: str) -> Iterator[tuple[str, int, tuple[int, int]]]:
    """The operator, the occurrence and the (line, column) of every fault that fits a file."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    nodes = list(ast_nodes(get_ast(source)))
    for name in operator_names():
        kind, *words = name.removeprefix("core/").split("_")
        if any(spared in name for spared in SPARED) or (kind == "ReplaceBinaryOperator" and set(words) - ARITHMETIC):
            continue
        operator, occurrence = get_operator(name)(), 0
        for node in nodes:
            for start, _ in operator.mutation_positions(node):
                yield name, occurrence, start
                occurrence += 1


def code_alone(source: str) -> str | None:
    """The program without annotations, which nobody reads when it runs; None where it is no Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # the `*` of a signature taken for a product
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(0)
    return ast.dump(tree)


def sample(module: str, count: int, seed: int) -> list[Mutant]:
    """One fault at each of `count` places of a module, chosen by chance."""
    source = (ROOT / "mlx_ltxw" / f"{module}.py").read_text()
    chance = random.Random(f"{seed} {module}")
    by_place: dict[tuple[int, int], list[tuple[str, int]]] = {}
    for operator, occurrence, start in places(source):
        by_place.setdefault(start, []).append((operator, occurrence))
    chosen: list[Mutant] = []
    plain = code_alone(source)
    for start in chance.sample(sorted(by_place), len(by_place)):
        if "@dataclass(" in source.splitlines()[start[0] - 1]:  # frozen, so that a slip fails: nothing to see in a test
            continue
        operator, occurrence = chance.choice(by_place[start])
        text = mutated(source, operator, occurrence)
        if text is None or code_alone(text) in (plain, None):
            continue
        lines = difflib.unified_diff(source.splitlines(), text.splitlines(), lineterm="", n=0)
        diff = "\n".join(line for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---"))
        chosen.append(Mutant(module, operator, occurrence, start[0], diff))
        if len(chosen) == count:
            break
    return chosen


def modules() -> dict[str, int]:
    """Modules and their lines."""
    files = [path for room in ROOMS for path in sorted((ROOT / "mlx_ltxw" / room).glob("*.py"))]
    sizes = {f"{path.parent.name}/{path.stem}": len(path.read_text().splitlines()) for path in files}
    return {name: size for name, size in sizes.items() if size > 20}


class KeptFixtures:
    """Makes the fixtures that cost seconds and that no fault changes once for all runs.

    Args:
        folder: Takes the made checkpoint and the model directories.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self) -> int:
        from mlx_ltxw.convert.run import convert, prepare
        from scripts.make_checkpoint import make

        make(self.folder, "tiny")
        dev, distilled = (self.folder / f"ltx-2.3-tiny-{name}.safetensors" for name in ("dev", "distilled"))
        shutil.copy(dev, distilled)
        for source, name in ((dev, "made_model"), (distilled, "distilled")):
            convert(prepare(str(source), str(self.folder / "gemma")), self.folder / name)
        return 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Any:
        """Gives what is kept; leaves every other fixture to pytest."""
        from mlx_ltxw.weights.model_dir import ModelDir

        name = fixturedef.argname
        if fixturedef.scope != "session" or name not in ("made_dir", "made_model", "distilled"):
            return None
        value = self.folder if name == "made_dir" else ModelDir.open(self.folder / name)
        fixturedef.cached_result = (value, fixturedef.cache_key(request), None)
        return value


def in_fork(work: Callable[[], int], limit: float, log: Path) -> tuple[int, float]:
    """The exit code of work in a fork, and the seconds of CPU it took; ended after `limit` of them."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 5))
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = work()
        sys.stdout.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return os.waitstatus_to_exitcode(status), seconds


def run_tests(module: str, kept: KeptFixtures, limit: float, log: Path) -> tuple[int, float]:
    tests = shlex.split(TESTS.get(module, f"tests/{module.split('/')[0]}"))
    options = ["-q", "-x", "-p", "no:cacheprovider", "--durations=8"]
    return in_fork(lambda: int(pytest.main([*tests, *options], plugins=[kept])), limit, log)


def preload() -> None:
    """What every run needs and no fault changes; nothing is computed yet, for a fork has no other threads."""
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "CI": "1"}
    sys.path.insert(0, str(ROOT))
    import mlx_ltxw.blas  # noqa: F401

    # isort: split
    for name in (
        "mlx.nn",
        "numpy",
        "scipy.signal",
        "torch",
        "hypothesis",
        "click",
        "av",
        "safetensors.torch",
        "msgspec",
    ):
        importlib.import_module(name)


def try_one(mutant: Mutant, kept: KeptFixtures, limit: float, log: Path) -> dict[str, object]:
    source = mutant.path.read_text()
    text = mutated(source, mutant.operator, mutant.occurrence)
    assert text is not None
    try:
        mutant.path.write_text(text)
        code, seconds = run_tests(mutant.module, kept, limit, log)
    finally:
        mutant.path.write_text(source)
    outcome = {0: "survived", 1: "killed", 2: "killed"}.get(code, "timeout" if code < 0 else f"exit {code}")
    return {**asdict(mutant), "outcome": outcome, "seconds": round(seconds, 1)}


def choose(arguments: argparse.Namespace) -> list[Mutant]:
    if arguments.again:
        lines = [json.loads(line) for line in arguments.again.read_text().splitlines()]
        fields = Mutant.__dataclass_fields__
        return [Mutant(**{name: one[name] for name in fields}) for one in lines if one["outcome"] == "survived"]
    sizes = {name: size for name, size in modules().items() if name.startswith(tuple(arguments.only or ROOMS))}
    share = arguments.sample / sum(sizes.values())
    chosen = [
        each for name, size in sizes.items() for each in sample(name, max(1, round(size * share)), arguments.seed)
    ]
    random.Random(arguments.seed).shuffle(chosen)  # whenever it is stopped, what was tried is a sample too
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=400, help="faults in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="rooms or modules: pipeline, adapter/apply")
    parser.add_argument("--again", type=Path, help="the survivors of an earlier run")
    parser.add_argument("--out", type=Path, default=Path("mutants.jsonl"), help="a line for each, as it comes; goes on")
    parser.add_argument("--limit", type=float, default=120, help="seconds of CPU for a module's tests")
    arguments = parser.parse_args()
    preload()
    out, log = arguments.out, arguments.out.with_suffix(".log")
    lines = read_lines(out)
    tried = {(line["module"], line["operator"], line["occurrence"]) for line in lines}
    chosen = [each for each in choose(arguments) if (each.module, each.operator, each.occurrence) not in tried]
    with tempfile.TemporaryDirectory() as folder:
        kept = KeptFixtures(Path(folder))
        in_fork(kept.make, 600, log)
        for number, mutant in enumerate(chosen, 1):
            result = try_one(mutant, kept, arguments.limit, log)
            with out.open("a") as file:
                file.write(json.dumps(result) + "\n")
            if result["outcome"] != "killed":
                title = f"{number}/{len(chosen)} {mutant.module}:{mutant.line} {result['outcome']}"
                print(f"{title}\n{mutant.diff}", flush=True)
        lines = read_lines(out)
        check_tests(lines, kept, log)
    tell(lines)


def read_lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def check_tests(lines: list[dict[str, Any]], kept: KeptFixtures, log: Path) -> None:
    """That tests which nothing survived pass without a fault; a survivor shows it of the others."""
    passed = {line["module"] for line in lines if line["outcome"] == "survived"}
    for module in sorted({line["module"] for line in lines} - passed):
        code, _ = run_tests(module, kept, 600, log)
        if code:
            sys.exit(f"The tests of {module} fail without any fault:\n{log.read_text()[-3000:]}")


def tell(lines: list[dict[str, Any]]) -> None:
    """A table of rooms."""
    counts = Counter((line["module"].split("/")[0], line["outcome"]) for line in lines)
    for room in ROOMS:
        print(room, {outcome: count for (name, outcome), count in sorted(counts.items()) if name == room})


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"{time.monotonic() - started:.0f} s")
