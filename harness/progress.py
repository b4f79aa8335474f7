"""How a run is shown to people: a live line on a terminal, a line every few seconds elsewhere, and the final table."""

from __future__ import annotations

import time

from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from harness.clock import PhaseClock
from harness.errors import Violation
from harness.evidence.record import PhaseRecord, Record, Verdict

LINE_SECONDS = 10.0  # between progress lines where there is no terminal
COLOURS = {
    Verdict.PASS: "bold green",
    Verdict.FAIL: "bold red",
    Verdict.UNPROVEN: "bold yellow",
    Verdict.ERROR: "bold magenta",
}


class ConsoleObserver:
    """Shows phases as they go; what the submission says about itself is marked as claimed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._title = ""
        self._claimed = ""
        self._scored = ""
        self._last_line = 0.0

    def phase_started(self, seed: int, phase: str, clock: PhaseClock) -> None:
        self._title, self._claimed, self._scored, self._last_line = f"seed {seed} {phase}", "", "", time.monotonic()
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=5, transient=True)
            self._live.start()

    def tick(self, clock: PhaseClock) -> None:
        now = time.monotonic()
        if self._live is None and now - self._last_line < LINE_SECONDS:
            return
        self._last_line = now
        if clock.gate is None:
            left = f"preparing {clock.prepare_seconds(now):5.1f} s of {clock.prepare_limit:g} s"
        else:
            left = f"{clock.clock_limit - clock.clock_seconds(now):6.1f} s left of {clock.clock_limit:.1f} s"
        claimed = f"  claimed: {self._claimed}" if self._claimed else ""
        line = Text(f"  {self._title:<18} {left}{self._scored}{claimed}", no_wrap=True, overflow="ellipsis")
        if self._live:
            self._live.update(line)
        else:
            self._console.print(line)

    def claimed(self, line: str) -> None:
        self._claimed = "".join(character if character.isprintable() else " " for character in line)[:120]

    def scored(self, done: int, total: int) -> None:
        self._scored = f"  scored {done:,} of {total:,} tokens"

    def probed(self, done: int, total: int) -> None:
        self._scored = f"  {done:,} of {total:,} probes answered"

    def phase_finished(self, seed: int, phase: str, record: PhaseRecord, violations: list[Violation]) -> None:
        if self._live:
            self._live.stop()
            self._live = None
        state = "[red]broken rule[/red]" if violations else "done"
        self._console.print(
            f"  {self._title:<18} {state}: prepared {record.prepare_seconds:.1f} s, "
            f"clock {record.clock_seconds:.1f} s of {record.limit_seconds:.1f} s"
        )

    def note(self, text: str) -> None:
        self._console.print(f"  {escape(text)}")

    def close(self) -> None:
        if self._live:
            self._live.stop()


class FileProgress:
    """Shows files on their way: a bar over all of their bytes on a terminal, a line every few seconds elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._files = self._size = self._files_done = 0
        self._last_line = time.monotonic()

    def begin(self, files: int, size: int) -> None:
        self._files, self._size = files, size
        self._task = self._progress.add_task(self._title(), total=size)
        self._progress.start()

    def at(self, position: int) -> None:
        self._progress.update(self._task, completed=position)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            self._console.print(f"  {self._title()}: {position:,} of {self._size:,} bytes")

    def done(self, name: str) -> None:
        self._files_done += 1
        self._progress.update(self._task, description=self._title())

    def note(self, text: str) -> None:
        self._console.print(f"  {escape(text)}")

    def close(self) -> None:
        self._progress.stop()

    def _title(self) -> str:
        return f"{self._files_done} of {self._files} files"


def print_record(record: Record, console: Console) -> None:
    """The final table, the reasons, and the verdict."""
    for seed in record.seeds:
        table = Table(title=f"seed {seed.seed}", title_justify="left", title_style="bold", box=SIMPLE, pad_edge=False)
        for name in ("phase", "prepared / limit", "clock / limit", "opens: allowed", "denied", "exit"):
            table.add_column(name, justify="left" if name == "phase" else "right", no_wrap=True)
        for name, phase in seed.phases.items():
            table.add_row(
                name,
                f"{phase.prepare_seconds:.1f} / {phase.prepare_limit_seconds:g} s",
                f"{phase.clock_seconds:.1f} / {phase.limit_seconds:.1f} s" + ("" if phase.gate_seen else "*"),
                str(phase.opens_allowed) if phase.gate_seen else "not seen",
                str(len(phase.opens_denied)) if phase.gate_seen else "not seen",
                "killed" if phase.exit_code is None else str(phase.exit_code),
            )
        console.print(table)
        if any(not phase.gate_seen for phase in seed.phases.values()):
            console.print("  * from launch, because nobody saw the gate open; preparation is inside")
        if seed.total_bytes is not None:
            console.print(
                f"  size     {seed.artifact_bytes:,} artifact + {seed.code_bytes:,} code = {seed.total_bytes:,} bytes; "
                f"limit {seed.size_limit_bytes:,}"
            )
        if seed.val_bpb is not None:
            console.print(
                f"  val_bpb  {seed.val_bpb:.5f} over {seed.tokens:,} tokens, {seed.bytes:,} bytes "
                f"(val_loss {seed.val_loss:.5f} nats per token; best unigram model: {seed.unigram_bpb:.5f})"
            )
        if seed.val_bpb_standard_error is not None:
            console.print(
                f"           standard error over documents {seed.val_bpb_standard_error:.5f} "
                f"(val_loss {seed.val_loss_standard_error:.5f})"
            )
        for kind, probes in (("blind", seed.probes_blind), ("after", seed.probes_after)):
            if probes is not None and probes.probes:
                missed = "" if probes.missed_share is None else f"; could miss {probes.missed_share:.2%} of positions"
                console.print(
                    f"  probes   {probes.probes:,} {kind}, largest deviation {probes.largest_deviation_nats:.2g} nats "
                    f"of {probes.tolerance_nats:g}{missed}"
                )
    if (test := record.significance) is not None:
        console.print(
            f"  against {test.baseline_name}: {test.improvement_nats:+.5f} nats; "
            f"for more than {test.minimum_improvement_nats:g} nats t = {test.t:.2f}, "
            f"df = {test.degrees_of_freedom:.2f}, p = {test.p_value:.3g}"
        )
    for reason in record.reasons:
        where = ", ".join(
            part for part in (f"seed {reason.seed}" if reason.seed is not None else "", reason.phase or "") if part
        )
        console.print(f"  {reason.code}{f' ({where})' if where else ''}: {escape(reason.text)}")
    console.print(f"[{COLOURS[record.verdict]}]{record.verdict}[/]")
