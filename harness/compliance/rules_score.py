"""The number that is reported: where it comes from, over which bytes, tokens and data."""

from __future__ import annotations

import ast
import itertools
import math
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from harness.compliance.byte_counts import check_counts
from harness.compliance.findings import Finding, Status
from harness.compliance.logs import SPLIT_BYTES, parse_log
from harness.compliance.memory import keep
from harness.compliance.program import UNKNOWN, Program, Scope
from harness.compliance.score_arithmetic import (
    LOSS_FUNCTIONS,
    MAX_SPINE,
    SAME_BYTES,
    SIZES,
    Role,
    Step,
    alterations,
    spine,
)
from harness.compliance.slices import Slice
from harness.compliance.trial import KIND_TESTS, MARKER, MEASURING

SCORE = re.compile(r"(?<![a-z])(val_?bpb|val_?loss|bpb|bits_per_byte|val_nats)\b[\"']?\s*[:=]\s*$", re.IGNORECASE)
NOTED = re.compile(r"([a-z])\s*\([^()]{1,60}\)(?=\s*[:=]\s*$)", re.IGNORECASE)  # "val_bpb (stride 64): "
WRITTEN_SCORE = re.compile(r"(?<![a-z])(val_?bpb|val_?loss)\s*[:=]\s*\d+\.\d+", re.IGNORECASE)
REFERENCE = re.compile(
    r"baseline|target|previous|reference|record|best|goal|expected|\bvs\b|delta|sota|leaderboard|\best[_ i]|approx",
    re.IGNORECASE,
)
TEXTS = frozenset({"builtins.str", "builtins.format", "builtins.repr", "builtins.round"})
BYTE_TESTS = frozenset(name for name, kind in KIND_TESTS.items() if kind == "byte")
LOSS_SUMS = (Role.SUMMAND, Role.TAKEN_OFF)
PRINTED = frozenset({ast.Constant, ast.JoinedStr, ast.BinOp, ast.Call, ast.Dict})  # what may hold a score's name


def check_score(program: Program) -> Iterator[Finding]:
    """constant-score: a score in the output that is written in the code, clamped or scaled, or to which some of the
    data add nothing because of their loss."""
    yield from _scores(program)[0]
    yield from _left_out(program, loss_sums(program))


def loss_sums(program: Program) -> dict[ast.expr, Scope]:
    """What is summed up for a score in the output, and where."""
    return {node: home for (node, home, _), role in _scores(program)[1] if role in LOSS_SUMS}


@keep(at_most=4)
def _scores(program: Program) -> tuple[list[Finding], dict[Step, None]]:
    """The findings about scores in the output, and every step on the way to one. What alters one is said once, however
    often it is printed."""
    findings: list[Finding] = []
    seen: dict[Step, None] = {}
    for node, _, scope, _ in program.live_of(ast.Call):
        for argument in (*node.args, *[one.value for one in node.keywords]):
            if type(argument) in PRINTED:
                findings += _printed(program, argument, scope, seen)
        if len(node.args) < 2:
            continue
        for label, value in itertools.pairwise(node.args):  # print("val_bpb:", value)
            if isinstance(label, ast.Constant) and (_names_score(label.value) or _names_score(f"{label.value}:")):
                findings += _reported(program, value, scope, seen)
    return findings, seen


def _printed(program: Program, node: ast.expr, scope: Scope, seen: dict[Step, None]) -> Iterator[Finding]:
    source = scope.module.source
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        written = WRITTEN_SCORE.search(node.value)
        if written and not REFERENCE.search(node.value) and node.value.count("\n") < 3:
            message = f"A score is printed that is written in the code: {written[0]}."
            yield Finding("constant-score", Status.FLAG, message, (program.place(node, source, "the score is text"),))
        return
    for value in _score_values(node):
        yield from _reported(program, value, scope, seen)


def _reported(program: Program, value: ast.expr, scope: Scope, seen: dict[Step, None]) -> Iterator[Finding]:
    place = program.place(value, scope.module.source, "this is printed as the score")
    while isinstance(value, ast.Call) and value.args and program.external(value.func, scope) in TEXTS:
        value = value.args[0]
    known = program.constants(value, scope)
    if known and all(isinstance(one, int | float) and not isinstance(one, bool) and one > 0 for one in known):
        if all(math.isfinite(one) for one in known):
            message = f"The score that is printed is a constant, {known[0]}."
            yield Finding("constant-score", Status.FLAG, message, (place,))
    elif _is_written(program, value, scope):
        message = "The score that is printed is a constant: what gives it back is a number written in the code."
        yield Finding("constant-score", Status.FLAG, message, (place,))
    else:
        yield from _altered(program, value, scope, seen)


def _names_score(text: object) -> bool:
    return isinstance(text, str) and SCORE.search(text) is not None and not REFERENCE.search(text[-60:])


def _is_written(program: Program, value: ast.expr, scope: Scope) -> bool:
    """Whether everything that a value may be, through names, calls and returns, is a number in the code."""
    pending: list[tuple[ast.expr, Scope, tuple[int, ...]]] = [(value, scope, ())]
    seen: set[ast.expr] = set()
    numbers = 0
    while pending and len(seen) < MAX_SPINE:
        node, home, path = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        number = program.constant(node, home) if not path else UNKNOWN
        if isinstance(number, int | float) and not isinstance(number, bool):
            numbers += number > 0 and math.isfinite(number)
            continue
        before = [] if isinstance(node, ast.BinOp) else list(spine(program, node, home, path))
        if not before:
            return False
        pending += before
    return numbers > 0


def _score_values(node: ast.expr) -> Iterator[ast.expr]:
    """The expressions that a printed text puts behind the name of a score."""
    if isinstance(node, ast.JoinedStr):
        before, text = "", ""
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                if _names_score(before) or (NOTED.search(text) and _names_score(NOTED.sub(r"\1", text))):
                    yield part.value
                before, text = "", f"{text}0"
            elif isinstance(part, ast.Constant):
                before = str(part.value)
                text += before
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(key.value, str) and _names_score(key.value + ":"):
                yield value
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        label = node.left.right if isinstance(node.left, ast.BinOp) else node.left
        if isinstance(label, ast.Constant) and _names_score(label.value):
            yield node.right
        if isinstance(node.left, ast.BinOp):
            yield from _score_values(node.left)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant):
        yield from _template(str(node.left.value), r"%[-+ 0#]*\d*(?:\.\d+)?[a-zA-Z]", node.right)
    elif _method(node) == "format" and isinstance(node.func.value, ast.Constant) and not node.keywords:
        yield from _template(str(node.func.value.value), r"\{[^{}]*\}", ast.Tuple(elts=node.args))


def _template(text: str, field: str, values: ast.expr) -> Iterator[ast.expr]:
    given = values.elts if isinstance(values, ast.Tuple) else [values]
    position = 0
    for match, value in zip(re.finditer(field, text), given, strict=False):
        before = text[position : match.start()]
        if _names_score(before):
            yield value
        position = match.end()


def _altered(program: Program, value: ast.expr, scope: Scope, seen: dict[Step, None]) -> Iterator[Finding]:
    """Clamps, constant factors and the like between what scoring returns and what is printed."""
    printed = program.place(value, scope.module.source, "this is printed as the score")
    for status, reason, node, home in alterations(program, value, scope, seen):
        place = program.place(node, home.module.source, reason)
        message = f"The reported score is altered: {reason}."
        if status is Status.HOLD:
            message = f"What the reported score is made of is altered: {reason}. See what for."
        yield Finding("constant-score", status, message, (place, printed))


def _left_out(program: Program, summands: Mapping[ast.expr, Scope]) -> Iterator[Finding]:
    """Sums of losses to which a part of the data adds something, or not, by its own loss."""
    for scope in dict.fromkeys(summands.values()):
        for statement, _, _ in program.live(scope):
            if not isinstance(statement, ast.AugAssign) or statement.value not in summands:
                continue
            tests = [test for test, _ in program.conditions(statement)]
            for before in program.statements_before(statement, in_loop=True):
                if isinstance(before, ast.If) and isinstance(before.body[-1], ast.Continue | ast.Break):
                    tests.append(before.test)
            compared = [one for test in tests for one in ast.walk(test) if isinstance(one, ast.Compare)]
            compared = [one for one in compared if not _is_length(program, one.left, scope)]
            made = _calls_in(program, statement.value, scope) if compared else set()
            for test in compared:
                shared = made & _calls_in(program, test, scope) if made else set()
                if any(_is_loss(program, *one) for call in shared for one in Slice(program, call, scope).nodes):
                    place = program.place(test, scope.module.source, "it depends on this")
                    added = program.place(statement, scope.module.source, "whether this is added")
                    message = "Whether a part of the data counts depends on its own loss. See what is left out."
                    yield Finding("constant-score", Status.HOLD, message, (place, added))
                    break


def _is_length(program: Program, node: ast.expr, scope: Scope) -> bool:
    """Whether it is how long something is, and not what is in it."""
    values = [node]
    if isinstance(node, ast.Name):
        values = [binding.value for binding in program.lookup(node, scope)[1] if binding.value is not None]
    return any(
        (isinstance(one, ast.Call) and getattr(one.func, "attr", getattr(one.func, "id", "")) in SIZES)
        or (isinstance(one, ast.Subscript) and getattr(one.value, "attr", "") == "shape")
        for one in values
    )


def _calls_in(program: Program, node: ast.expr, scope: Scope) -> set[ast.expr]:
    """The calls of a scope that an expression is made of."""
    return {one for one, home in Slice(program, node, scope).nodes if isinstance(one, ast.Call) and home is scope}


def _is_loss(program: Program, node: ast.expr, scope: Scope) -> bool:
    return isinstance(node, ast.Call) and (program.external(node.func, scope) or "").endswith(LOSS_FUNCTIONS)


def check_bytes(program: Program) -> Iterator[Finding]:
    """byte-count: the table of bytes for each token, and byte counts that come from files."""
    tables: dict[Scope, ast.Call] = {}
    for node, _, scope, _ in program.live_of(ast.Call):
        if _method(node) in MEASURING:
            tables.setdefault(scope, node)
    _, steps = _scores(program)
    counted = check_counts(program, {node: home for (node, home, _), role in steps if role is Role.SUMMAND_OF_DIVISOR})
    unexplained = dict(counted.tables)
    for scope, piece in tables.items():
        right = scope.function in counted.right
        if right and counted.sums is not None:
            continue  # what is made of it is known, too
        nodes = [node for node, _, _ in program.live(scope)]
        if any(_method(node) == "encode" or _is_len(program, node, scope) for node in nodes):
            for finding in _table(program, scope, nodes, piece, right):
                unexplained.pop(scope.function, None)
                yield finding
    yield from unexplained.values()
    yield from counted.sums or ()
    for call in program.external_calls:
        if call.name in ("glob.glob", "numpy.fromfile", "numpy.load", "builtins.open") and call.node.args:
            name = program.constant(call.node.args[0], call.scope)
            if isinstance(name, str) and re.search(
                r"(?<![a-z])bytes?(?![a-z]).*\.(bin|npy|npz|pt)$", posixpath.basename(name)
            ):
                base = posixpath.basename(name)
                place = program.place(call.node, call.scope.module.source, f"byte counts are read from {base}")
                yield Finding("byte-count", *_counts_of_file(base, program.log_texts), (place,))


def _counts_of_file(name: str, logs: Sequence[str]) -> tuple[Status, str]:
    """What is said about byte counts that come from a file. Only their sum is in the score; logs show what it is."""
    runs = [run for text in logs for run in parse_log("", text)]
    sums = [run.counted_bytes for run in runs if run.counted_bytes is not None]
    what = f"The denominator of the score comes from a file: byte counts are read from {name}."
    if sums and all(abs(one / SPLIT_BYTES - 1) < SAME_BYTES for one in sums):
        known = f"{SPLIT_BYTES / 1e6:.1f} million of the validation split's text"
        return Status.CLEAN, f"{what} By the logs they come to the {known}."
    return Status.HOLD, f"{what} See how that file was made."


def _method(node: ast.AST) -> str:
    return node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""


def _is_len(program: Program, node: ast.AST, scope: Scope) -> bool:
    if not isinstance(node, ast.Call) or not node.args or program.external(node.func, scope) != "builtins.len":
        return False
    return any(_method(one) in MEASURING for one, _ in Slice(program, node.args[0], scope).nodes)


def _table(program: Program, scope: Scope, nodes: list[ast.AST], piece: ast.Call, right: bool) -> Iterator[Finding]:
    """What is wrong about a table by what it is made with. right: what it has for each piece is known to be right, but
    not whether leading spaces are counted."""
    place = program.place(piece, scope.module.source, "the pieces of the tokenizer are measured here")
    compared = {id(part) for node in nodes if isinstance(node, ast.Compare) for part in (node.left, *node.comparators)}
    lengths = [node for node in nodes if id(node) not in compared and _is_len(program, node, scope)]
    if not lengths:
        return

    def finding(status: Status, message: str, node: ast.AST | None = None, note: str = "") -> Finding:
        more = (program.place(node, scope.module.source, note),) if node is not None else ()
        return Finding("byte-count", status, message, (place, *more))

    marked = [node for node in nodes if _is_mark(program, node, scope)]
    if not right:
        yield from _wrongly_measured(program, scope, nodes, lengths, finding)
        if not marked:
            yield finding(Status.FLAG, "The mark of a leading space is counted as the three bytes of its character.")
            return
    for node in nodes:
        if _method(node) != "replace" or len(node.args) != 2 or program.constant(node.args[0], scope) != MARKER:
            continue
        other = program.constant(node.args[1], scope)
        if other == " ":
            message = "A leading space is counted at every token, also behind a boundary token where there is none."
            yield finding(Status.HOLD, message + " See whether the difference matters.", node, "counted here")
        elif other == "" and not _space_noted(nodes, marked):
            yield finding(Status.FLAG, "The byte of a leading space is not counted.", node, "it is dropped here")
    stripped = [node for node in nodes if _method(node) in ("lstrip", "removeprefix", "strip") or _drops_first(node)]
    if stripped and not _space_noted(nodes, marked):
        yield finding(Status.FLAG, "The byte of a leading space is not counted.", stripped[0], "it is dropped here")


def _wrongly_measured(
    program: Program, scope: Scope, nodes: list[ast.AST], lengths: list[ast.AST], finding: Callable[..., Finding]
) -> Iterator[Finding]:
    """Characters instead of bytes, and byte pieces that are not one byte."""
    for length in lengths:
        measured = Slice(program, length.args[0], scope)
        if "builtins.bytes" not in measured.calls() and not any(_method(one) == "encode" for one, _ in measured.nodes):
            yield finding(
                Status.FLAG, "The characters of pieces are counted, not their UTF-8 bytes.", length, "characters"
            )
    tests = [node for node in nodes if _method(node) in BYTE_TESTS or _is_byte_text(node)]
    if not tests:
        yield finding(
            Status.FLAG, "Byte pieces such as <0xE2> are counted by the length of their names, not as one byte."
        )
    for node in nodes:
        if isinstance(node, ast.If) and any(one in tests for one in ast.walk(node.test)) and not _negated(node.test):
            for one in node.body:
                value = one.value if isinstance(one, ast.Assign | ast.AugAssign) else None
                counted = program.constant(value, scope) if value is not None else UNKNOWN
                if isinstance(counted, int) and not isinstance(counted, bool) and counted != 1:
                    yield finding(
                        Status.FLAG, f"A byte piece is counted as {counted} bytes, not one.", one, "counted here"
                    )


def _is_mark(program: Program, node: ast.AST, scope: Scope) -> bool:
    """Whether it is the character that stands for a leading space."""
    if isinstance(node, ast.Call) and program.external(node.func, scope) == "builtins.chr" and node.args:
        return program.constant(node.args[0], scope) == ord(MARKER)
    return isinstance(node, ast.Constant | ast.Name) and program.constant(node, scope) == MARKER


def _is_byte_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.lower().startswith("<0x")


def _negated(test: ast.expr) -> bool:
    return any(isinstance(one, ast.Not) for one in ast.walk(test))


def _drops_first(node: ast.AST) -> bool:
    if not isinstance(node, ast.Subscript) or not isinstance(node.slice, ast.Slice):
        return False
    lower = node.slice.lower
    return isinstance(lower, ast.Constant) and lower.value == 1 and node.slice.upper is None


def _space_noted(nodes: list[ast.AST], marked: list[ast.AST]) -> bool:
    """Whether anything besides the piece itself depends on the mark: a table of leading spaces, or one byte more."""
    for node in nodes:
        if isinstance(node, ast.If) and any(one in marked for one in ast.walk(node.test)):
            stores = [one for one in (*node.body, *node.orelse) if isinstance(one, ast.Assign | ast.AugAssign)]
            if any(isinstance(one, ast.AugAssign) or not isinstance(one.targets[0], ast.Name) for one in stores):
                return True
            if len(stores) > 1:
                return True
        uses = isinstance(node, ast.Assign | ast.AugAssign | ast.IfExp)
        if uses and any(
            one in marked for one in ast.walk(node.value if not isinstance(node, ast.IfExp) else node.test)
        ):
            value = node.value if not isinstance(node, ast.IfExp) else None
            if value is None or _is_flag(value, marked):
                return True
    return False


def _is_flag(value: ast.expr, marked: list[ast.AST]) -> bool:
    """Whether a value is a test for the mark, not the piece without it."""
    if isinstance(value, ast.Call) and _method(value) in ("replace", "lstrip", "removeprefix", "strip"):
        return False
    return any(one in marked for one in ast.walk(value)) and not any(_drops_first(one) for one in ast.walk(value))
