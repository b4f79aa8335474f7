"""The `harness` command. Everything it does is in the modules it calls; here are options, messages and exit codes."""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness import doctor as checks
from harness.errors import EnvironmentMissing, ExitCode, InputError, RefereeError
from harness.machine import Machine, free_bytes, survey
from harness.outputs import give_away
from harness.preflight import preflight
from harness.rules import load_rules
from harness.sandbox.backends import DEFAULT_IMAGE, NAMES, Backend, find_backend, own_container

if TYPE_CHECKING:
    from harness.data.collect import Origin

TYPER_INTERRUPTED = 130  # what typer makes of a KeyboardInterrupt
DEMO_DATA = Path("data/demo")
DATA_FOLDER = Path("data")
CONTEST_REPOSITORY = "willdepueoai/parameter-golf"
REPOSITORY_SUBMISSION = Path("submission")

app = typer.Typer(
    name="harness",
    help="Referee for the Parameter Golf contest: clocks, data access, size and score, measured from outside.",
    epilog="Exit codes: 0 PASS, 1 FAIL, 2 UNPROVEN, 3 ERROR (the harness failed), 64 usage, 65 input, 69 environment; "
    "of check: 0 CLEAN, 1 FLAG, 2 HOLD.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Make and check data directories.", no_args_is_help=True)
app.add_typer(data_app, name="data")

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

RulesOption = Annotated[str, typer.Option("--rules", help="Rule set: demo, record, or the path of a .toml file.")]
SubmissionOption = Annotated[
    Path, typer.Option("--submission", help="Folder of the submission (with a submission.toml).")
]
DataOption = Annotated[Path, typer.Option("--data", help="Data directory (with a manifest.json).")]
SeedsOption = Annotated[str, typer.Option("--seeds", help="Seeds, separated by commas. Default: those of the rules.")]
SandboxOption = Annotated[
    str, typer.Option("--sandbox", help="Back-end: docker, bubblewrap or auto (docker in a container).")
]
ImageOption = Annotated[str, typer.Option("--image", help="Image for Docker, if the harness itself runs on the host.")]
OutOption = Annotated[Path, typer.Option("--out", help="Where run directories go.")]
VariantOption = Annotated[str, typer.Option("--variant", help="Tokenizer of the published data, such as sp1024.")]
TrainShardsOption = Annotated[int, typer.Option("--train-shards", min=1, help="How many train shards, from the first.")]
DataOutOption = Annotated[
    Path | None, typer.Option("--out", help="Directory to make. Default: data/ and the variant.", show_default=False)
]


@app.command()
def record(
    rules: RulesOption,
    submission: SubmissionOption,
    data: DataOption,
    seeds: SeedsOption = "",
    sandbox: SandboxOption = "auto",
    image: ImageOption = DEFAULT_IMAGE,
    out: OutOption = Path("runs"),
) -> None:
    """Run a submission under the rules: train, quantize and eval for each seed, ending in a verdict."""
    raise typer.Exit(_run(rules, submission, data, seeds, _backend(sandbox, image), out))


@app.command()
def demo(
    submission: SubmissionOption = REPOSITORY_SUBMISSION,
    data: DataOption = DEMO_DATA,
    seeds: SeedsOption = "",
    sandbox: SandboxOption = "auto",
    image: ImageOption = DEFAULT_IMAGE,
    out: OutOption = Path("runs"),
) -> None:
    """The contest on a laptop CPU: `record` with the demo rules, the demo data (made if need be) and one seed."""
    backend = _backend(sandbox, image)
    if data == DEMO_DATA:
        _make_demo_data(data)
    raise typer.Exit(_run("demo", submission, data, seeds, backend, out))


class Format(StrEnum):
    """What `check` writes."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"
    MARKDOWN = "markdown"


@app.command()
def check(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PATH...", help="Submissions, record folders, folders of them, or scripts."),
    ] = None,
    base: Annotated[
        str, typer.Option("--base", help="Only what differs from this git revision, as in a pull request.")
    ] = "",
    format: Annotated[Format, typer.Option("--format", help="What is written.")] = Format.TEXT,
    output: Annotated[
        Path | None, typer.Option("--output", help="File to write to; the terminal gets a line per target.")
    ] = None,
    explain: Annotated[str, typer.Option("--explain", metavar="ID", help="Say what a check is about, and end.")] = "",
) -> None:
    """Read the code and the logs of submissions without running anything: what a reviewer would look for.

    Exit code 0 CLEAN, 1 FLAG (a violation, shown), 2 HOLD (a person must look, and is told at what).
    """
    from harness.compliance import output as report_output
    from harness.compliance.catalogue import CHECKS

    if explain:
        if explain not in CHECKS:
            raise typer.BadParameter(f"--explain is {explain!r}; it must be one of {', '.join(CHECKS)}")
        report_output.print_explanation(CHECKS[explain], console)
        return
    if not paths:
        raise typer.BadParameter("a PATH is missing: name what is to be checked, such as a submission's folder")
    raise typer.Exit(_check(paths, base or None, format, output))


@app.command()
def doctor(
    rules: Annotated[str, typer.Option("--rules", help="Check what this rule set asks of the machine, too.")] = "",
    data: Annotated[Path | None, typer.Option("--data", help="With --rules: whether this data fits them.")] = None,
    out: OutOption = Path("runs"),
    attack: Annotated[
        bool, typer.Option("--attack", help="Attack the sandbox from inside, and show every answer.")
    ] = False,
    sandbox: SandboxOption = "auto",
    image: ImageOption = DEFAULT_IMAGE,
) -> None:
    """Check this machine: what is missing, and what that costs.

    Exit code 0 if a PASS is possible here, 2 if UNPROVEN is the best verdict, 69 if nothing can be run; with --rules,
    under these rules and with this data.
    """
    if data and not rules:
        raise typer.BadParameter("--data needs --rules, which say what the data must be")
    asked = load_rules(rules).rules if rules else None
    backend = _backend(sandbox, image)
    machine = _survey(backend)
    found = checks.inspect(out, backend, attack=attack, machine=machine)
    if asked:
        found += preflight(asked, data, out, machine=machine)
    table = Table(show_header=False, box=None)
    for check in found:
        cost = f" -- {check.cost}" if check.cost and not check.ok else ""
        table.add_row("[green]ok[/]" if check.ok else "[red]missing[/]", check.name, escape(f"{check.detail}{cost}"))
    console.print(table)
    costs = {check.cost for check in found if not check.ok}
    if costs & {checks.Cost.NO_RUN, checks.Cost.NOT_THESE_RULES, checks.Cost.NO_DATA}:
        raise typer.Exit(ExitCode.ENVIRONMENT)
    raise typer.Exit(ExitCode.UNPROVEN if checks.Cost.NO_PASS in costs else ExitCode.PASS)


@data_app.command("demo")
def data_demo(out: Annotated[Path, typer.Option("--out", help="Directory to make.")] = DEMO_DATA) -> None:
    """Make the demo corpus from the documentation that this Python carries: no download, the same bytes for the same
    Python.
    """
    _make_demo_data(out)


@data_app.command("verify")
def data_verify(data: DataOption = DEMO_DATA) -> None:
    """Read every file of a data directory and compare it with the manifest, and the documents of val with train."""
    from harness.data.manifest import Manifest, verify
    from harness.data.overlap import RUN_TOKENS, measure_once
    from harness.registry import Registration

    def progress(text: str) -> None:
        console.print(f"  {escape(text)}")

    with Registration(f"verify-{os.getpid()}") as registration:
        manifest = Manifest.load(data)
        facts = verify(data, manifest, progress)
        overlap = measure_once(facts, registration.directory, progress)
    said_by = escape(str(data / "manifest.json"))
    console.print(f"{len(facts)} files are what {said_by} says (manifest sha256 {manifest.sha256})")
    console.print(
        f"{overlap.in_train:,} of {overlap.documents:,} val documents are in train ({overlap.share:.1%}): "
        f"{overlap.repeated:,} word for word, {overlap.mostly_in_train:,} by more than half of their runs of "
        f"{RUN_TOKENS} tokens"
        + (f"; the first at token {overlap.example:,} of val" if overlap.example is not None else "")
    )


@data_app.command("fetch")
def data_fetch(
    variant: VariantOption = "sp1024",
    train_shards: TrainShardsOption = 80,
    out: DataOutOption = None,
    repository: Annotated[
        str, typer.Option("--repository", help="Dataset repository on the Hugging Face hub (HF_ENDPOINT).")
    ] = CONTEST_REPOSITORY,
) -> None:
    """Download the contest's data and check it; what was cut off goes on where it stopped."""
    from harness.data.hub import HubOrigin

    _collect(HubOrigin(repository), variant, train_shards, out)


@data_app.command("import")
def data_import(
    folder: Annotated[Path, typer.Argument(help="Folder with the published manifest.json, datasets/ and tokenizers/.")],
    variant: VariantOption = "sp1024",
    train_shards: TrainShardsOption = 80,
    out: DataOutOption = None,
) -> None:
    """Copy the contest's data from a folder on this machine, with the same checks; the folder is not changed."""
    from harness.data.collect import FolderOrigin

    _collect(FolderOrigin(folder), variant, train_shards, out)


def _collect(origin: Origin, variant: str, train_shards: int, out: Path | None) -> None:
    from harness.data.collect import collect
    from harness.progress import FileProgress

    directory = out or DATA_FOLDER / variant
    progress = FileProgress(console)
    try:
        manifest = collect(origin, directory, variant=variant, train_shards=train_shards, watcher=progress)
    finally:
        progress.close()
        _hand_over(directory)
    train, val = (sum(shard.tokens for shard in shards) for shards in (manifest.train, manifest.val))
    console.print(
        f"{escape(str(directory))}: {train:,} train tokens in {len(manifest.train)} shards; {val:,} val tokens, "
        f"{manifest.text.val.documents:,} documents, {manifest.text.val.bytes:,} bytes of text "
        f"(manifest sha256 {manifest.sha256})"
    )


def _make_demo_data(directory: Path) -> None:
    from harness.data.demo import build_demo_corpus

    build_demo_corpus(directory, progress=lambda text: console.print(f"  data: {escape(text)}"))
    _hand_over(directory)


def _hand_over(directory: Path) -> None:
    """Give what was made to the user, who does not work as the root of a container: the owner of the directory that it
    was started in.
    """
    if own_container() and os.geteuid() == 0:
        give_away(directory, like=Path.cwd())


def _run(rules_name: str, submission: Path, data: Path, seeds_text: str, backend: Backend, out: Path) -> ExitCode:
    from harness.evidence.record import Verdict
    from harness.progress import ConsoleObserver, print_record
    from harness.referee import RECORD, RunRequest, run_record

    rules = load_rules(rules_name)
    seeds = parse_seeds(seeds_text) or rules.rules.seeds.default
    machine = _survey(backend)
    missing_witnesses = checks.require(preflight(rules.rules, data, out, machine=machine, seeds=len(seeds)))
    found = checks.inspect(out, backend, machine=machine)
    missing_witnesses += checks.require(found)
    sandbox = backend.make()
    sandbox.check_paths([data, out])
    request = RunRequest(
        rules=rules,
        submission=submission,
        data=data,
        seeds=seeds,
        out=out,
        sandbox=sandbox,
        owner=Path.cwd() if own_container() else None,
        monitored=next(check.ok for check in found if check.name == checks.ACCESS_MONITOR),
        missing_witnesses=missing_witnesses,
        environment={**checks.environment(machine), **sandbox.facts(), "disk_free_bytes": free_bytes(out)[0]},
    )
    console.print(f"rules {rules.rules.name}: {escape(rules.rules.description)}")
    for text in missing_witnesses:
        console.print(f"[yellow]  no PASS possible: {escape(text)}[/]")
    observer = ConsoleObserver(console)
    try:
        result, directory = run_record(request, observer)
    finally:
        observer.close()
    print_record(result, console)
    console.print(f"evidence: {escape(str(directory / RECORD))}")
    return {
        Verdict.PASS: ExitCode.PASS,
        Verdict.FAIL: ExitCode.FAIL,
        Verdict.UNPROVEN: ExitCode.UNPROVEN,
        Verdict.ERROR: ExitCode.ERROR,
    }[result.verdict]


def _check(paths: list[Path], base: str | None, format: Format, output: Path | None) -> ExitCode:
    from rich.progress import Progress

    from harness.compliance.check import check_all, find_targets
    from harness.compliance.interchange import as_json, as_sarif
    from harness.compliance.output import markdown, overall, print_text, print_verdicts

    targets = find_targets(paths, base)
    # No thread of its own: the processes that look at targets are forked from this one.
    progress = Progress(console=errors, transient=True, auto_refresh=False, disable=len(targets) < 2)
    with progress:
        task = progress.add_task("checking", total=len(targets))
        reports = check_all(targets, lambda _: progress.update(task, advance=1, refresh=True))
    status = overall(reports)
    if format is Format.TEXT and output is None:
        print_text(reports, console)
        return ExitCode[status]
    if format is Format.TEXT:
        stream = io.StringIO()
        print_text(reports, Console(file=stream, highlight=False))
        text = stream.getvalue()
    else:
        text = {Format.JSON: as_json, Format.SARIF: as_sarif, Format.MARKDOWN: markdown}[format](reports)
    if output is None:
        sys.stdout.write(text)
        return ExitCode[status]
    try:
        output.write_text(text)
    except OSError as error:
        raise InputError(f"cannot write {output}: {error.strerror}") from None
    print_verdicts(reports, console)
    return ExitCode[status]


def _survey(backend: Backend) -> Machine:
    """A harness in a container has no GPUs of its own: containers beside it get them."""
    if own_container() and backend.name == "docker":
        return survey(backend.make().find_gpus)
    return survey()


def _backend(name: str, image: str) -> Backend:
    if name not in NAMES:
        raise typer.BadParameter(f"--sandbox is {name!r}; it must be one of {', '.join(NAMES)}")
    return find_backend(name, image)


def parse_seeds(text: str) -> tuple[int, ...]:
    """Whole numbers from a list separated by commas; raises typer.BadParameter if it is none or repeats one."""
    try:
        seeds = tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise typer.BadParameter(
            f"--seeds is {text!r}; it must be whole numbers separated by commas, such as 314,42,999"
        ) from None
    if len(set(seeds)) != len(seeds) or any(not 0 <= seed < 2**32 for seed in seeds):
        raise typer.BadParameter(f"--seeds is {text!r}; seeds must differ and lie between 0 and 2^32 - 1")
    return seeds


def main() -> None:
    """Entry point: every foreseeable failure ends in one line on stderr and its own exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: sandbox killed, record written
    try:
        code = app(standalone_mode=False)
        if code == TYPER_INTERRUPTED:
            raise KeyboardInterrupt
    except typer.TyperException as error:
        message = error.format_message() or "a command is missing"  # without arguments the help has been printed
        errors.print(f"harness: {message} (see `harness --help`)", markup=False)
        code = ExitCode.USAGE
    except InputError as error:
        errors.print(f"harness: {error}", markup=False)
        code = ExitCode.BAD_INPUT
    except EnvironmentMissing as error:
        errors.print(f"harness: {error}", markup=False)
        code = ExitCode.ENVIRONMENT
    except RefereeError as error:
        errors.print(f"harness: {error}", markup=False)
        code = ExitCode.ERROR
    except KeyboardInterrupt:
        errors.print("harness: interrupted; what was recorded so far is kept, with verdict ERROR")
        code = ExitCode.ERROR
    except Exception:  # the harness's own fault must not look like a verdict about the submission
        traceback.print_exc()
        code = ExitCode.ERROR
    sys.exit(code)


if __name__ == "__main__":
    main()
