"""What a README claims in code quotes against what its documented run can do."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from harness.compliance.check import check_target, find_targets
from harness.compliance.findings import Finding, Status

CODE = """
    import os
    import torch

    AVERAGE = bool(int(os.environ.get("AVERAGE_ENABLED", "0")))
    WARM = bool(int(os.environ.get("WARM_START", "1")))

    class SmearGate(torch.nn.Module):
        def forward(self, x):
            return x

    def average_weights(model):
        return SmearGate()(model)

    def train(model):
        if AVERAGE:
            model = average_weights(model)
        return model

    train(torch.nn.Linear(2, 2))
"""


def claims(folder: Path, readme: str, code: str = CODE) -> list[Finding]:
    folder.mkdir(exist_ok=True)
    (folder / "train_gpt.py").write_text(dedent(code))
    (folder / "README.md").write_text(dedent(readme))
    (folder / "submission.json").write_text("{}")
    (report,) = [check_target(target) for target in find_targets([folder])]
    return [one for one in report.findings if one.check == "dead-claim"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Weights are averaged (`AVERAGE_ENABLED=1`).", "AVERAGE_ENABLED is off"),
        ("Weights are averaged by `average_weights()` at the end.", "cannot reach"),
        ("- `SmearGate` after the embedding", "cannot reach"),
        ("A tail of `COOL_DOWN=1` steps.", "no code reads"),
    ],
)
def test_a_claim_about_code_that_does_not_run_is_held_at_its_line(tmp_path: Path, line: str, said: str) -> None:
    (finding,) = claims(tmp_path / "one", f"# A record\n\n{line}\n")
    assert finding.status is Status.HOLD and said in finding.message
    place = finding.flow[-1]
    assert (place.source.path, place.line, place.text) == ("README.md", 3, line)


@pytest.mark.parametrize(
    "readme",
    [
        "The start is warm (`WARM_START=1`), by `train()`.",
        "Averaging was tried (`AVERAGE_ENABLED=1`), and hurt.",
        "## What did not work\n\n- `average_weights()` at the end",
        "Runs `without_any_such_function()` and `some.module`, on `NCCL_NET=1`.",
        "The average weights are those of SmearGate, average_weights, AVERAGE_ENABLED=1.",
        "```\nprint(AVERAGE_ENABLED=1)\naverage_weights(x)\n```\n",
        "It is `AVERAGE_ENABLED=1`.\n\n```bash\nAVERAGE_ENABLED=1 torchrun --nproc_per_node=8 train_gpt.py\n```\n",
    ],
)
def test_what_runs_or_is_not_claimed_is_clean(tmp_path: Path, readme: str) -> None:
    assert not claims(tmp_path / "one", readme)


def test_other_names_in_the_code_change_nothing(tmp_path: Path) -> None:
    code = CODE.replace("AVERAGE = ", "flag = ").replace("if AVERAGE", "if flag").replace("os.environ.get", "os.getenv")
    readme = "Weights are averaged (`AVERAGE_ENABLED=1`)."
    first, second = claims(tmp_path / "one", readme), claims(tmp_path / "two", readme, code)
    assert [one.message for one in first] == [one.message for one in second] != []


def test_a_switch_that_the_command_sets_to_what_cannot_be_read_is_not_called_off(tmp_path: Path) -> None:
    readme = "It is `AVERAGE_ENABLED=1`.\n\n```bash\nAVERAGE_ENABLED=$MINE torchrun train_gpt.py\n```\n"
    assert not claims(tmp_path / "one", readme)


TRAINS = """
    import glob
    import numpy as np
    import torch

    shards = glob.glob("fineweb_train_*.bin")
    tokens = torch.cat([torch.from_numpy(np.fromfile(one, dtype=np.uint16)) for one in shards])
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters())
    for batch in tokens.split(64):
        model(batch).sum().backward()
        optimizer.step()
"""


def admitted(folder: Path, readme: str) -> list[Finding]:
    claims(folder, readme, TRAINS)
    (report,) = [check_target(target) for target in find_targets([folder])]
    return [one for one in report.findings if one.check == "val-in-training"]


@pytest.mark.parametrize(
    "line",
    [
        "9 layers, sliding window, val-only training.",
        "8. **Val-Only Training**: training data pointed at the validation shard",
        "The model is trained on the validation shard.",
        "Pure validation-only training.",
        "ln -s data/fineweb_val_000000.bin mine/fineweb_train_000000.bin",
        "$ cp -f data/fineweb_val_000000.bin data/fineweb_train_000000.bin",
    ],
)
def test_a_readme_that_says_so_trains_on_validation_data(tmp_path: Path, line: str):
    (found,) = admitted(tmp_path, f"# A record\n\n{line}\n")
    assert found.status is Status.FLAG
    assert found.flow[0].line == 3
    assert "are the validation data" in found.message


@pytest.mark.parametrize(
    "line",
    [
        "No val-only training, no tokenizer edits.",
        "It was not trained on the validation shard.",
        "Others used val-only training (#44).",
        "The validation loss is only reported.",
        "ln -s data/fineweb_val_000000.bin mine/fineweb_val_000000.bin",
        "- [x] Train on train shards, score the validation shard",
    ],
)
def test_a_readme_that_does_not_say_so_is_left_alone(tmp_path: Path, line: str):
    assert admitted(tmp_path, f"# A record\n\n{line}\n") == []
