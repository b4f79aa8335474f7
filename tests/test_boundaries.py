"""Who may import whom: the referee never imports a contestant, and what must be small and trusted stays so.

import-linter reads the contract in pyproject.toml, but it does not see `harness/scoring`, which has no `__init__.py`
(in a sandbox it is a namespace with the wire module alone). So the same is asked once more of the syntax trees."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from support import TESTS

REPOSITORY = TESTS.parent
STANDARD = set(sys.stdlib_module_names) | {"__future__"}


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(package: str) -> dict[str, Path]:
    """Every module of `package`, also in folders without __init__.py."""
    return {module_name(path): path for path in (REPOSITORY / package).rglob("*.py") if "__pycache__" not in path.parts}


OURS = {**sources("harness"), **sources("submission")}


def imports(path: Path) -> set[str]:
    """All modules that the file imports, anywhere in it, as absolute names; of ours the module, not the package."""
    found = set()
    package = module_name(path).split(".") if path.name == "__init__.py" else module_name(path).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in OURS else base)
    return found


def reachable(module: str) -> set[str]:
    """Everything that importing `module` imports: of ours transitively, packages' __init__ included."""
    seen, pending = set(), [module]
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in OURS:
            pending += imports(OURS[name])
            pending += [name.rpartition(".")[0]] if "." in name else []
    return seen


def top(name: str) -> str:
    return name.partition(".")[0]


@pytest.mark.parametrize("module", sorted(sources("harness")))
def test_the_harness_imports_neither_a_submission_nor_torch(module: str) -> None:
    assert {top(name) for name in imports(OURS[module])} & {"submission", "torch", "tests", "conftest"} == set()


@pytest.mark.parametrize("module", sorted(sources("submission")))
def test_a_submission_imports_of_the_harness_the_wire_alone(module: str) -> None:
    of_the_harness = {name for name in imports(OURS[module]) if top(name) == "harness"}
    assert of_the_harness <= {"harness.scoring.wire"}


# What the registry needs to remove what a dead run has left; standard library only, like the listener that imports it.
REAPER = {"harness.errors", "harness.outputs", "harness.processes", "harness.sandbox.cgroup"}


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("harness.errors", set()),
        ("harness.policy", set()),
        ("harness.clock", {"harness", "harness.errors"}),
        ("harness.scoring.windows", {"numpy"}),
        ("harness.registry", {"harness", "harness.policy", *REAPER}),
        ("harness.fanotify", {"harness", "harness.policy"}),
        ("harness.listener", {"harness", "harness.policy", "harness.registry", "harness.fanotify", *REAPER}),
        ("harness.sandbox.guard", set()),
        ("harness.scoring.wire", {"numpy"}),
        ("harness.phases", None),
    ],
)
def test_what_is_pure_or_trusted_needs_little(module: str, allowed: set[str] | None) -> None:
    found = {name for name in reachable(module) - {module, "harness", "harness.sandbox", "harness.scoring"}}
    outside = {name for name in found if top(name) not in STANDARD}
    if allowed is None:  # data about phases: no process, no kernel, no socket
        assert not found & {"subprocess", "socket", "ctypes", "harness.access", "harness.supervisor", "harness.referee"}
    else:
        assert outside <= allowed, outside - allowed


@pytest.mark.parametrize("module", ["harness.policy", "harness.clock", "harness.scoring.windows"])
def test_pure_modules_touch_neither_files_nor_processes_nor_time(module: str) -> None:
    forbidden = {"os", "sys", "pathlib", "subprocess", "socket", "ctypes", "time", "threading", "random", "io"}
    assert {top(name) for name in imports(OURS[module])} & forbidden == set()


WALL_CLOCK = {
    "time": {"time", "time_ns", "gmtime", "localtime", "ctime", "strftime", "clock_gettime", "clock_gettime_ns"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}


def wall_clock_reads(path: Path) -> list[str]:
    """Every place in the file where the time of day is asked for, or could be under another name."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else getattr(node.value, "attr", "")
            found += [f"{owner}.{node.attr}"] if node.attr in WALL_CLOCK.get(owner, ()) else []
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            found += [f"from time import {alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [f"time as {alias.asname}" for alias in node.names if alias.name == "time" and alias.asname]
    return sorted(found)


def test_the_time_of_day_is_written_down_and_nothing_else() -> None:
    """Attack C08: it can be set. Durations and deadlines are monotonic; these are the stamps of ledger and record."""
    found = {module: wall_clock_reads(path) for module, path in sources("harness").items()}
    assert {module: reads for module, reads in found.items() if reads} == {
        "harness.evidence.ledger": ["datetime.now"],  # "utc" of a line
        "harness.referee": ["datetime.now", "datetime.now"],  # started_utc and the run's name, finished_utc
    }


@pytest.mark.parametrize(
    "code",
    [
        "import time\ntime.time()",
        "from time import time",
        "import time as t",
        "import datetime\ndatetime.datetime.now()",
    ],
)
def test_reading_the_time_of_day_is_recognised(code: str, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(code)
    assert wall_clock_reads(tmp_path / "module.py")


def test_a_listener_starts_without_anything_heavy() -> None:
    """It answers for the whole machine, so it is up in milliseconds and holds as little code as can be."""
    code = "import sys, harness.listener; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    before = subprocess.run(
        [sys.executable, "-c", code.replace(", harness.listener", "")], capture_output=True, text=True
    )
    new = set(loaded.stdout.split()) - set(before.stdout.split())
    assert new - STANDARD == {"harness"}


def test_the_guard_runs_without_the_harness() -> None:
    """`-I -S`: no site-packages, no current directory, no environment."""
    guard = REPOSITORY / "harness" / "sandbox" / "guard.py"
    code = f"import sys, runpy; runpy.run_path({str(guard)!r}); print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], cwd="/", capture_output=True, text=True, check=True
    )
    assert {top(name) for name in loaded.stdout.split()} - STANDARD - {"__main__", "sitecustomize"} == set()


def test_the_command_starts_without_what_only_some_runs_need() -> None:
    code = "import sys, harness.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert {"torch", "scipy", "submission"} & {top(name) for name in loaded.stdout.split()} == set()


def test_the_contract_in_pyproject_is_kept() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    ended = subprocess.run([program, "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "0 broken" in ended.stdout
