"""What a README says that the code does, against what its documented run can do. Only what stands in code quotes is
taken as a claim, because prose has too many ways to be about something else, and only in lines and under headings that
do not speak of what was left out, tried, or done by others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from harness.compliance.findings import Finding, Place, Source, Status
from harness.compliance.program import UNKNOWN, Class, Function, Program
from harness.compliance.rules_conduct import READ_BY_LIBRARIES, thrown_away

MAX_README = 500_000  # characters
FENCE = re.compile(r"^\s*(```|~~~)")
HEADING = re.compile(r"^\s*(#{1,6}\s|\*\*[^*]+\*\*\s*:?\s*$)")
QUOTED = re.compile(r"`([^`\n]{2,80})`")
SETTING = re.compile(r"([A-Z][A-Z0-9]*_[A-Z0-9_]+)\s*=\s*(1|[Tt]rue|[Oo]n|[Yy]es)")
NAME = re.compile(r"([A-Za-z_]\w*[a-z]\w*)(?:\(\))?")
COMMANDED = re.compile(r"(torchrun|python3?)\s")
_ELSEWHERE = (
    r"\b(not?|without|off|disabled?|never|unused|remov\w+|dropp\w+|replac\w+|previous\w*|earlier|legacy|baseline|tried"
    r"|attempt\w*|fail\w*|negative|ablat\w*|future|would|could|might|if|optional\w*|planned|hurt\w*|worse|reject\w*"
    r"|skip\w*|vs|compar\w+|prepar\w+|debug\w*|sweep\w*|outperform\w*)\b|n't\b"
)
ELSEWHERE = re.compile(f"(?i){_ELSEWHERE}")  # what has one of these is not about what this record does
OF_OTHERS = re.compile(rf"(?i){_ELSEWHERE}|\b(credits?|lineage)\b|#\d{{2,}}")  # nor what says whose it is
VAL_ONLY = re.compile(r"(?i)\bval(idation)?[- ]only[- ](training|trained)\b|\btrain\w* on (the )?validation shards?\b")
SWITCH_WORDS = frozenset({"enabled", "enable", "use", "on", "run", "do", "with", "eval"})  # say nothing of what it does
OFF = frozenset({"0", "", "false", "off", "no"})
CLAUSE_END = re.compile(r"[,;|]|\.\s|\s[-\u2013\u2014]\s")
SET_TO = re.compile(r"\w*=[\"']?(\w*)")
# What READMEs call averages of the weights: those in which the earlier ones fade, and those of several points in time.
MOVING_AVERAGE = re.compile(r"(?i)(?<![a-z0-9])b?ema(?![a-z0-9])|\bmoving average")
WEIGHT_AVERAGE = re.compile(r"(?i)(?<![a-z0-9])(swa|lawa)(?![a-z0-9])|\b(weight|checkpoint) averag")


def check_readme(program: Program, readme: Source) -> Iterator[Finding]:
    """dead-claim: switches that the README names as on, and that are off in the documented run; functions and classes
    that it names and that this run cannot reach."""
    read = dict(_switches_read(program))
    words = {word for module in program.modules.values() for word in re.findall(r"\w+", module.source.text)}
    unreached = _unreached(program)
    said: set[str] = set()
    for number, line, quoted in _claims(readme):
        setting, name = SETTING.fullmatch(quoted), NAME.fullmatch(quoted)
        message = ""
        if setting and setting[1] not in said and not READ_BY_LIBRARIES.match(setting[1]):
            variable = setting[1]
            said.add(variable)
            if read.get(variable) is False and variable not in program.unknown:
                message = f"The README says {quoted}, but in the documented run {variable} is off"
            elif variable not in words and variable not in program.environment:
                message = f"The README says {quoted}, which no code reads"
        elif name and name[1] in unreached and name[1] not in said:
            said.add(name[1])
            message = f"The README names `{name[1]}`, whose code the documented run cannot reach"
        if message:
            place = Place(readme, number, line.find(quoted) + 1, "claimed here")
            yield Finding(
                "dead-claim", Status.HOLD, f"{message}: see whether it is claimed to have an effect.", (place,)
            )


def check_thrown_away(program: Program, readme: Source | None) -> Iterator[Finding]:
    """dead-claim: what is computed while training and thrown away. An average of the weights is a violation if the
    README says that there is one, and nothing but code without a use if it does not. Without a README, and for anything
    else than weights, it is a question."""
    for one in thrown_away(program):
        message = f"`{one.name}` is computed while training and thrown away: it has no effect on what is scored"
        if readme is None or not one.weights:
            question = f"{message}; see whether it is claimed to have one."
            yield Finding("dead-claim", Status.HOLD, question, (one.place,))
            continue
        claimed, denied = _said_of(MOVING_AVERAGE if one.decays else WEIGHT_AVERAGE, readme)
        if claimed and denied:
            question = f"{message}; the README says both that it is done and that it is not."
            yield Finding("dead-claim", Status.HOLD, question, (claimed[0], denied[0], one.place))
        elif claimed:
            yield Finding("dead-claim", Status.FLAG, f"{message}.", (claimed[0], one.place))


def _said_of(technique: re.Pattern, readme: Source) -> tuple[list[Place], list[Place]]:
    """Where a README says of a technique that it is used, and where that it is not, or was elsewhere: each counts as
    far as the clause goes that names it."""
    claimed: list[Place] = []
    denied: list[Place] = []
    elsewhere = False
    for number, line in enumerate(readme.text[:MAX_README].split("\n"), 1):
        if HEADING.match(line):
            elsewhere = ELSEWHERE.search(line) is not None
        begin = 0
        for end in (*(one.start() for one in CLAUSE_END.finditer(line)), len(line)):
            clause = line[begin:end]
            if match := technique.search(clause):
                given = SET_TO.match(clause, match.end())
                off = given[1].lower() in OFF if given else elsewhere or ELSEWHERE.search(clause) is not None
                note = "not claimed here" if off else "claimed here"
                (denied if off else claimed).append(Place(readme, number, begin + match.start() + 1, note))
            begin = end
    return claimed, denied


def check_admitted(program: Program, readme: Source) -> Iterator[Finding]:
    """val-in-training: the README itself says that validation data are trained on, or puts them where train shards are
    expected; no code shows what a file holds."""
    for number, line in enumerate(readme.text[:MAX_README].split("\n"), 1):
        said = VAL_ONLY.search(line)
        words = line.strip(" \t$>").split()  # ln -s val_shard train_shard
        renamed = len(words) > 2 and words[0] in ("ln", "cp", "mv") and "_val_" in words[-2] and "_train_" in words[-1]
        if renamed or (said is not None and not OF_OTHERS.search(line)):
            message = "The README says that the data which are trained on are the validation data"
            quoted = said[0] if said is not None else line.strip()
            place = Place(readme, number, line.find(quoted) + 1, "said here")
            yield Finding("val-in-training", Status.FLAG, f"{message}: {quoted[:80]!r}.", (place,))
            return


def titled_switches(program: Program, readme: Source, switches: Iterable[str]) -> list[str]:
    """The environment variables that are off, those given among them, whose words all stand in the README's first
    heading: TTT_ENABLED in "Legal TTT". None where it speaks of what was left out."""
    heading = re.search(r"^#\s+(\S.{0,300})", readme.text[:MAX_README], re.MULTILINE)
    if heading is None or OF_OTHERS.search(heading[1]):
        return []
    title = heading[1].lower()
    words = {*re.findall(r"[a-z0-9]+", title), *(one.replace("-", "") for one in re.findall(r"[a-z0-9-]+", title))}
    found = []
    for switch in sorted({*switches, *(name for name, on in _switches_read(program) if on is False)}):
        named = [word for word in switch.lower().split("_") if word not in SWITCH_WORDS]
        if named and all(len(word) > 2 and word in words for word in named):
            found.append(switch)
    return found


def _claims(readme: Source) -> Iterator[tuple[int, str, str]]:
    """What stands in code quotes: number of the line from 1, line, text between the quotes."""
    fenced = about_others = False
    for number, line in enumerate(readme.text[:MAX_README].split("\n"), 1):
        if FENCE.match(line):
            fenced = not fenced
        elif fenced:
            continue
        elif HEADING.match(line):
            about_others = OF_OTHERS.search(line) is not None
        elif not about_others and not OF_OTHERS.search(line):
            for match in QUOTED.finditer(line):
                if not COMMANDED.search(match[1]):
                    yield number, line, match[1].strip()


def _switches_read(program: Program) -> Iterator[tuple[str, bool | None]]:
    """Variables that code which can run reads, and whether each is on; None where that cannot be told."""
    for call in program.external_calls:
        if call.name not in ("os.environ.get", "os.getenv") or not call.node.args:
            continue
        name = program.constant(call.node.args[0], call.scope)
        value = program.constant(call.node, call.scope)
        if isinstance(name, str):
            off = value is None or value is False or value == 0 or (isinstance(value, str) and value.lower() in OFF)
            yield name, None if value is UNKNOWN else not off


def _unreached(program: Program) -> set[str]:
    """Names of functions and classes of modules that run, none of which can be called, and that are nothing else."""
    alive: set[str] = set()
    dead: set[str] = set()
    everything: list[Function | Class] = [*program.functions.values(), *program.classes.values()]
    for one in everything:
        name = one.node.name if isinstance(one, Class) else one.short_name
        cannot_run = one.module in program.reached_modules and not program.is_reached(one)
        (dead if cannot_run else alive).add(name)
    return {name for name in dead - alive if len(name) > 3}
