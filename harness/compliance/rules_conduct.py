"""How a result was come by, and whether the code does what it says."""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Iterator
from typing import NamedTuple

from harness.compliance.findings import Finding, Place, Status
from harness.compliance.program import GPU_ENVIRONMENT, UNKNOWN, ExternalCall, Program, Scope
from harness.compliance.rules_system import PROCESSES, command_words
from harness.compliance.slices import Slice
from harness.compliance.training import Loop, own_nodes, training_loops

SEEDING = frozenset(
    {"torch.manual_seed", "torch.cuda.manual_seed", "torch.cuda.manual_seed_all", "random.seed", "numpy.random.seed"}
    | {"numpy.random.default_rng", "mlx.core.random.seed", "torch.random.manual_seed"}
)
RESTARTS = frozenset({"os.execv", "os.execve", "os.execvp", "os.execvpe", "os.execl", "os.execlp"})
READ_BY_LIBRARIES = re.compile(
    r"^(NCCL|CUDA|OMP|PYTORCH|TORCH[A-Z]*|TRITON|HF|HUGGINGFACE|MASTER|LD|TOKENIZERS|MKL|KMP|XLA|CUBLAS|CUDNN|NVIDIA"
    r"|NVTE|UV|PIP|GLOO|FLASH|INDUCTOR|TMP|TEMP|LOCAL|GROUP|ROLE|OPENBLAS|GIT|SSH|SLURM|UCX|FI|MALLOC|JAX|TF|WANDB"
    r"|NUMEXPR|PROTOCOL_BUFFERS)(_|$)|^LC_|^PYTHON|^(RANK|WORLD_SIZE|PATH|HOME|TMPDIR|USER|SHELL|TERM|LANG|PWD|CC|CXX"
    r"|CFLAGS|CXXFLAGS|NO_COLOR|VIRTUAL_ENV|DEBIAN_FRONTEND)$"
)
LABELS = frozenset({"RUN_ID", "RUN_NAME"})  # of runs, which are no feature
IN_PLACE = frozenset({"add_", "mul_", "lerp_", "copy_"})
WEIGHTS = frozenset({"state_dict", "named_parameters", "parameters"})
SWITCH_WORDS = frozenset({"enabled", "enable", "use", "on", "with", "disable", "disabled"})


def check_seeds(program: Program) -> Iterator[Finding]:
    """seed-search: a loop that trains with one seed after another, or a program that starts itself again."""
    seeding = [call for call in program.external_calls if call.name in SEEDING and call.node.args]
    for loop in training_loops(program):
        if not isinstance(loop.node, ast.For):
            continue
        targets = {one.id for one in ast.walk(loop.node.target) if isinstance(one, ast.Name)}
        for call in seeding:
            one = Slice(program, call.node.args[0], call.scope)
            if not any(
                isinstance(node, ast.Name) and node.id in targets and scope is loop.scope and _inside(node, loop.node)
                for node, scope in one.nodes
            ):
                continue
            places = (
                program.place(loop.node, loop.scope.module.source, "every turn of this loop trains"),
                program.place(call.node, call.scope.module.source, "with a seed of its own"),
            )
            if _keeps_best(program, loop):
                yield Finding(
                    "seed-search", Status.FLAG, "Seeds are tried in a loop that keeps the best result.", places
                )
            else:
                message = "Training is repeated with several seeds; see that each result is reported."
                yield Finding("seed-search", Status.HOLD, message, places)
            break
    yield from _restarts(program)


def _inside(node: ast.expr | ast.stmt, loop: ast.stmt) -> bool:
    return loop.lineno <= node.lineno <= (loop.end_lineno or loop.lineno)


def _keeps_best(program: Program, loop: Loop) -> bool:
    for node in own_nodes(loop.node):
        if not isinstance(node, ast.If) or not any(isinstance(one, ast.Compare) for one in ast.walk(node.test)):
            continue
        ordered = [
            one
            for one in ast.walk(node.test)
            if isinstance(one, ast.Compare) and isinstance(one.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE)
        ]
        kept = any(isinstance(one, ast.Assign | ast.Break) for one in node.body)
        if ordered and kept and not any(_counts(program, one, loop.scope) for one in ordered):
            return True
    end = loop.node.end_lineno or 0
    for node, _, _ in program.live(loop.scope):
        later = isinstance(node, ast.Call) and node.lineno > end
        if later and program.external(node.func, loop.scope) in ("builtins.min", "builtins.sorted", "numpy.argmin"):
            return True
    return False


def _counts(program: Program, node: ast.Compare, scope: Scope) -> bool:
    """Whether a comparison is of counters or time, which says nothing about a result."""
    calls = Slice(program, node.left, scope).calls()
    return any(name.startswith("time.") for name in calls)


def _restarts(program: Program) -> Iterator[Finding]:
    for call in program.external_calls:
        if call.name not in RESTARTS | PROCESSES or not _starts_itself(program, call):
            continue
        on_result = any(
            isinstance(one, ast.Compare) and isinstance(one.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE)
            for test, _ in program.conditions(call.statement)
            for one in ast.walk(test)
        )
        if on_result:
            place = program.place(call.node, call.scope.module.source, "the program starts itself again")
            message = "The program starts itself again if a number is not good enough."
            yield Finding("seed-search", Status.FLAG, message, (place,))


def _starts_itself(program: Program, call: ExternalCall) -> bool:
    own = posixpath.basename(call.scope.module.source.file)
    words = command_words(program, call)
    if any(posixpath.basename(word) == own for word in words[:4]):
        return True
    given = [one for argument in call.node.args for one, _ in Slice(program, argument, call.scope).nodes]
    return any(
        isinstance(one, ast.Attribute) and one.attr == "argv" and program.external(one, call.scope) == "sys.argv"
        for one in given
    )


def check_claims(program: Program) -> Iterator[Finding]:
    """dead-claim: documented settings that nothing reads."""
    documented = {
        name: value
        for name, value in program.environment.items()
        if GPU_ENVIRONMENT.get(name) != value
        and name not in program.logged
        and name not in program.expanded  # the shell reads it
        and name not in LABELS
        and "/" not in value  # where something lies is no feature
        and not READ_BY_LIBRARIES.match(name)
    }
    if not documented or not program.entry.tree.body:  # of an empty file, other checks say so
        return
    live = {
        node.value
        for scope in program.live_scopes()
        for node, _, _ in program.live(scope)
        if isinstance(node, ast.Constant) and not isinstance(node.value, complex)
    }
    for call in program.external_calls:
        if call.name in ("os.environ.get", "os.getenv") and call.node.args:
            live.update(value for value in program.constants(call.node.args[0], call.scope) if isinstance(value, str))
    unread = {name: value for name, value in documented.items() if name not in live}
    if not unread:
        return
    written = {
        node.value
        for module in program.modules.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    words = {word for module in program.modules.values() for word in re.split(r"[\W_\d]+", module.source.text.lower())}
    computed = _reads_computed_names(program)
    place = program.place(program.entry.tree, program.entry.source, "this reads no such setting")
    for name, value in unread.items():
        if computed or name in written or (not program.whole and not _is_built_in(name, value, words, live)):
            message = f"The documented command or settings have {name}; see whether code that runs reads it."
            yield Finding("dead-claim", Status.HOLD, message, (place,))
        elif not _is_built_in(name, value, words, live):
            message = f"The documented command or settings have {name}={value}, which no code reads."
            yield Finding("dead-claim", Status.FLAG, message, (place,))


def _is_built_in(name: str, value: str, words: set[str], live: set[object]) -> bool:
    """Whether what a setting that nothing reads asks for is there anyhow: the number itself, or for a switch, code that
    has its name."""
    try:
        number = float(value)
    except ValueError:
        return value in live
    if number in (0.0, 1.0):
        about = [word for word in name.lower().split("_") if word not in SWITCH_WORDS]
        return number == 0 or all(word in words for word in about)
    return any(isinstance(one, int | float) and not isinstance(one, bool) and one == number for one in live)


def _reads_computed_names(program: Program) -> bool:
    """Whether environment variables are read whose names cannot be told."""
    for call in program.external_calls:
        if call.name in ("os.environ.get", "os.getenv") and call.node.args:
            values = program.constants(call.node.args[0], call.scope)
            parameter = isinstance(call.node.args[0], ast.Name) and call.scope.function is not None
            if UNKNOWN in values and not parameter:
                return True
        if call.name in ("os.environ.items", "os.environ.copy", "os.environ.keys"):
            return True
    return False


class Discarded(NamedTuple):
    """What a training loop computes and nothing reads. weights: whether it is made of the model's. decays: whether what
    was in it shrinks each time, as in a moving average; else things are only added to it."""

    name: str
    weights: bool
    decays: bool
    place: Place


def thrown_away(program: Program) -> Iterator[Discarded]:
    """Containers of tensors that a training loop adds to, and that nothing else reads."""
    for loop in training_loops(program):
        live = {id(node) for node, _, _ in program.live(loop.scope)}
        for name, updates in _updates(loop).items():
            home, bindings = program.lookup(name, loop.scope)
            updates = [one for one in updates if id(one) in live]
            if home is not loop.scope or not updates or any(one.kind == "parameter" for one in bindings):
                continue
            if not _is_read(program, name, loop.scope):
                note = f"`{name}` is updated here, and read nowhere else"
                place = program.place(updates[0], loop.scope.module.source, note)
                weights = any(_of_weights(program, one, loop) for one in updates)
                yield Discarded(name, weights, any(map(_decays, updates)), place)


def _updates(loop: Loop) -> dict[str, list[ast.AugAssign | ast.Call]]:
    """In-place changes of what lies in containers, by the container's name: x[k] += v, x[k].mul_(a).add_(v)."""
    found: dict[str, list[ast.AugAssign | ast.Call]] = {}
    for node in own_nodes(loop.node):
        target: ast.AST | None = None
        if isinstance(node, ast.AugAssign):
            target = node.target
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in IN_PLACE:
            target = node.func.value
            while isinstance(target, ast.Call) and isinstance(target.func, ast.Attribute):
                target = target.func.value
        if isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
            found.setdefault(target.value.id, []).append(node)
    return found


def _decays(update: ast.AugAssign | ast.Call) -> bool:
    if isinstance(update, ast.AugAssign):
        return isinstance(update.op, ast.Mult)
    return isinstance(update.func, ast.Attribute) and update.func.attr in ("mul_", "lerp_")


def _of_weights(program: Program, update: ast.AugAssign | ast.Call, loop: Loop) -> bool:
    """Whether what is added comes from a model's weights, or is done in a loop over them."""
    given = [update.value] if isinstance(update, ast.AugAssign) else update.args[:1]
    for one in own_nodes(loop.node):
        if isinstance(one, ast.For) and one is not loop.node and _inside(update, one):
            given.append(one.iter)
    return any(Slice(program, one, loop.scope).attributes() & WEIGHTS for one in given)


def _is_read(program: Program, name: str, scope: Scope) -> bool:
    """Whether a name is loaded other than to update what it holds or to see whether it is there."""
    harmless: set[int] = set()
    loads: list[ast.Name] = []
    for function in program.functions.values():  # closures
        if function.scope is not scope and _within(function.scope, scope):
            for node in ast.walk(function.node):
                if isinstance(node, ast.Name) and node.id == name:
                    return True
    for node, _, _ in program.live(scope):
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load):
            loads.append(node)
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Subscript):
            harmless.add(id(node.target.value))
        elif isinstance(node, ast.Compare) and any(isinstance(one, ast.Is | ast.IsNot) for one in node.ops):
            harmless.update(id(one) for one in (node.left, *node.comparators))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):  # x[k].mul_(a).add_(b): no value is used
            one: ast.AST = node.value
            while isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute):
                one = one.func.value
            if isinstance(one, ast.Subscript):
                harmless.add(id(one.value))
    return any(id(one) not in harmless for one in loads)


def _within(inner: Scope, outer: Scope) -> bool:
    while inner is not None:
        if inner is outer:
            return True
        inner = inner.parent
    return False
