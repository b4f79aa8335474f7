"""A run, from the rules to the record: data and submission are fixed, each seed goes through its three phases, the
verdict follows.

Start reading at `run_record`. What a phase may see is in `phases.py`; where its clock starts and stops, in
`supervisor.py`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import socket
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from harness.access import AccessMonitor, identity
from harness.checkpoint import canonical_checkpoint, most_bytes
from harness.clock import PhaseClock
from harness.contestant import Contestant, load_contestant
from harness.data.manifest import FileFacts, Manifest, verify
from harness.data.overlap import Overlap, measure_once
from harness.data.shards import read_shard, write_atomically
from harness.data.slices import BLOCK_BYTES, find_slice
from harness.errors import InputError, Reason, RefereeError, Violation
from harness.evidence.ledger import Ledger
from harness.evidence.record import (
    DataEntry,
    NamedHash,
    OutputRecord,
    PhaseRecord,
    ReasonEntry,
    Record,
    SeedRecord,
    SignificanceRecord,
    SubmissionEntry,
    judge,
)
from harness.gpus import device_nodes
from harness.integrity import copies, filesystem_fault, holders, recheck, rehash, snapshot
from harness.outputs import Output, remove_tree
from harness.phases import (
    ARTIFACT,
    CALIBRATION,
    CHECKPOINT,
    PARAMETERS_TARGET,
    Inputs,
    Phase,
    eval_phase,
    quantize_phase,
    train_phase,
)
from harness.processes import become_undumpable, pid_namespace
from harness.registry import Registration, other_runs, reap
from harness.rules import LoadedRules, Rules
from harness.sandbox import Limits, Mount, Sandbox, SandboxSpec
from harness.sandbox.bubblewrap import system_mounts
from harness.scoring.bpb import TokenBytes, bits_per_byte, unigram_nats
from harness.scoring.scorer import Scorer
from harness.significance import compare
from harness.supervisor import Log, Observer, Supervisor

INCOMPLETE = "INCOMPLETE"
RECORD = "record.json"
LEDGER = "ledger.jsonl"


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What the user asked for, and what the machine offers. `missing_witnesses`: why a PASS is impossible here, if it
    is.
    """

    rules: LoadedRules
    submission: Path
    data: Path
    seeds: Sequence[int]
    out: Path
    sandbox: Sandbox
    monitored: bool
    missing_witnesses: Sequence[str] = ()
    environment: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """The data of a run, verified. val: uint16 [N], the whole val stream; text_bytes: UTF-8 bytes of what is scored of
    it; overlap: what of it is in train.
    """

    manifest: Manifest
    files: tuple[FileFacts, ...]
    val: np.ndarray
    text_bytes: int
    overlap: Overlap

    @property
    def shards(self) -> list[FileFacts]:
        return [facts for facts in self.files if facts.role != "tokenizer"]

    def paths(self, role: str) -> list[Path]:
        return [facts.path.absolute() for facts in self.files if facts.role == role]


def run_record(request: RunRequest, observer: Observer) -> tuple[Record, Path]:
    """Run every seed and write the run directory; returns the record and the directory.

    Raises InputError, with nothing left behind, if rules, submission and data do not fit together. From then on
    whatever happens ends in a record: a fault of the harness, or Ctrl-C, in one whose verdict is ERROR."""
    started = datetime.now(UTC)
    run_id = f"{started:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    # Before the first look at a shard: another run may be asking who opens it.
    become_undumpable()
    for text in reap():
        observer.note(text)
    with Registration(run_id) as registration:
        dataset = load_dataset(request.data, request.rules.rules, registration.directory, observer)
        directory, contestant = _make_run_directory(request, run_id)
        run = _Run(request, dataset, contestant, directory, run_id, registration, observer)
        try:
            run.go()
        finally:
            record = run.finish(started)
    return record, directory


def _make_run_directory(request: RunRequest, run_id: str) -> tuple[Path, Contestant]:
    """The new run directory, and the contestant copied into it; raises InputError and leaves nothing behind."""
    out = request.out.absolute()
    if out.resolve().is_relative_to(request.submission.resolve()):
        raise InputError(f"--out {request.out} lies inside the submission {request.submission}; choose another")
    directory = out / run_id
    try:
        directory.mkdir(parents=True)
        (directory / INCOMPLETE).write_text("This run has not ended, or was cut off: it has no verdict.\n")
    except OSError as error:
        raise InputError(f"cannot make the run directory {directory}: {error.strerror}; choose another --out") from None
    try:
        return directory, load_contestant(request.submission, request.rules.rules, directory / "submission")
    except OSError as error:
        remove_tree(directory)
        raise InputError(f"cannot copy the submission {request.submission}: {error}") from None
    except InputError:
        remove_tree(directory)
        raise


def load_dataset(directory: Path, rules: Rules, kept: Path, observer: Observer) -> Dataset:
    """Read and verify the data; raises InputError if a file is not what the manifest says or the data is not what the
    rules want. `kept`: the user's own directory for what need not be measured twice.
    """
    manifest = Manifest.load(directory)
    observer.note(f"data: checking {len(manifest.entries())} files of {directory}")
    files = verify(directory, manifest)
    if manifest.vocab_size != rules.data.vocab_size:
        raise InputError(
            f"{directory}: its vocabulary has {manifest.vocab_size} tokens; rules {rules.name} want "
            f"{rules.data.vocab_size}"
        )
    wanted = rules.data.tokenizer_sha256
    if wanted and manifest.tokenizer.sha256 != wanted:
        raise InputError(f"{directory}: its tokenizer is {manifest.tokenizer.sha256}; rules {rules.name} want {wanted}")
    val_tokens = sum(shard.tokens for shard in manifest.val)
    if rules.data.val_tokens not in (0, val_tokens):
        raise InputError(
            f"{directory}: its val split has {val_tokens:,} tokens; rules {rules.name} want {rules.data.val_tokens:,}"
        )
    by_role = {role: [facts.path for facts in files if facts.role == role] for role in ("tokenizer", "val")}
    val = np.concatenate([read_shard(path) for path in by_role["val"]])
    text_bytes = TokenBytes.from_tokenizer(by_role["tokenizer"][0]).count(val)
    if text_bytes != manifest.text.val.bytes:
        raise InputError(
            f"{directory}: the tokens of the val split stand for {text_bytes:,} bytes of text, "
            f"its manifest says {manifest.text.val.bytes:,}"
        )
    overlap = measure_once(files, kept, observer.note)
    if overlap.share > rules.data.max_val_documents_in_train:
        raise InputError(
            f"{directory}: {overlap.share:.1%} of the val documents are in train, {overlap.in_train:,} of "
            f"{overlap.documents:,}, such as the one at token {overlap.example:,} of val; rules {rules.name} allow "
            f"{rules.data.max_val_documents_in_train:.1%}"
        )
    return Dataset(manifest, files, val, text_bytes, overlap)


class _Run:
    """One run in progress."""

    def __init__(
        self,
        request: RunRequest,
        dataset: Dataset,
        contestant: Contestant,
        directory: Path,
        run_id: str,
        registration: Registration,
        observer: Observer,
    ) -> None:
        self.request = request
        self.rules = request.rules.rules
        self.dataset = dataset
        self.contestant = contestant
        self.directory = directory
        self.run_id = run_id
        self.registration = registration
        self.observer = observer
        self.scratch = directory / "scratch"
        self.ledger = Ledger(directory / LEDGER)
        self.monitor: AccessMonitor | None = None
        missing = [*request.missing_witnesses, *filter(None, map(filesystem_fault, dataset.paths("train")[:1]))]
        self.reasons = [ReasonEntry(kind="missing_witness", code="missing_witness", text=text) for text in missing]
        self.seeds: list[SeedRecord] = []
        self.significance: SignificanceRecord | None = None

    def go(self) -> None:
        """Run every seed. A fault of the harness is caught here and becomes a reason; Ctrl-C is recorded and passed
        on.
        """
        try:
            self._prepare()
            for seed in self.request.seeds:
                _SeedRun(self, seed).go()
            rehash(self.seals, [facts.sha256 for facts in self.dataset.shards])
            self._judge_as_a_whole()
        except Violation as violation:
            self.violation(violation)
        except KeyboardInterrupt:
            self._referee_error("interrupted", "interrupted by the user")
            raise
        except RefereeError as error:
            self._referee_error("referee_error", str(error))
        except Exception as error:
            self._referee_error("unexpected", f"{type(error).__name__}: {error} (see harness-error.txt)")
            with contextlib.suppress(OSError):
                (self.directory / "harness-error.txt").write_text(traceback.format_exc())

    def finish(self, started: datetime) -> Record:
        """Remove marks and scratch, write record.json, and only then take the INCOMPLETE sign away."""
        if self.monitor:
            self.monitor.close()
        remove_tree(self.scratch)
        finished = [seed.seed for seed in self.seeds if seed.val_bpb is not None]
        if not self.reasons and finished != list(self.request.seeds):
            self._referee_error("incomplete", "not every seed was scored, and no rule was seen broken")
        try:
            reasons = [reason.model_dump() for reason in self.reasons]
            self.ledger.append("verdict", verdict=judge(self.reasons), reasons=reasons)
        except RefereeError as error:  # the disk is full, say; the record may still fit
            self._referee_error("referee_error", str(error))
        self.ledger.close()
        reasons = tuple(self.reasons)
        record = Record(
            run=self.run_id,
            verdict=judge(reasons),
            reasons=reasons,
            started_utc=started.isoformat(timespec="seconds"),
            finished_utc=datetime.now(UTC).isoformat(timespec="seconds"),
            rules=NamedHash(name=self.rules.name, sha256=self.request.rules.sha256),
            submission=SubmissionEntry(name=self.contestant.name, tree_sha256=self.contestant.tree_sha256),
            data=DataEntry(manifest_sha256=self.dataset.manifest.sha256, overlap=self.dataset.overlap),
            environment=dict(self.request.environment),
            seeds=tuple(self.seeds),
            significance=self.significance,
            ledger_head=self.ledger.head,
        )
        write_atomically(self.directory / RECORD, (record.model_dump_json(indent=2) + "\n").encode())
        (self.directory / INCOMPLETE).unlink()
        return record

    def violation(self, violation: Violation, seed: int | None = None, phase: str | None = None) -> None:
        """A broken rule: into the ledger and the record's reasons."""
        self.ledger.append("violation", code=violation.reason, text=violation.text, seed=seed, phase=phase)
        self.reasons.append(
            ReasonEntry(kind="violation", code=violation.reason, text=violation.text, seed=seed, phase=phase)
        )

    def _referee_error(self, code: str, text: str) -> None:
        self.reasons.append(ReasonEntry(kind="referee_error", code=code, text=text))

    def _prepare(self) -> None:
        self.seals = snapshot(self.dataset.shards)
        self.registration.set_scratch(self.scratch)
        self.scratch.mkdir(mode=0o755)
        self.ledger.append(
            "start",
            run=self.run_id,
            rules_sha256=self.request.rules.sha256,
            submission_sha256=self.contestant.tree_sha256,
            manifest_sha256=self.dataset.manifest.sha256,
            seeds=list(self.request.seeds),
            missing_witnesses=list(self.request.missing_witnesses),
        )
        self._refuse_shards_in_submission()
        self.decoys = {kind: self._make_decoy(kind) for kind in ("train", "val", "checkpoint")}
        if self.request.monitored:
            self.monitor = AccessMonitor(self.registration, self.scratch)
            for facts in self.dataset.shards:
                self.monitor.mark(facts.path.absolute(), facts.path.name)
            for kind, path in self.decoys.items():
                self.monitor.mark(path, f"decoy of a {kind} file")
        # Looking through all that a sandbox sees takes a second or two, which the first phase's preparation can have.
        visible = [mount.source for mount in system_mounts()[0]]
        self.copies = ThreadPoolExecutor(1, "copies").submit(copies, visible, self.dataset.shards)
        self.check_data()

    def _refuse_shards_in_submission(self) -> None:
        """Raise Violation if a file of the submission is a shard, or holds a part of one."""
        shards = {facts.sha256: facts.path.name for facts in self.dataset.shards}
        for file in self.contestant.files:
            if file.sha256 in shards:
                raise Violation(
                    Reason.SHARD_COPY, f"{file.path} of the submission is a copy of the shard {shards[file.sha256]}"
                )
        own = [self.contestant.directory / file.path for file in self.contestant.files]
        if found := find_slice(own, [facts.path for facts in self.dataset.shards]):
            raise Violation(
                Reason.SHARD_COPY,
                f"{found.path.relative_to(self.contestant.directory)} of the submission holds, at byte {found.offset}, "
                f"{BLOCK_BYTES} bytes that the shard {found.shard.name} has at byte {found.shard_offset}",
            )

    def check_for_copies(self) -> None:
        """Wait for the search to end; raise RefereeError if a file that every sandbox sees holds what a shard holds."""
        for path in self.copies.result():
            raise RefereeError(f"{path} holds what a shard holds, and every sandbox can see it; move or remove it")

    def check_data(self) -> None:
        """What the monitor cannot see: raise RefereeError if a shard was changed, or if a process that had it open or
        mapped before it was gated still has. Other runs and their sandboxes do not count.
        """
        recheck(self.seals)
        if self.monitor is None:
            return
        others, harness_pids = other_runs(self.registration.directory, os.getpid())
        namespaces = {grant.pid_namespace for grant in others}
        for holder in holders([seal.identity for seal in self.seals], {os.getpid(), *harness_pids}):
            if pid_namespace(holder.pid) not in namespaces:
                name = self.monitor.names[holder.file]
                raise RefereeError(
                    f"process {holder.pid} ({holder.command}) has {name} {holder.how}; end it, and run again"
                )

    def _make_decoy(self, kind: str) -> Path:
        path = self.scratch / f"decoy-{kind}"
        path.write_text("A decoy. This phase may not see what would be here; opening this file has been recorded.\n")
        path.chmod(0o444)
        return path

    def _judge_as_a_whole(self) -> None:
        """The rules about all seeds together."""
        losses = [seed.val_loss for seed in self.seeds if seed.val_loss is not None]
        if len(set(self.request.seeds)) < self.rules.seeds.minimum:
            text = f"{len(set(self.request.seeds))} seeds were run; the rules want at least {self.rules.seeds.minimum}"
            self.violation(Violation(Reason.SEEDS_MISSING, text))
        rule = self.rules.significance
        if not rule.baseline_val_loss or len(losses) < len(self.seeds):
            return
        if len(losses) < 2:
            text = f"one seed cannot be compared with {rule.baseline_name}; at least two are needed"
            self.violation(Violation(Reason.BASELINE_NOT_BEATEN, text))
            return
        self.significance = compare(losses, rule)
        if not self.significance.p_value < rule.p_value:
            text = (
                f"improves on {rule.baseline_name} by {self.significance.improvement_nats:.5f} nats; more than "
                f"{rule.minimum_improvement_nats:g} would have p = {self.significance.p_value:.3g}, "
                f"wanted is p < {rule.p_value:g}"
            )
            self.violation(Violation(Reason.BASELINE_NOT_BEATEN, text))


class _SeedRun:
    """The three phases of one seed. A broken rule ends them; the record keeps what was measured until then."""

    def __init__(self, run: _Run, seed: int) -> None:
        self.run = run
        self.rules, self.contestant, self.dataset = run.rules, run.contestant, run.dataset
        self.seed = seed
        self.directory = run.directory / f"seed-{seed}"
        self.phases: dict[str, PhaseRecord] = {}
        self.outputs: dict[str, OutputRecord] = {}
        self.numbers: dict[str, float | int | str] = {}
        self.inputs = Inputs(
            train_shards=run.dataset.paths("train"),
            val_names=[path.name for path in run.dataset.paths("val")],
            decoys=run.decoys,
        )

    def go(self) -> None:
        self.directory.mkdir()
        phase = "train"
        try:
            checkpoint = self._train()
            self.run.check_for_copies()
            phase = "quantize"
            artifact = self._quantize(checkpoint)
            phase = "eval"
            self._eval(artifact)
        except Violation as violation:
            self.run.violation(violation, self.seed, phase)
        except _PhaseFailed:
            pass  # its violations are in the record already
        finally:
            self.run.seeds.append(
                SeedRecord(
                    seed=self.seed,
                    phases=self.phases,
                    outputs=self.outputs,
                    code_bytes=self.contestant.code_bytes,
                    size_limit_bytes=self.rules.size.artifact_and_code_bytes,
                    **self.numbers,
                )
            )

    def _train(self) -> Path:
        """Returns the canonical checkpoint, gated."""
        phase = train_phase(self.rules, self.contestant, self.inputs, most_bytes(self.contestant.checkpoint))
        received = self._run_phase(phase)[CHECKPOINT]
        data = canonical_checkpoint(received.path, self.contestant.checkpoint, self.rules.checkpoint.mantissa_bits)
        received.path.unlink()  # what the phase wrote goes no further than this
        path = self.directory / CHECKPOINT
        write_atomically(path, data)
        return self._seal(path, CHECKPOINT)

    def _quantize(self, checkpoint: Path) -> Path:
        """Returns the artifact, gated, if it fits."""
        key = self._calibration_key()
        inputs = Inputs(**{**vars(self.inputs), "checkpoint": checkpoint})
        phase = quantize_phase(self.rules, self.contestant, inputs, self.phases["train"].clock_seconds, key)
        received = self._run_phase(phase)
        for name in (ARTIFACT, CALIBRATION):
            received[name].path.rename(self.directory / name)
        artifact = self._seal(self.directory / ARTIFACT, ARTIFACT)
        self._seal(self.directory / CALIBRATION, CALIBRATION)
        try:
            if received[CALIBRATION].bytes:  # empty: nothing was used to calibrate
                read_shard(self.directory / CALIBRATION, vocab_size=self.rules.data.vocab_size)
        except InputError as error:
            raise Violation(Reason.CALIBRATION_INVALID, str(error)) from None
        total = received[ARTIFACT].bytes + self.contestant.code_bytes
        self.numbers.update(artifact_bytes=received[ARTIFACT].bytes, total_bytes=total)
        limit = self.rules.size.artifact_and_code_bytes
        if total > limit:
            raise Violation(Reason.SIZE_OVER_LIMIT, f"artifact and code have {total:,} bytes; the limit is {limit:,}")
        return artifact

    def _eval(self, artifact: Path) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            path = self._listen(listener)
            inputs = Inputs(**{**vars(self.inputs), "artifact": artifact, "socket": path})
            phase = eval_phase(self.rules, self.contestant, inputs)
            scorer = Scorer(self.dataset.val, self.rules.data.vocab_size, listener, self.run.observer.scored)
            try:
                self._run_phase(phase, scorer)
            finally:
                nats = self.directory / "nats.f32"
                write_atomically(
                    nats, scorer.nats.astype("<f4").tobytes()
                )  # also of a run that failed: NaN is what was not scored
                self.numbers["nats_sha256"] = hashlib.sha256(nats.read_bytes()).hexdigest()
        total_nats = float(scorer.nats.sum(dtype=np.float64))
        self.numbers.update(
            val_loss=total_nats / len(scorer.nats),
            val_bpb=bits_per_byte(total_nats, self.dataset.text_bytes),
            unigram_bpb=bits_per_byte(unigram_nats(self.dataset.val), self.dataset.text_bytes),
            tokens=len(scorer.nats),
            bytes=self.dataset.text_bytes,
        )
        self.run.ledger.append("score", seed=self.seed, **self.numbers)

    def _calibration_key(self) -> str:
        """The key of the calibration's noise: fixed by the checkpoint and the ledger so far, so it cannot be chosen or
        known before.
        """
        material = f"calibration {self.outputs[CHECKPOINT].sha256} {self.run.ledger.head}"
        key = hashlib.sha256(material.encode()).hexdigest()
        self.run.ledger.append("calibration_key", seed=self.seed, key=key)
        return key

    def _listen(self, listener: socket.socket) -> Path:
        """Bind the scorer's socket in the scratch directory, by way of its descriptor because socket paths may have
        107 bytes at most.
        """
        directory = os.open(self.run.scratch, os.O_PATH | os.O_DIRECTORY)
        name = f"scorer-{self.seed}.sock"
        try:
            listener.bind(f"/proc/self/fd/{directory}/{name}")
        finally:
            os.close(directory)
        path = self.run.scratch / name
        path.chmod(0o666)  # the phase's uid is another
        listener.listen()
        return path

    def _seal(self, path: Path, name: str) -> Path:
        """An output in the run directory for good: read-only, hashed, recorded, and gated."""
        path.chmod(0o444)
        size, digest = path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()
        self.outputs[name] = OutputRecord(bytes=size, sha256=digest)
        self.run.ledger.append("output", seed=self.seed, name=name, bytes=size, sha256=digest)
        if self.run.monitor:
            self.run.monitor.mark(path, f"{name} of seed {self.seed}")
        return path

    def _run_phase(self, phase: Phase, scorer: Scorer | None = None) -> dict[str, Output]:
        """Run one phase in a fresh sandbox and take its outputs over; raises _PhaseFailed if it broke a rule."""
        run = self.run
        room = run.scratch / f"{self.seed}-{phase.name}"
        for folder in (room, room / "received"):
            folder.mkdir(mode=0o755)
        spec = self._spec(phase, room)
        log = Log(self.directory / f"{phase.name}.log", self.rules.limits.log_bytes, run.observer)
        clock = PhaseClock(
            phase.prepare_seconds, phase.clock_seconds, self.rules.clock.drain_seconds, run.monitor is not None
        )
        supervisor = Supervisor(
            seed=self.seed,
            phase=phase.name,
            clock=clock,
            gate=frozenset(identity(path) for path in phase.gate),
            monitor=run.monitor,
            registration=run.registration,
            observer=run.observer,
            log=log,
            scorer=scorer,
        )
        run.check_data()
        run.ledger.append("phase_start", seed=self.seed, phase=phase.name)
        outcome = supervisor.run(run.request.sandbox, spec, phase.outputs, room / "received")
        run.check_data()
        self.phases[phase.name] = outcome.record
        run.ledger.append("phase_end", seed=self.seed, phase=phase.name, **outcome.record.model_dump())
        for violation in outcome.violations:
            run.violation(violation, self.seed, phase.name)
        if outcome.violations:
            raise _PhaseFailed
        return outcome.outputs

    def _spec(self, phase: Phase, room: Path) -> SandboxSpec:
        limits = self.rules.limits
        parameters = {
            "phase": phase.name,
            "rules": self.rules.name,
            "seed": self.seed,
            "threads": limits.threads or len(os.sched_getaffinity(0)),
            "prepare_seconds": phase.prepare_seconds,
            "clock_seconds": phase.clock_seconds,
            "vocab_size": self.rules.data.vocab_size,
            **phase.parameters,
        }
        gpus = device_nodes() if self.rules.hardware.gpus else []
        (room / "phase.json").write_text(json.dumps(parameters, indent=1))
        return SandboxSpec(
            label=f"{phase.name}, seed {self.seed}",
            command=phase.command,
            mounts=(
                *phase.mounts,
                Mount(source=room / "phase.json", target=PARAMETERS_TARGET),
                *(Mount(source=node, target=str(node), device=True) for node in gpus),
            ),
            limits=Limits(
                processes=limits.processes,
                open_files=limits.open_files,
                memory_bytes=limits.memory_bytes,
                output_bytes=limits.output_bytes,
                output_files=limits.output_files,
                scratch_bytes=limits.scratch_bytes,
                shared_memory_bytes=limits.shared_memory_bytes,
            ),
        )


class _PhaseFailed(Exception):
    """A phase broke a rule; the violations are recorded."""
