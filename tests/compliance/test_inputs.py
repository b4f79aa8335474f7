"""What is to be checked is read as data; what cannot be read is said file by file, and ends."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest
from support import TESTS

from harness.compliance import inputs
from harness.compliance.findings import Status
from harness.compliance.inputs import Kind, read_target, read_targets
from harness.compliance.unpack import unpack_target
from harness.errors import InputError


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_our_own_submission_has_a_run_per_phase() -> None:
    target = read_target(TESTS.parent / "submission")
    assert target.kind is Kind.SUBMISSION
    assert [run.entry.path for run in target.runs] == ["train.py", "quantize.py", "serve.py"]
    assert {run.arguments for run in target.runs} == {("--config", "record")}
    assert not target.findings


def test_a_submission_without_readable_commands_is_held(tmp_path: Path) -> None:
    for text in (
        "",
        "rules = 3",
        "[rules]",
        "[rules.record]\ntrain = 1",
        "[" * 5_000,
        "[rules.x]\ntrain = 1\nquantize = 2\neval = 3",
    ):
        target = read_target(write(tmp_path, submission__toml=text, train__py="x = 1"))
        assert target.runs == ()
        assert {finding.check for finding in target.findings} == {"unreadable"}


def test_a_record_folder_is_run_as_its_readme_says(tmp_path: Path) -> None:
    readme = "```bash\nLR=0.1 torchrun --nproc_per_node=1 train_gpt.py\n```\n"
    readme += "```bash\nLR=0.2 SEED=$S torchrun --nproc_per_node=8 x/train_gpt.py --a 1\n```"
    target = read_target(
        write(tmp_path, README__md=readme, submission__json="{}", train_gpt__py="import a", a__py="x = 1")
    )
    (run,) = target.runs
    assert (target.kind, run.entry.path, run.arguments, run.unknown) == (
        Kind.RECORD,
        "train_gpt.py",
        ("--a", "1"),
        {"SEED"},
    )
    assert run.environment == {"LR": "0.2", "WORLD_SIZE": "8"}
    assert [source.path for source in target.sources] == ["a.py", "train_gpt.py"]


def test_without_a_command_the_entry_is_the_contests_name_or_the_only_script(tmp_path: Path) -> None:
    assert read_target(write(tmp_path / "a", train_gpt__py="", b__py="")).entry.path == "train_gpt.py"  # type: ignore[union-attr]
    assert read_target(write(tmp_path / "b", go__py="")).entry.path == "go.py"  # type: ignore[union-attr]
    target = read_target(write(tmp_path / "c", a__py="", b__py=""))
    assert target.entry is None
    assert "which of its scripts is run: a.py, b.py" in target.findings[0].message


def test_what_prepares_data_is_not_the_entry(tmp_path: Path) -> None:
    readme = "```\npython prepare.py --out data\npython prepare.py --check\n```"
    folder = write(tmp_path, README__md=readme, prepare__py="", train_gpt__py="")
    assert read_target(folder).entry.path == "train_gpt.py"  # type: ignore[union-attr]
    write(tmp_path, README__md=readme + "\n`torchrun --nproc_per_node=8 other.py`", other__py="")
    assert read_target(folder).entry.path == "other.py"  # type: ignore[union-attr]


def test_a_shell_script_beats_the_readme(tmp_path: Path) -> None:
    target = read_target(
        write(tmp_path, README__md="`A=1 python train.py`", run__sh="A=2 python train.py\n", train__py="")
    )
    assert target.environment["A"] == "2"


def test_a_single_script(tmp_path: Path) -> None:
    script = write(tmp_path, odd="x = 1") / "odd"
    target = read_target(script)
    assert (target.kind, target.entry.path) == (Kind.SCRIPT, "odd")  # type: ignore[union-attr]


def test_a_folder_of_folders_is_each_of_them(tmp_path: Path) -> None:
    write(tmp_path / "records" / "one", train_gpt__py="")
    write(tmp_path / "records" / "two", submission__json="{}")
    write(tmp_path / "records" / "two" / "inner", train__py="")
    write(tmp_path / "records" / "three", train__log="")
    (tmp_path / "records" / "again").symlink_to(tmp_path / "records")
    names = [target.name for target in read_targets(tmp_path)]
    assert sorted(names) == ["records/one", "records/three", "records/two"]


def test_nothing_to_check_is_the_users_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError):
            read_targets(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="neither a folder nor a regular file"):
        read_targets(tmp_path / "pipe")


def test_hostile_files_are_each_a_finding(tmp_path: Path) -> None:
    write(tmp_path, train_gpt__py="x = 1")
    (tmp_path / "null.py").write_bytes(b"x\0")
    (tmp_path / "invalid.py").write_bytes(b"'\xff'")
    (tmp_path / "deep.py").write_text("-" * 50_000 + "1")
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "huge.py").write_bytes(b"#" * 5_000_000)
    (tmp_path / "loop.py").symlink_to("loop.py")
    (tmp_path / "around").symlink_to(".")
    (tmp_path / "secret.py").symlink_to("/etc/passwd")
    (tmp_path / "sparse.log").touch()
    os.truncate(tmp_path / "sparse.log", 10**12)
    os.mkfifo(tmp_path / "README.md")
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "kernel.so").write_bytes(b"\x7fELF")
    (tmp_path / "helper").write_bytes(b"\x7fELF....")
    (tmp_path / "more.zip").write_bytes(b"PK")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "socket.py"))
    (tmp_path / os.fsdecode(b"odd\xff\n.py")).write_text("y = 1")
    target = read_target(tmp_path)
    found = [*target.findings, *unpack_target(target).findings]
    assert {finding.status for finding in found} == {Status.HOLD}
    said = {finding.flow[-1].source.path for finding in found}
    assert said == {
        *("null.py", "invalid.py", "deep.py", "broken.py", "huge.py", "loop.py", "around", "secret.py", "README.md"),
        *("pipe.py", "kernel.so", "helper", "more.zip", "socket.py"),
    }
    assert all("\n" not in finding.message for finding in found)
    assert target.entry is not None and target.entry.path == "train_gpt.py"


def test_a_link_that_takes_a_files_place_is_not_followed(tmp_path: Path) -> None:
    (file,) = read_target(write(tmp_path, train_gpt__py="x = 1")).files
    (tmp_path / "train_gpt.py").unlink()
    (tmp_path / "train_gpt.py").symlink_to("/etc/passwd")
    with pytest.raises(OSError):
        file.read()


def test_a_folder_of_very_many_files_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "MAX_NAMES", 50)
    for number in range(80):
        (tmp_path / f"{number}.txt").touch()
    write(tmp_path, train_gpt__py="")
    messages = [finding.message for finding in read_target(tmp_path).findings]
    assert any("more than 50 files" in message for message in messages)


def test_a_deep_folder_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / Path(*["d"] * 60)).mkdir(parents=True)
    target = read_target(write(tmp_path, train_gpt__py=""))
    assert ["folders deep" in finding.message for finding in target.findings] == [True]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with two records and a tool; the branch `main` is where pull requests start."""

    def git(*words: str) -> None:
        identity = (
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            "-c",
            "init.defaultBranch=main",
            "-c",
            "commit.gpgsign=false",
        )
        subprocess.run(["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True)

    git("init")
    for name in ("one", "two"):
        write(tmp_path / "records" / name, submission__json="{}", train_gpt__py="x = 1\n", README__md="text")
    write(tmp_path, tool__py="x = 1\n", train_gpt__py="x = 1\n")
    git("add", "-A")
    git("commit", "-m", "first")
    git("checkout", "-b", "change")
    return tmp_path


def test_a_git_range_is_the_folders_that_it_touches(repository: Path) -> None:
    assert read_targets(repository, "main") == []
    (repository / "records" / "one" / "README.md").write_text("other text")
    (repository / "tool.py").write_text("x = 2\n")
    write(repository / "records" / "three" / "logs", a__log="")
    write(repository / "records" / "three", submission__json="{}")
    names = {(target.name, target.kind) for target in read_targets(repository, "main")}
    assert names == {("records/one", Kind.RECORD), ("records/three", Kind.RECORD), ("tool.py", Kind.SCRIPT)}
    assert [target.name for target in read_targets(repository / "records", "main")] == ["one", "three"]


def test_removing_a_file_touches_its_folder(repository: Path) -> None:
    (repository / "records" / "two" / "README.md").unlink()
    for file in (repository / "records" / "one").iterdir():
        file.unlink()
    assert [target.name for target in read_targets(repository, "main")] == ["records/two"]


def test_a_wrong_range_is_the_users_error(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    for base in ("absent", "--output=/tmp/x", ""):
        with pytest.raises(InputError):
            read_targets(repository, base)
    with pytest.raises(InputError, match="git"):
        read_targets(tmp_path_factory.mktemp("no-repository"), "main")


def test_no_hook_of_the_repository_runs(repository: Path) -> None:
    trace = repository / "trace"
    for name in ("fsmonitor-watchman", "post-index-change"):
        hook = repository / ".git" / "hooks" / name
        hook.write_text(f"#!/bin/sh\ntouch {trace}\n")
        hook.chmod(0o755)
    subprocess.run(["git", "-C", repository, "config", "core.fsmonitor", f"touch {trace}"], check=True)
    (repository / ".gitattributes").write_text("*.py diff=evil\n")
    subprocess.run(["git", "-C", repository, "config", "diff.evil.textconv", f"touch {trace}"], check=True)
    (repository / "tool.py").write_text("x = 2\n")
    assert [target.name for target in read_targets(repository, "main")] == ["tool.py"]
    assert not trace.exists()
