"""Every way to end has its own exit code and one clear line; options are part of the interface and do not drift."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import typer
from support import TESTS, give_val_to_train
from typer.main import get_command

from harness import cli
from harness.doctor import Check, Cost
from harness.errors import ExitCode, InputError, RefereeError
from harness.evidence.record import Record, Verdict
from harness.machine import survey
from harness.sandbox.cgroup import CONTROLLERS

REPOSITORY = TESTS.parent
MINIMAL = TESTS / "honest" / "minimal"
PATIENCE = 60.0
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def harness(*arguments: str | Path, **options) -> subprocess.CompletedProcess:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "harness.cli", *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        **options,
    )


@pytest.fixture
def command(monkeypatch, capsys, machine):
    """The command in this process, for what ends before a run begins. Returns (exit code, stdout, stderr)."""

    def run(*arguments: str | Path, found: list[Check] = machine) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["harness", *map(str, arguments)])
        monkeypatch.setattr(
            cli.checks, "inspect", lambda out=None, backend=None, attack=False, machine=None: list(found)
        )
        monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def options(data_path: Path | str, out_path: Path | str, **changes: Path | str) -> list[str]:
    """`harness record` with good values but for `changes`."""
    values = {"rules": TESTS / "toy.toml", "submission": MINIMAL, "data": data_path, "out": out_path, **changes}
    return ["record", *(str(part) for name, value in values.items() for part in (f"--{name}", value))]


# --- the option surface


def test_the_commands_and_their_options_are_these() -> None:
    """A new option is a new promise: change this list when you make one, and CHANGELOG with it."""

    def surface(group, prefix: str = "") -> dict[str, list[str]]:
        found = {}
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                found.update(surface(command, f"{prefix}{name} "))
            else:
                found[prefix + name] = [
                    flag + ("" if parameter.required else f"={parameter.default}")
                    for parameter in command.params
                    for flag in parameter.opts
                ]
        return found

    found = surface(get_command(cli.app))
    back_end = ["--sandbox=auto", "--image=parameter-golf:cpu"]
    run = ["--seeds=", *back_end, "--out=runs"]
    published = ["--variant=sp1024", "--train-shards=80"]
    expected = {
        "record": ["--rules", "--submission", "--data", *run],
        "demo": ["--submission=submission", "--data=data/demo", *run],
        "check": ["paths=None", "--base=", "--format=text", "--output=None", "--explain="],
        "doctor": ["--rules=", "--data=None", "--out=runs", "--attack=False", *back_end],
        "data demo": ["--out=data/demo"],
        "data verify": ["--data=data/demo"],
        "data fetch": [*published, "--out=None", "--repository=willdepueoai/parameter-golf"],
        "data import": ["folder", *published, "--out=None"],
    }
    assert {name: found.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["record"],
        ["demo"],
        ["check"],
        ["doctor"],
        ["data"],
        *(["data", name] for name in ("demo", "verify", "fetch", "import")),
    ],
    ids=" ".join,
)
def test_help_of_every_command(command, arguments: list[str]) -> None:
    code, said, complaint = command(*arguments, "--help")
    assert (code, complaint) == (0, "")
    assert "Usage: " in said
    for name in arguments[-1:]:
        assert name in said


def test_the_exit_codes_are_in_the_help_and_are_these(command) -> None:
    documented = {
        "PASS": 0,
        "FAIL": 1,
        "UNPROVEN": 2,
        "ERROR": 3,
        "USAGE": 64,
        "BAD_INPUT": 65,
        "ENVIRONMENT": 69,
    }
    assert {code.name: code.value for code in ExitCode} == documented
    of_check = {"CLEAN": 0, "FLAG": 1, "HOLD": 2}  # the same numbers under names of their own
    assert {name: code.value for name, code in ExitCode.__members__.items() if name not in documented} == of_check
    _, said, _ = command("--help")
    words = " ".join(said.split())
    for number in documented.values():
        assert f" {number} " in words


# --- bad usage and bad input: one line, its own code, no traceback


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nonsense"], "nonsense"),
        (["--nonsense"], "--nonsense"),
        (["record"], "--rules"),
        (["record", "--rules", "demo", "--submission", "x"], "--data"),
        (["record", "--seed", "1"], "--seed"),
        (["demo", "--seeds", "1,x"], "1,x"),
        (["demo", "extra"], "extra"),
        (["data"], ""),
        (["data", "nonsense"], "nonsense"),
        (["doctor", "--out"], "--out"),
        (["doctor", "--data", "x"], "--rules"),
        (["data", "fetch", "--train-shards", "0"], "--train-shards"),
        (["data", "import"], "folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_usage_errors(command, arguments: list[str], named: str, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(cli, "_make_demo_data", lambda directory: None)
    monkeypatch.chdir(tmp_path)
    code, _, complaint = command(*arguments)
    assert code == ExitCode.USAGE
    assert complaint.startswith("harness: ")
    assert complaint.count("\n") == 1
    assert named in complaint


@pytest.mark.parametrize(
    ("changes", "code", "named"),
    [
        ({"seeds": "1,1"}, 64, "differ"),
        ({"seeds": "-1"}, 64, "-1"),
        ({"seeds": "4294967296"}, 64, "4294967296"),
        ({"seeds": "1,,2"}, 64, "1,,2"),
        ({"seeds": "1.5"}, 64, "1.5"),
        ({"sandbox": "chroot"}, 64, "chroot"),
        ({"sandbox": "docker", "image": "no-such-image:at-all"}, 69, "ocker"),
        ({"rules": "nonsense"}, 65, "nonsense"),
        ({"rules": "/nowhere/rules.toml"}, 65, "/nowhere/rules.toml"),
        ({"rules": "{tmp}"}, 65, "no rules named"),
        ({"rules": "record"}, 69, "H100"),
        ({"data": "/nowhere"}, 65, "/nowhere"),
        ({"data": "{tmp}"}, 65, "manifest.json"),
        ({"submission": "/nowhere"}, 65, "submission.toml"),
        ({"submission": "{tmp}/empty"}, 65, "submission.toml"),
        ({"submission": str(TESTS / "toy.toml")}, 65, "submission.toml"),
        ({"rules": "demo"}, 65, "1024"),
        ({"out": "/proc/nowhere"}, 69, "--out"),  # where nothing is free
        ({"out": str(TESTS / "toy.toml")}, 65, "--out"),
    ],
    ids=str,
)
@pytest.mark.sandbox
def test_bad_values_for_record(command, toy_data, tmp_path, changes, code, named) -> None:
    (tmp_path / "empty").mkdir()
    changes = {name: value.format(tmp=tmp_path) for name, value in changes.items()}
    found, _, complaint = command(*options(toy_data, tmp_path / "runs", **changes))
    assert found == code, complaint
    assert complaint.startswith("harness: ")
    assert complaint.count("\n") == 1
    assert named in complaint
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("", ()), ("1", (1,)), ("314,42,999", (314, 42, 999)), (" 1, 2 ", (1, 2)), ("0,4294967295", (0, 4294967295))],
)
def test_seeds_are_read(text: str, seeds: tuple[int, ...]) -> None:
    assert cli.parse_seeds(text) == seeds


@pytest.mark.parametrize("text", [",", "1,", "a", "1 2", "0x10", "1;2", "1,1", "-5"])
def test_seeds_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        cli.parse_seeds(text)


def test_data_verify_tells_how_much_of_val_is_in_train(command, toy_data, tmp_path) -> None:
    data = Path(shutil.copytree(toy_data, tmp_path / "data"))
    give_val_to_train(data)
    code, said, _ = command("data", "verify", "--data", data)
    assert code == 0
    found = re.search(r"(\d+) of (\d+) val documents are in train \(100.0%\): (\d+) word for word, (\d+) by", said)
    assert len(set(found.groups())) == 1
    assert "the first at token" in said


def test_data_verify_names_the_first_wrong_file(command, toy_data, tmp_path) -> None:
    code, said, _ = command("data", "verify", "--data", toy_data)
    assert code == 0
    assert "5 files" in said
    damaged = Path(shutil.copytree(toy_data, tmp_path / "damaged"))
    with (damaged / "toy_val_000000.bin").open("r+b") as file:
        file.seek(1500)
        file.write(b"\xff")
    code, _, complaint = command("data", "verify", "--data", damaged)
    assert code == ExitCode.BAD_INPUT
    assert "toy_val_000000.bin" in complaint
    assert complaint.count("\n") == 1


# --- faults


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RefereeError("the walls fell"), 3),
        (InputError("bad [/red] input"), 65),
        (KeyboardInterrupt(), 3),
        (ZeroDivisionError("surprise"), 3),
        (OSError(28, "No space left on device"), 3),
        (MemoryError(), 3),
    ],
    ids=repr,
)
def test_no_exception_ends_with_the_exit_code_of_a_verdict(command, monkeypatch, error, code) -> None:
    """Python's own exit code for a crash is 1, which here means that a submission broke a rule."""

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(cli, "_run", fail)
    found, _, complaint = command(*options("data", "runs"))
    assert found == code
    assert str(error) in complaint or isinstance(error, KeyboardInterrupt)
    assert ("Traceback" in complaint) == isinstance(error, (ZeroDivisionError, OSError, MemoryError))


@pytest.mark.parametrize(
    ("costs", "code"),
    [([], 0), ([Cost.NO_SUBMISSION], 0), ([Cost.NO_PASS], 2), ([Cost.NO_RUN], 69), ([Cost.NO_PASS, Cost.NO_RUN], 69)],
)
def test_doctor_s_exit_code_follows_from_what_is_missing(command, costs, code) -> None:
    found = [
        Check("fine", True, "as it should be", Cost.NO_RUN),
        *(Check("bad", False, "gone", cost) for cost in costs),
    ]
    ended, said, _ = command("doctor", found=found)
    assert ended == code
    assert said.count("missing") == len(costs)
    for cost in costs:
        assert cost.value.split(",")[0] in " ".join(said.split())


@pytest.mark.parametrize(
    ("rules", "data", "code", "named"),
    [
        ("toy", True, 0, "toy: data"),
        ("toy", False, 0, "control groups"),
        ("record", False, 69, "record: GPUs"),
        ("demo", True, 69, "1024"),
    ],
)
def test_doctor_tells_what_rules_and_data_ask_for(command, monkeypatch, toy_data, tmp_path, rules, data, code, named):
    """Whatever the machine of the tests is: it has no eight H100, or this test must learn of them."""
    monkeypatch.setattr(cli, "survey", lambda: dataclasses.replace(survey(), controllers=CONTROLLERS, image=None))
    name = TESTS / "toy.toml" if rules == "toy" else rules
    arguments = ["--rules", name, *(["--data", toy_data] if data else []), "--out", tmp_path]
    ended, said, _ = command("doctor", *arguments, found=[Check("fine", True, "here", Cost.NO_RUN)])
    assert ended == code
    words = " ".join(said.split())
    for text in ("fine here", named, "memory", "disk", "kernel", "image not in a container image"):
        assert text in words
    assert (tmp_path / "runs").exists() is False
    assert list(tmp_path.iterdir()) == [], "nothing is made"


def test_hardware_that_is_missing_is_told_before_the_data_or_the_submission_is_touched(command, monkeypatch, tmp_path):
    """Not even looked at: a run on 8 GPUs is refused before it costs an hour of hashing."""

    def touched(*_, **__):
        raise AssertionError("the run was begun")

    monkeypatch.setattr("harness.referee.run_record", touched)
    monkeypatch.setattr(cli.checks, "inspect", touched)
    code, said, complaint = command(*options(tmp_path / "data", tmp_path / "runs", rules="record", submission=tmp_path))
    assert (code, said) == (ExitCode.ENVIRONMENT, "")
    assert re.fullmatch(
        r"harness: record: GPUs: 8x H100 are needed; found .*; `harness demo` runs on a CPU\n", complaint
    )
    assert list(tmp_path.iterdir()) == []


# --- for real


@needs_root
@pytest.mark.sandbox
@pytest.mark.privileged
def test_pass_ends_with_0_and_says_where_the_evidence_is(toy_data, tmp_path) -> None:
    out = tmp_path / "runs [/odd] [bold]"  # no path is markup
    ended = harness(*options(toy_data, out, seeds="7"))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    (found,) = out.glob("*/record.json")
    assert str(found) in ended.stdout
    record = Record.model_validate_json(found.read_text())
    assert [seed.seed for seed in record.seeds] == [7]
    assert record.environment["root"] is True
    assert record.environment["kernel_fanotify"] is True
    assert record.environment["disk_free_bytes"] > 0
    assert f"{record.seeds[0].val_bpb:.5f}" in ended.stdout
    assert "claimed" in ended.stdout or "train_loss" not in ended.stdout
    assert ended.stdout.rstrip().splitlines()[-2].strip() == "PASS"


@pytest.mark.sandbox
def test_fail_ends_with_1_and_names_the_rule(toy_data, tmp_path) -> None:
    submission = Path(shutil.copytree(MINIMAL, tmp_path / "submission"))
    (submission / "train.py").write_text(
        "print('[red]val_bpb: 0.1[/] \\x1b[31mPASS\\x1b[0m [/odd]'); raise SystemExit(5)"
    )
    ended = harness(*options(toy_data, tmp_path / "runs", submission=submission))
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "exit_code" in ended.stdout
    assert "\x1b" not in ended.stdout, "what the submission prints cannot steer the terminal"
    assert ended.stdout.rstrip().splitlines()[-2].strip() == "FAIL"


def interrupted(toy_data, tmp_path, number: int) -> tuple[subprocess.Popen, str, str]:
    submission = Path(shutil.copytree(MINIMAL, tmp_path / "submission"))
    (submission / "train.py").write_text("import time\nprint('started', flush=True)\ntime.sleep(3600)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", *options(toy_data, tmp_path / "runs", submission=submission)],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + PATIENCE
    while not any(b"started" in log.read_bytes() for log in (tmp_path / "runs").glob("*/seed-1/train.log")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    return process, *process.communicate(timeout=PATIENCE)


@pytest.mark.sandbox
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_with_3_and_a_record(toy_data, tmp_path, number: int) -> None:
    process, _, complaint = interrupted(toy_data, tmp_path, number)
    assert process.returncode == ExitCode.ERROR
    assert complaint.startswith("harness: interrupted")
    assert complaint.count("\n") == 1
    (found,) = (tmp_path / "runs").glob("*/record.json")
    assert Record.model_validate_json(found.read_text()).verdict is Verdict.ERROR
    assert not (found.parent / "INCOMPLETE").exists()


AS_NOBODY = """
set -e
exec 3< "$1"; shift
mount -t tmpfs -o mode=0755,size=1m tmpfs /root
mkdir -p "$1"; mount --no-canonicalize --bind /proc/self/fd/3 "$1"; shift
exec 3<&-
exec setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs "$@"
"""


@needs_root
@pytest.mark.sandbox
@pytest.mark.privileged
def test_without_root_the_verdict_is_unproven_and_ends_with_2(toy_data) -> None:
    """As uid 65534, in a mount namespace where that uid can read Python; nothing on the host is mounted or changed."""
    base = str(Path(sys.base_prefix).resolve())
    if not base.startswith("/root/"):
        prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]
    else:
        prefix = ["unshare", "--mount", "--propagation", "private", "sh", "-c", AS_NOBODY, "sh", base, base]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        place.chmod(0o777)
        data = shutil.copytree(toy_data, place / "data")
        runs = place / "runs"
        runs.mkdir()
        runs.chmod(0o777)
        arguments = [sys.executable, "-m", "harness.cli", *options(data, runs)]
        can_run = subprocess.run(
            [*prefix, sys.executable, "-c", "import harness.cli"], cwd=REPOSITORY, capture_output=True
        )
        if can_run.returncode != 0:
            pytest.skip(f"uid 65534 cannot run this Python: {can_run.stderr.decode()[-200:]}")
        ended = subprocess.run(
            [*prefix, *arguments],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env={**os.environ, "HOME": folder},
        )
        assert ended.returncode == ExitCode.UNPROVEN, ended.stdout + ended.stderr
        (found,) = runs.glob("*/record.json")
        data = json.loads(found.read_text())
        assert data["verdict"] == "UNPROVEN"
        assert {reason["kind"] for reason in data["reasons"]} == {"missing_witness"}
        assert any("not root" in reason["text"] for reason in data["reasons"])
        assert data["seeds"][0]["val_bpb"] is not None
        assert not any(phase["gate_seen"] for phase in data["seeds"][0]["phases"].values())
