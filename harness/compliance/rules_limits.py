"""Limits that a program keeps itself to: bytes of the artifact and seconds of training."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from harness.compliance.findings import Finding, Place, Status
from harness.compliance.program import Program, Scope
from harness.compliance.slices import Slice
from harness.compliance.training import Loop, own_nodes, training_loops

CAP_BYTES = 16_000_000
MEBIBYTE = 1024 * 1024
NEAR_BYTES = (15_000_000, 20_000_000)  # a number of bytes that is meant as the cap
NEAR_UNITS = (15.0, 20.0)  # the same in MB or MiB
CAP_SECONDS = 600.0
MOST_SECONDS = 20_000.0  # a time limit above this is in milliseconds
CLOCKS = ("time.time", "time.perf_counter", "time.monotonic", "time.process_time", "timeit.default_timer")
SIZES = frozenset({"os.path.getsize", "builtins.len", "os.stat", "sys.getsizeof"})
SIZE_ATTRIBUTES = frozenset({"st_size", "nbytes", "getsize", "tell"})


def check_size(program: Program) -> Iterator[Finding]:
    """size-cap: comparisons of a size with a number near the cap that lets more than 16,000,000 bytes through."""
    seen: set[Place] = set()
    for node, _, scope, _ in program.live_of(ast.Compare):
        if len(node.ops) != 1 or not isinstance(node.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE):
            continue
        for limit, size in ((node.comparators[0], node.left), (node.left, node.comparators[0])):
            for finding in _size_comparison(program, scope, node, limit, size):
                if finding.flow[0] not in seen:  # one wrong limit is one finding, however often it is compared with
                    yield finding
                seen.add(finding.flow[0])


def _size_comparison(
    program: Program, scope: Scope, node: ast.Compare, limit: ast.expr, size: ast.expr
) -> Iterator[Finding]:
    for value in program.constants(limit, scope):
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        in_bytes = NEAR_BYTES[0] <= value <= NEAR_BYTES[1]
        if not in_bytes and not NEAR_UNITS[0] <= value <= NEAR_UNITS[1]:
            continue
        one = Slice(program, size, scope)
        if not (one.calls() & SIZES or one.attributes() & SIZE_ATTRIBUTES):
            continue
        allowed = value if in_bytes else value * _unit(one)
        if not NEAR_BYTES[0] <= allowed <= NEAR_BYTES[1]:
            continue
        if allowed > CAP_BYTES:
            status, more = Status.FLAG, f"{int(allowed) - CAP_BYTES:,} more than the cap."
        elif _in_mebibytes(Slice(program, limit, scope)) if in_bytes else _unit(one) == MEBIBYTE:
            status, more = Status.HOLD, "by a number of MiB. That is below the cap; see whether the code is counted in."
        else:
            continue
        message = f"The guard on size lets {int(allowed):,} bytes through, {more}"
        places = [*_definitions(program, limit, scope, f"{value:,} is computed here")]
        places.append(program.place(node, scope.module.source, f"a size is compared with {value:,}"))
        yield Finding("size-cap", status, message, tuple(places))


def _in_mebibytes(limit: Slice) -> bool:
    """Whether a number of bytes is made from one of MiB."""
    factors = 1
    for node, scope in limit.nodes:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            for side in (node.left, node.right):
                factor = limit.program.constant(side, scope)
                factors *= factor if factor in (1024, MEBIBYTE) else 1
    return factors % MEBIBYTE == 0


def _unit(one: Slice) -> float:
    """The number of bytes that one unit of a size is, by what it is divided through; 0 if it is not divided."""
    unit = 1.0
    for node, scope in one.nodes:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div | ast.FloorDiv):
            divisor = one.program.constant(node.right, scope)
            if divisor in (1024, MEBIBYTE, 1000, 1_000_000):
                unit *= divisor
    return unit if unit in (MEBIBYTE, 1_000_000) else 0.0


def _definitions(program: Program, node: ast.expr, scope: Scope, note: str) -> list[Place]:
    """Where the value of a name or attribute is given to it."""
    places = []
    for expression, home in Slice(program, node, scope).nodes[1:]:
        if isinstance(expression, ast.BinOp | ast.Call | ast.Constant) and len(places) < 1:
            places.append(program.place(expression, home.module.source, note))
    return places


def check_clock(program: Program) -> Iterator[Finding]:
    """wallclock-cap: what ends the training loop is not the clock, or not within 600 s."""
    loops = training_loops(program)
    if not loops or program.only_adapts:  # an evaluation, as of weights that another run has trained
        return
    limits = [limit for loop in loops for limit in _limits(program, loop)]
    within = [limit for limit in limits if limit.live and limit.within]
    if within:
        return
    over = [limit for limit in limits if limit.live and limit.over]
    if over:
        limit = over[0]
        message = f"Training is allowed {limit.seconds:,.0f} s {_how_run(program)}, not 600 s."
        yield Finding("wallclock-cap", Status.FLAG, message, limit.places(program))
        return
    unknown = [limit for limit in limits if limit.live]
    if unknown:
        message = "The training loop looks at the clock, but its limit could not be worked out; see what it is."
        yield Finding("wallclock-cap", Status.HOLD, message, unknown[0].places(program))
        return
    loop = _main(loops)
    place = program.place(loop.node, loop.scope.module.source, "this loop trains")
    if limits:
        message = f"The wall-clock cap is off {_how_run(program)}: the loop never looks at the clock."
        yield Finding("wallclock-cap", Status.FLAG, message, (*limits[0].places(program), place))
    else:
        message = "The training loop has no wall-clock cap: nothing that ends it depends on the time."
        yield Finding("wallclock-cap", Status.FLAG if loop.sure is True else Status.HOLD, message, (place,))


def _how_run(program: Program) -> str:
    """Where the settings come from that break the limit: the logs, if what is documented keeps it."""
    documented = program.documented
    if documented is None or any(one.status is Status.FLAG for one in check_clock(documented)):
        return "with the defaults and the documented command"
    return "in the run that the logs show (the defaults and the documented command keep the limit)"


def _main(loops: tuple[Loop, ...]) -> Loop:
    """The longest: the others warm up, or adapt."""
    return max(loops, key=lambda loop: (loop.sure is True, (loop.node.end_lineno or 0) - loop.node.lineno))


class Limit:
    """A comparison of the time with something. live: whether it is made. seconds: the largest limit that is known."""

    def __init__(self, program: Program, node: ast.Compare, limit: ast.expr, scope: Scope, live: bool) -> None:
        self.node, self.limit, self.scope, self.live = node, limit, scope, live
        values = [
            value
            for value in program.constants(limit, scope)
            if isinstance(value, int | float) and not isinstance(value, bool) and value > 1
        ]
        scaled = bool(values) and _in_milliseconds(program, limit, scope)
        seconds = [value / 1000 if scaled or value > MOST_SECONDS else float(value) for value in values]
        self.seconds = max(seconds, default=0.0)
        self.within = bool(seconds) and self.seconds <= CAP_SECONDS * 1.0001
        self.over = bool(seconds) and not self.within

    def places(self, program: Program) -> tuple[Place, ...]:
        source = self.scope.module.source
        note = "the limit comes from here"
        found = _definitions(program, self.limit, self.scope, note)
        return (*found, program.place(self.node, source, "the time is compared with the limit here"))


def _in_milliseconds(program: Program, limit: ast.expr, scope: Scope) -> bool:
    """Whether a limit is made by multiplying with 1000, and not divided again."""
    ways = [
        type(node.op)
        for node, home in Slice(program, limit, scope).nodes
        if isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Mult | ast.Div)
        and any(program.constant(side, home) == 1000 for side in (node.left, node.right))
    ]
    return set(ways) == {ast.Mult}


def _limits(program: Program, loop: Loop) -> list[Limit]:
    """The comparisons with the clock on which it depends whether a loop ends."""
    tests = [loop.node.test] if isinstance(loop.node, ast.While) else []
    for node in own_nodes(loop.node):
        if isinstance(node, ast.If) and any(
            isinstance(one, ast.Break | ast.Return | ast.Raise) for part in (node.body, node.orelse) for one in part
        ):
            tests.append(node.test)
    found: dict[ast.Compare, Limit] = {}
    seen: set[tuple[ast.expr, Scope]] = set()  # tests depend on one another: many have the same comparisons
    for test in tests:
        for node, scope in Slice(program, test, loop.scope, control=True).nodes:
            if type(node) is not ast.Compare or len(node.ops) != 1 or node in found or (node, scope) in seen:
                continue
            seen.add((node, scope))
            for limit, elapsed in ((node.comparators[0], node.left), (node.left, node.comparators[0])):
                if isinstance(limit, ast.Constant) and limit.value is None:
                    continue
                if _is_time(program, elapsed, scope) and not _is_time(program, limit, scope):
                    found[node] = Limit(program, node, limit, scope, _is_live(program, node, scope))
    return list(found.values())


def _is_time(program: Program, node: ast.expr, scope: Scope) -> bool:
    if type(node) is ast.Constant:
        return False
    one = Slice(program, node, scope)
    return bool(one.calls() & set(CLOCKS)) or "elapsed_time" in one.attributes()


def _is_live(program: Program, node: ast.AST, scope: Scope) -> bool:
    return any(one.node is node and one.scope is scope for one in program.live_of(ast.Compare))
