"""Which data a score is of: the tokenizer, and how much of the validation split."""

from __future__ import annotations

import ast
import ntpath
import re
from collections.abc import Iterator

from harness.compliance.findings import Finding, Status
from harness.compliance.program import UNKNOWN, ExternalCall, Program, Scope
from harness.compliance.rules_limits import CLOCKS
from harness.compliance.rules_score import loss_sums
from harness.compliance.score_arithmetic import FEW_TOKENS, SIZES, SPLIT_TOKENS, share_of_size
from harness.compliance.slices import Slice

# The contest's vocabularies have powers of two; a number behind the name is a version, or a job's own copy.
TOKENIZER = re.compile(
    r"^fineweb_(256|512|1024|2048|4096|8192|16384)_bpe(_v?\d+)?\.model$|^fineweb_pure_byte_260\.json$"
)
CODE_MARK = re.compile(r"[{}()]|\w$")  # before a word on its line: source that the log begins with, or a longer word
TOKENIZER_LINE = re.compile(
    r"tokenizer(?:_path|_file|_model)?[:=] ?([^\s{}()'\"]{1,300}\.(?:model|json|vocab))(?=\s|$)", re.M
)
SAMPLES = frozenset({"random.sample", "random.Random().sample", "numpy.random.choice", "random.choices"})
MOST = 0.98  # of the split; what is left of the last window is no part of it
READS = (".fromfile", ".memmap", ".load", ".frombuffer", ".from_buffer", ".read", ".read_bytes", "load_file")
WINDOWS = SPLIT_TOKENS // 64  # the shortest stride that is usual
WINDOW_TOKENS = 100_000  # up to this many at a time are a window, a chunk or a batch


def check_data(program: Program) -> Iterator[Finding]:
    """other-data: a tokenizer or dataset that is not the contest's, and scores of a part of the split."""
    logged = [
        match[1]
        for text in program.log_texts
        for match in TOKENIZER_LINE.finditer(text)
        if not CODE_MARK.search(text, text.rfind("\n", 0, match.start()) + 1, match.start())
    ]
    loads = [
        call
        for call in program.external_calls
        if call.name.startswith(("sentencepiece.SentencePieceProcessor", "tokenizers.Tokenizer.from_file"))
    ]
    named: dict[str, ExternalCall | None] = {}
    for call in () if logged else loads:
        arguments = [*call.node.args, *(one.value for one in call.node.keywords if one.arg in ("model_file", "path"))]
        for argument in arguments[:1]:
            name = program.constant(argument, call.scope)
            if isinstance(name, str) and name.endswith((".model", ".json")):
                named.setdefault(ntpath.basename(name), call)
    for name in logged:  # what the run had beats what the code says
        named.setdefault(ntpath.basename(name), loads[0] if loads else None)
    for base, call in named.items():
        if TOKENIZER.match(base):
            continue
        what = f"the tokenizer is {base}"
        node, source = (call.node, call.scope.module.source) if call else (program.entry.tree, program.entry.source)
        message = f"This is not one of the contest's tokenizers: {what}. See whether it may be used."
        yield Finding("other-data", Status.HOLD, message, (program.place(node, source, what),))
    for node, statement, scope, _ in program.live_of(ast.Subscript):
        if isinstance(node.slice, ast.Slice) and isinstance(node.ctx, ast.Load):
            yield from _part(program, node, statement, scope)
    for node, statement, scope, _ in program.live_of(ast.Call):
        if len(node.args) > 1 and program.external(node.func, scope) == "builtins.min":
            yield from _capped(program, node, statement, scope)
    for call in program.external_calls:
        if call.name in SAMPLES and len(call.node.args) > 1:
            yield from _sampled(program, call)
    yield from _ended_early(program)


def _ended_early(program: Program) -> Iterator[Finding]:
    """Scoring that ends after so many windows, or when it has taken so long."""
    sums = loss_sums(program)
    looked: set[ast.AST] = set()
    for scope in dict.fromkeys(sums.values()):
        for statement, _, _ in program.live(scope):
            if not isinstance(statement, ast.AugAssign) or statement.value not in sums:
                continue
            for loop in program.loops(statement):
                inside = [] if loop in looked else list(ast.walk(loop))
                looked.add(loop)
                if any(getattr(getattr(one, "func", None), "attr", "") == "backward" for one in inside):
                    break  # what ends there is training
                for one in inside:
                    if isinstance(one, ast.If) and _leaves(program, one.body[-1], loop, scope):
                        what = _limit(program, one.test, scope)
                        if what:
                            yield _partial(program, one.test, scope, what)


def _leaves(program: Program, statement: ast.stmt, loop: ast.AST, scope: Scope) -> bool:
    """Whether a loop ends at a statement."""
    if isinstance(statement, ast.Break) and next(program.loops(statement)) is not loop:
        return False
    return isinstance(statement, ast.Break | ast.Return) and program.runs(statement, scope) is not False


def _limit(program: Program, test: ast.expr, scope: Scope) -> str:
    """What ends a loop, in words, if that is not the end of the data."""
    if Slice(program, test, scope).calls() & set(CLOCKS):
        return "scoring ends when it has taken so long"
    for one in ast.walk(test):
        if isinstance(one, ast.Compare) and isinstance(one.ops[0], ast.Gt | ast.GtE | ast.Eq):
            number = program.constant(one.comparators[0], scope)
            if type(number) is int and 1 < number < WINDOWS and program.constant(one.left, scope) is UNKNOWN:
                return f"scoring ends at {number:,}"
    return ""


def _sampled(program: Program, call: ExternalCall) -> Iterator[Finding]:
    """A share of the validation documents, drawn at random."""
    for node, scope in Slice(program, call.node.args[1], call.scope).nodes:
        if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Mult):
            continue
        for share, whole in ((node.left, node.right), (node.right, node.left)):
            shares = [one for one in program.constants(share, scope) if isinstance(one, float) and 0 < one < 1]
            if not shares or "builtins.len" not in Slice(program, whole, scope).calls():
                continue
            drawn = ((call.node.args[0], call.scope), (share, scope))  # VAL_SHARE says it, too
            if any(_of_validation(Slice(program, one, home)) for one, home in drawn):
                what = f"{max(shares):.3g} of the validation documents are drawn"
                yield _partial(program, call.node, call.scope, what)
                return


def _capped(program: Program, node: ast.Call, statement: ast.stmt, scope: Scope) -> Iterator[Finding]:
    """Scoring that ends at the end of the split, or at so many tokens if that comes first."""
    for limit in node.args:
        count = program.constant(limit, scope)  # of several, one is the run's
        if not isinstance(count, int) or isinstance(count, bool) or not WINDOW_TOKENS < count < FEW_TOKENS:
            continue
        others = [Slice(program, other, scope) for other in node.args if other is not limit]
        sizes = [one for one in others if "builtins.len" in one.calls() or one.attributes() & SIZES]
        if sizes and any(map(_of_validation, sizes)) and _ends_there(program, node, statement, scope):
            what = f"at most {count:,} validation tokens are scored"
            yield _partial(program, node, scope, what)
            return


def _of_validation(one: Slice) -> bool:
    texts = (node.value for node, _ in one.nodes if isinstance(node, ast.Constant))
    return any("val" in text.lower() for text in texts if isinstance(text, str))


def _ends_there(program: Program, node: ast.Call, statement: ast.stmt, scope: Scope) -> bool:
    """Whether a number is where a loop, a range or a slice ends: itself, or by the name that it is given."""
    names = {one.id for one in getattr(statement, "targets", ()) if isinstance(one, ast.Name)}
    ends: list[ast.expr] = []
    for one, _, _ in program.live(scope):
        if isinstance(one, ast.Subscript) and isinstance(one.slice, ast.Slice) and one.slice.upper is not None:
            ends.append(one.slice.upper)
        elif isinstance(one, ast.Call) and program.external(one.func, scope) == "builtins.range":
            ends += one.args[:1] if len(one.args) == 1 else one.args[1:2]
        elif isinstance(one, ast.While):
            ends.append(one.test)
    return any(
        part is node or (isinstance(part, ast.Name) and part.id in names) for end in ends for part in ast.walk(end)
    )


def _part(program: Program, node: ast.Subscript, statement: ast.stmt, scope: Scope) -> Iterator[Finding]:
    """The first validation tokens, or every so many-th, and no others."""
    if not isinstance(statement, ast.Assign | ast.Return):
        return
    value = statement.value
    if value is not node and not (isinstance(value, ast.Call) and node in ast.walk(value.func)):
        return
    what = _kept(program, node.slice, scope)
    if not what:
        return
    of = Slice(program, node.value, scope)
    if _of_validation(of) and any(name.endswith(READS) for name in of.calls()) and _is_scored(program, node):
        yield _partial(program, node, scope, what)


def _kept(program: Program, part: ast.Slice, scope: Scope) -> str:
    """What a slice keeps, in words, if that is a part of the split for certain."""
    step = program.constant(part.step, scope) if part.step is not None else 1
    if isinstance(step, int) and step > 1 and part.lower is None:  # else it may be the share of a rank
        return f"only each {step}th validation token is kept"
    if part.upper is None or (part.lower is not None and program.constant(part.lower, scope) != 0):
        return ""
    counts = [
        one
        for one in program.constants(part.upper, scope)
        if isinstance(one, int) and not isinstance(one, bool) and WINDOW_TOKENS < one < FEW_TOKENS
    ]
    if counts:
        return f"only the first {max(counts):,} validation tokens are kept"
    share = share_of_size(program, part.upper, scope)
    return f"only the first {share:.3g} of the validation tokens are kept" if share and 0 < share < MOST else ""


def _is_scored(program: Program, tokens: ast.expr) -> bool:
    """Whether the losses that are summed up for a score are of these tokens, as far as they can be followed."""
    sums = [Slice(program, one, scope) for one, scope in loss_sums(program).items()]
    return not sums or any(node is tokens for one in sums for node, _ in one.nodes)


def _partial(program: Program, node: ast.AST, scope: Scope, what: str) -> Finding:
    message = f"The score may be of a part of the split: {what}. See whether the reported score is of all."
    return Finding("other-data", Status.HOLD, message, (program.place(node, scope.module.source, what),))
