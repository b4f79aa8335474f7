"""record.json: the verdict and every number behind it. docs/evidence.md explains each key; its JSON schema is made
from these models.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.data.overlap import Overlap

FORMAT = 1
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Verdict(StrEnum):
    PASS = "PASS"
    FAIL = "FAIL"
    UNPROVEN = "UNPROVEN"
    ERROR = "ERROR"


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ReasonEntry(Part):
    """Why the verdict is not PASS. `code` is for programs; `text` for people; `seed` and `phase` say where, null for
    the run as a whole.
    """

    kind: Literal["violation", "missing_witness", "referee_error"]
    code: str
    text: str
    seed: int | None = None
    phase: str | None = None


class DeniedOpen(Part):
    """An open that the kernel refused. `file` is the harness's name for the inode, never the path that the opener
    used.
    """

    file: str
    device: int
    inode: int
    pid: int
    seconds_after_launch: float


class SandboxEvidence(Part):
    """What the harness read from the kernel. Before the phase's first instruction: host uid, pid namespace, mount table
    (path, ro or rw), what a control group limits, the mounts of the system that are shared with others (empty as root,
    unless the kernel has no overlayfs). While its command ran: the union of its capability sets, its seccomp
    mode (2: filter), no_new_privs, its uid map; null if it ended before they could be read.
    """

    backend: str
    uid: int
    pid_namespace: int
    mounts: tuple[tuple[str, str], ...]
    limited: tuple[str, ...]
    shared: tuple[str, ...]
    capabilities: str | None
    seccomp: int | None
    no_new_privileges: bool | None
    uid_map: str | None


class PhaseRecord(Part):
    """One phase. Seconds are of the harness's monotonic clock.

    prepare_seconds: launch to gate; leaves out building the sandbox. clock_seconds: gate to the last process gone;
    leaves out copying and hashing the outputs. gate_seen: false where no listener watched and the clock ran from
    launch. opens_allowed: opens of this phase's gated inputs. page_cache_dropped: before the phase.
    outsider_opens_denied: opens by other processes of the machine meanwhile. exit_code: of the phase's command, 128 +
    signal if it was killed, null if it never ended by itself or never ran."""

    prepare_seconds: float
    prepare_limit_seconds: float
    clock_seconds: float
    limit_seconds: float
    gate_seen: bool
    exit_code: int | None
    opens_allowed: int
    opens_denied: tuple[DeniedOpen, ...]
    outsider_opens_denied: int
    page_cache_dropped: bool
    network_attempts: int
    peak_memory_bytes: int | None
    log_bytes: int
    log_truncated: bool
    sandbox: SandboxEvidence | None


class OutputRecord(Part):
    bytes: int
    sha256: Sha256


class ProbeRecord(Part):
    """What causality probes showed: windows asked again with other or no text behind a position.

    looking_ahead: probes that a model which looks ahead could not have answered as before. positions: losses compared.
    largest_deviation_nats: of any of them. mean_gain_nats: by how much the committed losses are lower on the whole.
    missed_share: the share of positions that may look at the token they predict and that all these probes would miss
    with a probability of one in a million; null if none of them looks ahead."""

    probes: int
    looking_ahead: int
    positions: int
    largest_deviation_nats: float
    tolerance_nats: float
    mean_gain_nats: float
    mean_tolerance_nats: float
    missed_share: float | None


class SeedRecord(Part):
    """One run of the phases. Sizes and scores are null where the run did not get that far.

    code_bytes: docs/rules.md says what counts. val_loss: mean nats per scored token; val_bpb: bits per UTF-8 byte of
    the scored text; the standard errors of both are over its documents; tokens, bytes: of that text. unigram_bpb: what
    the best possible unigram model of the same tokens would score. adaptive: whether the server declared that it
    learns from what has been scored. probes_blind were hidden in the eval phase; probes_after were chosen, and asked of
    a fresh process, when the losses (nats_sha256) were in the ledger."""

    seed: int
    phases: dict[Literal["train", "quantize", "eval", "probe"], PhaseRecord]
    outputs: dict[str, OutputRecord]
    artifact_bytes: int | None = None
    code_bytes: int
    total_bytes: int | None = None
    size_limit_bytes: int
    val_loss: float | None = None
    val_bpb: float | None = None
    unigram_bpb: float | None = None
    tokens: int | None = None
    bytes: int | None = None
    val_loss_standard_error: float | None = None
    val_bpb_standard_error: float | None = None
    nats_sha256: Sha256 | None = None
    adaptive: bool | None = None
    probes_blind: ProbeRecord | None = None
    probes_after: ProbeRecord | None = None


class NamedHash(Part):
    name: str
    sha256: Sha256


class SubmissionEntry(Part):
    name: str
    tree_sha256: Sha256


class DataEntry(Part):
    manifest_sha256: Sha256
    overlap: Overlap


class SignificanceRecord(Part):
    """One-sided Welch test that the mean val_loss beats the baseline's by the minimum improvement."""

    baseline_name: str
    mean_val_loss: float
    baseline_mean_val_loss: float
    improvement_nats: float
    minimum_improvement_nats: float
    t: float
    degrees_of_freedom: float
    p_value: float
    p_value_limit: float


class Record(Part):
    format: Literal[1] = FORMAT
    run: str
    verdict: Verdict
    reasons: tuple[ReasonEntry, ...]
    started_utc: str
    finished_utc: str
    rules: NamedHash
    submission: SubmissionEntry
    data: DataEntry
    environment: dict[str, str | int | float | bool | None]
    seeds: tuple[SeedRecord, ...]
    significance: SignificanceRecord | None = None
    ledger_head: Sha256


def judge(reasons: Sequence[ReasonEntry]) -> Verdict:
    """The verdict that follows from the reasons. A broken rule outweighs a missing witness; a fault of the referee
    outweighs both, because then nothing that was seen can be relied on."""
    kinds = {reason.kind for reason in reasons}
    if "referee_error" in kinds:
        return Verdict.ERROR
    if "violation" in kinds:
        return Verdict.FAIL
    if "missing_witness" in kinds:
        return Verdict.UNPROVEN
    return Verdict.PASS


def json_schema() -> str:
    """The JSON schema of record.json, as committed in docs/record.schema.json."""
    return json.dumps(Record.model_json_schema(), indent=2) + "\n"
