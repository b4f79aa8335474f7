"""What the logs of a folder show of how its code was started: settings that they list, and lines that only some code
prints. A log is the run itself; a README that forgets a switch, or a default that was overridden, is not."""

from __future__ import annotations

import ast
import re
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence

from harness.compliance.program import UNKNOWN, Program, Scope, children

Origins = dict[str, list[tuple[ast.expr, Scope]]]

GAP = "\0"  # stands in a text for a value
VALUE_AT_MOST = 80  # characters that stand in a line for a value
TEMPLATE_AT_LEAST = 16  # characters between the values of a text, so that it is told from others by them
MAX_LINES = 50_000
LINES_AT_MOST = 20  # that are looked at of one print
MAX_LINE = 300  # characters that are looked at
MARK_AT_LEAST = 8  # characters of a printed text before what is put into it, so that it is told from others
NAME = re.compile(r"\w*")  # a mark that is one may be anything, but for what follows it in the log
NAMES_DEEP = 3  # assignments between a test and the variable that it comes from
STAMP = re.compile(
    r"^(?:\[[^\]\n]{1,40}\]:?\s*|\d{1,7}[:|]\s*(?=\D)|\d{4}-\d\d-\d\d[T ][\d:.,+Z]+\s*|\d{10}\.\d{1,9}\s+)+"
)
SETTING = re.compile(  # name=1, name: True, and as JSON has it
    r"(?<![\w.])([A-Za-z_]\w*)[\"']?\s*[:=]\s*([Tt]rue|[Ff]alse|-?\d[\d_]*(?:\.\d+)?(?:e-?\d+)?)(?=[\s,;)}\]]|$)"
)
SCORE = re.compile(r"bpb[:=]\s*(\d\.\d{4,12})(?![\d.])")
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{2,}")
OF_THE_MACHINE = frozenset(("WORLD_SIZE", "RANK", "LOCAL_RANK"))
OF_A_TRIAL = re.compile("SMOKE|DRY_?RUN|PREFLIGHT")  # a log may begin with one; the run that is reported was none
SCORE_LINE = " val_"  # what follows the name of an evaluation


class LogLines:
    """The lines of some logs, each once, without time stamps and ranks. scored: those of the logs that hold the score
    which is reported, empty if none or all of them do; what they list beats what others do."""

    def __init__(self, texts: Sequence[str], reported: Collection[str] = ()) -> None:
        self.sorted = _lines(texts)
        scoring = [text for text in texts if _holds_score(text, reported)]
        self.scored = frozenset(_lines(scoring) if len(scoring) < len(texts) else ())

    def shows(self, mark: str) -> str | None:
        """A line that begins with a mark."""
        position = bisect_left(self.sorted, mark)
        found = self.sorted[position] if position < len(self.sorted) else ""
        return found if found.startswith(mark) else None

    def beginning(self, mark: str) -> list[str]:
        """The first of the lines that begin with a mark."""
        first = bisect_left(self.sorted, mark)
        return [line for line in self.sorted[first : first + LINES_AT_MOST] if line.startswith(mark)]

    def fits(self, template: str) -> str | None:
        """A line that a text with values in it could have made."""
        parts = template.split(GAP)
        words = max(parts, key=len)
        return next((line for line in self.sorted if words in line and between(parts, line) is not None), None)

    def holds(self, mark: str) -> bool:
        """Whether a line has a mark in it, with a value behind it: in source that a log begins with, it has none."""
        values = re.compile(re.escape(mark) + r"[\w.+-]")
        return any(mark in line and values.search(line) for line in self.sorted)

    def settings(self) -> dict[str, str]:
        """Names with the only value that the lines give them."""
        values: dict[str, set[str]] = {}
        scored: dict[str, set[str]] = {}
        for line in self.sorted:
            for name, value in SETTING.findall(line):
                value = value.capitalize()
                values.setdefault(name, set()).add(value)
                if line in self.scored and value in ("True", "False"):
                    scored.setdefault(name, set()).add(value)  # a log of an evaluation lists no training's limits
        return {name: next(iter(one)) for found in (values, scored) for name, one in found.items() if len(one) == 1}


def between(parts: Sequence[str], line: str) -> list[str] | None:
    """What stands in a line between the parts of a text, if it begins with them. Each part is taken where it is found
    first: trying every place would take for ever on a line made for that."""
    if not line.startswith(parts[0]):
        return None
    found = []
    end = len(parts[0])
    for part in parts[1:]:
        at = line.find(part, end, end + VALUE_AT_MOST + len(part)) if part else _end_of_word(line, end)
        if at < 0 or any(brace in line[end:at] for brace in "{}"):  # of source that a log begins with
            return None
        found.append(line[end:at])
        end = at + len(part)
    return found


def _end_of_word(line: str, start: int) -> int:
    space = line.find(" ", start)
    return len(line) if space < 0 else space


def _lines(texts: Sequence[str]) -> list[str]:
    lines: set[str] = set()
    for text in texts:
        for line in text.splitlines():
            if len(lines) >= MAX_LINES:
                break
            lines.add(STAMP.sub("", line[:MAX_LINE].strip()))
    return sorted(lines)


def _holds_score(text: str, reported: Collection[str]) -> bool:
    """Whether a log prints one of the scores, which may be rounded."""
    if not reported:
        return False
    found = {float(number) for number in SCORE.findall(text)}
    for score in reported:
        digits = len(score.partition(".")[2])
        if any(f"{one:.{digits}f}" == score for one in found):
            return True
    return False


def contradicted(program: Program, lines: LogLines, origins: Origins) -> frozenset[str]:
    """Environment variables that decide against code whose lines are in the logs: the run set them otherwise."""
    if not lines.sorted:
        return frozenset()
    dead = [(test, mark) for test, block, scope in _dead_blocks(program) for mark in _marks(program, block, scope)]
    shown = [(test, line) for test, mark in dead if (line := lines.shows(mark)) is not None]
    shown += [(test, line) for test, line in _fitting(program, lines)]
    parts = {test for test, mark in _dead_parts(program) if lines.holds(mark)}
    if not shown and not parts:
        return frozenset()
    live = tuple(mark for one in program.live_scopes() for mark in _live_marks(program, one))
    found = {variable for test in parts for variable in _variables(test, origins)}
    for test, line in shown:
        if not line.startswith(live):
            found |= _variables(test, origins)
    return _of_the_run(found)


def switched_on(program: Program, lines: LogLines, origins: Origins) -> frozenset[str]:
    """Environment variables of switches that are off, or that cannot be told, whose code alone prints what the logs
    show; not where they show its alternative too, as of two runs."""
    on: set[str] = set()
    off: set[str] = set()
    live: list[str] = []
    for scope in program.live_scopes() if lines.sorted else ():
        for node, _, _ in program.live(scope):
            if not isinstance(node, ast.If) or program.truth(node.test, scope) is True:
                continue
            switches = [name for one in _required(node.test) for name in _switch(program, one, origins)]
            if not switches:
                continue
            for block, variables in ((node.body, on), (node.orelse, off)):
                shown = [mark for mark in _marks(program, block, scope) if lines.shows(mark) is not None]
                if shown and not live:
                    live = [mark for one in program.live_scopes() for mark in _live_marks(program, one)]
                if any(_alone(program, mark, live) for mark in shown):
                    variables.update(switches)
    return _of_the_run(on - off)


def switched_off(program: Program, lines: LogLines, origins: Origins) -> frozenset[str]:
    """Environment variables of switches that are on by default, while the logs lack all that their code prints whenever
    it runs, and have what is printed before it and after it in the same way."""
    found: set[str] = set()
    for scope in program.live_scopes() if lines.sorted else ():
        for node, _, _ in program.live(scope):
            switch = _default_on(program, node.test, origins) if isinstance(node, ast.If) else set()
            behind = _prints(node.body) if switch else []
            if any(lines.shows(mark) is not None for mark, _ in behind):
                continue
            ways = {how for _, how in behind}
            block, index = program.block_of(node) if ways else ([], 0)
            before = [mark for mark, how in _prints(block[:index]) if how in ways]
            after = [mark for mark, how in _prints(block[index + 1 :]) if how in ways]
            if before and after and lines.shows(before[-1]) is not None and lines.shows(after[0]) is not None:
                found |= switch
    return _of_the_run(found)


def _prints(block: Sequence[ast.stmt]) -> list[tuple[str, str]]:
    """The beginnings of what the statements of a block print whenever it runs, each with what prints it."""
    calls = [one.value for one in block if isinstance(one, ast.Expr) and isinstance(one.value, ast.Call)]
    return [(mark, ast.unparse(call.func)) for call in calls if not call.keywords and (mark := _mark(call))]


def _of_the_run(variables: set[str]) -> frozenset[str]:
    return frozenset(one for one in variables - OF_THE_MACHINE if not OF_A_TRIAL.search(one))


def off_by_default(program: Program, origins: Origins) -> list[str]:
    """The environment variables of all switches that are off, in order."""
    found = set()
    for values in origins.values():
        for value, scope in values:
            variables = _direct(value)
            if len(variables) == 1 and _is_off(program.constant(value, scope)):
                found |= variables
    return sorted(found - OF_THE_MACHINE)


def _is_off(constant: object) -> bool:
    return constant is False or (constant == 0 and isinstance(constant, int))


def _alone(program: Program, mark: str, live: Sequence[str]) -> bool:
    """Whether one print only begins a line like that, in code that runs and in code that does not."""
    name = mark.removesuffix(SCORE_LINE)
    texts = (mark,) if name == mark else (f"'{name}'", f'"{name}"')
    written = sum(module.source.text.count(text) for module in program.modules.values() for text in texts)
    return written == 1 and not any(one != mark and mark.startswith(one) for one in live)


def _required(test: ast.expr) -> Iterator[ast.expr]:
    """Names and attributes that are true where a test is."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        for one in test.values:
            yield from _required(one)
    elif isinstance(test, ast.Name | ast.Attribute):
        yield test


def _switch(program: Program, test: ast.expr, origins: Origins) -> Iterator[str]:
    """The environment variable that a switch is read from, if it is one with a default of off."""
    found = _read_from(test, origins)
    if found is not None and _is_off(program.constant(*found[1:])):
        yield found[0]


def _default_on(program: Program, test: ast.expr, origins: Origins) -> set[str]:
    """The environment variable that a switch is read from, if it is one that is on by default."""
    found = _read_from(test, origins)
    if found is None or found[0] in program.environment:
        return set()
    return {found[0]} if program.constant(*found[1:]) in (True, 1) else set()


def _read_from(test: ast.expr, origins: Origins) -> tuple[str, ast.expr, Scope] | None:
    """The only environment variable that a name or an attribute is read from, and where that is done."""
    values = [(value, home) for value, home in origins.get(_last(test), ()) if _direct(value)]
    variables = _direct(values[0][0]) if len(values) == 1 else ()
    return (*variables, *values[0]) if len(variables) == 1 else None


def _dead_blocks(program: Program) -> Iterator[tuple[ast.expr, list[ast.stmt], Scope]]:
    """Blocks that their condition keeps from running."""
    for scope in program.live_scopes():
        for node, _, _ in program.live(scope):
            if isinstance(node, ast.If):
                truth = program.truth(node.test, scope)
                if truth is not UNKNOWN and (block := node.orelse if truth else node.body):
                    yield node.test, block, scope


def _fitting(program: Program, lines: LogLines) -> Iterator[tuple[ast.expr, str]]:
    """Tests that keep a block from running whose prints begin with a value and fit a line, if no other print does."""
    dead: list[tuple[ast.expr, str]] = []
    for test, block, _ in _dead_blocks(program):
        for statement in block:
            dead += [(test, text) for node in ast.walk(statement) if (text := _template(node))]
    if not dead:
        return
    live = {text for scope in program.live_scopes() for node, _, _ in program.live(scope) if (text := _template(node))}
    for test, text in dead:
        if text not in live and (line := lines.fits(text)) is not None:
            yield test, line


def _template(node: ast.AST) -> str:
    """What a call prints that begins with a value: its words with gaps, if they are enough to tell it by."""
    text = _gapped(node)
    return text if text.startswith(GAP) and _tells(text) else ""


def _gapped(node: ast.AST) -> str:
    """The first line of what a call prints, with gaps for the values in it; empty if there are none."""
    first = node.args[0] if isinstance(node, ast.Call) and node.args else None
    if not isinstance(first, ast.JoinedStr):
        return ""
    parts = [str(one.value) if isinstance(one, ast.Constant) else GAP for one in first.values]
    return "".join(parts).lstrip().partition("\n")[0]


def _tells(text: str) -> bool:
    """Whether the words between the gaps of a text are enough to tell it by."""
    words = [part for part in text.split(GAP) if any(map(str.isalpha, part))]
    return len(words) > 1 and sum(map(len, words)) >= TEMPLATE_AT_LEAST


def _dead_parts(program: Program) -> Iterator[tuple[ast.expr, str]]:
    """Parts of texts that their condition leaves out, as far as a value follows them."""
    for scope in program.live_scopes():
        for node, _, _ in program.live(scope):
            if isinstance(node, ast.IfExp) and (
                isinstance(node.body, ast.JoinedStr) or isinstance(node.orelse, ast.JoinedStr)
            ):
                truth = program.truth(node.test, scope)
                part = None if truth is UNKNOWN else node.orelse if truth else node.body
                if isinstance(part, ast.JoinedStr) and len(part.values) > 1 and (mark := _text_mark(part)):
                    yield node.test, mark


def _marks(program: Program, block: list[ast.stmt], scope: Scope) -> Iterator[str]:
    """The beginnings of what a block prints, and of what functions print that nothing else calls."""
    called: list[ast.stmt] = []
    for statement in block:
        for node in ast.walk(statement):
            if isinstance(node, ast.Call):
                if mark := _mark(node):
                    yield mark
                if isinstance(node.func, ast.Name | ast.Attribute):
                    function = program.resolve(node, scope)
                    if function is not None and function not in program.reached:
                        called.append(function.node)
    for function in called[:20]:
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and (mark := _mark(node)):
                yield mark


def _live_marks(program: Program, scope: Scope) -> Iterator[str]:
    for node, _, _ in program.live(scope):
        if isinstance(node, ast.Call) and (mark := _mark(node)):
            yield mark


def _mark(call: ast.Call) -> str:
    """What a call would print first, if that is enough to tell it by."""
    return _text_mark(call.args[0]) if call.args else ""


def _text_mark(first: ast.expr) -> str:
    if isinstance(first, ast.JoinedStr) and first.values:
        first = first.values[0]
    text = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""
    text = text.lstrip().partition("\n")[0]
    if len(text) < MARK_AT_LEAST or not any(map(str.isalpha, text)):
        return ""
    return text + SCORE_LINE if NAME.fullmatch(text) else text  # of an evaluation, if a score follows it in the log


def origins_of(program: Program) -> Origins:
    """What is assigned to a name or attribute of that name, anywhere, with its scope."""
    found: Origins = {}
    for module in program.modules.values():
        waiting: list[tuple[ast.AST, Scope]] = [(module.tree, module.scope)]
        while waiting:
            block, scope = waiting.pop()
            for node in children(block):
                if isinstance(node, ast.expr):
                    continue
                if isinstance(node, ast.Assign):
                    for target in node.targets:
                        found.setdefault(_last(target), []).append((node.value, scope))
                elif isinstance(node, ast.AnnAssign) and node.value is not None:
                    found.setdefault(_last(node.target), []).append((node.value, scope))
                else:
                    waiting.append((node, program.scope_of.get(node, scope)))
    return found


def _last(target: ast.expr) -> str:
    return getattr(target, "attr", "") or getattr(target, "id", "")


def _variables(test: ast.expr, origins: Origins, depth: int = 0) -> set[str]:
    """The environment variables that an expression is made of."""
    found = set()
    for node in ast.walk(test):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and VARIABLE.fullmatch(node.value):
            found.add(node.value)
        elif isinstance(node, ast.Name | ast.Attribute) and depth < NAMES_DEEP:
            for value, _ in origins.get(_last(node), ())[:4]:
                if not any(one is test for one in ast.walk(value)):
                    found |= _variables(value, origins, depth + 1)
    return found


def listed_settings(program: Program, lines: LogLines, origins: Origins) -> tuple[dict[str, str], frozenset[str]]:
    """Environment variables with the values that the logs list for what is read from them, where these are others than
    the program has; and all that are listed."""
    listed = lines.settings() | printed_settings(program, lines) if lines.sorted else {}
    others: dict[str, str] = {}
    known = set()
    for name, value in listed.items():
        values = [one for one in origins.get(name, ()) if not _forwards(one[0], name)]
        read = [one for one in values if _direct(one[0]) - OF_THE_MACHINE]
        variables = _direct(read[0][0]) - OF_THE_MACHINE if len(read) == 1 else set()
        presets = [one for one in values if one not in read]
        if len(variables) != 1 or not all(isinstance(one, ast.Constant) for one, _ in presets):
            continue
        if presets and value not in ("True", "False"):
            continue
        variable = variables.pop()
        known.add(variable)
        preset = presets and variable not in program.environment
        if preset or _matters(program.constant(*read[0]), value):  # a preset may have made it something else
            others[variable] = _written(value)
    return others, frozenset(known)


def printed_settings(program: Program, lines: LogLines) -> dict[str, str]:
    """Names of switches with the only value that lines have where a print puts it, whatever the switch is called there:
    "ttt={args.ttt_enabled}"."""
    found: dict[str, set[str]] = {}
    for scope in program.live_scopes() if lines.sorted else ():
        for node, _, _ in program.live(scope):
            text = _gapped(node)
            if text.startswith(GAP) or GAP not in text or not _tells(text):
                continue
            parts = text.split(GAP)
            printed = [one.value for one in node.args[0].values if isinstance(one, ast.FormattedValue)]
            for line in lines.beginning(parts[0]):
                for one, value in zip(printed, between(parts, line) or (), strict=False):
                    if value in ("True", "False") and isinstance(one, ast.Name | ast.Attribute):
                        found.setdefault(_last(one), set()).add(value)
    return {name: next(iter(values)) for name, values in found.items() if len(values) == 1}


def _forwards(value: ast.expr, name: str) -> bool:
    """Whether a value is what another object has under that name: self.size = bool(getattr(args, "size", False))."""
    for node in ast.walk(value):
        if isinstance(node, ast.Attribute) and node.attr == name:
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            named = node.args[1] if len(node.args) > 1 else None
            if isinstance(named, ast.Constant) and named.value == name:
                return True
    return False


def _matters(constant: object, value: str) -> bool:
    """Whether a listed value makes another run of what is checked. Rates below one do not, and are often listed for
    another part of the model than is named."""
    if not isinstance(constant, int | float):
        return constant is UNKNOWN
    number = float(value == "True") if value in ("True", "False") else float(value)
    return constant != number and not (0 < constant < 1 and number < 1)


def _written(value: str) -> str:
    """A listed value as people set it: 600.000 is 600."""
    if value in ("True", "False"):
        return str(int(value == "True"))
    whole, _, fraction = value.partition(".")
    return whole if fraction and not fraction.strip("0") else value


def _direct(value: ast.expr) -> set[str]:
    """The variables that an expression reads itself, and nothing else."""
    return {
        node.value
        for node in ast.walk(value)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and VARIABLE.fullmatch(node.value)
    }
