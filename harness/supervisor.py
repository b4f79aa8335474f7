"""One phase, watched from launch to the empty sandbox: where clocks start and stop, and where a broken rule ends a
phase.

The loop below is the only place where the events of the kernel, the guard, the scorer and the wall clock meet. It runs
in the harness's main thread and does nothing that waits."""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.access import AccessMonitor, Open
from harness.clock import PhaseClock
from harness.errors import Reason, RefereeError, Violation
from harness.evidence.record import DeniedOpen, PhaseRecord, SandboxEvidence
from harness.outputs import Output, collect
from harness.policy import Identity, Opener
from harness.processes import drop_page_cache
from harness.registry import Registration
from harness.sandbox import Confinement, RunningSandbox, Sandbox, SandboxSpec
from harness.scoring.scorer import ProbeScorer, Score, Scorer

TICK_SECONDS = 0.2  # progress is shown at least this often
LOOK_SECONDS = 1.0  # other runs on the machine are looked for at least this often
FIRST_TICK_SECONDS = 0.005  # until the command has been seen to be confined, which it must be
GOODBYE_SECONDS = 1.0  # a server whose connection broke may still tell, by its exit code, that it crashed


class Observer(Protocol):
    """Who is told how a run goes. Nothing it does can influence the run."""

    def phase_started(self, seed: int, phase: str, clock: PhaseClock) -> None: ...

    def tick(self, clock: PhaseClock) -> None: ...

    def claimed(self, line: str) -> None:
        """A line of the submission's own log. Nobody vouches for it."""

    def scored(self, done: int, total: int) -> None:
        """Counts of tokens."""

    def probed(self, done: int, total: int) -> None:
        """Counts of probes."""

    def phase_finished(self, seed: int, phase: str, record: PhaseRecord, violations: list[Violation]) -> None: ...

    def note(self, text: str) -> None: ...


class ScorerThread(threading.Thread):
    """Runs the scorer beside the loop; `result` is what it returned, its Violation, or the exception that broke it."""

    def __init__(self, scorer: Scorer | ProbeScorer) -> None:
        super().__init__(name="scorer", daemon=True)
        self.scorer = scorer
        self.result: Score | BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.scorer.run()
        except BaseException as error:
            self.result = error


class Log:
    """What the sandbox prints, kept in a file up to a limit and read to the end whatever its length, so that nothing
    inside ever blocks.
    """

    def __init__(self, path: Path, most: int, observer: Observer) -> None:
        self._file = path.open("xb", buffering=0)  # whoever follows the log sees it at once
        self._most = most
        self._observer = observer
        self._line = b""
        self.bytes = 0

    @property
    def truncated(self) -> bool:
        return self.bytes > self._most

    def pump(self, descriptor: int) -> bool:
        """Take what is there without waiting; False at the end of the stream. Raises OSError if the disk is full."""
        while select.select([descriptor], [], [], 0)[0]:
            data = os.read(descriptor, 1 << 16)
            if not data:
                return False
            kept = data[: max(0, self._most - self.bytes)]
            if self._file.write(kept) != len(kept):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)
            self.bytes += len(data)
            *lines, rest = (self._line + data).split(b"\n")
            self._line = rest[-1000:]
            for line in lines[-3:]:
                self._observer.claimed(line[:1000].decode(errors="replace"))
            if len(data) < 1 << 16:
                break
        return True

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class PhaseOutcome:
    """What became of a phase: its record, the rules it broke (in the order they were noticed), the score if it was
    eval's to give, and the outputs, taken over, if no rule was broken.
    """

    record: PhaseRecord
    violations: list[Violation]
    score: Score | None
    outputs: dict[str, Output]


class Supervisor:
    """Watches one phase. `gate`: identities of the inputs it may open; `monitor` is None where the kernel cannot be
    asked.
    """

    def __init__(
        self,
        *,
        seed: int,
        phase: str,
        clock: PhaseClock,
        gate: frozenset[Identity],
        monitor: AccessMonitor | None,
        registration: Registration,
        observer: Observer,
        log: Log,
        scorer: Scorer | ProbeScorer | None = None,
    ) -> None:
        self.label = f"{phase}, seed {seed}"
        self.seed, self.phase = seed, phase
        self.clock = clock
        self.gate = gate
        self.monitor = monitor
        self.registration = registration
        self.observer = observer
        self.log = log
        self.scorer_thread = ScorerThread(scorer) if scorer else None
        self.violations: list[Violation] = []
        self.denied: list[DeniedOpen] = []
        self.allowed_by_listener: dict[int, int] = {}
        self.outsiders_denied = 0
        self.exit_code: int | None = None
        self.kill_at: float | None = None
        self.killed = False
        self.look_at = 0.0
        self.network_attempts = 0
        self.page_cache_dropped = False
        self.confinement: Confinement | None = None

    def run(self, sandbox: Sandbox, spec: SandboxSpec, outputs: Mapping[str, int], destination: Path) -> PhaseOutcome:
        """Start the sandbox, see it through until it is empty, and take its `outputs` (name -> most bytes) over into
        `destination` if it broke no rule. Raises RefereeError if a trusted part fails.
        """
        self.page_cache_dropped = drop_page_cache()
        running = sandbox.start(spec)
        registered = False
        taken: dict[str, Output] = {}
        try:
            self.registration.add_sandbox(running.walls)
            registered = True
            if self.monitor:
                self.monitor.prove_alive()
                self.monitor.prove_gates()
                self.monitor.grant(self.label, running.walls, self.gate)
            self._watch(running)
            if self.monitor:
                self.monitor.prove_alive()
                self.monitor.prove_gates()
            self._check_at_the_end(running.network_attempts())
            if not self.violations:
                try:
                    taken = collect(running.out_descriptor, outputs, destination)
                except Violation as violation:
                    self._note(violation)
            record = self._record(sandbox.name, running)
        finally:
            try:
                running.close()
            finally:
                if self.scorer_thread and self.scorer_thread.is_alive():
                    self.scorer_thread.scorer.stop()
                    self.scorer_thread.join()
                self.log.close()
            if registered:
                self.registration.remove_sandbox(running.walls)
                if self.monitor:
                    self.monitor.revoke(running.walls)
        self.observer.phase_finished(self.seed, self.phase, record, self.violations)
        return PhaseOutcome(record, self.violations, self._score(), taken)

    def _check_at_the_end(self, network_attempts: int) -> None:
        """The rules that can only be judged when the sandbox is empty; raises RefereeError if nobody saw how the
        command was confined, and it broke no rule.
        """
        self.network_attempts = network_attempts
        if network_attempts:
            text = f"{network_attempts} attempts to reach something outside the sandbox found no route"
            self._note(Violation(Reason.NETWORK_ATTEMPT, text))
        if self.clock.gate is None and not self.violations:
            text = "it ended without opening its gated input, so its clock never ran"
            self._note(Violation(Reason.GATE_NEVER_OPENED, text))
        if self.confinement is None and not self.violations:
            raise RefereeError(f"the command of {self.label} ended before it was seen to be confined")

    def _watch(self, running: RunningSandbox) -> None:
        clock = self.clock
        clock.launch(running.launch())
        self.observer.phase_started(self.seed, self.phase, clock)
        if self.scorer_thread:
            self.scorer_thread.start()
            if clock.gate is not None:  # nobody sees the gate: it counts as open from launch
                self.scorer_thread.scorer.open_gate()
        sources = [running.fileno(), *(self.monitor.filenos() if self.monitor else [])]
        log_open = True
        while clock.empty is None:
            now = time.monotonic()
            tick = TICK_SECONDS if self.confinement else FIRST_TICK_SECONDS
            deadlines = [clock.next_deadline(), *([self.kill_at] if self.kill_at else [])]
            wait = max(0.0, min(tick, *(deadline - now for deadline in deadlines))) if not self.killed else TICK_SECONDS
            select.select([*sources, *([running.log_descriptor] if log_open else [])], [], [], wait)
            log_open = log_open and self.log.pump(running.log_descriptor)
            self._take_opens(running)
            self._take_sandbox_events(running)
            self._check(running, time.monotonic())
            self._check_trusted_parts(running)
            self.observer.tick(clock)
        if self.monitor:
            self.monitor.sync()
            self._take_opens(running)
        while log_open:
            log_open = self.log.pump(running.log_descriptor)
        if not self.killed:
            try:
                clock.check(clock.empty)
            except Violation as violation:  # noticed only now: the sandbox ended by itself an instant after a limit
                self._note(violation)
        self._take_scorer_result(running, at_end=True)

    def _check_trusted_parts(self, running: RunningSandbox) -> None:
        """Raise RefereeError if the listeners do not answer, the command is not confined as it was meant to be, or
        another run is beside one that should be alone.
        """
        if time.monotonic() >= self.look_at:
            self.look_at = time.monotonic() + LOOK_SECONDS
            self.registration.look_around()
        if self.monitor:
            self.monitor.check_alive()
        if self.confinement is None:
            self.confinement = found = running.confinement()
            if found and not (found.capabilities == "0" and found.seccomp == 2 and found.no_new_privileges):
                raise RefereeError(f"the command of {self.label} is not confined: {found}")

    def _take_opens(self, running: RunningSandbox) -> None:
        for event in self.monitor.events() if self.monitor else []:
            if event.opener is Opener.OUTSIDER:
                self.outsiders_denied += 1
            elif event.opener is Opener.UNKNOWN and not self.killed:
                self._fail(
                    running,
                    Violation(Reason.UNATTRIBUTED_OPEN, "an open of a gated file could not be attributed to a process"),
                )
            elif event.opener is Opener.PHASE and event.allowed:
                self.allowed_by_listener[event.listener] = self.allowed_by_listener.get(event.listener, 0) + 1
                self.clock.open_gate(event.at)
                if self.scorer_thread:
                    self.scorer_thread.scorer.open_gate()
            elif event.opener is Opener.PHASE:
                self._deny(running, event)

    def _deny(self, running: RunningSandbox, event: Open) -> None:
        name = self.monitor.names.get(event.file, "unnamed")
        self.denied.append(
            DeniedOpen(
                file=name,
                device=event.file.device,
                inode=event.file.inode,
                pid=event.pid,
                seconds_after_launch=round(event.at - self.clock.launched, 6),
            )
        )
        self._fail(running, Violation(Reason.FORBIDDEN_OPEN, f"tried to open {name}, which this phase may not see"))

    def _take_sandbox_events(self, running: RunningSandbox) -> None:
        while event := running.event():
            if event.kind == "empty":
                self.clock.empty = event.at
                return
            self.clock.exited = event.at
            if self.killed:
                continue
            self.exit_code = event.exit_code
            if event.exit_code != 0:
                self._fail(
                    running,
                    Violation(Reason.EXIT_CODE, f"its command ended with exit code {event.exit_code} (see its log)"),
                )

    def _check(self, running: RunningSandbox, now: float) -> None:
        """Act on what is due: limits, and a score that cannot be completed any more."""
        if self.killed or self.clock.empty is not None:
            return
        try:
            self.clock.check(now)
        except Violation as violation:
            self._fail(running, violation)
        self._take_scorer_result(running)
        if self.kill_at is not None and now >= self.kill_at:
            self._kill(running)

    def _take_scorer_result(self, running: RunningSandbox, at_end: bool = False) -> None:
        if self.scorer_thread is None:
            return
        if at_end:  # nobody is left to reply
            self.scorer_thread.scorer.stop()
            self.scorer_thread.join()
        result = self.scorer_thread.result
        if isinstance(result, Violation):
            if result.reason is Reason.SCORE_INCOMPLETE and not at_end:
                self._note(result)
                self.kill_at = self.kill_at or time.monotonic() + GOODBYE_SECONDS
            else:
                self._fail(running, result)
        elif isinstance(result, BaseException):
            raise result

    def _score(self) -> Score | None:
        result = self.scorer_thread.result if self.scorer_thread else None
        return result if isinstance(result, Score) else None

    def _note(self, violation: Violation) -> None:
        if violation.reason not in {known.reason for known in self.violations}:
            self.violations.append(violation)

    def _fail(self, running: RunningSandbox, violation: Violation) -> None:
        self._note(violation)
        self._kill(running)

    def _kill(self, running: RunningSandbox) -> None:
        if not self.killed:
            self.killed = True
            running.kill()

    def _record(self, backend: str, running: RunningSandbox) -> PhaseRecord:
        end, walls, confinement = self.clock.empty, running.walls, self.confinement
        return PhaseRecord(
            prepare_seconds=round(self.clock.prepare_seconds(end), 6),
            prepare_limit_seconds=self.clock.prepare_limit,
            clock_seconds=round(self.clock.clock_seconds(end), 6),
            limit_seconds=self.clock.clock_limit,
            gate_seen=self.clock.gate_is_seen,
            exit_code=self.exit_code,
            opens_allowed=max(self.allowed_by_listener.values(), default=0),
            opens_denied=tuple(self.denied),
            outsider_opens_denied=self.outsiders_denied,
            page_cache_dropped=self.page_cache_dropped,
            network_attempts=self.network_attempts,
            peak_memory_bytes=running.peak_memory_bytes(),
            log_bytes=self.log.bytes,
            log_truncated=self.log.truncated,
            sandbox=SandboxEvidence(
                backend=backend,
                uid=walls.uid,
                pid_namespace=walls.pid_namespace,
                mounts=walls.mounts,
                limited=walls.limited,
                shared=walls.shared,
                capabilities=confinement.capabilities if confinement else None,
                seccomp=confinement.seccomp if confinement else None,
                no_new_privileges=confinement.no_new_privileges if confinement else None,
                uid_map=confinement.uid_map if confinement else None,
            ),
        )
