"""A run, from the rules to the record: data and submission are fixed, each seed goes through its phases, the
verdict follows.

Start reading at `run_record`. What a phase may see is in `phases.py`; where its clock starts and stops, in
`supervisor.py`."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import json
import os
import secrets
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np

from harness.access import AccessMonitor, identity
from harness.checkpoint import canonical_checkpoint, most_bytes
from harness.clock import PhaseClock
from harness.contestant import Contestant, load_contestant
from harness.data.documents import read_documents
from harness.data.manifest import FileFacts, Manifest, require_fit, verify
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
from harness.integrity import Holder, copies, filesystem_fault, holders, in_use, recheck, rehash, snapshot
from harness.outputs import give_away, remove_tree
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
from harness.policy import Grant, Identity
from harness.processes import become_undumpable, pid_namespace
from harness.registry import Registration, Use, other_runs, reap
from harness.rules import LoadedRules, Rules
from harness.sandbox import Limits, Mount, Sandbox, SandboxSpec
from harness.scoring.bpb import bits_per_byte, bootstrap, document_starts, load_tokenizer, prove_text, unigram_nats
from harness.scoring.probes import Comparison, Prober
from harness.scoring.scorer import ProbeScorer, Score, Scorer
from harness.significance import compare
from harness.supervisor import Log, Observer, PhaseOutcome, Supervisor

INCOMPLETE = "INCOMPLETE"
RECORD = "record.json"
LEDGER = "ledger.jsonl"
NATS = "nats.f32.gz"
OTHER_TEXT_TOKENS = 10_000_000  # of the first train shard, for probes
RESERVE = "reserve"  # room that is given back for the last line of the ledger and the record
RESERVE_BYTES = 1 << 20
HOLDER_PATIENCE_SECONDS = 1.0

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What the user asked for, and what the machine offers. `missing_witnesses`: why a PASS is impossible here, if it
    is. owner: whose the run directory is in the end, as a file of theirs; None: the harness's own.
    """

    rules: LoadedRules
    submission: Path
    data: Path
    seeds: Sequence[int]
    out: Path
    sandbox: Sandbox
    monitored: bool
    owner: Path | None = None
    missing_witnesses: Sequence[str] = ()
    environment: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """The data of a run, verified. val: uint16 [N], the whole val stream; val_bytes: int64 [N - 1], UTF-8 bytes of each
    scored token of it; text_bytes: their sum. begin_token: with which documents begin. other_text: uint16, train text
    for probes. overlap: what of val is in train.
    """

    manifest: Manifest
    files: tuple[FileFacts, ...]
    val: np.ndarray
    val_bytes: np.ndarray
    begin_token: int
    other_text: np.ndarray
    overlap: Overlap

    @property
    def text_bytes(self) -> int:
        return int(self.val_bytes.sum())

    @property
    def shards(self) -> list[FileFacts]:
        return [facts for facts in self.files if facts.role != "tokenizer"]

    def paths(self, role: str) -> list[Path]:
        return [facts.path.absolute() for facts in self.files if facts.role == role]


def run_record(request: RunRequest, observer: Observer) -> tuple[Record, Path]:
    """Run every seed and write the run directory; returns the record and the directory.

    Raises InputError, with nothing left behind, if rules, submission and data do not fit together, EnvironmentMissing
    if this run or one that is under way wants the machine to itself. From then on whatever happens ends in a record: a
    fault of the harness, or Ctrl-C, in one whose verdict is ERROR."""
    started = datetime.now(UTC)
    run_id = f"{started:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    # Before the first look at a shard: another run may be asking who opens it.
    become_undumpable()
    for text in (*reap(), *request.sandbox.reap()):
        observer.note(text)
    use = Use.EXCLUSIVE if request.rules.rules.hardware.exclusive else Use.SHARED
    with Registration(run_id, use=use) as registration:
        dataset = load_dataset(request.data, request.rules.rules, registration.directory, observer)
        directory, contestant = _make_run_directory(request, run_id)
        run = _Run(request, dataset, contestant, directory, run_id, registration, observer)
        try:
            run.go()
        finally:
            try:
                record = run.finish(started)
            finally:
                if request.owner:
                    give_away(directory, request.owner)
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
        with (directory / RESERVE).open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
    except OSError as error:
        remove_tree(directory)
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
    require_fit(manifest, directory, rules)
    observer.note(f"data: checking {len(manifest.entries())} files of {directory}")
    files = verify(directory, manifest)
    by_role: dict[str, list[Path]] = {}
    for facts in files:
        by_role.setdefault(facts.role, []).append(facts.path)
    val = np.concatenate([read_shard(path) for path in by_role["val"]])
    (tokenizer,) = by_role["tokenizer"]
    originals = by_role.get("val_documents")
    val_bytes = prove_text(val, tokenizer, read_documents(originals[0]) if originals else None)
    text_bytes = int(val_bytes.sum())
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
    other_text = read_shard(by_role["train"][0])[:OTHER_TEXT_TOKENS].copy()
    return Dataset(manifest, files, val, val_bytes, load_tokenizer(tokenizer).bos_id(), other_text, overlap)


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
        if request.sandbox.visible_paths() is None:
            missing.append(f"{request.sandbox}: its files cannot be searched for copies of shards from here")
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
            self.check_for_copies(wait=True)
            self.opening(lambda: rehash(self.seals, [facts.sha256 for facts in self.dataset.shards]))
            self._judge_as_a_whole()
        except Violation as violation:
            self.violation(violation)
        except KeyboardInterrupt:
            self._referee_error("interrupted", "interrupted by the user")
            raise
        except RefereeError as error:
            self._referee_error("referee_error", str(error))
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                what = error.filename or f"a file in {self.directory}"
                self._referee_error("referee_error", f"no room was left for {what}")
                return
            self._referee_error("unexpected", f"{type(error).__name__}: {error} (see harness-error.txt)")
            with contextlib.suppress(OSError):
                (self.directory / "harness-error.txt").write_text(traceback.format_exc())

    def finish(self, started: datetime) -> Record:
        """Remove marks and scratch, write record.json, and only then take the INCOMPLETE sign away.

        Raises RefereeError if record.json cannot be written.
        """
        if self.monitor:
            self.monitor.close()
        remove_tree(self.scratch)
        (self.directory / RESERVE).unlink(missing_ok=True)
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
            environment={**self.request.environment, "other_runs_seen": len(self.registration.seen)},
            seeds=tuple(self.seeds),
            significance=self.significance,
            ledger_head=self.ledger.head,
        )
        try:
            write_atomically(self.directory / RECORD, (record.model_dump_json(indent=2) + "\n").encode())
        except OSError as error:
            raise RefereeError(
                f"{self.directory / RECORD} cannot be written: {error.strerror}; this run has no verdict"
            ) from None
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
            self.monitor.prove_gates()
        # Looking through all that a sandbox sees takes a second or two, which the first phase's preparation can have.
        visible = self.request.sandbox.visible_paths() or []
        self.copies = ThreadPoolExecutor(1, "copies").submit(copies, visible, self.dataset.shards)
        self.check_data()
        self.check_that_nobody_holds_a_shard()

    def opening(self, work: Callable[[], Result]) -> Result:
        """What `work` returns, which opens gated files."""
        return self.monitor.watch(work) if self.monitor else work()

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

    def check_for_copies(self, wait: bool) -> None:
        """Raise RefereeError if a file that every sandbox sees holds what a shard holds; without `wait` only if the
        search has ended.
        """
        for path in self.copies.result() if wait or self.copies.done() else []:
            raise RefereeError(f"{path} holds what a shard holds, and every sandbox can see it; move or remove it")

    def check_data(self) -> None:
        """What the monitor cannot see: raise RefereeError if a shard was changed, or if a process that had it open or
        mapped before it was gated still has. Other runs and their sandboxes do not count, but must not be beside a run
        that should be alone.
        """
        recheck(self.seals)
        self.registration.look_around()
        if self.monitor is None:
            return
        for holder in self._lasting_holders():
            name = self.monitor.names[holder.file]
            raise RefereeError(
                f"process {holder.pid} ({holder.command}) has {name} {holder.how}; end it, and run again"
            )

    def _lasting_holders(self) -> list[Holder]:
        """Who holds a shard every time that is looked. Not a run that has just registered, nor a listener, which has
        open for an instant what it is asked about.
        """
        deadline = time.monotonic() + HOLDER_PATIENCE_SECONDS
        lasting: set[tuple[int, Identity, str]] | None = None
        while True:
            others, harness_pids = self._other_runs()
            namespaces = {grant.pid_namespace for grant in others}
            found = [
                holder
                for holder in holders([seal.identity for seal in self.seals], {os.getpid(), *harness_pids})
                if lasting is None or (holder.pid, holder.file, holder.how) in lasting
                if pid_namespace(holder.pid) not in namespaces
            ]
            if not found or time.monotonic() > deadline:
                return found
            lasting = {(holder.pid, holder.file, holder.how) for holder in found}
            time.sleep(0.02)

    def check_that_nobody_holds_a_shard(self) -> None:
        """Raise RefereeError if something has a shard open that /proc does not show, such as a descriptor on its way
        between two processes. Only when no other run is there, which may be hashing the same shards.
        """
        if self.monitor is None or filesystem_fault(self.seals[0].path) or any(self._other_runs()):
            return
        held = self.opening(lambda: in_use(self.seals))
        if held and not any(self._other_runs()):  # one that has started meanwhile is an innocent holder, too
            self.check_data()  # whoever has opened it since then has a name
            raise RefereeError(
                f"something has {held[0].name} open that /proc does not show: a thread, a loop device, a descriptor "
                "on its way between two processes; end it, and run again"
            )

    def _other_runs(self) -> tuple[tuple[Grant, ...], frozenset[int]]:
        return other_runs(self.registration.directory, os.getpid())

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
    """The phases of one seed. A broken rule ends them; the record keeps what was measured until then."""

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
            self.run.check_for_copies(wait=False)
            phase = "quantize"
            artifact = self._quantize(checkpoint)
            phase = "eval"
            score = self._eval(artifact)
            phase = "probe"
            self._probe(artifact, score)
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
        received = self._run_phase(phase).outputs[CHECKPOINT]
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
        received = self._run_phase(phase).outputs
        for name in (ARTIFACT, CALIBRATION):
            received[name].path.rename(self.directory / name)
        artifact = self._seal(self.directory / ARTIFACT, ARTIFACT)
        self._seal(self.directory / CALIBRATION, CALIBRATION)
        try:
            if received[CALIBRATION].bytes:  # empty: nothing was used to calibrate
                path = self.directory / CALIBRATION
                self.run.opening(lambda: read_shard(path, vocab_size=self.rules.data.vocab_size))
        except InputError as error:
            raise Violation(Reason.CALIBRATION_INVALID, str(error)) from None
        total = received[ARTIFACT].bytes + self.contestant.code_bytes
        self.numbers.update(artifact_bytes=received[ARTIFACT].bytes, total_bytes=total)
        limit = self.rules.size.artifact_and_code_bytes
        if total > limit:
            raise Violation(Reason.SIZE_OVER_LIMIT, f"artifact and code have {total:,} bytes; the limit is {limit:,}")
        return artifact

    def _eval(self, artifact: Path) -> Score:
        """Score the whole val stream; the losses are in the ledger, by their hash, when this returns."""
        comparison = self._comparison()
        with self._listening("eval") as (listener, inputs):
            scorer = Scorer(
                self.dataset.val,
                self.rules.data.vocab_size,
                listener,
                self.run.observer.scored,
                comparison=comparison,
                probe_share=self.rules.probes.blind_share,
                other=self.dataset.other_text,
            )
            try:
                outcome = self._run_phase(eval_phase(self.rules, self.contestant, inputs(artifact)), scorer)
            finally:
                self._keep_nats(scorer.nats)  # also of a run that failed: NaN is what was not scored
                self.numbers["probes_blind"] = comparison.record()
        self._count(outcome.score)
        return outcome.score

    def _keep_nats(self, nats: np.ndarray) -> None:
        data = nats.astype("<f4").tobytes()
        write_atomically(self.directory / NATS, gzip.compress(data, compresslevel=1, mtime=0))
        self.numbers["nats_sha256"] = hashlib.sha256(data).hexdigest()

    def _count(self, score: Score) -> None:
        dataset, total_nats = self.dataset, float(score.nats.sum(dtype=np.float64))
        errors = bootstrap(score.nats, dataset.val_bytes, document_starts(dataset.val, dataset.begin_token))
        self.numbers.update(
            val_loss=total_nats / len(score.nats),
            val_bpb=bits_per_byte(total_nats, dataset.text_bytes),
            val_loss_standard_error=errors.val_loss if errors else None,
            val_bpb_standard_error=errors.val_bpb if errors else None,
            unigram_bpb=bits_per_byte(unigram_nats(dataset.val), dataset.text_bytes),
            tokens=len(score.nats),
            bytes=dataset.text_bytes,
            adaptive=score.hello.adaptive,
        )
        self.run.ledger.append("score", seed=self.seed, **{**self.numbers, "probes_blind": None})

    def _probe(self, artifact: Path, score: Score) -> None:
        """Ask a fresh process again for windows that nobody could know before: they follow from the ledger, which holds
        the losses.
        """
        comparison = self._comparison()
        key = hashlib.sha256(f"probes {self.seed} {self.run.ledger.head}".encode()).digest()
        self.run.ledger.append("probe_key", seed=self.seed, key=key.hex())
        with self._listening("probe") as (listener, inputs):
            scorer = ProbeScorer(
                self.dataset.val,
                self.rules.data.vocab_size,
                listener,
                self.run.observer.probed,
                score=score,
                comparison=comparison,
                prober=Prober(key, self.dataset.other_text, self.dataset.val),
                count=self.rules.probes.windows_after,
            )
            try:
                self._run_phase(eval_phase(self.rules, self.contestant, inputs(artifact), "probe"), scorer)
            finally:
                self.numbers["probes_after"] = comparison.record()

    def _comparison(self) -> Comparison:
        return Comparison(self.rules.probes.tolerance_nats, self.rules.probes.mean_tolerance_nats)

    def _calibration_key(self) -> str:
        """The key of the calibration's noise: fixed by the checkpoint and the ledger so far, so it cannot be chosen or
        known before.
        """
        material = f"calibration {self.outputs[CHECKPOINT].sha256} {self.run.ledger.head}"
        key = hashlib.sha256(material.encode()).hexdigest()
        self.run.ledger.append("calibration_key", seed=self.seed, key=key)
        return key

    @contextlib.contextmanager
    def _listening(self, phase: str) -> Iterator[tuple[socket.socket, Callable[[Path], Inputs]]]:
        """The scorer's socket, and a phase's inputs with it. It is bound in the scratch directory by way of its
        descriptor, because socket paths may have 107 bytes at most.
        """
        name = f"{phase}-{self.seed}.sock"
        path = self.run.scratch / name
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            directory = os.open(self.run.scratch, os.O_PATH | os.O_DIRECTORY)
            try:
                listener.bind(f"/proc/self/fd/{directory}/{name}")
            finally:
                os.close(directory)
            path.chmod(0o666)  # the phase's uid is another
            listener.listen()
            yield listener, lambda artifact: Inputs(**{**vars(self.inputs), "artifact": artifact, "socket": path})

    def _seal(self, path: Path, name: str) -> Path:
        """An output in the run directory for good: read-only, hashed, recorded, and gated."""
        path.chmod(0o444)
        size, digest = path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()
        self.outputs[name] = OutputRecord(bytes=size, sha256=digest)
        self.run.ledger.append("output", seed=self.seed, name=name, bytes=size, sha256=digest)
        if self.run.monitor:
            self.run.monitor.mark(path, f"{name} of seed {self.seed}")
        return path

    def _run_phase(self, phase: Phase, scorer: Scorer | ProbeScorer | None = None) -> PhaseOutcome:
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
        return outcome

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
            gpus=bool(self.rules.hardware.gpus),
        )


class _PhaseFailed(Exception):
    """A phase broke a rule; the violations are recorded."""
