"""Facts about the machine: what is not known is not made up, and the image says what it is or nothing starts."""

from __future__ import annotations

import json
import os

import pytest
from nvml import H100, H100_BYTES, Card, FakeNvml

from harness import machine as module
from harness.errors import EnvironmentMissing
from harness.gpus import find_gpus
from harness.machine import Image, free_bytes, read_image, survey


def test_this_machine() -> None:
    found = survey()
    assert found.kernel == os.uname().release
    assert 1 << 28 < found.memory_bytes <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert found.shared_memory_bytes > 0
    facts = found.facts()
    assert facts["kernel_pidfd"] is True
    assert all(value is None or isinstance(value, (str, int, float, bool)) for value in facts.values()), "flat"
    json.dumps(facts)


def test_gpus_are_facts_each_for_itself(monkeypatch) -> None:
    nvml = FakeNvml([Card(), Card(mig=1, computing=(7, 8), free=5)])
    monkeypatch.setattr(module, "find_gpus", lambda: find_gpus(nvml))
    facts = survey().facts()
    assert (facts["gpus"], facts["gpus_absent"]) == (f"{H100}, {H100}", None)
    assert (facts["gpu_driver"], facts["gpu_cuda"]) == ("550.54.15", "12.4")
    assert (facts["gpu0_mig"], facts["gpu0_processes"], facts["gpu0_memory_bytes"]) == (False, 0, H100_BYTES)
    assert (facts["gpu1_mig"], facts["gpu1_processes"], facts["gpu1_free_bytes"]) == (True, 2, 5)


def test_a_driver_that_does_not_answer_stops_nothing_that_needs_none(monkeypatch) -> None:
    nvml = FakeNvml([Card(fails={"nvmlDeviceGetName": FakeNvml.NVML_ERROR_GPU_IS_LOST})])
    monkeypatch.setattr(module, "find_gpus", lambda: find_gpus(nvml))
    found = survey()
    assert found.gpus.devices == ()
    assert "GPU 0: GPU is lost" in found.facts()["gpus_absent"]


def test_a_control_group_that_leaves_less_memory_counts(monkeypatch) -> None:
    monkeypatch.setattr(module, "memory_limit_bytes", lambda: 1 << 20)
    assert survey().memory_bytes == 1 << 20
    monkeypatch.setattr(module, "memory_limit_bytes", lambda: 1 << 62)
    assert survey().memory_bytes < 1 << 62


def test_the_image_says_what_it_is_or_is_none(tmp_path) -> None:
    path = tmp_path / "image.json"
    assert read_image(path) is None
    path.write_text(json.dumps({"revision": "abc", "lock_sha256": "12", "built": "later keys are no harm"}))
    assert read_image(path) == Image("abc", "12")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '"revision"',
        "{}",
        '{"revision": "a"}',
        '{"revision": 1, "lock_sha256": "a"}',
        '{"revision": "a", "lock_sha256": ""}',
        "\xff",
    ],
)
def test_an_image_that_does_not_say_what_it_is_stops_everything(tmp_path, text: str) -> None:
    path = tmp_path / "image.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(EnvironmentMissing, match=r"image\.json does not say"):
        read_image(path)


def test_free_room_is_asked_where_the_directory_would_be(tmp_path) -> None:
    free, place = free_bytes(tmp_path / "not" / "there" / "yet")
    assert place == tmp_path
    assert free > 0
