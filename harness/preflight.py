"""What the rules ask of the machine and of the data, before anything is copied, hashed or trained.

Everything here is decided from numbers that `machine.survey` and the data's manifest give; nothing is tried. Whether
sandboxes and witnesses work is tried by `doctor.inspect`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from harness.data.manifest import Manifest, require_fit
from harness.doctor import Check, Cost
from harness.errors import InputError
from harness.gpus import Gpus
from harness.kernel import NEEDED
from harness.machine import Image, Machine, free_bytes
from harness.rules import Rules
from harness.sandbox.cgroup import CONTROLLERS

DEMO = "`harness demo` runs on a CPU"
PHASES = 4  # train, quantize, eval, probe: each leaves a log
LARGEST_OUTPUTS = 3  # of limits.output_bytes each: the checkpoint, the artifact, the calibration tokens
SMALL_FILES_BYTES = 100_000_000  # of a run: ledger, record, phase.json, decoys


def preflight(rules: Rules, data: Path | None, out: Path, *, machine: Machine, seeds: int | None = None) -> list[Check]:
    """What `rules` ask, as checks, the hardware first. Takes milliseconds; reads of the data its manifest alone.

    data: None leaves out what only it can tell. out: where the run directory would go. seeds: how many will be run, or
    as many as the rules say."""
    manifest, data_check = _data(rules, data)
    val_tokens = manifest.val_tokens if manifest else rules.data.val_tokens
    needed = disk_bytes(rules, seeds or len(rules.seeds.default), val_tokens)
    checks = [
        _gpus(rules, machine),
        *([_gpu_nodes(rules, machine)] if rules.hardware.gpus else []),
        _memory(rules, machine),
        _disk(rules, out, needed),
        _kernel(machine),
        _cgroups(machine),
        _image(machine.image),
    ]
    return [*checks, *([data_check] if data_check else [])]


def disk_bytes(rules: Rules, seeds: int, val_tokens: int) -> int:
    """The most that a run directory can hold by the rules' limits: two copies of the submission, and for each seed the
    outputs, the logs and the losses (4 bytes a token, were they not compressed).
    """
    limits = rules.limits
    seed = LARGEST_OUTPUTS * limits.output_bytes + PHASES * limits.log_bytes + 4 * val_tokens
    return 2 * rules.size.submission_bytes + seeds * seed + SMALL_FILES_BYTES


def _gpus(rules: Rules, machine: Machine) -> Check:
    """As many as the rules say and no more, because every sandbox sees them all."""
    name, wanted, found = f"{rules.name}: GPUs", rules.hardware, machine.gpus
    if not wanted.gpus:
        return Check(name, True, "the rules need none", Cost.NOT_THESE_RULES)
    faults = [f"{text}: GPU {', '.join(map(str, numbers))}" for text, numbers in _gpu_faults(rules, found) if numbers]
    if faults or len(found.devices) != wanted.gpus:
        text = f"{wanted.gpus}x {wanted.gpu_name} are needed; found {found}"
        return Check(name, False, "; ".join([text, *faults, DEMO]), Cost.NOT_THESE_RULES)
    free = min(gpu.free_bytes for gpu in found.devices)
    text = f"{found}, at least {_gb(free)} free on each, driver {found.driver}, CUDA {found.cuda}"
    return Check(name, True, text, Cost.NOT_THESE_RULES)


def _gpu_faults(rules: Rules, found: Gpus) -> Iterator[tuple[str, list[int]]]:
    """What can be wrong with a GPU, and the numbers of those with which it is."""
    wanted, devices = rules.hardware, found.devices
    yield f"not {wanted.gpu_name}", [gpu.index for gpu in devices if wanted.gpu_name not in gpu.name]
    yield "in MIG mode", [gpu.index for gpu in devices if gpu.mig]
    short = f"less than {_gb(wanted.gpu_free_bytes)} of memory free"
    yield short, [gpu.index for gpu in devices if gpu.free_bytes < wanted.gpu_free_bytes]
    if wanted.exclusive:
        yield "the driver does not tell who uses it", [gpu.index for gpu in devices if gpu.processes is None]
        users = sorted({pid for gpu in devices for pid in gpu.processes or ()})
        used = f"in use by process {', '.join(map(str, users))}"
        yield used, [gpu.index for gpu in devices if gpu.processes]


def _gpu_nodes(rules: Rules, machine: Machine) -> Check:
    """CUDA opens these; a sandbox cannot make the driver create them, as a CUDA program on the host would."""
    name = f"{rules.name}: GPU devices"
    cards = [node for node in machine.gpu_nodes if re.fullmatch(r"/dev/nvidia\d+", node)]
    missing = [node for node in ("/dev/nvidiactl", "/dev/nvidia-uvm") if node not in machine.gpu_nodes]
    if len(cards) != rules.hardware.gpus:
        missing.append(f"{rules.hardware.gpus} nodes /dev/nvidia0 and so on ({len(cards)} are there)")
    if missing:
        text = f"missing: {', '.join(missing)}; `nvidia-modprobe -u -c=0` makes those of the driver"
        return Check(name, False, text, Cost.NOT_THESE_RULES)
    return Check(name, True, f"{len(machine.gpu_nodes)} nodes in /dev", Cost.NOT_THESE_RULES)


def _memory(rules: Rules, machine: Machine) -> Check:
    """/out, /tmp and /dev/shm of a phase are file systems in memory, so what the rules promise must be there."""
    name, limits = f"{rules.name}: memory", rules.limits
    files = limits.output_bytes + limits.scratch_bytes + limits.shared_memory_bytes
    text = (
        f"{_gb(machine.memory_bytes)}; /out, /tmp and /dev/shm ({_gb(limits.shared_memory_bytes)}) of a phase may take "
        f"{_gb(files)}"
    )
    if machine.memory_bytes < files:
        return Check(name, False, f"{text}{f'; {DEMO}' if rules.hardware.gpus else ''}", Cost.NOT_THESE_RULES)
    if machine.memory_bytes < limits.memory_bytes:
        text += f"; a phase may take {_gb(limits.memory_bytes)}, so the machine's end comes first"
    return Check(name, True, text, Cost.NOT_THESE_RULES)


def _disk(rules: Rules, out: Path, needed: int) -> Check:
    free, place = free_bytes(out)
    text = f"{_gb(free)} free under {place}; a run may need {_gb(needed)}"
    if free < needed:
        text += "; make room or choose another --out"
    return Check(f"{rules.name}: disk", free >= needed, text, Cost.NOT_THESE_RULES)


def _kernel(machine: Machine) -> Check:
    """Of what is not needed some makes the walls, some the witness; both are tried by the doctor's other checks."""
    missing = {name: fault for name, fault in machine.features.items() if fault}
    there = [name.replace("_", " ") for name in machine.features if name not in missing]
    absent = "; ".join(f"{name.replace('_', ' ')}: {fault}" for name, fault in missing.items())
    text = f"{machine.kernel}: {', '.join(there)}" + (f"; without {absent}" if missing else "")
    return Check("kernel", not missing.keys() & set(NEEDED), text, Cost.NO_RUN)


def _cgroups(machine: Machine) -> Check:
    missing = [name for name in CONTROLLERS if name not in machine.controllers]
    versions = " and ".join(map(str, machine.cgroup_versions))
    text = f"version {versions}: {', '.join(machine.controllers)}" if machine.controllers else "none can be made"
    text += f"; without {', '.join(missing)}" if missing and machine.controllers else ""
    return Check("control groups", not missing, text, Cost.NO_LIMIT)


def _image(image: Image | None) -> Check:
    if image is None:
        return Check("image", True, "not in a container image")
    return Check("image", True, f"revision {image.revision}, packages of lock sha256 {image.lock_sha256}")


def _data(rules: Rules, data: Path | None) -> tuple[Manifest | None, Check | None]:
    if data is None:
        return None, None
    name = f"{rules.name}: data"
    try:
        manifest = Manifest.load(data)
        require_fit(manifest, data, rules)
    except InputError as error:
        return None, Check(name, False, str(error), Cost.NO_DATA)
    tokens = sum(shard.tokens for shard in manifest.train)
    text = f"{manifest.name}: {tokens:,} train tokens, {manifest.val_tokens:,} val tokens, by its manifest"
    return manifest, Check(name, True, text, Cost.NO_DATA)


def _gb(number: int) -> str:
    return f"{number / 1e9:.1f} GB"
