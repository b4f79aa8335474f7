"""The scorer: turns a model server's logits into nats per token, and asks again where it may have looked ahead.

Both classes run in a thread of the harness. A target is only sent, as context of a later window, after its own loss is
fixed; what an adaptive server may observe has been scored before."""

from __future__ import annotations

import os
import socket
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.errors import Reason, Violation
from harness.scoring import wire
from harness.scoring.probes import MOST_FINDINGS, Ahead, Comparison, Finding, Kind, Probe, Prober
from harness.scoring.server import Item, ModelServer
from harness.scoring.windows import Window, chunks, exposed, lanes, plan_windows

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Score:
    """nats: float32 [N - 1], the loss of each scored token in stream order. `hello` is what the server declared (rank
    0's). exposed: windows that a server with a memory could have cheated in.
    """

    nats: np.ndarray
    hello: wire.Hello
    exposed: tuple[Window, ...]


class _Asker(ABC):
    """What scoring and probing after the fact share: one server, its probes, and their comparison with what has been
    committed in `nats`.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        vocab_size: int,
        listener: socket.socket,
        nats: np.ndarray,
        comparison: Comparison,
        prober: Prober,
        workers: int | None,
    ) -> None:
        self.nats = nats
        self.comparison = comparison
        self._tokens = tokens
        self._prober = prober
        self._server = ModelServer(tokens, vocab_size, listener, self._describe_progress, workers)
        self._answered: list[tuple[Probe, np.ndarray]] = []
        self._finding: Finding | None = None

    def open_gate(self) -> None:
        self._server.open_gate()

    def stop(self) -> None:
        """End a run that cannot finish: the sandbox is gone."""
        self._server.stop()

    @abstractmethod
    def _describe_progress(self) -> str:
        """How far the work is, for messages."""

    def _keep(self, probe: Item, nats: np.ndarray) -> None:
        self._answered.append((probe, nats))

    def _settle(self) -> None:
        """Compare the answered probes with the committed losses, and look into differences before the server changes
        by what it observes.
        """
        findings = [self.comparison.compare(probe, nats, self.nats) for probe, nats in self._answered]
        self._answered = []
        for finding in list(filter(None, findings))[:MOST_FINDINGS]:
            if self._finding is None or not self._finding.depends_on_suffix:
                self._finding = self._look_into(finding)

    def _look_into(self, finding: Finding) -> Finding:
        """Ask for the window and for the probe once more: a server that looks ahead, and only that, answers both as it
        did before; one that remembers, by now, something else to at least one of them.
        """
        if finding.probe.kind is Kind.WHOLE:
            return replace(finding, depends_on_suffix=False)
        whole = self._prober.draw(finding.probe.window, Kind.WHOLE)
        answers: list[np.ndarray] = []
        self._server.ask_alone([whole, finding.probe], lambda _, nats: answers.append(nats.astype(np.float32)))
        deviations = (answers[0] - self.nats[whole.places], answers[1][: len(finding.losses)] - finding.losses)
        largest = max(float(np.abs(deviation).max()) for deviation in deviations)
        return replace(finding, depends_on_suffix=largest <= self.comparison.tolerance)

    def _conclude(self) -> None:
        """Raise the Violation that the probes have shown, if any."""
        if self._finding:
            raise self._finding.violation(self.comparison.tolerance)
        self.comparison.check_mean()

    def _observe(self, group: Sequence[Window], chunk: int, count: int) -> None:
        self._server.observe(group[0].targets.start, group[-1].targets.stop, chunk, count)


@dataclass(frozen=True)
class _Chunk:
    """What is asked before an adaptive server may observe: of any other, all. first, last: asked alone, before and
    after the others, because they have shapes of their own. rows: of each slot of each rank (rank, slot), lanes that
    are worked strictly from left to right.
    """

    windows: Sequence[Window]
    first: Sequence[Item]
    rows: dict[tuple[int, int], list[deque[Item]]]
    last: Sequence[Item]

    def take(self, rank: int, slot: int) -> list[Item]:
        """The next window of each lane of a slot."""
        return [row.popleft() for row in self.rows.get((rank, slot), []) if row]


class Scorer(_Asker):
    """Scores one val stream with one model, with blind probes among the windows.

    tokens: uint16 [N], the val stream. listener: a listening SEQPACKET Unix socket. `progress(done, total)` is called
    with counts of scored tokens. probe_share: of the windows. other: text for probes, see `Prober`. workers: see
    `ModelServer`. `nats` holds the losses so far, NaN where there is none yet."""

    def __init__(
        self,
        tokens: np.ndarray,
        vocab_size: int,
        listener: socket.socket,
        progress: Progress,
        *,
        comparison: Comparison,
        probe_share: float,
        other: np.ndarray,
        workers: int | None = None,
    ) -> None:
        # Philox is not made to keep secrets, but a server sees only which windows were probed, and only afterwards.
        prober = Prober(os.urandom(16), other, tokens)
        nats = np.full(len(tokens) - 1, np.nan, np.float32)
        super().__init__(tokens, vocab_size, listener, nats, comparison, prober, workers)
        self._progress = progress
        self._share = probe_share
        self._scored = 0
        self._exposed: list[Window] = []

    def _describe_progress(self) -> str:
        return f"{self._scored:,} of {len(self.nats):,} tokens were scored"

    def run(self) -> Score:
        """Score the whole stream. Raises Violation for whatever the model server does wrong, if it leaves before the
        end, and if its answers to probes differ.
        """
        try:
            hello = self._server.accept()
            chunks_to_ask = self._plan(hello)  # seconds at the record's size, while the server still prepares
            self._server.wait_until_ready()
            for number, chunk in enumerate(chunks_to_ask):
                self._server.ask_alone(chunk.first, self._fix)
                self._server.ask(chunk.take, self._fix)
                self._server.ask_alone(chunk.last, self._fix)
                self._settle()
                if number + 1 < len(chunks_to_ask):
                    self._observe(chunk.windows, number, len(chunks_to_ask))
            self._server.end()
            if np.isnan(self.nats).any():
                raise AssertionError("the window plan left a token unscored")
            self._conclude()
            return Score(self.nats, hello, tuple(self._exposed))
        finally:
            self._server.close()

    def _plan(self, hello: wire.Hello) -> list[_Chunk]:
        """Everything that will be asked, blind probes included."""
        plan = plan_windows(len(self._tokens), hello.window, hello.stride)
        planned = []
        for windows in chunks(plan.windows(), hello.chunk):
            first = [plan.first] if windows[0] is plan.first else []
            last = [plan.last] if windows[-1] is plan.last else []
            cut = lanes(windows[len(first) : len(windows) - len(last)], hello.world_size * hello.slots * hello.batch)
            self._exposed += exposed(cut)
            rows: dict[tuple[int, int], list[deque[Item]]] = {}
            for number, lane in enumerate(cut):
                place, rank = divmod(number, hello.world_size)
                rows.setdefault((rank, place % hello.slots), []).append(deque(self._hide(lane)))
            planned.append(_Chunk(windows, self._hide(first), rows, self._hide(last)))
        return planned

    def _hide(self, windows: Sequence[Window]) -> list[Item]:
        return self._prober.hide(windows, self._share)

    def _fix(self, item: Item, nats: np.ndarray) -> None:
        if isinstance(item, Probe):
            self._keep(item, nats)
            return
        place = slice(item.first_target - 1, item.first_target - 1 + item.scored)
        if not np.isnan(self.nats[place]).all():
            raise AssertionError("the window plan scores a token twice")
        self.nats[place] = nats
        self._scored += item.scored
        self._progress(self._scored, len(self.nats))


class ProbeScorer(_Asker):
    """Asks a fresh process for windows chosen after the whole stream was scored, in random order where their text does
    not overlap, and compares.

    score: of the scored run. count: windows to probe. An adaptive server observes what it observed then, and is asked
    for windows of each chunk in between. `progress(done, total)` is called with counts of probes."""

    def __init__(
        self,
        tokens: np.ndarray,
        vocab_size: int,
        listener: socket.socket,
        progress: Progress,
        *,
        score: Score,
        comparison: Comparison,
        prober: Prober,
        count: int,
        workers: int | None = None,
    ) -> None:
        super().__init__(tokens, vocab_size, listener, score.nats, comparison, prober, workers)
        self._progress = progress
        self._hello = score.hello
        windows = plan_windows(len(tokens), score.hello.window, score.hello.stride).windows()
        self._groups = chunks(windows, score.hello.chunk)
        self._probes = prober.choose(windows, count, score.exposed)

    def _describe_progress(self) -> str:
        return f"{self.comparison.probes + len(self._answered):,} of {len(self._probes):,} probes were answered"

    def run(self) -> None:
        """Ask every probe. Raises Violation for whatever the model server does wrong, if it leaves before the end, and
        if its answers differ from those of the scored run.
        """
        try:
            hello = self._server.accept()
            if hello != self._hello:
                raise Violation(Reason.SCORE_PROTOCOL, f"a fresh process declares {hello}, eval's {self._hello}")
            self._server.wait_until_ready()
            chunk_of = {window: number for number, group in enumerate(self._groups) for window in group}
            by_chunk: dict[int, list[Probe]] = {}
            for probe in self._probes:
                by_chunk.setdefault(chunk_of[probe.window], []).append(probe)
            for number in range(max(by_chunk) + 1):
                if number:
                    self._observe(self._groups[number - 1], number - 1, len(self._groups))
                self._ask_shuffled(by_chunk.get(number, []), hello)
                self._settle()
            self._server.end()
            self._conclude()
        finally:
            self._server.close()

    def _ask_shuffled(self, probes: list[Probe], hello: wire.Hello) -> None:
        """In the order drawn, as far as requests of one shape allow, and what each shows of what follows the cuts of
        others. Between two whose windows overlap this leaves one order.
        """
        waiting, ahead = list(probes), Ahead(probes)

        def take(rank: int, slot: int) -> list[Item]:
            chosen: list[Probe] = []
            for probe in waiting:
                if chosen and (probe.length, probe.scored) != (chosen[0].length, chosen[0].scored):
                    continue
                if not ahead.shown_by(probe):
                    chosen.append(probe)
                    if len(chosen) == hello.batch or probe.scored > hello.stride:
                        break
            taken = set(chosen)
            waiting[:] = [probe for probe in waiting if probe not in taken]
            return chosen

        def keep(probe: Item, nats: np.ndarray) -> None:
            ahead.close(probe)
            self._keep(probe, nats)
            self._progress(self.comparison.probes + len(self._answered), len(self._probes))

        self._server.ask(take, keep)
