"""What the logs of a folder show of how its code was started: settings that they list, and lines that only some code
prints. A log is the run itself; a README that forgets a switch, or a default that was overridden, is not."""

from __future__ import annotations

import ast
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from harness.compliance.program import UNKNOWN, Program, Scope, children

Origins = dict[str, list[tuple[ast.expr, Scope]]]

MAX_LINES = 50_000
MAX_LINE = 300  # characters that are looked at
MARK_AT_LEAST = 8  # characters of a printed text before what is put into it, so that it is told from others
NAME = re.compile(r"\w*")  # a mark that is one may be a key, a part of a name, or anything
NAMES_DEEP = 3  # assignments between a test and the variable that it comes from
STAMP = re.compile(r"^(?:\[[^\]\n]{1,40}\]:?\s*|\d{1,7}[:|]\s*(?=\D)|\d{4}-\d\d-\d\d[T ][\d:.,+Z]+\s*)+")
SETTING = re.compile(r"(?<![\w.])([A-Za-z_]\w*)\s*[:=]\s*(True|False|-?\d[\d_]*(?:\.\d+)?(?:e-?\d+)?)(?=[\s,;)}\]]|$)")
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{2,}")
OF_THE_MACHINE = frozenset(("WORLD_SIZE", "RANK", "LOCAL_RANK"))


class LogLines:
    """The lines of some logs, each once, without time stamps and ranks."""

    def __init__(self, texts: Sequence[str]) -> None:
        lines: set[str] = set()
        for text in texts:
            for line in text.splitlines():
                if len(lines) >= MAX_LINES:
                    break
                lines.add(STAMP.sub("", line[:MAX_LINE].strip()))
        self.sorted = sorted(lines)

    def shows(self, mark: str) -> str | None:
        """A line that begins with a mark."""
        position = bisect_left(self.sorted, mark)
        found = self.sorted[position] if position < len(self.sorted) else ""
        return found if found.startswith(mark) else None

    def holds(self, mark: str) -> bool:
        """Whether a line has a mark in it, with a value behind it: in source that a log begins with, it has none."""
        values = re.compile(re.escape(mark) + r"[\w.+-]")
        return any(mark in line and values.search(line) for line in self.sorted)

    def settings(self) -> dict[str, str]:
        """Names with the only value that the lines give them."""
        values: dict[str, set[str]] = {}
        for line in self.sorted:
            for name, value in SETTING.findall(line):
                values.setdefault(name, set()).add(value)
        return {name: found.pop() for name, found in values.items() if len(found) == 1}


def contradicted(program: Program, lines: LogLines, origins: Origins) -> frozenset[str]:
    """Environment variables that decide against code whose lines are in the logs: the run set them otherwise."""
    if not lines.sorted:
        return frozenset()
    dead = [(test, mark) for test, block, scope in _dead_blocks(program) for mark in _marks(program, block, scope)]
    shown = [(test, line) for test, mark in dead if (line := lines.shows(mark)) is not None]
    parts = {test for test, mark in _dead_parts(program) if lines.holds(mark)}
    if not shown and not parts:
        return frozenset()
    live = tuple(mark for one in program.live_scopes() for mark in _live_marks(program, one))
    found = {variable for test in parts for variable in _variables(test, origins)}
    for test, line in shown:
        if not line.startswith(live):
            found |= _variables(test, origins)
    return frozenset(found - OF_THE_MACHINE)


def _dead_blocks(program: Program) -> Iterator[tuple[ast.expr, list[ast.stmt], Scope]]:
    """Blocks that their condition keeps from running."""
    for scope in program.live_scopes():
        for node, _, _ in program.live(scope):
            if isinstance(node, ast.If):
                truth = program.truth(node.test, scope)
                if truth is not UNKNOWN and (block := node.orelse if truth else node.body):
                    yield node.test, block, scope


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
    return text if len(text) >= MARK_AT_LEAST and not NAME.fullmatch(text) and any(map(str.isalpha, text)) else ""


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
    listed = lines.settings() if lines.sorted else {}
    others: dict[str, str] = {}
    known = set()
    for name, value in listed.items():
        values = origins.get(name, ())
        variables = _direct(values[0][0]) - OF_THE_MACHINE if len(values) == 1 else set()
        if len(variables) == 1:
            variable = variables.pop()
            known.add(variable)
            if _matters(program.constant(*values[0]), value):
                others[variable] = _written(value)
    return others, frozenset(known)


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
