"""What a folder's documents say is run, read as text."""

from __future__ import annotations

import pytest

from harness.compliance.commands import Command, documented_commands, documented_settings, shell_commands


def one(text: str) -> Command:
    (command,) = shell_commands(text)
    return command


def test_a_command_over_several_lines() -> None:
    command = one(
        "RATE=0.5 \\\nLAYERS=4,5 \\\n  torchrun --standalone --nproc_per_node=8 \\\n  deep/er/train.py --quick a"
    )
    assert (command.script, command.arguments, command.processes) == ("deep/er/train.py", ("--quick", "a"), 8)
    assert command.environment == {"RATE": "0.5", "LAYERS": "4,5"}


@pytest.mark.parametrize(
    ("text", "script", "module", "processes"),
    [
        ("python train.py", "train.py", False, 0),
        ("$ python3 -u train.py", "train.py", False, 0),
        ("uv run torchrun --nproc_per_node 4 train.py", "train.py", False, 4),
        ("python -m torch.distributed.run --nproc-per-node=8 train.py", "train.py", False, 8),
        ("python3.12 -m package.train --fast", "package.train", True, 0),
        ("time env A=1 python train.py 2>&1 | tee log.txt", "train.py", False, 0),
        ("cd records && python train.py", "train.py", False, 0),
        ("accelerate launch --num_processes 8 train.py", "train.py", False, 8),
        (r"torchrun --nproc\_per\_node=8 train\_gpt.py", "train_gpt.py", False, 8),
    ],
)
def test_ways_to_start_a_script(text: str, script: str, module: bool, processes: int) -> None:
    command = one(text)
    assert (command.script, command.module, command.processes) == (script, module, processes)


@pytest.mark.parametrize(
    "text",
    [
        "python -c 'import x'",
        "python - << EOF",
        "pip install torch",
        "python",
        "cp train.py /tmp",
        "echo 'unclosed",
        "# x",
    ],
)
def test_what_starts_no_script(text: str) -> None:
    assert shell_commands(text) == []


def test_variables_are_followed_and_unknown_ones_named() -> None:
    command = one(
        "export STEPS=10\nN=3\nfor SEED in 1 2; do\n"
        '  SEED=$SEED RATE="${RATE:-0.1}" B=<batch> L=$N X=$(date) Y=`date` python t.py\ndone'
    )
    assert command.environment == {"STEPS": "10", "RATE": "0.1", "L": "3"}
    assert command.unknown == {"SEED", "B", "X", "Y"}


CASES = """#!/bin/bash
MODE=${1:-%s}
# python ignored.py
export ROOT="${ROOT:-${BASE:-/data}/shards}"
case $MODE in
    small|quick)
        echo "=== quick (60s) ==="
        SECONDS=60 CACHE=0 torchrun --nproc_per_node=8 train.py
        ;;
    full)
        export CACHE=1
        torchrun --nproc_per_node=8 train.py
        ;;
    *)
        exit 1
        ;;
esac
"""


def test_only_the_arm_of_a_case_that_holds_is_read() -> None:
    full = shell_commands(CASES % "full", script=True)[0]
    assert full.environment == {"ROOT": "/data/shards", "CACHE": "1"}
    assert shell_commands(CASES % "quick", script=True)[0].environment["SECONDS"] == "60"
    commands = shell_commands((CASES % "full").replace("${1:-full}", "$1"), script=True)  # which one cannot be told
    assert [command.environment.get("CACHE") for command in commands] == ["0", "1"]


def test_what_a_condition_sets_is_unknown_after_it() -> None:
    text = 'export A=1 B=2 C=3\nif [[ "$A" == "1" ]]; then\n  export B=5\nelse\n  export B=6\nfi\n'
    text += "if [ -d /data ]; then\n  export C=4\nfi\npython train.py"
    command = one(text)
    assert command.environment == {"A": "1", "B": "5"}
    assert command.unknown == {"C"}


def test_text_in_quotes_and_here_documents_is_no_command() -> None:
    text = (
        'python -c "\nimport data\nname=first\npython = 1\n"\ncat <<EOF\nKIND=other\npython no.py\nEOF\npython train.py'
    )
    command = one(text)
    assert (command.script, command.environment) == ("train.py", {})


def test_a_readme_shows_commands_in_blocks_and_in_lines() -> None:
    text = "# Run\n```bash\nA=1 python a.py\n```\n```python\npython = b.py\n```\n"
    text += "\n    B=1 python b.py\n\nor `C=1 python c.py`\n"
    assert [command.script for command in documented_commands([("README.md", text)])] == ["a.py", "b.py", "c.py"]


def test_hostile_documents_end() -> None:
    text = "`" * 50_000 + "$" * 50_000 + "\\\n" * 50_000 + "python a.py\n" * 100_000
    assert len(documented_commands([("README.md", "```\n" + text + "\n```"), ("run.sh", text)])) <= 400


@pytest.mark.parametrize(
    ("readme", "known", "unknown"),
    [
        ("```bash\nCACHE=1\nROUNDS=3  # of them\n```\n", {"CACHE": "1", "ROUNDS": "3"}, set()),
        ("    export CACHE=1 ROUNDS='3'\n", {"CACHE": "1", "ROUNDS": "3"}, set()),
        ("```\nCACHE=1\n```\nthen\n```\nCACHE=0\n```\n", {}, {"CACHE"}),  # of two runs
        ("```\nCACHE=$MORE\n```\n", {}, {"CACHE"}),
    ],
)
def test_a_block_of_nothing_but_settings_is_how_it_was_run(readme: str, known: dict, unknown: set) -> None:
    (settings,) = documented_settings([("README.md", readme)])
    assert (settings.script, settings.environment, settings.unknown) == ("", known, unknown)


@pytest.mark.parametrize(
    "readme", ["", "```\nCACHE=1\nls\n```\n", "CACHE=1\n", "```python\nCACHE=1\n```\n", "```\nx=1\n```"]
)
def test_other_blocks_are_no_settings(readme: str) -> None:
    assert documented_settings([("README.md", readme)]) == []


@pytest.mark.parametrize(
    ("line", "expanded"),
    [
        ('torchrun --nproc_per_node="$GPUS" train.py', {"GPUS"}),
        ('if [[ "${GPUS}" == "8" ]]; then\n  echo many\nfi\npython train.py', {"GPUS"}),
        ("cat > note.txt <<EOF\nrun on $GPUS\nEOF\npython train.py", {"GPUS"}),
        ("LAYERS=$GPUS python train.py", {"GPUS"}),
        ("GPUS=$GPUS python train.py", set()),
        ('GPUS="${GPUS}" \\\n  python train.py', set()),
        ("python train.py", set()),
    ],
)
def test_what_a_script_expands_for_itself_is_told_from_what_it_hands_on(line: str, expanded: set[str]) -> None:
    command = shell_commands(f'export GPUS="${{GPUS:-8}}"\n{line}\n', script=True)[-1]
    assert command.expanded == expanded
