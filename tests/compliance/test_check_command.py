"""`harness check` from outside: exit codes, formats, files, and what runs it in CI."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support import TESTS

from harness import cli
from harness.compliance import check
from harness.compliance.catalogue import CHECKS
from harness.compliance.findings import Finding, Place, Status

REPOSITORY = TESTS.parent
CODES = {"CLEAN": 0, "FLAG": 1, "HOLD": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with three scripts, each named for what becomes of it."""
    for name in CODES:
        (tmp_path / "all" / name).mkdir(parents=True)
        (tmp_path / "all" / name / "train_gpt.py").write_text(f"verdict = '{name}'\n")
    return tmp_path / "all"


@pytest.fixture
def command(monkeypatch, capsys):
    """The command in this process, with a check of code that does what the code says. Returns (exit code, stdout,
    stderr)."""

    def check_code(sources, run, *_):
        verdict = Status(re.search("CLEAN|FLAG|HOLD", run.entry.text)[0])
        return (
            [] if verdict is Status.CLEAN else [Finding("slot", verdict, "as it says", (Place(run.entry, 1, 1, "x"),))]
        )

    monkeypatch.setattr(check, "check_code", check_code)
    monkeypatch.setattr(check, "check_record_folder", lambda target, sources: [])

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["harness", "check", *map(str, arguments)])
        monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


@pytest.mark.parametrize("verdict", CODES)
def test_the_exit_code_is_the_verdict(command, folder, verdict: str) -> None:
    code, said, complaint = command(folder / verdict)
    assert (code, complaint) == (CODES[verdict], "")
    assert said.startswith(verdict)


def test_the_worst_target_decides(command, folder) -> None:
    assert command(folder)[0] == CODES["FLAG"]
    assert command(folder / "CLEAN", folder / "HOLD")[0] == CODES["HOLD"]


@pytest.mark.parametrize("form", ["text", "json", "sarif", "markdown"])
def test_each_format_goes_to_stdout_or_to_a_file(command, folder, tmp_path, form: str) -> None:
    code, said, _ = command(folder, "--format", form)
    path = tmp_path / "report"
    assert command(folder, "--format", form, "--output", path)[:2] == (
        code,
        "CLEAN  " + f"{folder}/CLEAN\nFLAG   {folder}/FLAG: slot\nHOLD   {folder}/HOLD: slot\n",
    )
    assert path.read_text() == said
    if form == "json":
        assert json.loads(said)["status"] == "FLAG"
    elif form == "sarif":
        assert [result["level"] for result in json.loads(said)["runs"][0]["results"]] == ["error", "warning"]
    else:
        assert "as it says" in said and "verdict = 'FLAG'" in said


def test_explain_says_what_a_check_is_about(command) -> None:
    for name, check_ in CHECKS.items():
        code, said, _ = command("--explain", name)
        assert code == 0 and check_.title in said and check_.rule in said.replace("\n", " ")
    code, said, complaint = command("--explain", "nonsense")
    assert (code, said) == (64, "") and "nonsense" in complaint and "slot" in complaint


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        ([], 64, "PATH"),
        (["x", "--format", "xml"], 64, "xml"),
        (["/nothing/here"], 65, "/nothing/here"),
        ([TESTS, "--base", "no-such-revision"], 65, "no-such-revision"),
        ([REPOSITORY / "submission", "--output", "/nothing/here"], 65, "/nothing/here"),
    ],
)
def test_bad_options_and_paths_are_no_verdict(command, monkeypatch, arguments, code: int, named: str) -> None:
    monkeypatch.setattr(check, "check_code", lambda *_: [])
    found, _, complaint = command(*arguments)
    assert found == code
    assert named in complaint and complaint.count("\n") == 1


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True)


def test_with_a_base_only_what_differs_is_checked(command, folder, monkeypatch) -> None:
    monkeypatch.chdir(folder.parent)
    git(Path("."), "init", "-q", "-b", "main")
    git(Path("."), "add", ".")
    git(Path("."), "commit", "-q", "-m", "first")
    assert command(".", "--base", "main") == (0, "CLEAN  0 targets\n", "")
    git(Path("."), "checkout", "-q", "-b", "change")
    Path("all/HOLD/train_gpt.py").write_text("verdict = 'HOLD'  # changed\n")
    git(Path("."), "commit", "-q", "-a", "-m", "second")
    code, said, _ = command(".", "--base", "main", "--format", "sarif")
    (result,) = json.loads(said)["runs"][0]["results"]
    location = result["locations"][0]["physicalLocation"]["artifactLocation"]
    assert (code, location["uri"]) == (CODES["HOLD"], "all/HOLD/train_gpt.py")


# --- what runs it elsewhere


@pytest.fixture
def action(tmp_path):
    """scripts/action with this Python in place of a new virtual environment, and a command that ends as it is told."""
    python = tmp_path / "runner" / "harness-check" / "bin" / "python"
    python.parent.mkdir(parents=True)
    calls = tmp_path / "calls"
    python.write_text(
        f'#!/bin/sh\nfor word; do printf "%s|" "$word"; done >>{calls}\necho >>{calls}\nexit "$ENDS_WITH"\n'
    )
    python.chmod(0o755)

    def run(ends_with: int = 0, **inputs: str) -> tuple[int, str, list[list[str]]]:
        calls.write_text("")
        output = tmp_path / "output"
        output.write_text("")
        variables = {
            "PATHS": ".",
            "BASE": "",
            "FAIL_ON": "hold",
            "SARIF_FILE": "out.sarif",
            "RUNNER_TEMP": str(tmp_path / "runner"),
            "GITHUB_OUTPUT": str(output),
            "GITHUB_STEP_SUMMARY": "summary.md",
            "ENDS_WITH": str(ends_with),
            "PATH": os.environ["PATH"],
            **inputs,
        }
        ended = subprocess.run([REPOSITORY / "scripts" / "action"], env=variables, cwd=tmp_path, capture_output=True)
        return ended.returncode, output.read_text(), [line.split("|")[:-1] for line in calls.read_text().splitlines()]

    return run


@pytest.mark.parametrize(
    ("ends_with", "fail_on", "code", "verdict"),
    [
        (0, "hold", 0, "CLEAN"),
        (1, "hold", 1, "FLAG"),
        (2, "hold", 2, "HOLD"),
        (1, "flag", 1, "FLAG"),
        (2, "flag", 0, "HOLD"),
        (3, "flag", 3, None),
        (65, "hold", 65, None),
    ],
)
def test_the_action_ends_as_the_check_did(action, ends_with: int, fail_on: str, code: int, verdict: str | None) -> None:
    found, output, calls = action(ends_with, FAIL_ON=fail_on)
    assert found == code
    assert output == (f"verdict={verdict}\n" if verdict else "")
    assert len(calls) == (2 if verdict else 1)


def test_the_action_passes_its_inputs_as_words(action) -> None:
    code, _, calls = action(PATHS="a b\n$(touch owned)\n--format\n", BASE="main; touch owned", SARIF_FILE="x y")
    checked = ["--base", "main; touch owned", "--", "a b", "$(touch owned)", "--format"]
    start = ["-P", "-m", "harness.cli", "check", "--format"]
    assert calls == [
        [*start, "sarif", "--output", "x y", *checked],
        [*start, "markdown", "--output", "summary.md", *checked],
    ]
    assert code == 0
    assert action(FAIL_ON="never")[::2] == (64, [])


def test_the_action_runs_its_script_with_all_inputs() -> None:
    text = (REPOSITORY / "action.yml").read_text()
    declared = set(re.findall(r"^  ([a-z-]+):$", text.partition("outputs:")[0].partition("inputs:")[2], re.MULTILINE))
    assert declared == {"paths", "base", "fail-on", "sarif-file", "python-version"}
    assert declared == set(re.findall(r"\$\{\{ inputs\.([a-z-]+) \}\}", text))
    script = (REPOSITORY / "scripts" / "action").read_text()
    variables = re.findall(r"^        ([A-Z_]+): \$\{\{ inputs", text, re.MULTILINE)
    assert variables and all(f"${name}" in script for name in variables)
    assert re.findall(r"run: (.*)", text) == ["${{ github.action_path }}/scripts/action"]
    assert os.access(REPOSITORY / "scripts" / "action", os.X_OK)
    example = (REPOSITORY / "docs" / "examples" / "check-workflow.yml").read_text()
    used = set(re.findall(r"^          ([a-z-]+):", example, re.MULTILINE))
    assert used <= declared | {"fetch-depth", "persist-credentials", "sarif_file", "category"}


def test_the_hook_is_a_command_that_exists(command, folder, monkeypatch) -> None:
    text = (REPOSITORY / ".pre-commit-hooks.yaml").read_text()
    words = re.search(r"^  entry: (.*)$", text, re.MULTILINE)[1].split()
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    assert words[0] in scripts and words[1] == "check"
    monkeypatch.chdir(folder)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    assert command(*words[2:])[:2] == (0, "CLEAN  0 targets\n")
    (folder / "FLAG" / "train_gpt.py").write_text("verdict = 'FLAG'  # staged\n")
    assert command(*words[2:])[0] == CODES["FLAG"]


def test_the_pins_of_the_action_are_those_of_the_lock() -> None:
    """The sed expression of scripts/action finds every package of the lock, without its hashes."""
    script = (REPOSITORY / "scripts" / "action").read_text()
    expression = re.search(r"sed -n '([^']+)'", script)[1]
    lock = REPOSITORY / "requirements" / "default.lock"
    found = subprocess.run(["sed", "-n", expression, lock], capture_output=True, text=True, check=True).stdout
    assert len(found.splitlines()) == len(re.findall(r"^[a-z][^ ]*==", lock.read_text(), re.MULTILINE)) > 30
    assert "--hash" not in found and "\\" not in found and re.search(r"^rich==[\d.]+$", found, re.MULTILINE)
