"""What the rules ask and the machine does not have stops a run before anything is copied or hashed, in one line."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from nvml import H100, Card, FakeNvml

from harness import preflight as module
from harness.data.manifest import Manifest
from harness.doctor import Check, Cost, require
from harness.errors import EnvironmentMissing, InputError
from harness.gpus import Gpus, find_gpus
from harness.kernel import ATTEMPTS, NEEDED
from harness.machine import Image, Machine
from harness.preflight import disk_bytes, preflight
from harness.rules import load_rules

RECORD, DEMO = load_rules("record").rules, load_rules("demo").rules
NODES = ("/dev/nvidia-uvm", *(f"/dev/nvidia{number}" for number in range(8)), "/dev/nvidiactl")
BIG = Machine(
    gpus=find_gpus(FakeNvml([Card() for _ in range(8)])),
    gpu_nodes=NODES,
    kernel="6.18",
    features=dict.fromkeys(ATTEMPTS, ""),
    cgroup_versions=(2,),
    controllers=("cpuset", "memory", "pids"),
    memory_bytes=2_000_000_000_000,
    shared_memory_bytes=1_000_000_000_000,
    image=None,
)


@pytest.fixture(autouse=True)
def large_disk(monkeypatch):
    monkeypatch.setattr(module, "free_bytes", lambda out: (10**15, out))


def found(machine: Machine, rules=RECORD, data: Path | None = None, **changes) -> dict[str, Check]:
    checks = preflight(rules, data, Path("runs"), machine=dataclasses.replace(machine, **changes))
    assert len({check.name for check in checks}) == len(checks), "no two checks have one name"
    return {check.name: check for check in checks}


def gpus(*cards: Card) -> Gpus:
    return find_gpus(FakeNvml(list(cards)))


def test_the_machine_of_the_record_has_all_that_its_rules_ask() -> None:
    checks = found(BIG)
    assert all(check.ok for check in checks.values()), checks
    assert require(list(checks.values())) == []
    assert f"8x {H100}" in checks["record: GPUs"].detail
    assert "driver 550.54.15, CUDA 12.4" in checks["record: GPUs"].detail


EIGHT = [Card() for _ in range(8)]
LESS_THAN = "less than 80.0 GB of memory free: GPU 0"


@pytest.mark.parametrize(
    ("cards", "said"),
    [
        (EIGHT[:7], f"found 7x {H100};"),
        ([*EIGHT, Card()], f"found 9x {H100};"),
        ([*EIGHT[:7], Card(name="NVIDIA A100")], f"found 7x {H100}, 1x NVIDIA A100; not H100: GPU 7;"),
        ([*EIGHT[:7], Card(mig=1)], "in MIG mode: GPU 7;"),
        ([Card(computing=(4711,)), *EIGHT[:6], Card(drawing=(12,))], "in use by process 12, 4711: GPU 0, 7;"),
        ([Card(fails={"nvmlDeviceGetComputeRunningProcesses": 3}), *EIGHT[:7]], "does not tell who uses it: GPU 0;"),
        ([Card(total=64 << 30, free=63 << 30), *EIGHT[:7]], LESS_THAN),
        ([Card(free=79_000_000_000), *EIGHT[:7]], LESS_THAN),
        ([], "found none: the NVIDIA driver has no GPU;"),
    ],
    ids=["seven", "nine", "another model", "MIG", "in use", "silent", "small", "filled by someone unseen", "none"],
)
def test_other_gpus_than_those_of_the_rules_stop_the_run(cards: list[Card], said: str) -> None:
    checks = found(BIG, gpus=gpus(*cards))
    assert [name for name, check in checks.items() if not check.ok] == ["record: GPUs"]
    with pytest.raises(EnvironmentMissing) as stopped:
        require(list(checks.values()))
    line = str(stopped.value)
    assert "\n" not in line
    assert "8x H100 are needed; found" in line
    assert said in line
    assert line.endswith("`harness demo` runs on a CPU")


def test_without_a_driver_the_line_says_so_and_rules_without_gpus_run() -> None:
    without = {"gpus": find_gpus(FakeNvml(starts=FakeNvml.NVML_ERROR_LIBRARY_NOT_FOUND)), "gpu_nodes": ()}
    with pytest.raises(EnvironmentMissing, match=r"8x H100 are needed; found none: no NVIDIA driver .*`harness demo`"):
        require(list(found(BIG, **without).values()))
    assert require(list(found(BIG, DEMO, **without).values())) == []


def test_gpus_that_others_may_use_need_not_be_alone() -> None:
    shared = RECORD.model_copy(update={"hardware": RECORD.hardware.model_copy(update={"exclusive": False})})
    assert found(BIG, shared, gpus=gpus(Card(computing=(4711,)), *EIGHT[:7]))["record: GPUs"].ok


@pytest.mark.parametrize("gone", ["/dev/nvidia-uvm", "/dev/nvidiactl", "/dev/nvidia7"])
def test_device_nodes_that_cuda_opens_must_be_there(gone: str) -> None:
    check = found(BIG, gpu_nodes=tuple(node for node in NODES if node != gone))["record: GPU devices"]
    assert (check.ok, check.cost) == (False, Cost.NOT_THESE_RULES)
    assert (gone if gone != "/dev/nvidia7" else "7 are there") in check.detail


def test_the_file_systems_of_a_phase_must_fit_the_memory() -> None:
    limits = RECORD.limits
    needed = limits.output_bytes + limits.scratch_bytes + limits.shared_memory_bytes
    assert found(BIG, memory_bytes=needed)["record: memory"].ok
    assert "machine's end comes first" in found(BIG, memory_bytes=needed)["record: memory"].detail
    check = found(BIG, memory_bytes=needed - 1)["record: memory"]
    assert (check.ok, check.cost) == (False, Cost.NOT_THESE_RULES)
    assert "`harness demo`" in check.detail
    assert "`harness demo`" not in found(BIG, DEMO, memory_bytes=1)["demo: memory"].detail, "it would be no help"


def test_the_disk_must_hold_what_the_rules_allow(monkeypatch, toy_data, toy_rules) -> None:
    rules = toy_rules.rules
    tokens = Manifest.load(toy_data).val_tokens
    by_hand = 2 * 2_000_000 + 1 * (3 * 20_000_000 + 4 * 100_000 + 4 * tokens) + 100_000_000
    assert disk_bytes(rules, 1, tokens) == by_hand
    assert disk_bytes(rules, 3, tokens) - by_hand == 2 * (by_hand - 104_000_000)
    for room, enough in ((by_hand, True), (by_hand - 1, False)):
        monkeypatch.setattr(module, "free_bytes", lambda out, room=room: (room, out))
        check = found(BIG, rules, toy_data)["toy: disk"]
        assert (check.ok, check.cost) == (enough, Cost.NOT_THESE_RULES)
    assert "--out" in check.detail


@pytest.mark.parametrize("name", ATTEMPTS)
def test_a_kernel_without_a_feature(name: str) -> None:
    """Of the others the doctor's own checks decide, which try a sandbox and an open."""
    check = found(BIG, features={**BIG.features, name: "Function not implemented"})["kernel"]
    assert check.ok == (name not in NEEDED)
    assert f"without {name.replace('_', ' ')}: Function not implemented" in check.detail
    assert check.cost is Cost.NO_RUN


def test_controllers_that_are_not_there_are_limits_that_nothing_enforces() -> None:
    check = found(BIG, controllers=("cpuset", "pids"))["control groups"]
    assert (check.ok, check.cost) == (False, Cost.NO_LIMIT)
    assert "without memory" in check.detail
    assert not found(BIG, controllers=(), cgroup_versions=())["control groups"].ok
    assert require([check]) == [], "the evidence says it of each phase; the run goes on"


def test_the_image_is_named() -> None:
    assert found(BIG)["image"].detail == "not in a container image"
    assert "revision abc" in found(BIG, image=Image("abc", "12"))["image"].detail


def test_data_is_known_by_its_manifest_alone(toy_data, toy_rules, tmp_path) -> None:
    """No byte of a shard is read: one that is wrong inside is for the run to find."""
    data = Path(shutil.copytree(toy_data, tmp_path / "data"))
    for shard in data.glob("*.bin"):
        shard.write_bytes(bytes(shard.stat().st_size))
    check = found(BIG, toy_rules.rules, data)["toy: data"]
    assert check.ok
    assert "val tokens" in check.detail
    assert "toy: data" not in found(BIG, toy_rules.rules, None)


@pytest.mark.parametrize("what", ["missing", "another vocabulary", "another val split", "another tokenizer"])
def test_data_that_does_not_fit_the_rules_is_bad_input(toy_data, toy_rules, tmp_path, what: str) -> None:
    rules, data = toy_rules.rules, tmp_path if what == "missing" else toy_data
    changes = {
        "another vocabulary": {"vocab_size": 1024},
        "another val split": {"val_tokens": 62_021_846},
        "another tokenizer": {"tokenizer_sha256": "0" * 64},
    }.get(what, {})
    rules = rules.model_copy(update={"data": rules.data.model_copy(update=changes)})
    checks = found(BIG, rules, data)
    assert [check.cost for check in checks.values() if not check.ok] == [Cost.NO_DATA]
    with pytest.raises(InputError):
        require(list(checks.values()))
