"""What a program counts as the bytes of a token: the tables that it makes of its tokenizer's pieces, and what it adds
up of them for the divisor of its score, worked out on a small vocabulary (`trial`). Where that does not work out,
nothing is said."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from harness.compliance.findings import Finding, Status
from harness.compliance.program import Function, Program, Scope
from harness.compliance.trial import (
    BYTES,
    IN_TEXT,
    MEASURING,
    NEXT,
    PIECES,
    PREVIOUS,
    SIZE,
    SPACED,
    TEXT,
    TRUE_BYTES,
    Array,
    Object,
    Trial,
)

OTHERWISE = "Bytes are counted otherwise than the text has"


class Count(NamedTuple):
    """A statement that adds `value` to a count of bytes."""

    statement: ast.stmt
    value: ast.expr
    scope: Scope
    into: str


class Counted(NamedTuple):
    """tables: what is wrong about those that functions make; right: the functions whose tables are as they should be;
    sums: what is wrong about what is added up, None if nothing of that is known."""

    tables: dict[Function, Finding]
    right: set[Function]
    sums: list[Finding] | None


def check_counts(program: Program, added: Mapping[ast.expr, Scope]) -> Counted:
    """byte-count: tables of bytes and sums of them that come to other numbers than the tokens' text has. added: what is
    summed up for the divisor of the score, and where."""
    measuring = _measuring(program)
    trial = Trial(program, measuring)
    tables: dict[Function, Finding] = {}
    right = set()
    for function in measuring:
        example = _wrong_table(trial.result(function))
        if example:
            note = "the pieces of the tokenizer are measured here"
            place = program.place(function.node, function.module.source, note)
            tables[function] = Finding("byte-count", Status.FLAG, f"{OTHERWISE}: {example}.", (place,))
        elif example is not None:
            right.add(function)
    return Counted(tables, right, _wrong_counts(program, trial, added) if measuring and not tables else None)


def _measuring(program: Program) -> list[Function]:
    """The functions that measure the pieces of a tokenizer."""
    looking, measuring = {}, set()
    for node, _, scope, _ in program.live_of(ast.Call):
        called = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if called in MEASURING and scope.function is not None:
            looking[scope.function] = None
        elif called in ("len", "encode") and scope.function is not None:
            measuring.add(scope.function)
    return [function for function in looking if function in measuring]


def _wrong_table(result: object) -> str | None:
    """A token that the only table of numbers has wrong, in words; "" if it has all right, None if it is not known. The
    table may count a leading space itself."""
    tables = [one for one in _tables(result) if one.dtype.kind in "iuf" and one.any()]
    if len(tables) != 1:
        return None
    (table,) = tables
    for right in (BYTES, BYTES + SPACED):
        if np.array_equal(table[TEXT], right[TEXT]):
            return ""
    plain = TEXT & ~SPACED & (table != BYTES)
    spaced = TEXT & SPACED & (table != BYTES) & (table != BYTES + SPACED)
    number = int(np.argmax(plain if plain.any() else spaced if spaced.any() else TEXT & SPACED & (table != BYTES)))
    return f"`{PIECES[number].text}` has {_shown(table[number])} in the table, not {BYTES[number]}"


def _tables(result: object) -> list[np.ndarray]:
    """The tables with a number for each token that a function gives back."""
    if isinstance(result, Object):
        result = list(result.attributes.values())
    if isinstance(result, dict):
        result = list(result.values())
    many = result if isinstance(result, tuple | list) else [result]
    if isinstance(result, list) and len(result) >= SIZE and all(isinstance(one, int | float) for one in result):
        many = [Array(np.array(result))]
    return [
        one.values[:SIZE] for one in many if isinstance(one, Array) and one.values.ndim == 1 and len(one.values) >= SIZE
    ]


def _wrong_counts(program: Program, trial: Trial, added: Mapping[ast.expr, Scope]) -> list[Finding] | None:
    """Sums of bytes in which a token has other bytes than its text. What is added to a sum at several places is right
    if each is, or all together are. None if no sum is known."""
    findings = []
    sums: dict[tuple[Scope, str], list[tuple[Count, np.ndarray]]] = {}
    others: dict[tuple[Scope, str], list[Count]] = {}
    for count in _counts(program, added):
        if _begun(program, count):
            continue
        value = trial.added(count.statement, count.value, count.scope)
        if isinstance(value, Array) and value.counted and value.values.shape == NEXT.shape:
            sums.setdefault((count.scope, count.into), []).append((count, value.values))
        elif isinstance(value, Array | int | float):
            others.setdefault((count.scope, count.into), []).append(count)
    for key, counted in sums.items():
        together = sum(values for _, values in counted)
        wrong = [(count, values) for count, values in counted if not np.array_equal(values, TRUE_BYTES)]
        if wrong and not np.array_equal(together, TRUE_BYTES):
            block = program.block_of(wrong[0][0].statement)[0]
            beside = [values for count, values in counted if program.block_of(count.statement)[0] is block]
            findings.append(_wrong_count(program, wrong[0][0], sum(beside[1:], start=beside[0])))
        blocks = [program.block_of(count.statement)[0] for count, _ in counted]
        for count in others.get(key, ()):
            if any(program.block_of(count.statement)[0] is block for block in blocks):
                place = program.place(count.statement, count.scope.module.source, "this is added, too")
                message = "Something else is added to the bytes that the score is divided by. See what for."
                findings.append(Finding("byte-count", Status.HOLD, message, (place,)))
    return findings if sums else None


def _wrong_count(program: Program, count: Count, values: np.ndarray) -> Finding:
    different = values != TRUE_BYTES
    inside = different & IN_TEXT
    number = int(np.argmax(inside if inside.any() else different))
    before, token = PIECES[PREVIOUS[number]].text, PIECES[NEXT[number]].text
    example = f"`{token}` behind `{before}` is {_shown(values[number])}, not {TRUE_BYTES[number]}"
    place = program.place(count.statement, count.scope.module.source, "the bytes are added up here")
    if inside.any():
        return Finding("byte-count", Status.FLAG, f"{OTHERWISE}: {example}.", (place,))
    message = f"Bytes are counted otherwise at tokens that stand for no text: {example}. See whether that matters."
    return Finding("byte-count", Status.HOLD, message, (place,))


def _shown(number: float) -> str:
    return f"{float(number):.12g}"


def _counts(program: Program, added: Mapping[ast.expr, Scope]) -> Iterator[Count]:
    """The statements that add something to a sum of many turns of a loop."""
    for scope in dict.fromkeys(added.values()):
        for node, _, _ in program.live(scope):
            if isinstance(node, ast.AugAssign) and node.value in added and isinstance(node.op, ast.Add):
                yield Count(node, node.value, scope, ast.unparse(node.target))
            elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.value, ast.BinOp):
                into = ast.unparse(node.targets[0])
                for one, other in ((node.value.left, node.value.right), (node.value.right, node.value.left)):
                    if one in added and isinstance(node.value.op, ast.Add) and ast.unparse(other) == into:
                        yield Count(node, one, scope, into)


def _begun(program: Program, count: Count) -> bool:
    """Whether a name is given its first value in the same turn of a loop: it holds the bytes of single tokens, which
    are summed up later."""
    name = count.into.partition("[")[0]
    return any(
        getattr(target, "id", "") == name
        for before in program.statements_before(count.statement, in_loop=True)
        if isinstance(before, ast.Assign) and not any(getattr(one, "id", "") == name for one in ast.walk(before.value))
        for target in before.targets
    )
