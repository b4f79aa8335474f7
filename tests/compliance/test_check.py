"""A target gets everything that each step has to say about it; a step that fails, or a target that kills its process,
is a finding and no more."""

from __future__ import annotations

import ast
import dataclasses
import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.compliance import check
from harness.compliance.code import Clock
from harness.compliance.findings import Finding, Place, Source, Status
from harness.compliance.memory import forget
from harness.compliance.program import Program
from harness.compliance.unpack import Unpacked
from harness.errors import InputError

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(path: str, text: str = "print(1)\n") -> Path:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
        return tmp_path / path

    return write_file


@pytest.fixture
def steps(monkeypatch):
    """Steps that say little; a test replaces what it is about."""

    def replace(**functions) -> None:
        for name, function in functions.items():
            monkeypatch.setattr(check, name, function)

    replace(
        check_code=lambda sources, run, *_: [],
        check_record_folder=lambda target, sources: [],
    )
    return replace


def checked(*paths: Path) -> list[check.Report]:
    return check.check_all(check.find_targets(paths))


def record(write: Write, folder: str, code: str = "print(1)\n") -> Path:
    write(f"{folder}/submission.json", "{}")
    write(f"{folder}/README.md", "# Mine\n")
    return write(f"{folder}/train_gpt.py", code).parent


def trees_and_programs() -> int:
    gc.collect()
    return sum(issubclass(type(one), (ast.AST, Program)) for one in gc.get_objects())


def test_nothing_of_a_target_is_kept_after_its_report(write):
    """A tree or a value that is kept keeps the whole program, and slows down all that come after it."""
    train = "import torch\nfor i in range(9):\n    torch.nn.Linear(1, 1)(i).backward()\n"
    (target,) = check.find_targets([record(write, "a", train)])
    forget()  # what other tests have asked
    before = trees_and_programs()
    assert check.check_target(target).findings
    assert trees_and_programs() == before


def test_each_step_has_its_say(write, steps) -> None:
    seen = {}

    def unpack_target(target):
        inner = Source("train_gpt.py", "inner = 1\n", ("lzma",))
        runs = tuple(dataclasses.replace(run, entry=inner) for run in target.runs)
        return Unpacked((inner,), runs, (Finding("hidden-code", Status.HOLD, "packed"),), frozenset())

    def check_code(sources, run, *_):
        seen.update(sources=sources, entry=run.entry)
        return [Finding("slot", Status.FLAG, "shown", (Place(run.entry, 1, 1, "here"),))]

    def check_record_folder(target, sources):
        return [Finding("record-seeds", Status.HOLD, target.name)]

    steps(unpack_target=unpack_target, check_code=check_code, check_record_folder=check_record_folder)
    folder = record(write, "mine")
    (report,) = checked(folder)
    assert (report.target, report.root, report.status) == (str(folder), str(folder), Status.FLAG)
    assert [finding.check for finding in report.findings] == ["slot", "hidden-code", "record-seeds"]
    assert seen == {}, "the code was checked in this process"
    assert [source.name for source in report.sources] == ["train_gpt.py!lzma"]
    assert report.findings[0].flow[0].text == "inner = 1"


def test_code_that_was_unpacked_is_not_hidden(write, steps) -> None:
    steps(
        check_code=lambda sources, run, *_: [
            Finding("hidden-code", Status.HOLD, f"line {line}", (Place(sources[0], line, 1, "executed here"),))
            for line in (1, 2)
        ]
    )
    (report,) = checked(write("train.py", "exec('a = 1')\nexec(input())\n"))
    assert {finding.flow[-1].line for finding in report.findings if finding.check == "hidden-code"} == {2}


def test_a_script_has_no_folder(write, steps) -> None:
    steps(check_record_folder=lambda target, sources: [Finding("record-logs", Status.FLAG, "asked for a script")])
    path = write("train.py")
    (report,) = checked(path)
    assert (report.target, report.root, report.findings) == (str(path), str(path.parent), ())


def test_what_two_runs_both_say_is_said_once(write, steps) -> None:
    steps(
        check_code=lambda sources, run, *_: [
            Finding("slot", Status.FLAG, "same"),
            Finding("slot", Status.FLAG, run.entry.path),
        ]
    )
    commands = 'train = ["python", "a.py"]\nquantize = ["python", "b.py"]\neval = []'
    write("mine/submission.toml", f"[rules.record]\n{commands}\n")
    write("mine/a.py")
    folder = write("mine/b.py").parent
    (report,) = checked(folder)
    said = [finding.message for finding in report.findings if finding.check == "slot"]
    assert sorted(said) == ["a.py", "b.py", "same"]


@pytest.mark.parametrize("error", [ValueError("a bug"), RecursionError(), MemoryError(), AssertionError()])
@pytest.mark.parametrize("step", ["unpack_target", "check_code", "check_record_folder"])
def test_a_step_that_fails_is_a_finding_and_the_others_go_on(write, steps, step: str, error: BaseException) -> None:
    def fail(*_):
        raise error

    steps(check_record_folder=lambda target, sources: [Finding("record-seeds", Status.HOLD, "the folder's own")])
    steps(**{step: fail})
    (report,) = checked(record(write, "mine"))
    (failed,) = [finding for finding in report.findings if finding.check == "unreadable"]
    assert failed.status is Status.HOLD
    assert type(error).__name__ in failed.message
    assert (report.status_of("record-seeds") is Status.HOLD) == (step != "check_record_folder")


def test_a_target_that_kills_its_process_costs_no_other_its_verdict(write, steps) -> None:
    def check_code(sources, run, *_):
        if "deadly" in run.entry.text:
            os._exit(11)
        return [Finding("slot", Status.FLAG, "shown")]

    steps(check_code=check_code)
    parent = record(write, "all/a").parent
    record(write, "all/b", "deadly = 1\n")
    record(write, "all/c")
    told = []
    targets = check.find_targets([parent])
    reports = check.check_all(targets, told.append)
    assert [Path(report.target).name for report in reports] == ["a", "b", "c"]
    assert [report.status for report in reports] == [Status.FLAG, Status.HOLD, Status.FLAG]
    assert [finding.check for finding in reports[1].findings] == ["unreadable"]
    assert reports[1].sources and len(told) == 3


def test_a_target_that_takes_too_long_is_held(write, steps, monkeypatch) -> None:
    def check_code(*_):
        while True:
            pass

    steps(check_code=check_code)
    monkeypatch.setattr(check, "TARGET_SECONDS", 0.5)
    (report,) = checked(record(write, "mine"))
    assert report.status is Status.HOLD
    assert "more than 0.5 s" in report.findings[-1].message


@pytest.mark.parametrize(
    ("folder", "track", "status"),
    [
        ("track_10min_16mb/mine", "record", Status.FLAG),
        ("track_10min_16mb/non_record", "record", Status.FLAG),
        ("track_non_record_16mb/mine", "record", Status.CLEAN),
        ("mine", "non-record-16mb", Status.CLEAN),
        ("mine", "10min", Status.FLAG),
        ("track_10min_16mb/mine", "non-record-16mb", Status.HOLD),
    ],
)
def test_a_folder_without_a_limit_on_time_needs_no_cap(write, steps, folder: str, track: str, status: Status) -> None:
    steps(check_code=says_whether_the_clock_is_its_own)
    path = record(write, folder)
    (path / "submission.json").write_text(f'{{"track": "{track}"}}')
    (report,) = checked(path)
    assert report.status_of("wallclock-cap") is status


def test_the_clock_of_a_submission_is_the_referee_s(write, steps) -> None:
    steps(check_code=says_whether_the_clock_is_its_own)
    write("mine/submission.toml", '[rules.record]\ntrain = ["python", "a.py"]\nquantize = []\neval = []\n')
    (report,) = checked(write("mine/a.py").parent)
    assert report.status_of("wallclock-cap") is Status.CLEAN


def says_whether_the_clock_is_its_own(sources, run, about):
    status = {Clock.OWN: Status.FLAG, Clock.DISPUTED: Status.HOLD}.get(about.clock, Status.CLEAN)
    return [Finding("wallclock-cap", status, "asked")]


def test_a_target_named_twice_is_checked_once(write, steps) -> None:
    folder = record(write, "all/a")
    assert [target.root for target in check.find_targets([folder, folder, folder.parent])] == [folder]


def test_what_is_not_there_is_the_user_s_error(tmp_path) -> None:
    with pytest.raises(InputError, match="nothing-here"):
        check.find_targets([tmp_path / "nothing-here"])


TRAINER = """
import math
import numpy as np, torch
import torch.nn.functional as F

def shard(name):
    return torch.from_numpy(np.fromfile(name, dtype=np.uint16).astype(np.int64))

def main():
    net = torch.nn.Sequential(torch.nn.Embedding(1024, 8), torch.nn.Linear(8, 1024))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for window in shard("fineweb_train_000000.bin").split(1025):
        F.cross_entropy(net(window[:-1]), window[1:]).backward()
        optimizer.step()
    total = 0.0
    for window in shard("fineweb_val_000000.bin").split(1025):
        total += F.cross_entropy(net(window[:-1]), window[1:], reduction="sum").item()
    print("val_bpb", total / math.log(2) / 151_078_222)
"""
STORY = 'import json\nprint("training ...")\njson.dump({"seconds": 588}, open("result.json", "w"))\n'


@pytest.mark.parametrize(
    ("code", "held"),
    [
        (TRAINER + "main()\n", False),
        (TRAINER[: TRAINER.index("    total = ")] + "main()\n", False),  # another script may score
        (TRAINER.replace("optimizer.step()", "break") + "main()\n", False),  # another one has trained
        (TRAINER, True),  # main is never called
        (TRAINER + "raise SystemExit('not yet')\nmain()\n", True),
        (TRAINER.replace("main():", "main():\n    raise NotImplementedError") + "main()\n", True),
        (STORY, True),
        ("", True),
    ],
)
def test_a_folder_in_which_nothing_is_scored_is_held(write, code: str, held: bool) -> None:
    (report,) = checked(record(write, "mine", code))
    assert (report.status_of("constant-score") is Status.HOLD) == held
    (report,) = checked(write("alone/train_gpt.py", code))  # which reports no score
    assert report.status_of("constant-score") is Status.CLEAN


def test_one_run_that_scores_is_enough(write, steps) -> None:
    quiet: set[str] = set()

    def check_code(sources, run, *_):
        silent = Finding("constant-score", Status.HOLD, check.NOTHING_SCORED)
        return [silent] if run.entry.path in quiet else [Finding("slot", Status.HOLD, run.entry.path)]

    steps(check_code=check_code)
    folder = record(write, "mine", "import evaluate\n")
    write("mine/README.md", "```bash\npython train_gpt.py\npython evaluate.py\n```\n")
    write("mine/evaluate.py")
    (target,) = check.find_targets([folder])
    target = dataclasses.replace(
        target, runs=tuple(dataclasses.replace(target.runs[0], entry=source) for source in target.sources)
    )
    for names, held in ((["train_gpt.py"], False), (["train_gpt.py", "evaluate.py"], True), ([], False)):
        quiet.clear()
        quiet.update(names)
        assert (check.check_target(target).status_of("constant-score") is Status.HOLD) == held


IMPORTS = """
import importlib.util, os
STEPS = int(os.environ.get("STEPS", "10"))
PATH
spec = importlib.util.spec_from_file_location("helper", path)
helper = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helper)
helper.fetch(STEPS)
"""
HELPER = """
import subprocess

def fetch(steps):
    return steps

subprocess.run(["./thing"])

if __name__ == "__main__":
    fetch(3)
"""


@pytest.mark.parametrize(
    ("path", "followed"),
    [('path = "helper.py"', True), ('path = ""\nfor one in ("helper", ".", "py"):\n    path = path + one', False)],
    ids=["a path that can be followed", "one that cannot"],
)
def test_a_file_that_is_imported_by_its_path_is_checked_once(write, monkeypatch, path: str, followed: bool) -> None:
    """As a part of the program that imports it, where this is seen; otherwise as a program of its own."""
    folder = record(write, "one", IMPORTS.replace("PATH", path))
    write("one/README.md", "# Mine\n\n```bash\nSTEPS=20 torchrun --nproc_per_node=8 train_gpt.py\n```\n")
    write("one/helper.py", HELPER)
    entries, real = [], check.check_code
    monkeypatch.setattr(
        check, "check_code", lambda sources, run, about: entries.append(run.entry.name) or real(sources, run, about)
    )
    (target,) = check.find_targets([folder])
    found = check.check_target(target).findings
    assert entries == (["train_gpt.py"] if followed else ["train_gpt.py", "helper.py"])
    assert {one.flow[-1].source.name for one in found if one.check == "hidden-code"} == {"helper.py"}
    assert not followed or not any(one.check == "dead-claim" for one in found), "STEPS is read where it should be"


def test_what_code_that_is_not_here_reads_is_a_question(write) -> None:
    read = "import os\nprint(os.environ.get('WIDTH'))\n"
    for code, status in ((read, Status.FLAG), (read + "exec(open('/elsewhere/inner.py').read())\n", Status.HOLD)):
        folder = record(write, "mine", code)
        write("mine/README.md", "```bash\nCOOL_DOWN=7 python train_gpt.py\n```\n")
        (report,) = checked(folder)
        assert report.status_of("dead-claim") is status


def test_reports_come_in_the_order_of_their_targets_the_longest_first_looked_at(write) -> None:
    for name, lines in (("a", 1), ("b", 900), ("c", 30)):
        write(f"many/{name}.py", "x = 1\n" * lines)
    told: list[str] = []
    targets = check.find_targets([write("many/d.py", "").parent])
    reports = check.check_all(targets, lambda one: told.append(one.target))
    assert [one.target for one in reports] == [check.name_of(one) for one in targets]
    assert sorted(told) == sorted(one.target for one in reports)


def test_a_setting_of_the_shell_script_itself_is_no_claim(write) -> None:
    folder = record(write, "one")
    for last, found in (('[ "$STACK" = new ] && echo new', Status.CLEAN), ("", Status.FLAG)):
        write("one/run.sh", f"export STACK=new\n{last}\ntorchrun --nproc_per_node=8 train_gpt.py\n")
        (target,) = check.find_targets([folder])
        assert check.check_target(target).status_of("dead-claim") is found
