"""Where a value comes from: every expression that it is computed from, backwards through assignments, attributes, calls
and parameters, whatever their order. What the rules ask is whether something is in there; the token checks have a
dataflow of their own."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from harness.compliance.program import Class, Instance, Program, Scope, children

MAX_EXPRESSIONS = 3000  # of one slice


class Slice:
    """What an expression of a program depends on. control: also on the conditions under which its names are bound and
    the functions on the way return."""

    def __init__(self, program: Program, node: ast.expr, scope: Scope, control: bool = False) -> None:
        self.program = program
        self.control = control
        self.nodes: list[tuple[ast.expr, Scope]] = []
        self.names: set[tuple[Scope | None, str]] = set()
        seen: set[tuple[ast.AST, Scope]] = set()
        pending: list[tuple[ast.expr, Scope]] = [(node, scope)]
        while pending and len(self.nodes) < MAX_EXPRESSIONS:
            item = pending.pop()
            if item in seen or not isinstance(item[0], ast.expr):
                continue
            seen.add(item)
            self.nodes.append(item)
            if type(item[0]) is not ast.Constant:
                pending.extend(self._before(*item))

    def _before(self, node: ast.expr, scope: Scope) -> Iterator[tuple[ast.expr, Scope]]:
        program = self.program
        kind = type(node)
        if kind is ast.Name:
            yield from self._name(node, scope)
            return
        if kind is ast.IfExp:
            yield node.body, scope
            yield node.orelse, scope
            return
        if kind is ast.Lambda:
            return
        if kind is ast.Attribute:
            known = [value for value in program.values(node.value, scope) if isinstance(value, Class | Instance)]
            for value in known:
                yield from self._attribute(value, node.attr)
            if known:
                return
        if kind is ast.Call:
            functions = program.callees(node, scope)
            for function in functions:
                if isinstance(function.node, ast.Lambda):
                    yield function.node.body, function.scope
                    continue
                for statement in program.returns(function):
                    if statement.value is not None:
                        yield statement.value, function.scope
                        yield from self._conditions(statement)
            if functions:
                return
        for child in children(node):
            if type(child) is ast.keyword:
                child = child.value
            elif type(child) is ast.comprehension:
                child = child.iter
            if isinstance(child, ast.expr):
                yield child, scope

    def _name(self, node: ast.Name, scope: Scope) -> Iterator[tuple[ast.expr, Scope]]:
        home, bindings = self.program.lookup(node, scope)
        if (home, node.id) in self.names:
            return
        self.names.add((home, node.id))
        for binding in bindings:
            if binding.kind == "parameter" and home.function is not None:
                yield from self.program.passed(home.function, node.id)
            elif binding.value is not None:
                value = binding.value
                for index in binding.path:
                    if not isinstance(value, ast.Tuple | ast.List) or index >= len(value.elts):
                        break
                    value = value.elts[index]
                yield value, binding.scope
                yield from self._conditions(binding.statement)

    def _conditions(self, statement: ast.AST) -> Iterator[tuple[ast.expr, Scope]]:
        if self.control:
            yield from self.program.conditions(statement)

    def _attribute(self, value: Class | Instance, name: str) -> Iterator[tuple[ast.expr, Scope]]:
        class_ = value.class_ if isinstance(value, Instance) else value
        for one in self.program.bases(class_):
            for binding in one.scope.bindings.get(name, ()):
                if binding.value is not None:
                    yield binding.value, one.scope
            for stored, scope in one.attributes.get(name, ()):
                if stored is not None:
                    yield stored, scope

    def calls(self) -> set[str]:
        """The dotted names of everything external that is called in it."""
        return {
            name
            for node, scope in self.nodes
            if isinstance(node, ast.Call) and (name := self.program.external(node.func, scope)) is not None
        }

    def attributes(self) -> set[str]:
        """The names of all attributes and methods in it."""
        return {node.attr for node, _ in self.nodes if isinstance(node, ast.Attribute)}
