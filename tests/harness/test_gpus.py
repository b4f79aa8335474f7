"""What the driver's library says of the GPUs arrives as it is, and what it does not say is not made up."""

from __future__ import annotations

import inspect
from pathlib import Path

import pynvml
import pytest
from nvml import H100, H100_BYTES, Card, FakeNvml

from harness import gpus
from harness.errors import EnvironmentMissing
from harness.gpus import device_nodes, find_gpus


def test_the_stand_in_is_like_the_library() -> None:
    """Otherwise the tests below, and those of the preflight, would show nothing about a machine with GPUs."""
    for name, stand_in in vars(FakeNvml).items():
        if name.startswith("nvml"):
            real = inspect.signature(getattr(pynvml, name)).parameters
            assert list(inspect.signature(stand_in).parameters)[1:] == list(real), name
        elif name.startswith("NVML_"):
            assert getattr(pynvml, name) == stand_in, name
    for name, number in (("NotSupported", 3), ("DriverNotLoaded", 9), ("LibraryNotFound", 12)):
        kind = getattr(pynvml, f"NVMLError_{name}")
        assert issubclass(kind, pynvml.NVMLError)
        assert isinstance(pynvml.NVMLError(number), kind), "a number becomes its own kind of error"
        assert issubclass(getattr(FakeNvml, f"NVMLError_{name}"), FakeNvml.NVMLError)
    assert str(pynvml.NVMLError(15)) == str(FakeNvml.NVMLError(15))
    assert {"total", "free", "used"} <= {name for name, _ in pynvml.c_nvmlMemory_t._fields_}
    assert "pid" in {name for name, _ in pynvml.c_nvmlProcessInfo_v3_t._fields_}


def test_what_the_driver_says_arrives() -> None:
    nvml = FakeNvml([Card(), Card(name="NVIDIA A100-SXM4-80GB", mig=1, computing=(70, 7), drawing=(8, 7), free=5)])
    found = find_gpus(nvml)
    assert (found.driver, found.cuda, found.absent) == ("550.54.15", "12.4", "")
    one, other = found.devices
    assert (one.index, one.name, one.memory_bytes, one.mig, one.processes) == (0, H100, H100_BYTES, False, ())
    assert (one.persistence, one.ecc) == (False, True)
    assert (other.index, other.free_bytes, other.mig, other.processes) == (1, 5, True, (7, 8, 70))
    assert str(found) == f"1x {H100}, 1x NVIDIA A100-SXM4-80GB"
    assert nvml.open == 0, "the library is closed again"


def test_a_gpu_without_a_feature_is_not_said_to_have_it() -> None:
    lacking = {
        name: FakeNvml.NVML_ERROR_NOT_SUPPORTED
        for name in ("nvmlDeviceGetEccMode", "nvmlDeviceGetPersistenceMode", "nvmlDeviceGetComputeRunningProcesses")
    }
    (gpu,) = find_gpus(FakeNvml([Card(mig=None, fails=lacking)])).devices
    assert (gpu.mig, gpu.ecc, gpu.persistence) == (False, None, None)
    assert gpu.processes is None, "who uses it is not known, which is not the same as nobody"


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (FakeNvml.NVML_ERROR_LIBRARY_NOT_FOUND, "no NVIDIA driver"),
        (FakeNvml.NVML_ERROR_DRIVER_NOT_LOADED, "not loaded"),
    ],
)
def test_a_machine_without_a_driver_has_no_gpus_and_says_why(number: int, why: str) -> None:
    found = find_gpus(FakeNvml(starts=number))
    assert (found.devices, found.driver) == ((), None)
    assert why in str(found)


def test_a_driver_without_gpus_is_said_to_have_none() -> None:
    found = find_gpus(FakeNvml([]))
    assert found.driver
    assert "no GPU" in str(found)


def test_a_driver_that_does_not_start_is_missing() -> None:
    with pytest.raises(EnvironmentMissing, match="does not start: RM has detected an NVML/RM version mismatch"):
        find_gpus(FakeNvml([Card()], starts=FakeNvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH))


@pytest.mark.parametrize(
    "function",
    [name for name in vars(FakeNvml) if name.startswith("nvmlDeviceGet") and name not in ("nvmlDeviceGetCount",)],
)
def test_an_error_half_way_names_the_gpu(function: str) -> None:
    nvml = FakeNvml([Card(), Card(fails={function: FakeNvml.NVML_ERROR_GPU_IS_LOST}), Card()])
    with pytest.raises(EnvironmentMissing, match="about GPU 1: GPU is lost"):
        find_gpus(nvml)
    assert nvml.open == 0


def test_only_character_devices_count_as_gpu_nodes(tmp_path: Path) -> None:
    (tmp_path / "nvidia0").write_text("a plain file")
    (tmp_path / "nvidia-caps").mkdir()
    assert device_nodes(tmp_path) == []


def test_what_a_container_says_of_its_gpus_is_read_as_it_was_found(monkeypatch, capsys) -> None:
    cards = FakeNvml([Card(), Card()])
    monkeypatch.setattr(gpus.importlib, "import_module", lambda name: cards)
    monkeypatch.setattr(gpus, "device_nodes", lambda: [Path("/dev/nvidia0"), Path("/dev/nvidia1")])
    gpus.main()
    assert gpus.read_gpus(capsys.readouterr().out) == (find_gpus(cards), ("/dev/nvidia0", "/dev/nvidia1"))
