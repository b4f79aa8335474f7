"""What a contest record folder says about itself: submission.json, README and logs, against each other and the limits.

FLAG: two of them contradict each other, or a limit is broken by their own numbers. HOLD: something is missing, or the
rules leave it to a person. Numbers are compared at the precision that they are written with.

claim   a number in submission.json
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from harness.compliance.findings import Finding, Place, Source, Status
from harness.compliance.inputs import METADATA, Kind, Target, TargetFile
from harness.compliance.logs import SPLIT_BYTES, Evaluation, Run, Stage, is_log, parse_log
from harness.compliance.parsing import Unreadable, parse
from harness.evidence.record import SignificanceRecord
from harness.rules import Rules, Significance, load_rules
from harness.significance import compare

NATS_PER_BPB = 1.68845364  # of the contest's 1024-piece tokenizer on the validation split: what rules/record.toml uses
MAX_JSON_BYTES = 1_000_000
MAX_LOGS = 200
MAX_LOG_BYTES = 100_000_000  # of all logs of a folder
MAX_FINDINGS = 40  # of one check
SEEDS = 3
PLAUSIBLE_BPB = 0.95  # bits per byte; the accepted records have 1.06 and more
SLACK_SECONDS = 0.5  # a loop notices the cap after the step in flight
GROSS_SECONDS = 5.0
RATIO_TOLERANCE = 0.004  # of nats per bit-per-byte within one run
BYTES_TOLERANCE = 0.04  # evaluations that stop early leave some out; the contest's first logs have 3 % more
PART = 0.9  # of the split, below which it is a part
SPLIT_TOKENS = (62_021_846, 45_511_000, 40_544_000, 151_130_112)  # with 1024, 4096 and 8192 pieces, and of bytes
SAME_TOKENS = 0.0005  # windows at the ends, and lists of the contest's documents that differ by a few

TEXTS = ("author", "github_id", "name", "date")
NUMBERS = frozenset(
    (
        *(
            "val_bpb",
            "val_loss",
            "val_bpb_std",
            "val_loss_std",
            "pre_quant_val_bpb",
            "pre_quant_val_loss",
            "bytes_total",
        ),
        *("bytes_code", "bytes_model_int8_zlib", "bytes_model_compressed", "artifact_bytes", "artifact_bytes_mean"),
        *("artifact_bytes_max", "step_stop", "wallclock_seconds", "train_time_seconds"),
    )
)
BPB_KEYS = ("val_bpb", "mean_val_bpb", "val_bpb_mean", "mean_bpb", "bpb", "val_bpb_exact")
LOSS_KEYS = ("val_loss", "mean_val_loss", "val_loss_mean", "val_loss_nats", "loss")
BYTES_KEYS = (
    "bytes_total",
    "artifact_bytes",
    "artifact_size_bytes",
    "artifact_bytes_max",
    "total_bytes",
    "total_size_bytes",
)
SEED_KEYS = (
    "seed_results",
    "seeds",
    "results",
    "per_seed",
    "seed_scores",
    "runs",
    "val_bpb_seeds",
    "val_bpb_per_seed",
    "per_seed_val_bpb",
    "val_bpb_by_seed",
)
README_BPB = re.compile(
    r"(?i)(?:val[_ -]?bpb|bpb|bits per byte|score)\W{0,12}(?:score|mean|of|is)?\W{0,12}(\d\.\d{3,10})\b"
)
README_BPB_BEHIND = re.compile(r"(?i)(\d\.\d{3,10})\W{0,4}(?:val[_ ]?bpb|bpb)\b")
OTHER_SCORE = re.compile(
    r"(?i)baseline|previous|prior|improve|beat|delta|sota|leaderboard|\bvs\b|\bfrom\b|\bbase\b|pre[- ]?quant"
    r"|->|→|non-?record"
)
IDENTIFIER = re.compile(r"[A-Za-z]\w*_\w+")  # final_int8_zlib_roundtrip
WORD = re.compile(r"[A-Za-z]{3,}")  # of one: code may put it together
DECIMAL = re.compile(r"(?<![\d.,])\d\.\d{3,10}(?![\d.])")


class Number(float):
    """A number of a JSON text, with how many digits it has after its point."""

    digits: int = 0

    @classmethod
    def of(cls, text: str) -> Number:
        number = cls(text)
        mantissa, _, exponent = text.lower().partition("e")
        number.digits = min(max(0, len(mantissa.partition(".")[2]) - int(exponent or 0)), 30)
        return number


@dataclass(frozen=True)
class SeedClaim:
    """What submission.json says of one seed; seed: -1 if it does not say which."""

    seed: int
    bpb: Number | None = None
    loss: Number | None = None
    bytes: int | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Claims:
    """What submission.json says. file: its path; listed: the seeds that it names."""

    file: str
    bpb: Number | None = None
    loss: Number | None = None
    bpb_std: Number | None = None
    bytes_total: int | None = None
    bytes_code: int | None = None
    track: str = ""
    seeds: tuple[SeedClaim, ...] = ()
    listed: tuple[int, ...] = ()
    baseline: str = ""
    t: Number | None = None
    degrees_of_freedom: Number | None = None


@dataclass(frozen=True)
class RecordFolder:
    """A record folder as numbers. claims: absent if there is no submission.json that can be read. logs: every run in a
    log; runs: those without copies of the same run, that the claims can rest on."""

    claims: Claims | None
    logs: tuple[Run, ...]
    runs: tuple[Run, ...]
    readme: str


def check_record_folder(
    target: Target, sources: Sequence[Source] = (), baseline: Significance | None = None
) -> list[Finding]:
    """Everything that arithmetic says about a record folder; nothing about other targets. sources: all of its code,
    unpacked. baseline: what it has to beat; without one, the rules' own if submission.json names it."""
    if target.kind is not Kind.RECORD:
        return []
    found: list[Finding] = []
    folder = read_record_folder(target, found)
    rules = load_rules("record").rules
    check = _Checker(target, folder, rules, baseline, sources)
    arithmetic = (check.plausible, check.scores, check.readme, check.sizes, check.times, check.significance)
    for part in (check.logs, check.printers, *arithmetic):
        found += list(part())[:MAX_FINDINGS]
    return found


def read_record_folder(target: Target, findings: list[Finding]) -> RecordFolder:
    """The numbers of a folder; what cannot be read becomes a finding."""
    claims = _read_claims(target, findings)
    runs: list[Run] = []
    total = 0
    seen: dict[str, str] = {}
    for file in target.files:
        if not is_log(file.name):
            continue
        total += file.bytes
        if len(seen) >= MAX_LOGS or total > MAX_LOG_BYTES:
            findings.append(
                _finding("record-logs", Status.HOLD, f"{file.path} and later logs were not read: too many", file.path)
            )
            break
        try:
            data = file.read()
        except OSError as error:
            findings.append(
                _finding("unreadable", Status.HOLD, f"{file.path} cannot be read: {error.strerror}", file.path)
            )
            continue
        digest = hashlib.sha256(data).hexdigest()
        if digest in seen:
            message = f"{file.path} is the same file as {seen[digest]}; it counts as one run"
            findings.append(_finding("record-logs", Status.HOLD, message, file.path))
            continue
        seen[digest] = file.path
        text = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
        runs += parse_log(file.path, text)
    readme = next((file for file in target.files if re.fullmatch(r"(?i)readme(\.\w+)?", file.path)), None)
    text = ""
    if readme is not None:
        try:
            text = readme.text()[:500_000]
        except OSError as error:
            findings.append(
                _finding("unreadable", Status.HOLD, f"{readme.path} cannot be read: {error.strerror}", readme.path)
            )
    distinct: dict[tuple, Run] = {}
    for run in runs:
        if run.score is None or run.identity not in distinct:
            distinct[run.identity if run.score is not None else (run.file, run.line)] = run
        elif distinct[run.identity].file != run.file:
            message = f"{run.file} is the same run as {distinct[run.identity].file}; it counts as one"
            findings.append(_finding("record-seeds", Status.HOLD, message, run.file, run.line))
    return RecordFolder(claims, tuple(runs), tuple(distinct.values()), text)


def claims_of(target: Target) -> Claims | None:
    """What the submission.json of a record folder says; of one that cannot be read it is said where the folder is
    checked."""
    return _read_claims(target, []) if target.kind is Kind.RECORD else None


# submission.json


def _read_claims(target: Target, findings: list[Finding]) -> Claims | None:
    named = [file for file in target.files if METADATA.fullmatch(file.path)]
    if not named:
        findings.append(_finding("record-schema", Status.FLAG, "the folder has no submission.json"))
        return None
    file = min(named, key=lambda file: (file.path != "submission.json", file.path))
    try:
        tables = _load_json(file)
    except OSError as error:
        findings.append(_finding("unreadable", Status.HOLD, f"{file.path} cannot be read: {error.strerror}", file.path))
        return None
    except (ValueError, RecursionError) as error:
        message = f"{file.path} is no JSON object: {str(error)[:120]}"
        findings.append(_finding("record-schema", Status.FLAG, message, file.path))
        return None
    findings += _schema(file.path, tables)
    return _claims(file.path, tables)


def _load_json(file: TargetFile) -> dict:
    """A JSON object with numbers that know their digits. Raises OSError, ValueError or RecursionError."""

    def once(pairs: list[tuple[str, object]]) -> dict:
        table = dict(pairs)
        if len(table) != len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"it gives {max(names, key=names.count)[:60]!r} twice")
        return table

    def constant(name: str) -> object:
        raise ValueError(f"it holds {name}")

    text = file.read(MAX_JSON_BYTES).decode("utf-8-sig")
    tables = json.loads(text, parse_float=Number.of, object_pairs_hook=once, parse_constant=constant)
    if not isinstance(tables, dict):
        raise ValueError(f"it holds a {type(tables).__name__}")
    return tables


def _schema(path: str, tables: dict) -> Iterator[Finding]:
    """What is missing, of the wrong type, or contradicts itself."""
    for key in TEXTS:
        if key in tables and not isinstance(tables[key], str):
            yield _finding("record-schema", Status.FLAG, f"{path}: {key} is no text", path)
    for key in sorted(NUMBERS & tables.keys()):
        if tables[key] is not None and not _is_number(tables[key]):
            yield _finding("record-schema", Status.FLAG, f"{path}: {key} is no number", path)
    if not any(_is_number(tables.get(key)) for key in BPB_KEYS):
        yield _finding("record-schema", Status.FLAG, f"{path}: has no val_bpb", path)
    missing = [key for key in TEXTS if not tables.get(key)]
    if not any(_is_number(tables.get(key)) for key in (*BYTES_KEYS, "artifact_bytes_mean")):
        seeds = tables.get("seed_results")
        if not (isinstance(seeds, dict) and any("bytes" in str(value) for value in seeds.values())):
            missing.append("bytes_total")
    if missing:
        yield _finding("record-schema", Status.HOLD, f"{path}: does not give {', '.join(missing)}", path)
    date = tables.get("date")
    if isinstance(date, str) and date and not re.match(r"\d{4}-\d\d-\d\d", date):
        yield _finding("record-schema", Status.HOLD, f"{path}: date is no date: {date[:40]!r}", path)
    total, code = tables.get("bytes_total"), tables.get("bytes_code")
    models = [value for key, value in tables.items() if key.startswith("bytes_model") and _is_number(value)]
    if _is_number(total) and _is_number(code) and len(models) == 1 and models[0] + code != total:
        message = (
            f"{path}: bytes_total is {total:,}, but model and code are {models[0]:,} + {code:,} = {models[0] + code:,}"
        )
        yield _finding("record-schema", Status.HOLD, message, path)


def _claims(path: str, tables: dict) -> Claims:
    listed: list[int] = []
    seeds: dict[int, SeedClaim] = {}
    for key in SEED_KEYS:
        value = tables.get(key)
        if isinstance(value, dict):
            for name, result in value.items():
                if match := re.fullmatch(r"(?:seed[_ -]?)?(\d{1,10})", str(name)):
                    listed.append(int(match[1]))
                    claim = _seed_claim(int(match[1]), result)
                    known = seeds.setdefault(claim.seed, claim)
                    if known.bpb is None and claim.bpb is not None:
                        seeds[claim.seed] = replace(known, bpb=claim.bpb)
        elif isinstance(value, list):
            for result in value:
                if key == "seeds" and isinstance(result, int):
                    listed.append(int(result))
                elif isinstance(result, dict) and isinstance(result.get("seed"), int):
                    listed.append(result["seed"])
                    seeds.setdefault(result["seed"], _seed_claim(result["seed"], result))
    scores = tables.get("seed_scores")
    if isinstance(scores, list) and len(scores) == len(dict.fromkeys(listed)):
        for seed, score in zip(dict.fromkeys(listed), scores, strict=True):
            if isinstance(score, Number):
                seeds.setdefault(seed, SeedClaim(seed, score))
    if isinstance(tables.get("seed"), int) and not listed:
        listed.append(tables["seed"])
    baseline = next((tables[key] for key in ("comparison_baseline_pr", "baseline_pr") if tables.get(key)), "")
    std = next(
        (tables[key] for key in ("val_bpb_std", "std_bpb", "bpb_std") if isinstance(tables.get(key), Number)), None
    )
    return Claims(
        file=path,
        bpb=_number(tables, BPB_KEYS),
        loss=_number(tables, LOSS_KEYS),
        bpb_std=std,
        bytes_total=_whole(tables, BYTES_KEYS),
        bytes_code=_whole(tables, ("bytes_code", "code_bytes")),
        track=" ".join(str(tables.get(key, ""))[:200] for key in ("track", "name", "submission_type")),
        seeds=tuple(seeds.values()),
        listed=tuple(dict.fromkeys(listed)),
        baseline=str(baseline)[:60],
        t=_number(tables, ("t_statistic", "welch_t", "t_stat")),
        degrees_of_freedom=_number(tables, ("welch_df", "df", "degrees_of_freedom")),
    )


def _seed_claim(seed: int, result: object) -> SeedClaim:
    if isinstance(result, Number):
        return SeedClaim(seed, result)
    if not isinstance(result, dict):
        return SeedClaim(seed)
    size = _whole(result, BYTES_KEYS)
    return SeedClaim(
        seed, _number(result, BPB_KEYS), _number(result, LOSS_KEYS), size, _whole(result, ("steps", "step_stop"))
    )


def _number(table: dict, keys: Iterable[str]) -> Number | None:
    for key in keys:
        value = table.get(key)
        if _is_number(value):
            return value if isinstance(value, Number) else Number.of(str(value))
    return None


def _whole(table: dict, keys: Iterable[str]) -> int | None:
    for key in keys:
        value = table.get(key)
        if _is_number(value) and float(value) == int(value):
            return int(value)
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


class _Checker:
    """The checks of one folder."""

    def __init__(
        self,
        target: Target,
        folder: RecordFolder,
        rules: Rules,
        baseline: Significance | None,
        sources: Sequence[Source],
    ) -> None:
        self.target = target
        self.sources = sources
        self.folder = folder
        self.rules = rules
        self.baseline = baseline
        self.claims = folder.claims or Claims("submission.json")
        place = f"{target.name}/{target.root}/{self.claims.track}"
        self.limited = not re.search(r"(?i)non[-_ ]?record|unlimited", place)
        self.complete = tuple(run for run in folder.runs if run.score is not None)
        self.counted = self.claimed_runs()

    def claimed_runs(self) -> tuple[Run, ...]:
        """The runs that the claims rest on: those that some claimed score fits; all of them if none does."""
        wanted = [claim.bpb for claim in self.claims.seeds if claim.bpb is not None]
        fitting = tuple(run for run in self.complete if any(_fits_run(bpb, run) for bpb in wanted))
        if fitting or self.claims.bpb is None:
            return fitting or self.complete
        for runs in (self.complete, self.replicates()):
            if len(runs) > 1 and fits(self.claims.bpb, _mean(runs), 6):
                return runs
        return tuple(run for run in self.complete if _fits_run(self.claims.bpb, run)) or self.complete

    def replicates(self) -> tuple[Run, ...]:
        """The last run of each seed."""
        return tuple({run.seed: run for run in self.complete if run.seed is not None}.values())

    def groups(self) -> list[tuple[Run, ...]]:
        """The runs over which a mean can have been taken."""
        groups = [runs for runs in (self.complete, self.replicates(), self.counted) if len(runs) > 1]
        return groups or [self.complete]

    # record-logs

    def logs(self) -> Iterator[Finding]:
        """Missing and incomplete logs, and those that were run with another seed than they are named for."""
        if not self.folder.logs:
            yield _finding("record-logs", Status.HOLD, "the folder has no log; nothing shows its score")
            return
        if not self.complete:
            yield _finding("record-logs", Status.HOLD, "no log goes to a final score; nothing shows what is claimed")
        for run in self.folder.runs:
            if run.score is None and self.limited:
                message = f"{run.file} has no final score; it is cut off after step {run.steps or 0:,}"
                yield _finding("record-logs", Status.HOLD, message, run.file, run.line)
        for run in self.complete:
            match = re.search(r"(?i)seed[-_]?(\d{1,10})", run.file.rpartition("/")[2])
            if match and run.seed is not None and run.seed != int(match[1]):
                message = f"{run.file} is named for seed {match[1]}, but says that it was run with seed {run.seed}"
                yield _finding("record-seeds", Status.HOLD, message, run.file, run.line)
        for run in self.complete:
            yield from self.one_measure(run)
        yield from self.whole_split()

    def one_measure(self, run: Run) -> Iterator[Finding]:
        """All evaluations of a run are of the same split, so that nats and bits per byte have one ratio."""
        ratios = [(one, one.loss / one.bpb) for one in run.evaluations if one.loss and one.bpb and one.bpb > 0.05]
        before = [ratio for one, ratio in ratios if one.stage is not Stage.FINAL]
        if not before or run.score is None:
            return
        usual = statistics.median(before)
        for one, ratio in ratios:
            precision = 2 * 10.0**-one.digits
            if (
                one.stage is Stage.FINAL
                and one.bpb == run.score.bpb
                and abs(ratio / usual - 1) > RATIO_TOLERANCE + precision
            ):
                message = (
                    f"{one.label} has {ratio:.4f} nats per bit-per-byte, the evaluations before it {usual:.4f}: "
                    "it counts other tokens or other bytes"
                )
                yield _finding("byte-count", Status.HOLD, message, run.file, one.line)
                return

    def whole_split(self) -> Iterator[Finding]:
        """The tokens of the split, and the bytes that the score counts for each, come to the bytes of its text."""
        found: dict[str, list[tuple[Run, float]]] = {}
        for run in self.counted:
            counted = run.counted_bytes
            if run.score is None or counted is None:
                continue
            share = counted / SPLIT_BYTES
            if abs(share - 1) > BYTES_TOLERANCE + 10.0**-run.score.digits:
                same = any(abs(run.tokens[0] / known - 1) < SAME_TOKENS for known in SPLIT_TOKENS)
                kind = "a part" if share < PART else "its tokens" if same else "others"
                found.setdefault(kind, []).append((run, counted))
        for kind, runs in found.items():
            run, counted = runs[0]
            more = f" (and {len(runs) - 1} other runs)" if len(runs) > 1 else ""
            message = (
                f"{run.file}{more}: {run.tokens[0]:,} tokens with {counted / run.tokens[0]:.3f} bytes each, by "
                f"{run.score.label}, are {counted / 1e6:,.1f} million bytes of text; the validation split has "  # type: ignore[union-attr]
                f"{SPLIT_BYTES / 1e6:,.1f}"
            )
            line = run.score.line  # type: ignore[union-attr]
            if kind == "a part":
                yield _finding("other-data", Status.FLAG, f"{message}: only a part of it is scored", run.file, line)
            elif kind == "its tokens":
                what = "bytes are counted otherwise, or with another tokenizer than made the tokens"
                yield _finding("byte-count", Status.FLAG, f"{message}: {what}", run.file, line)
            else:
                what = "these are not the contest's tokens, nor the bytes of its text"
                yield _finding("other-data", Status.FLAG, f"{message}: {what}", run.file, line)
                what = "see whether the bytes of each token are right, and the text is another"
                yield _finding("byte-count", Status.HOLD, f"{message}: {what}", run.file, line)

    # record-score

    def plausible(self) -> Iterator[Finding]:
        """A score that no model of this size is known to have."""
        bpb, path = self.claims.bpb, self.claims.file
        if bpb == 0:
            yield _finding("record-score", Status.HOLD, f"{path}: val_bpb is 0, which no model has", path)
        elif bpb is not None and bpb < PLAUSIBLE_BPB:
            message = (
                f"val_bpb {bpb} is far below the accepted records, the best of which have 1.06: look for what tells "
                "the model the tokens that it predicts, in how it attends, mixes tokens or carries state"
            )
            yield _finding("record-score", Status.HOLD, message, path)

    def scores(self) -> Iterator[Finding]:
        """submission.json against the logs."""
        claims = self.claims
        if self.folder.claims is None or not self.complete:
            return
        for claim in claims.seeds:
            yield from self.seed_score(claim)
        missing = [seed for seed in claims.listed if not any(self.is_of(run, seed) for run in self.complete)]
        if missing:
            names = ", ".join(str(seed) for seed in missing[:10])
            yield _finding("record-seeds", Status.HOLD, f"there is no log to the end for seed {names}", claims.file)
        if claims.listed and claims.seeds and {claim.seed for claim in claims.seeds} != set(claims.listed):
            yield _finding(
                "record-seeds", Status.HOLD, f"{claims.file} names other seeds than it has results for", claims.file
            )
        if claims.bpb is not None:
            yield from self.mean_score(claims.bpb)
        yield from self.deviation()

    def is_of(self, run: Run, seed: int) -> bool:
        """Whether a run is one of a seed, by what it says or how its file is called."""
        return run.seed == seed or bool(
            re.search(rf"(?i)(seed|_s|[a-z]|_)[-_]?{seed}(?!\d)", run.file.rpartition("/")[2])
        )

    def seed_score(self, claim: SeedClaim) -> Iterator[Finding]:
        runs = [run for run in self.complete if self.is_of(run, claim.seed)]
        if claim.bpb is None or not runs:
            return
        fitting = [run for run in runs if _fits_run(claim.bpb, run)]
        path = self.claims.file
        other = next((run for run in self.complete if not fitting and _fits_run(claim.bpb, run)), None)
        if other is not None:
            message = (
                f"seed {claim.seed}: {claim.bpb} is the score of {other.file}, which was run with seed {other.seed}"
            )
            yield _finding("record-logs", Status.HOLD, message, path, flow=(_place(other.file, other.line),))
            return
        if not fitting:
            early = _early(claim.bpb, runs)
            if early is not None:
                message = f"seed {claim.seed}: {claim.bpb} is the score of '{early.label}', not of what is submitted"
                yield _finding("record-logs", Status.FLAG, message, path, flow=(_place(runs[0].file, early.line),))
                return
            best = min((run.score for run in runs if run.score), key=lambda one: abs(one.bpb - claim.bpb))
            message = f"seed {claim.seed}: {path} says {claim.bpb}, its log {best.bpb} ({best.label})"
            printed = self.printed(claim.bpb, runs)
            message += f"; see {printed}, which prints the number in another line" if printed else ""
            status = Status.HOLD if printed else Status.FLAG
            yield _finding("record-logs", status, message, path, flow=(_place(runs[0].file, best.line),))
            return
        run = fitting[0]
        if claim.steps is not None and not any(one.steps == claim.steps for one in runs if one.steps):
            message = f"seed {claim.seed}: {path} says {claim.steps:,} steps, its log {run.steps or 0:,}"
            yield _finding("record-logs", Status.HOLD, message, path)

    def printed(self, bpb: Number, runs: Sequence[Run]) -> str:
        """The log that prints a number in a line about bits per byte, whatever that line is."""
        if bpb.digits < 4:
            return ""
        written = f"{bpb:.{bpb.digits}f}"
        for file in self.target.files:
            if any(file.path == run.file for run in runs):
                lines = [line[:2000].lower() for line in file.text().splitlines() if "step" not in line[:2000].lower()]
                if any(written in line and "bpb" in line for line in lines):
                    return file.path
        return ""

    def printers(self) -> Iterator[Finding]:
        """Scores in lines whose names no code of the folder has."""
        scores: dict[str, list[tuple[str, int]]] = {}
        for run in self.complete if self.sources else ():
            for name in IDENTIFIER.findall(run.score.label):
                scores.setdefault(name, []).append((run.file, run.score.line))
        for name, lines in scores.items():
            if not all(any(word in source.text for source in self.sources) for word in WORD.findall(name)):
                (file, line), others = lines[0], f" (and {len(lines) - 1} other runs)" if lines[1:] else ""
                message = f"{file}{others} has its score in a line of `{name}`, which no code of the folder prints"
                yield _finding("record-logs", Status.HOLD, f"{message}: see what was run", file, line)

    def mean_score(self, bpb: Number) -> Iterator[Finding]:
        """The score that is claimed: the mean over the seeds."""
        path = self.claims.file
        of_seeds = [claim.bpb for claim in self.claims.seeds if claim.bpb is not None]
        if len(of_seeds) > 1:
            mean = statistics.fmean(of_seeds)
            if fits(bpb, mean, min(claim.digits for claim in of_seeds)):
                return
            message = f"{path}: val_bpb is {bpb}, the mean of its {len(of_seeds)} seeds {mean:.6f}"
            status = Status.FLAG if bpb < mean else Status.HOLD
            yield _finding("record-logs", status, message, path)
            return
        if any(fits(bpb, _mean(runs), 6) for runs in self.groups()):
            return
        single = [run for run in self.complete if _fits_run(bpb, run)]
        if single:
            if self.limited and len(self.replicates()) > 1:
                others = _mean(self.replicates())
                message = (
                    f"val_bpb {bpb} is that of {single[0].file} alone; the mean over the folder's logs is {others:.5f}"
                )
                yield _finding("record-logs", Status.HOLD, message, single[0].file)
            return
        early = _early(bpb, self.complete)
        if early is not None:
            message = f"val_bpb {bpb} is the score of '{early.label}', not of what is submitted"
            yield _finding("record-logs", Status.FLAG, message, path)
            return
        mean = _mean(self.complete)
        best = min(run.score.bpb for run in self.complete if run.score)
        message = f"val_bpb {bpb} is in no log: their mean is {mean:.5f}, their best {best}"
        printed = self.printed(bpb, self.complete)
        message += f"; see {printed}, which prints the number in another line" if printed else ""
        missing = printed or any(not any(self.is_of(run, seed) for run in self.complete) for seed in self.claims.listed)
        yield _finding("record-logs", Status.FLAG if bpb < best and not missing else Status.HOLD, message, path)

    def deviation(self) -> Iterator[Finding]:
        """The standard deviation that is claimed, of a sample or of a population."""
        std = self.claims.bpb_std
        of_seeds = [float(claim.bpb) for claim in self.claims.seeds if claim.bpb is not None]
        values = of_seeds if len(of_seeds) > 1 else [run.score.bpb for run in self.counted if run.score]
        if std is None or len(values) < 2:
            return
        kinds = (statistics.stdev(values), statistics.pstdev(values))
        if not any(abs(std - kind) <= 1.5 * 10.0**-std.digits + 0.03 * kind for kind in kinds):
            message = f"val_bpb_std is {std}; of the seeds it is {kinds[0]:.5f} (sample) or {kinds[1]:.5f} (population)"
            yield _finding("record-logs", Status.HOLD, message, self.claims.file)

    def readme(self) -> Iterator[Finding]:
        """The README's headline and its rows of seeds."""
        text = self.folder.readme
        if not text:
            yield _finding("record-logs", Status.HOLD, "the folder has no README.md")
            return
        headline = _headline(text)
        known = self.known_scores()
        if headline is not None and self.claims.bpb is not None and known:
            number, line = headline
            if not any(_agree(number, value) for value in known):
                worse = min(known, key=lambda value: abs(value - number))
                message = (
                    f"README.md gives {number} as its score; nearest in {self.claims.file} and the logs is {worse:.5f}"
                )
                better = bool(self.complete) and number < min(known) - 10.0**-number.digits
                yield _finding("record-logs", Status.FLAG if better else Status.HOLD, message, "README.md", line)
        seeds = {run.seed: run for run in self.counted if run.seed is not None}
        for line, seed, cells in _seed_rows(text, seeds):
            score = seeds[seed].score
            finals = [one for run in self.complete if self.is_of(run, seed) for one in run.finals]
            if score and not any(_agree(cell, one.bpb) for cell in cells for one in finals):
                shown = ", ".join(str(cell) for cell in cells[:6])
                message = f"README.md gives {shown} for seed {seed}; its log ends with {score.bpb}"
                yield _finding("record-logs", Status.HOLD, message, "README.md", line)

    def known_scores(self) -> list[float]:
        """Every score that submission.json and the logs support."""
        known = [float(claim.bpb) for claim in self.claims.seeds if claim.bpb is not None]
        known += [one.bpb for run in self.complete for one in run.finals]
        known += [_mean(runs) for runs in self.groups() if runs]
        return known + ([float(self.claims.bpb)] if self.claims.bpb is not None else [])

    # record-size

    def sizes(self) -> Iterator[Finding]:
        cap = self.rules.size.artifact_and_code_bytes
        claims, path = self.claims, self.claims.file
        for run in self.counted:
            size = run.artifact_bytes
            if size is not None and size > cap:
                message = f"{run.file}: artifact and code have {size:,} bytes, {size - cap:,} too many"
                yield _finding("record-size", Status.FLAG, message, run.file, run.line)
        claimed = [
            (f"seed {claim.seed}", claim.bytes, [run for run in self.counted if self.is_of(run, claim.seed)])
            for claim in claims.seeds
            if claim.bytes is not None
        ]
        if claims.bytes_total is not None:
            claimed.append(("bytes_total", claims.bytes_total, list(self.complete)))
        for name, size, runs in claimed:
            if size > cap:
                yield _finding(
                    "record-size", Status.FLAG, f"{path}: {name} has {size:,} bytes, {size - cap:,} too many", path
                )
                continue
            yield from self.claimed_size(name, size, runs)
        if not claimed and not any(run.artifact_bytes for run in self.counted):
            yield _finding("record-size", Status.HOLD, "nothing says how many bytes artifact and code have", path)
        yield from self.code_size(cap)

    def claimed_size(self, name: str, size: int, runs: Sequence[Run]) -> Iterator[Finding]:
        """A claimed size against what the logs counted."""
        path = self.claims.file
        counted = [run.artifact_bytes for run in runs if run.artifact_bytes is not None]
        counted += [one for run in runs for one in run.submission_bytes.values()]
        claims = [claim.bytes for claim in self.claims.seeds if claim.bytes is not None]
        if not counted or size in counted:
            return
        means = [statistics.fmean(values) for values in (counted[: len(runs)], claims) if values]
        if name == "bytes_total" and (size in claims or any(abs(size - mean) <= 1 for mean in means)):
            return
        models = {one for run in runs for codec, one in run.model_bytes.items() if codec}
        if size in models:
            least = min(counted)
            message = f"{path}: {name} has {size:,} bytes, the artifact without its code; with it the log has {least:,}"
        else:
            near = min(counted, key=lambda one: abs(one - size))
            message = f"{path}: {name} has {size:,} bytes, the logs count {near:,}"
        yield _finding("record-size", Status.HOLD, message, path)

    def code_size(self, cap: int) -> Iterator[Finding]:
        """The code that a log counts against the code that is in the folder."""
        entry = self.target.entry
        file = self.target.file(entry.path) if entry is not None else None
        if entry is None or file is None:
            return
        beside = self.modules_beside(entry)
        code = file.bytes + sum(one.bytes for one in beside)
        totals = [
            (run.artifact_bytes - run.counted_code_bytes + code, run)
            for run in self.counted
            if run.artifact_bytes is not None and run.artifact_bytes <= cap and run.counted_code_bytes
        ]
        if not totals:
            return
        total, run = max(totals, key=lambda one: one[0])
        if total <= cap:
            return
        names = ", ".join([entry.path, *(one.path for one in beside[:5])])
        message = (
            f"{run.file} counts {run.counted_code_bytes:,} bytes of code, but the folder has {code:,} ({names}), "
            f"with which it would be {total:,} bytes, {total - cap:,} too many"
        )
        yield _finding("record-size", Status.HOLD, message, run.file, run.line)

    def modules_beside(self, entry: Source) -> list[TargetFile]:
        """The folder's other modules that the entry imports."""
        try:
            names = parse(entry.text).names
        except Unreadable:
            return []
        stems = {file.path.removesuffix(".py"): file for file in self.target.files if file.suffix == ".py"}
        return [file for stem, file in stems.items() if stem in names and file.path != entry.path]

    # record-time

    def times(self) -> Iterator[Finding]:
        if not self.limited:
            return
        gpus, limit = self.rules.hardware.gpus, self.rules.clock.eval_seconds
        # A log of the evaluation alone goes with the log of the training that made what it evaluates.
        seeds = {run.seed for run in self.counted if run.train_seconds is None}
        runs = [run for run in self.complete if run in self.counted or (run.train_seconds and run.seed in seeds)]
        late: list[tuple[float, Run]] = []
        for run in runs:
            if run.processes not in (None, gpus):
                seconds = f"{run.train_seconds:,.0f} s" if run.train_seconds else "a time that it does not say"
                message = f"{run.file} was trained for {seconds} on {run.processes} processes, not {gpus}"
                yield _finding("record-time", Status.HOLD, message, run.file, run.line)
                continue
            yield from self.training_time(run, late)
            seconds = max(run.score_seconds or 0.0, run.total_eval_seconds or 0.0)
            if seconds > limit:
                line = run.score.line if run.score else run.line
                message = f"{run.file}: evaluation took {seconds:,.1f} s; {limit:,.0f} s are allowed"
                yield _finding("record-time", Status.FLAG, message, run.file, line)
        if late:
            _, run = max(late, key=lambda one: one[0])
            more = f" (and {len(late) - 1} other runs)" if len(late) > 1 else ""
            message = (
                f"{run.file}{more}: {run.train_seconds:,.1f} s of training and {run.gptq_seconds:,.1f} s of "
                f"calibration and quantization, by its log; since a later ruling they share {limit:,.0f} s"
            )
            yield _finding("record-time", Status.HOLD, message, run.file, run.line)

    def training_time(self, run: Run, late: list[tuple[float, Run]]) -> Iterator[Finding]:
        """The loop's own clock; `late` gets the runs that are too long only with their quantization."""
        limit = self.rules.clock.train_seconds
        if run.train_seconds is None:
            if run.steps:
                message = f"{run.file} does not say how long it trained"
                yield _finding("record-time", Status.HOLD, message, run.file, run.line)
            return
        step = run.train_seconds / run.steps if run.steps else 0.0
        over = run.train_seconds - run.train_rounding - limit
        took = f"{run.file}: training took {run.train_seconds:,.{0 if run.train_rounding else 2}f} s"
        if over > GROSS_SECONDS:
            yield _finding("record-time", Status.FLAG, f"{took}; {limit:,.0f} s are allowed", run.file, run.line)
        elif over > max(SLACK_SECONDS, 2 * step):
            yield _finding(
                "record-time", Status.HOLD, f"{took}, over {limit:,.0f} s by more than a step", run.file, run.line
            )
        elif run.gptq_seconds and over + run.gptq_seconds > max(SLACK_SECONDS, step):
            late.append((over + run.gptq_seconds, run))

    # record-significance

    def significance(self) -> Iterator[Finding]:
        if not self.limited or not self.complete:
            return
        seeds = self.seed_scores()
        if len(seeds) < SEEDS:
            runs = "1 run" if len(seeds) == 1 else f"{len(seeds)} runs"
            message = f"{runs} with a final score in the logs; {SEEDS} are customary"
            yield _finding("record-seeds", Status.HOLD, message)
        rule = self.baseline or self.named_baseline()
        if rule is None or len(seeds) < 2:
            return
        result = significance_of(seeds, rule)
        numbers = (
            f"{result.improvement_nats:.5f} nats better than {rule.baseline_name}; that it is at least "
            f"{rule.minimum_improvement_nats} has t = {result.t:.2f}, df = {result.degrees_of_freedom:.2f}, "
            f"p = {result.p_value:.2g}"
        )
        if result.p_value < rule.p_value:
            yield _finding("record-significance", Status.CLEAN, numbers)
        else:
            yield _finding("record-significance", Status.FLAG, f"{numbers}, not under {rule.p_value}")
        yield from self.claimed_statistic(seeds, rule)

    def claimed_statistic(self, seeds: Sequence[float], rule: Significance) -> Iterator[Finding]:
        """A t statistic that submission.json gives, which is mostly of any improvement at all."""
        claimed, freedom = self.claims.t, self.claims.degrees_of_freedom
        if claimed is None or freedom is None:
            return
        plain = significance_of(seeds, rule.model_copy(update={"minimum_improvement_nats": 0.0}))
        least = significance_of(seeds, rule)
        if not any(
            _near(abs(claimed), abs(one.t)) and _near(freedom, one.degrees_of_freedom) for one in (plain, least)
        ):
            message = (
                f"{self.claims.file} gives t = {claimed}, df = {freedom}; of its logs against {rule.baseline_name} "
                f"it is t = {plain.t:.2f}, df = {plain.degrees_of_freedom:.2f}"
            )
            yield _finding("record-significance", Status.HOLD, message, self.claims.file)

    def seed_scores(self) -> list[float]:
        """One score per run that counts, in bits per byte."""
        runs = self.counted if len(self.counted) > 1 else max(self.counted, self.replicates(), key=len)
        return [run.score.bpb for run in runs if run.score is not None and math.isfinite(run.score.bpb)]

    def named_baseline(self) -> Significance | None:
        """The rules' baseline, if that is what submission.json says that it beats."""
        rule = self.rules.significance
        number = re.search(r"\d+", rule.baseline_name)
        named = re.fullmatch(r"\D{0,20}(\d+)", self.claims.baseline)
        return rule if number and named and named[1] == number[0] else None


def significance_of(scores_bpb: Sequence[float], baseline: Significance) -> SignificanceRecord:
    """Welch's one-sided test of scores in bits per byte (at least two) against a baseline in nats of the contest's
    1024-piece tokenizer, in which the minimum improvement is given whatever tokenizer a record has."""
    return compare([bpb * NATS_PER_BPB for bpb in scores_bpb], baseline)


# Numbers as they are written


def fits(claim: Number, value: float, digits: int) -> bool:
    """Whether a claimed number can be `value`, itself of so many digits, rounded or cut at the claim's digits."""
    return abs(claim - value) <= 1.01 * 10.0**-claim.digits + 0.51 * 10.0**-digits


def _fits_run(claim: Number, run: Run) -> bool:
    """Whether a claimed score is one of the final scores of a run."""
    return any(fits(claim, one.bpb, one.digits) for one in run.finals)


def _agree(number: Number, value: float) -> bool:
    return abs(number - value) <= 1.01 * 10.0**-number.digits


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= 0.02 + 0.02 * abs(other)


def _mean(runs: Sequence[Run]) -> float:
    return statistics.fmean(run.score.bpb for run in runs if run.score is not None)


def _early(claim: Number, runs: Sequence[Run]) -> Evaluation | None:
    """The evaluation before quantization that a claim is, to more than chance's digits."""
    if claim.digits < 4:
        return None
    for run in runs:
        # Of the training loop's evaluations only the last: of many, one agrees by chance.
        training = [one for one in run.evaluations if one.stage is Stage.TRAINING][-1:]
        for one in training + [one for one in run.evaluations if one.stage is Stage.BEFORE]:
            if abs(claim - one.bpb) <= 0.51 * 10.0 ** -min(claim.digits, one.digits):
                return one
    return None


def _headline(text: str) -> tuple[Number, int] | None:
    """The score that a README gives in its title or in a bold line above the fold, and the line."""
    for number, line in enumerate(text.split("\n", 20)[:20], 1):
        if not line.startswith(("#", "**")):
            continue
        plain = re.sub(r"[*`\\]", "", line)[:1000]
        for match in (README_BPB.search(plain), README_BPB_BEHIND.search(plain)):
            if match and float(match[1]) > 0.3 and not OTHER_SCORE.search(plain[: match.start(1)]):
                return Number.of(match[1]), number
    return None


def _seed_rows(text: str, seeds: Iterable[int]) -> Iterator[tuple[int, int, list[Number]]]:
    """The rows of tables that begin with a seed: line, seed, and the numbers that can be scores."""
    known = set(seeds)
    for number, line in enumerate(text.split("\n"), 1):
        if not line.lstrip().startswith("|") or len(line) > 2000:
            continue
        cells = [re.sub(r"[*`_\s]", "", cell) for cell in line.strip().strip("|").split("|")]
        if not re.fullmatch(r"\d{1,10}", cells[0]) or int(cells[0]) not in known:
            continue
        scores = [Number.of(cell) for cell in cells[1:] if DECIMAL.fullmatch(cell)]
        if scores:
            yield number, int(cells[0]), scores


def _place(path: str, line: int = 1) -> Place:
    return Place(Source(path, ""), line, 1, "here")


def _finding(
    check: str, status: Status, message: str, path: str = "", line: int = 1, flow: tuple[Place, ...] = ()
) -> Finding:
    return Finding(check, status, message, (*flow, _place(path, line)) if path else flow)
