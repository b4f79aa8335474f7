"""What a program gives values to in other ways than `name = value` and `object.name = value`, so that nothing is folded
to what it is no more: setattr, `__dict__`, vars() and globals(), variables of its own environment and of the programs
that it starts, sys.argv, defaults of a parser.

Everything is found in the syntax first (`Writes`), and folded when somebody asks for a value. A write that certainly
comes before what reads it replaces what was there; any other is one more value that may be read."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.compliance.program import Module, Program, Scope, Unknown

ALIASES_DEEP = 3  # names for names
MAX_COMPUTED = 50  # writes whose names are computed; with more, anything may be written
ENVIRONMENT = "os.environ"
NAMESPACES = frozenset({"vars", "globals", "locals"})
CHANGES = ("update", "setdefault", "__setitem__", "pop", "clear")


@dataclass(frozen=True, slots=True)
class Write:
    """`name` is given `value`, both expressions, folded in `scope`. name: None if it may be any. value: None if it is
    not known. keeps: what is there stays (setdefault). removes: it is gone afterwards."""

    name: ast.expr | None
    value: ast.expr | None
    scope: Scope
    statement: ast.AST
    keeps: bool = False
    removes: bool = False


class Writes:
    """Of one program, whose modules are indexed. items: the statements `base[key] = value`."""

    def __init__(self, program: Program, unknown: Unknown, items: list, augmented: list) -> None:
        self.program = program
        self.unknown = unknown
        self.of_objects: list[tuple[ast.expr, Write]] = []  # whose name is computed
        self.of_modules: dict[Module, list[Write]] = {}  # through globals()
        self.of_environment: list[Write] = []
        self._of_variable: dict[str, list[Write]] = {}
        self.of_arguments: list[tuple[ast.expr, Write]] = []  # that may be of sys.argv
        self._asking: set[str] = set()  # variables whose writes are being folded
        forwarded = any("__setitem__" in class_.methods for class_ in program.classes.values())
        for base, key, value, scope, statement in items:
            write = Write(key, value, scope, statement)
            if forwarded and isinstance(key, ast.Constant):  # settings[name] = value may be settings.name = value
                self._of_object(base, write)
            if isinstance(base, ast.Attribute) and base.attr == "argv":
                self.of_arguments.append((base, write))
            self._item(base, write, scope)
        for node, scope in augmented:
            if isinstance(node.op, ast.Add):
                self.of_arguments.append((node.target, Write(None, node.value, scope, node)))
                continue
            for write in self._mapping(node.value, scope, node):
                self._item(node.target, write, scope)
        for name in ("setattr", "__setattr__"):
            for call, statement, scope in program.calls_named(name):
                self._setattr(call, statement, scope)
        for name in CHANGES:
            for call, statement, scope in program.calls_named(name):
                if isinstance(call.func, ast.Attribute):
                    for write in self._changes(call, name, scope, statement):
                        self._item(call.func.value, write, scope)
        for name in ("dict", "copy"):  # environments of other programs
            for call, statement, scope in program.calls_named(name):
                if call.args and self._is_environment(call.args[0], scope):
                    self.of_environment += self._mapping(call, scope, statement)
        for node, scope, statement in program.spread:
            if any(key is None and self._is_environment(value, scope) for key, value in _entries(node)):
                self.of_environment += self._mapping(node, scope, statement)

        for write in self.of_environment:
            if isinstance(write.name, ast.Constant):
                self._of_variable.setdefault(write.name.value, []).append(write)
        self._computed = [one for one in self.of_environment if not isinstance(one.name, ast.Constant)]
        self._running = self._may_run()
        self._receivers: list[tuple] = []

    def prepare(self) -> bool:
        """Fold what computed names are written on, as it is without these writes: before that they are not seen. True
        if anything was folded, which the program must forget."""
        some = self.of_objects[:MAX_COMPUTED]
        self._receivers = [self.program.values(receiver, write.scope) for receiver, write in some]
        return bool(self._receivers)

    def _may_run(self) -> set[Module]:
        """The modules that run, and those that one of them names: what others do is of no concern."""
        modules = self.program.modules.values()
        found = {module for module in modules if module.runs_as_main}
        waiting = list(found)
        while waiting:
            text = waiting.pop().source.text
            for module in modules:
                if module not in found and module.name.rpartition(".")[2] in text:
                    found.add(module)
                    waiting.append(module)
        return found

    def _concerns(self, write: Write, name: str) -> bool:
        """Whether it may be of that name, and happen. Its condition is not folded for others."""
        if isinstance(write.name, ast.Constant) and write.name.value != name:
            return False
        return write.scope.module in self._running and self.program.runs(write.statement, write.scope) is not False

    # What is written to

    def _item(self, base: ast.expr, write: Write, scope: Scope, depth: int = 0) -> None:
        """`base[name] = value`, where the base stands for the names of an object, a module or the environment."""
        if isinstance(base, ast.Attribute) and base.attr == "__dict__":
            self._of_object(base.value, write)
        elif self._is_environment(base, scope):
            self.of_environment.append(write)
        elif isinstance(base, ast.Call) and isinstance(base.func, ast.Name) and base.func.id in NAMESPACES:
            if base.args:
                self._of_object(base.args[0], write)
            elif base.func.id == "globals" or scope.node is scope.module.tree:
                self.of_modules.setdefault(scope.module, []).append(write)
        elif isinstance(base, ast.Name) and depth < ALIASES_DEEP:
            for binding in self.program.lookup(base, scope)[1]:
                if binding.kind == "value" and not binding.path and not isinstance(binding.value, ast.Constant):
                    self._item(binding.value, write, binding.scope, depth + 1)

    def _of_object(self, receiver: ast.expr, write: Write) -> None:
        name = write.name.value if isinstance(write.name, ast.Constant) else write.name
        if isinstance(name, str):
            self.program.stores_of(name).append((receiver, write.value, write.scope))
        else:
            self.of_objects.append((receiver, write))

    def _setattr(self, call: ast.Call, statement: ast.AST, scope: Scope) -> None:
        """setattr(object, name, value), object.__setattr__(self, name, value), self.__setattr__(name, value)."""
        if scope.function is not None and scope.function.short_name == "__setitem__":
            return  # its names are those of the statements that come to it
        arguments = call.args
        if len(arguments) == 2 and isinstance(call.func, ast.Attribute):
            arguments = [call.func.value, *arguments]
        if len(arguments) == 3 and not any(isinstance(one, ast.Starred) for one in arguments):
            self._of_object(arguments[0], Write(arguments[1], arguments[2], scope, statement))

    def _changes(self, call: ast.Call, name: str, scope: Scope, statement: ast.AST) -> Iterator[Write]:
        """What a method that changes a mapping does to it."""
        arguments = call.args
        if name == "clear":
            yield Write(None, None, scope, statement)
        elif name == "update":
            yield from self._mapping(call, scope, statement)
        elif arguments and name == "pop":
            yield Write(arguments[0], None, scope, statement, removes=True)
        elif arguments and not isinstance(arguments[0], ast.Starred):
            value = arguments[1] if len(arguments) > 1 else None
            yield Write(arguments[0], value, scope, statement, keeps=name == "setdefault")

    def _mapping(self, node: ast.expr, scope: Scope, statement: ast.AST) -> Iterator[Write]:
        """The entries of {...}, dict(...) or the arguments of update(...)."""
        for key, value in _entries(node):
            if key is not None:
                yield Write(key, value, scope, statement)
            elif isinstance(value, ast.Dict) or (isinstance(value, ast.Call) and _called(value) == "dict"):
                yield from self._mapping(value, scope, statement)
            else:
                yield Write(None, value, scope, statement)

    def _is_environment(self, node: ast.expr, scope: Scope, depth: int = 0) -> bool:
        """Whether it is os.environ, or a copy of it for a program that is started."""
        if isinstance(node, ast.Attribute):
            return node.attr == "environ"
        if isinstance(node, ast.Name) and depth < ALIASES_DEEP:
            return any(
                binding.target == ENVIRONMENT
                if binding.kind == "import"
                else binding.kind == "value"
                and not binding.path
                and self._is_environment(binding.value, binding.scope, depth + 1)
                for binding in self.program.lookup(node, scope)[1]
            )
        if isinstance(node, ast.Call):
            if _called(node) == "copy" and isinstance(node.func, ast.Attribute):
                return self._is_environment(node.args[0] if node.args else node.func.value, scope, depth + 1)
            return _called(node) == "dict" and bool(node.args) and self._is_environment(node.args[0], scope, depth + 1)
        if isinstance(node, ast.Dict):
            return any(key is None and self._is_environment(value, scope, depth + 1) for key, value in _entries(node))
        return False

    # What is read

    def on(self, name: str, receives: Callable[[object], bool], settings: bool = False) -> Iterator:
        """The values that an attribute is given on objects of which `receives` is true, by names that are computed.
        settings: whether they may hold switches; with very many writes these may be anything."""
        if settings and len(self.of_objects) > MAX_COMPUTED:
            yield self.unknown
            return
        for (_, write), receivers in zip(self.of_objects, self._receivers, strict=False):
            found = [one for one in receivers if receives(one)]
            anything = all(one is self.unknown for one in found)
            if not found or not self._concerns(write, name):
                continue
            for written, value in self._folded(write):
                if written == name or (written is self.unknown and (not anything or _is_constant(value))):
                    yield value

    def in_module(self, module: Module, name: str) -> Iterator:
        """The values that a name of a module is given from elsewhere: globals()["name"], module.name."""
        for write in self.of_modules.get(module, ()):
            if not self._concerns(write, name):
                continue
            yield from (value for written, value in self._folded(write) if written in (name, self.unknown))
        for receiver, value, scope in self.program.stores_of(name, made=False):
            if any(one is module for one in self.program.values(receiver, scope)):
                yield from self.program.values(value, scope) if value is not None else (self.unknown,)
        yield from self.on(name, lambda one: one is module)

    def variable(self, name: str, given: object, node: ast.AST, scope: Scope) -> tuple:
        """The values that an environment variable may have where `node` reads it; None if it is not set. given: what it
        was when the program was started."""
        writes = [*self._of_variable.get(name, ()), *self._computed]
        if name in self._asking or not writes:
            return (given,)
        if len(writes) > MAX_COMPUTED:
            return (self.unknown,)
        self._asking.add(name)
        found = [given]
        alone = len({write.scope.module for write in writes}) == 1  # of several modules the order is not looked at
        try:
            for write in sorted(writes, key=lambda one: one.statement.lineno):
                folded = list(self._folded(write)) if self._concerns(write, name) else []
                values = [
                    value
                    for written, value in folded
                    if written == name or (written is self.unknown and value is not self.unknown)
                ]
                if not values or (write.keeps and given is not None and given is not self.unknown):
                    continue
                order = self._order(write, node, scope)
                if order == "after":
                    continue
                values = [None if write.removes else value if value is self.unknown else str(value) for value in values]
                certain = alone and order == "before" and all(written is not self.unknown for written, _ in folded)
                found = values if certain and not write.keeps else [*(one for one in found if one is not None), *values]
                if not certain and None not in found and given is None:
                    found.append(None)
        finally:
            self._asking.discard(name)
        return tuple(dict.fromkeys(found))

    def arguments(self, documented: tuple[str, ...]) -> list[tuple[str, ...]]:
        """The lists of arguments that a parser may be given: those that are documented with the texts that are put into
        sys.argv, and those that are passed to it."""
        added: list[str] = []
        for receiver, value, scope in self.program.stores_of("argv", made=False):
            if value is not None and self.program.external(receiver, scope) == "sys":
                added += _texts(value)
        for name in ("append", "extend", "insert"):
            for call, _, scope in self.program.calls_named(name):
                if isinstance(call.func, ast.Attribute) and self._is_argv(call.func.value, scope):
                    added += [text for one in call.args for text in _texts(one)]
        for base, write in self.of_arguments:
            if self._is_argv(base, write.scope) and write.value is not None:
                added += _texts(write.value)
        found = [documented, *([(*documented, *added)] if added else [])]
        for name in ("parse_args", "parse_known_args"):
            for call, _, scope in self.program.calls_named(name):
                given = [*call.args[:1], *(one.value for one in call.keywords if one.arg == "args")]
                for one in given:
                    if not self._is_argv(one, scope) and (texts := _texts(one)):
                        found.append(tuple(texts))
        return found

    def _is_argv(self, node: ast.expr, scope: Scope) -> bool:
        base = node.value if isinstance(node, ast.Subscript) else node
        if isinstance(base, ast.Attribute):
            return base.attr == "argv" and self.program.external(base.value, scope) == "sys"
        return isinstance(base, ast.Name) and self.program.external(base, scope) == "sys.argv"

    def _folded(self, write: Write) -> Iterator[tuple[object, object]]:
        """Names and values that belong together."""
        if write.name is None and write.value is not None:  # update(mapping)
            for mapping in self.program.values(write.value, write.scope):
                if isinstance(mapping, dict):
                    yield from mapping.items()
                else:
                    yield self.unknown, self.unknown
            return
        if (pairs := self._looped(write)) is not None:
            yield from pairs
            return
        names = (self.unknown,) if write.name is None else self.program.values(write.name, write.scope)
        values = (self.unknown,) if write.value is None else self.program.values(write.value, write.scope)
        yield from ((name, value) for name in names for value in values)

    def _looped(self, write: Write) -> list[tuple] | None:
        """Of `for name, value in pairs: base[name] = value`, the pairs, if they can be folded."""
        if not (isinstance(write.name, ast.Name) and isinstance(write.value, ast.Name)):
            return None
        loop = self.program.loop_of(write.statement)
        while loop is not None:
            target = loop.target
            if isinstance(target, ast.Tuple) and [getattr(one, "id", "") for one in target.elts] == [
                write.name.id,
                write.value.id,
            ]:
                return self._pairs(loop.iter, write.scope)
            loop = self.program.loop_of(loop)
        return None

    def _pairs(self, node: ast.expr, scope: Scope) -> list[tuple] | None:
        items = isinstance(node, ast.Call) and _called(node) == "items" and isinstance(node.func, ast.Attribute)
        mapping = node.func.value if items else node
        if self._is_kept(mapping, scope):
            return []
        found: list[tuple] = []
        for value in self.program.values(mapping, scope):
            pairs = list(value.items()) if isinstance(value, dict) else value
            if not isinstance(pairs, list | tuple) or not all(
                isinstance(one, tuple) and len(one) == 2 for one in pairs
            ):
                return None
            found += pairs
        return found

    def _is_kept(self, mapping: ast.expr, scope: Scope) -> bool:
        """Whether a mapping is what attributes had before, to be given back to them: {name: getattr(object, name)}."""
        bindings = self.program.lookup(mapping, scope)[1] if isinstance(mapping, ast.Name) else ()
        kept = [one.value for one in bindings if isinstance(one.value, ast.DictComp) and not one.path]
        return (
            bool(kept)
            and all(
                isinstance(one.value, ast.Call)
                and getattr(one.value.func, "id", "") == "getattr"
                and len(one.value.args) == 2
                and ast.dump(one.value.args[1]) == ast.dump(one.key)
                for one in kept
            )
            and len(kept) == len(bindings)
        )

    def _order(self, write: Write, node: ast.AST, scope: Scope) -> str:
        """Whether a write comes "before" or "after" what reads in `node`, as far as the text shows; else ""."""
        module = write.scope.module
        if write.scope.node is not module.tree or self.program.runs(write.statement, write.scope) is not True:
            return ""
        line = write.statement.lineno
        if scope.module is not module:  # a module that is imported afterwards
            imports = [one for one in module.tree.body if isinstance(one, ast.Import | ast.ImportFrom)]
            early = [one for one in imports if one.lineno < line and self.program.imports_own(one)]
            return "" if early else "before"
        outermost = scope
        while outermost.parent is not None and outermost.parent.node is not module.tree:
            outermost = outermost.parent
        own = outermost.node is not module.tree and not isinstance(outermost.node, ast.ClassDef)
        read = outermost.node.lineno if own else getattr(node, "lineno", 0)
        if read > line:
            return "before"
        return "" if own else "after"


def _entries(node: ast.expr) -> Iterator[tuple[ast.expr | None, ast.expr]]:
    """Keys and values of {...}, or of the arguments of a call; None for a mapping that is taken in."""
    if isinstance(node, ast.Dict):
        yield from zip(node.keys, node.values, strict=True)
    elif isinstance(node, ast.Call):
        yield from ((None, one) for one in node.args)
        for keyword in node.keywords:
            key = None if keyword.arg is None else ast.copy_location(ast.Constant(keyword.arg), keyword)
            yield key, keyword.value
    else:
        yield None, node


def _called(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def _texts(node: ast.expr) -> list[str]:
    """The texts in an expression, in order."""
    return [one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)]


def _is_constant(value: object) -> bool:
    return isinstance(value, bool | int | float | str)
