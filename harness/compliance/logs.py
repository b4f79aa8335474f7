"""Training logs of the contest, in all the forms that its record folders have, as numbers.

Logs often begin with the whole source of the script, so every pattern holds a line from its start, and takes digits
where source has braces. What is in a log is what its author says: it is compared, never trusted.

evaluation   one line with a loss and bits per byte of the validation split
run          one training with what follows it; a file can hold several
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum

from harness.compliance.memory import keep

SPLIT_BYTES = 151_080_000  # of the validation split's text, to four digits
MAX_LINE = 600  # longer lines are source or data
MAX_LINES = 2_000_000
MAX_EVALUATIONS = 10_000  # of one run, and of one file the runs

NUMBER = r"([-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|nan|inf))"
# What some loggers write before each line: Unix time, date and time, the rank.
PREFIX = re.compile(
    r"(?:\x1b\[[\d;]*m)?(?:\d{9,}(?:\.\d+)?[ \t]+|\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[^\s\]]*\]?:?[ \t]+"
    r"|\[?rank[ _]?\d+\]?:?[ \t]+|\[\d\d:\d\d:\d\d\][ \t]+)*"
)
KEY = re.compile(
    r"val_bpb|train_time|stopping_early|ubmission|ode size|Serialized model|GPTQ|gptq|seed|SEED|eval_time|world_size"
    r"|artifact|budget:|val_loader|val_tokens"
)
TOKENS = re.compile(r"val_loader:.{0,400}?\btokens:(\d{1,12})\b|\s*val_tokens: ?([\d,_]{1,15})$")
STOPPED = "stopping_early: wallclock_cap"
AFTER_STOP = 40_000  # characters of a log in which calibration is looked for
STEP = re.compile(r"(?:step:? ?)?(\d+)/(\d+)\s")
VAL_LOSS = re.compile(r"\b(?:val_loss|loss)[:=]\s*" + NUMBER)
VAL_BPB = re.compile(r"\b(?:val_bpb|bpb)[:=]\s*" + NUMBER)
TRAIN_TIME = re.compile(r"\btrain_time:\s*" + NUMBER + r"(ms|m|s)\b")
EVAL_TIME = re.compile(r"\b(?:eval_time|elapsed|time)[:=]\s*" + NUMBER + r"(ms|s)\b")
MINUTES_ROUNDED = 3.0  # seconds, of minutes with one digit after the point
STOP = re.compile(r"stopping_early: wallclock_cap train_time: ?(\d+)ms(?: step: ?(\d+)/(\d+))?")
TOTAL_EVAL = re.compile(r"total_eval_time: ?" + NUMBER + "(ms|s)")
SUBMISSION = re.compile(r"(?:.* \| )?Total submission(?: size)?(?: ([^:]{1,60}))?: ([\d,]+) bytes")
SERIALIZED = re.compile(r"Serialized model(?: ([^:]{1,60}))?: ([\d,]+) bytes")
CODE = re.compile(r"Code size(?: \(([^)]{1,40})\)| ([^:]{1,40}))?: ([\d,]+) bytes")
BUDGET = re.compile(r"budget:(\d+)/(\d+) ")
TRAILER = re.compile(r"artifact_bytes:\s+(\d+)$")
GPTQ = re.compile(
    r"(?i)gptq:\s?(?:(collected|calibrated|generated|quantized|quantization complete|done)\b.*?) in ([\d.]+)s"
)
# Statistics for quantization were collected in so much time; what takes them is not code, so there are no brackets.
COLLECTED = re.compile(
    r"(?i)[^=(){}]{0,60}?\b(?:hessians?|hessian_collection_time|calibrat(?:ed|ion))\b[^=(){}]{0,60}?"
    r"(?:\b(?:in|took|time:|post_time:)|:) ?([\d.]{1,12}) ?(ms|s)\b"
)
COLLECTING = re.compile(r"(?i)[^=(){}]{0,60}\b(?:hessian|calibrat)")
# Weights were trained once more, on validation tokens, and took so much time.
TRAINED_AGAIN = re.compile(
    r"(?i)[\w :-]{0,40}(?:ttt|adapt|fine-?tun)[\w :-]{0,40}?(?:elapsed|time|\bin)[=: ] ?(\d{1,6}(?:\.\d{1,6})?) ?s\b"
)
SEED = re.compile(r"(?:.{0,300}[\s,])?(?:seed|SEED)[:=] ?(\d{1,10})(?:[\s,].{0,300})?$")
WORLD = re.compile(r"\s*(?:.{0,100}\s)?world_size: ?(\d+)\b")
FILE_SEED = re.compile(r"(?i)seed[-_]?(\d+)|(?:^|[a-z])_?s?(\d+)(?=\.\w+$)|_s(\d+)\b")
LABEL = re.compile(r"[A-Za-z][\w ./+()=,:-]{0,120}")
BEFORE = re.compile(r"(?i)pre[-_ ]?quant|post[-_ ]?ema|\bema\b|\bswa\b|pre[-_ ]?ttt|diagnostic(?! quantized)")
AFTER = re.compile(r"(?i)^(diagnostic )?(final|quantized|legal|ttt|sliding|round|eval|test|post|submission|int\d|best)")


class Stage(IntEnum):
    """When in a run something was evaluated. Only FINAL can be a submission's score."""

    TRAINING = 0  # at a step of the training loop
    BEFORE = 1  # of the trained weights, before they are quantized
    FINAL = 2  # of what is submitted


@dataclass(frozen=True)
class Evaluation:
    """loss: nats per token, absent if the line has none. bpb as printed; digits: how many after its point. seconds: of
    the evaluation, 0 if the line has none."""

    label: str
    stage: Stage
    loss: float | None
    bpb: float
    digits: int
    seconds: float
    line: int


@dataclass(frozen=True)
class Run:
    """What one run's lines say. seconds and bytes as the program measured or counted them; None: not said.

    train_seconds: of the loop's own clock; train_rounding: how far off it may be. gptq_seconds: of collecting,
    generating and quantizing after it. submission_bytes: artifact and code, by the name of the codec; the line without
    one is the uncompressed model and is not here. code_bytes: by "", "compressed" or "uncompressed". tokens: of the
    validation split, each count once.
    """

    file: str
    line: int
    seed: int | None = None
    steps: int | None = None
    train_seconds: float | None = None
    train_rounding: float = 0.0
    stopped_early: bool = False
    gptq_seconds: float = 0.0
    total_eval_seconds: float | None = None
    submission_bytes: dict[str, int] = field(default_factory=dict)
    model_bytes: dict[str, int] = field(default_factory=dict)
    code_bytes: dict[str, int] = field(default_factory=dict)
    processes: int | None = None
    tokens: tuple[int, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()

    @property
    def finals(self) -> tuple[Evaluation, ...]:
        return tuple(evaluation for evaluation in self.evaluations if evaluation.stage is Stage.FINAL)

    @property
    def score(self) -> Evaluation | None:
        """The best of the final evaluations, the one with the most digits of equal ones."""
        finals = [evaluation for evaluation in self.finals if evaluation.bpb == evaluation.bpb]
        if not finals:
            return None
        best = min(finals, key=lambda evaluation: evaluation.bpb)
        same = [one for one in finals if _same(one, best)]
        return max(same, key=lambda evaluation: (evaluation.digits, evaluation.seconds))

    @property
    def score_seconds(self) -> float | None:
        """How long the evaluation took that gave the score; of a rounded line with the same value if its own has no
        time."""
        score = self.score
        if score is None:
            return None
        for one in (score, *self.finals):
            if one.seconds and _same(one, score):
                return one.seconds
        return None

    @property
    def artifact_bytes(self) -> int | None:
        """Artifact and code together, as the program counted them; the last codec named is the one that is kept."""
        if self.submission_bytes:
            return list(self.submission_bytes.values())[-1]
        packed = [size for codec, size in self.model_bytes.items() if codec]
        if packed and self.code_bytes:
            return packed[-1] + self.counted_code_bytes
        return None

    @property
    def counted_bytes(self) -> float | None:
        """The bytes of text that the score is of: the split's tokens, with the bytes for each that nats per token and
        bits per byte come to."""
        score = self.score
        if score is None or not score.loss or score.bpb < 0.05 or len(self.tokens) != 1:
            return None
        return self.tokens[0] * score.loss / math.log(2) / score.bpb

    @property
    def counted_code_bytes(self) -> int:
        """The code that the count holds: the compressed size where there are both."""
        for kind, size in self.code_bytes.items():
            if kind.startswith("compressed"):
                return size
        return list(self.code_bytes.values())[-1] if self.code_bytes else 0

    @property
    def identity(self) -> tuple:
        """Equal for the same run under two names. No two trainings agree in all of this."""
        scores = tuple((one.bpb, one.seconds) for one in self.finals)
        return (self.steps, self.train_seconds, self.artifact_bytes, scores)


def _same(one: Evaluation, other: Evaluation) -> bool:
    """Whether two evaluations are the same number, one perhaps printed with fewer digits."""
    return abs(one.bpb - other.bpb) <= 0.51 * 10.0 ** -min(one.digits, other.digits)


def is_log(name: str) -> bool:
    """Whether a file of that name can be a log."""
    return name.lower().endswith((".log", ".txt", ".out")) and not name.lower().startswith(("requirements", "license"))


def parse_log(name: str, text: str) -> list[Run]:
    """The runs of a log file, `name` its path; empty if the text has no evaluation and no training step."""
    found, seed = _runs_in(text)
    if len(found) == 1 and found[0].seed is None:
        found = [replace(found[0], seed=_seed_of(name))]
    elif seed is not None:
        found = [replace(run, seed=seed if run.seed is None else run.seed) for run in found]
    return [replace(run, file=name) for run in found]


@keep(at_most=16)  # code and folder are checked one after the other
def _runs_in(text: str) -> tuple[list[Run], int | None]:
    """The runs of a text, and the last seed that it names."""
    runs: list[_Reader] = []
    reader = _Reader()
    seed = None
    for number, line in enumerate(_lines(text), 1):
        if len(line) > MAX_LINE or not KEY.search(line):
            continue
        line = line[PREFIX.match(line).end() :].rstrip()  # type: ignore[union-attr]
        if reader.begins_again(line) and len(runs) < MAX_EVALUATIONS:
            runs.append(reader)
            reader = _Reader(run=Run("", number, tokens=reader.run.tokens))  # loaded before the first step
        if (match := SEED.fullmatch(line)) and "(" not in line and "os.environ" not in line:
            seed = int(match[1])
            reader.run = replace(reader.run, seed=seed)
        reader.take(line, number)
    runs.append(reader)
    return [one.finished() for one in runs if one.evaluations or one.run.steps or one.run.submission_bytes], seed


@keep(at_most=16)  # asked for each statistic that is collected
def calibrated_until(text: str, trained_again: bool = False) -> tuple[float, ...]:
    """For each run of a log that says both, when its training clock stopped and how long it then collected statistics
    for quantization, together, in seconds. trained_again: the program trains once more in between, so that time which
    the log gives for that is added; the log need not say then how long the statistics took."""
    found = []
    start = text.find(STOPPED)
    while start >= 0 and len(found) < MAX_EVALUATIONS:
        stopped: float | None = None
        between, begun = 0.0, None
        for line in _lines(text[text.rfind("\n", 0, start) + 1 : start + AFTER_STOP]):
            line = line[PREFIX.match(line).end() :].rstrip()  # type: ignore[union-attr]
            if len(line) > MAX_LINE:
                continue
            if match := STOP.match(line):
                if stopped is not None:
                    break  # another run, which is looked at below
                stopped = int(match[1]) / 1000
            elif stopped is None:
                continue
            elif (match := COLLECTED.match(line)) and match[1].count(".") < 2:
                begun = stopped + between + float(match[1]) * (0.001 if match[2] == "ms" else 1.0)
                break
            elif trained_again and begun is None and (match := TRAINED_AGAIN.match(line)):
                between = max(between, float(match[1]))  # of an epoch, or of the whole, and that in more than one line
            elif between and begun is None and COLLECTING.match(line):
                begun = stopped + between
        if begun is not None:
            found.append(begun)
        start = text.find(STOPPED, start + 1)
    return tuple(found)


def _seed_of(name: str) -> int | None:
    """The seed that a file name gives: train_seed42.log, log_10mins_seed-7.txt, train0.txt."""
    match = FILE_SEED.search(name.rpartition("/")[2])
    digits = next((group for group in match.groups() if group), "") if match else ""
    return int(digits) if 0 < len(digits) <= 10 else None


def _lines(text: str) -> Iterator[str]:
    start, count = 0, 0
    while start < len(text) and count < MAX_LINES:
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield text[start : min(end, start + MAX_LINE + 1)]
        start, count = end + 1, count + 1


class _Reader:
    """The lines of one run, one after the other."""

    def __init__(self, run: Run | None = None) -> None:
        self.run = run or Run("", 1)
        self.evaluations: list[Evaluation] = []
        self.ended = False  # something was said that comes after training

    def begins_again(self, line: str) -> bool:
        """Whether a training starts with this line, when one had ended before."""
        match = STEP.match(line)
        return bool(match) and self.ended and int(match[1]) <= 1 and "val_loss" in line  # type: ignore[index]

    def take(self, line: str, number: int) -> None:
        run = self.run
        if match := STOP.match(line):
            steps = int(match[2]) if match[2] else run.steps
            self.run = replace(
                run, train_seconds=int(match[1]) / 1000, train_rounding=0.0, steps=steps, stopped_early=True
            )
            self.ended = True
        elif match := STEP.match(line):
            self.step(match, line, number)
        elif match := TOTAL_EVAL.match(line):
            self.run = replace(run, total_eval_seconds=_seconds(match[1], match[2]))
        elif match := SUBMISSION.match(line):
            if match[1] or "|" in line:
                run.submission_bytes[(match[1] or "").strip()] = _integer(match[2])
            self.ended = True
        elif match := SERIALIZED.match(line):
            run.model_bytes[(match[1] or "").strip()] = _integer(match[2])
            self.ended = True
        elif match := CODE.match(line):
            run.code_bytes[(match[1] or match[2] or "").strip()] = _integer(match[3])
        elif match := BUDGET.match(line):
            run.submission_bytes["budget"] = int(match[1])
        elif match := TRAILER.match(line):
            run.submission_bytes["trailer"] = int(match[1])
        elif match := GPTQ.match(line):
            self.run = replace(run, gptq_seconds=self.gptq(match[1].lower(), float(match[2])))
        elif match := TOKENS.match(line):
            count = _integer((match[1] or match[2]).replace("_", ""))
            self.run = replace(run, tokens=tuple(dict.fromkeys((*run.tokens, count))))
        elif match := WORLD.match(line):
            if "(" not in line and "=" not in line:
                self.run = replace(run, processes=int(match[1][:6]))
        elif "bpb" in line:
            self.evaluation(line, number)

    def gptq(self, what: str, seconds: float) -> float:
        """A total replaces the parts that it is made of."""
        return (
            max(self.run.gptq_seconds, seconds)
            if what in ("done", "quantization complete")
            else (self.run.gptq_seconds + seconds)
        )

    def step(self, match: re.Match, line: str, number: int) -> None:
        step = int(match[1][:9])
        if not ("loss" in line and (":" in line)):
            return
        self.run = replace(self.run, steps=max(step, self.run.steps or 0))
        if (time := TRAIN_TIME.search(line)) and not self.run.stopped_early:
            rounding = MINUTES_ROUNDED if time[2] == "m" else 0.0
            if not rounding or self.run.train_seconds is None or self.run.train_rounding:  # the finer clock counts
                self.run = replace(self.run, train_seconds=_seconds(time[1], time[2]), train_rounding=rounding)
        if VAL_BPB.search(line):
            self.add(f"step {step}", Stage.TRAINING, line, number)

    def evaluation(self, line: str, number: int) -> None:
        found = [match.start() for match in (VAL_LOSS.search(line), VAL_BPB.search(line)) if match]
        if not found or not VAL_BPB.search(line):
            return
        label = line[: min(found)].strip()
        if not label:  # a block of names and values at the end
            self.add("trailer", Stage.FINAL if self.ended else Stage.TRAINING, line, number)
        elif LABEL.fullmatch(label) and not re.search(r"\b(def|print|log|return)\b|^step", label):
            label = re.sub(r"\b(stride|T|seq_len|eval_seq_len|eval_mode)[:=]\S+", "", label).strip(" :,(")
            if AFTER.match(label):
                stage = Stage.BEFORE if BEFORE.search(label) else Stage.FINAL
            elif any(one.stage is Stage.FINAL for one in self.evaluations[-1:]) and not BEFORE.search(label):
                stage = Stage.FINAL  # under a name of its own, after others of what is submitted
            else:
                stage = Stage.BEFORE if self.ended or BEFORE.search(label) else Stage.TRAINING
            self.add(label, stage, line, number)

    def add(self, label: str, stage: Stage, line: str, number: int) -> None:
        bpb, loss, time = VAL_BPB.search(line), VAL_LOSS.search(line), EVAL_TIME.search(line)
        if bpb is None or len(self.evaluations) >= MAX_EVALUATIONS:
            return
        seconds = _seconds(time[1], time[2]) if time and stage is not Stage.TRAINING else 0.0
        digits = len(bpb[1].partition(".")[2])
        one = Evaluation(label, stage, float(loss[1]) if loss else None, float(bpb[1]), digits, seconds, number)
        self.evaluations.append(one)
        self.ended = self.ended or stage is not Stage.TRAINING

    def finished(self) -> Run:
        return replace(self.run, evaluations=tuple(self.evaluations))


def _seconds(number: str, unit: str) -> float:
    return float(number) * {"ms": 0.001, "s": 1.0, "m": 60.0}[unit]


def _integer(text: str) -> int:
    return int(text.replace(",", "")[:18] or 0)
