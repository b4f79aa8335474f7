"""The documented run commands of a folder: from the code blocks of its README, its shell scripts and submission.toml.

Shell is read as text, for its environment assignments and the arguments behind the script; nothing is expanded but
variables that the same text sets."""

from __future__ import annotations

import fnmatch
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

MAX_TEXT = 400_000  # characters of one README or shell script
EXPANSIONS = 6  # of variables inside each other
MAX_COMMANDS = 200  # that start Python, of one text
FENCE = re.compile(r"^[ \t]*(```+|~~~+)[ \t]*([\w+-]*)[^\n]*\n(.*?)^[ \t]*\1", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^(?: {4}|\t)[^\n]*\n?)+", re.MULTILINE)
INLINE = re.compile(r"`([^`\n]*(?:python3?|torchrun)[^`\n]*)`")
ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\+?=(.*)", re.DOTALL)
SETTING = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*=\S+")  # as environment variables are written
VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?:(:?[-=?])([^{}$]*))?\})")
HEREDOC = re.compile(r"<<-?[ \t]*([\"']?)(\w+)\1[^\n]*\n.*?^[ \t]*\2[ \t]*$", re.MULTILINE | re.DOTALL)
QUOTED_TEXT = re.compile(
    r"""(\s-c\s+|\b[A-Za-z_]\w*=)(["'])([^"'\n]*\n(?:(?!\2).)*?)\2""", re.DOTALL
)  # of several lines
STARTERS = re.compile(r"(torchrun|python[0-9.]*|accelerate|deepspeed)$")
OPTIONS_WITH_VALUE = frozenset(
    (
        *("-W", "-X", "--nnodes", "--node_rank", "--node-rank", "--master_addr", "--master-addr", "--master_port"),
        *("--master-port", "--rdzv_id", "--rdzv-id", "--rdzv_backend", "--rdzv-backend", "--rdzv_endpoint"),
        *("--rdzv-endpoint", "--nproc_per_node", "--nproc-per-node", "--max_restarts", "--max-restarts"),
        *("--num_processes", "--num_machines", "--log-dir", "--log_dir"),
    )
)
PROCESSES = ("--nproc_per_node", "--nproc-per-node", "--num_processes")
SUBSTITUTION = re.compile(r"\$\([^()\n]{0,300}\)")
PLACEHOLDER = re.compile(r"<[A-Za-z][\w .-]{0,40}>")  # SEED=<seed>
SHELL_WORDS = frozenset(
    (
        *("do", "then", "else", "!", "time", "nohup", "exec", "command", "sudo", "env", "uv", "run", "caffeinate"),
        *("stdbuf", "numactl", "{"),
    )
)
ENDS = frozenset(("&&", "||", ";", ";;", "|", "|&", "&", ">", ">>", "2>", "&>", "2>&1", "<", ")", "done"))
UNKNOWN_VALUE = "\0"  # stands in a word for what the shell would put there


@dataclass(frozen=True)
class Command:
    """One command that runs a script. script: as it is written, empty for settings without a command. environment: what
    is known of it; `unknown`: names that are set to something that the text does not say. expanded: names that the text
    itself makes use of, and does not only hand on. processes: per node, 0 if it is not said. where: for people."""

    script: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()
    processes: int = 0
    module: bool = False
    where: str = ""
    expanded: frozenset[str] = frozenset()


def documented_commands(texts: Iterable[tuple[str, str]]) -> list[Command]:
    """The commands of some texts, each with the name of its file, in their order there."""
    commands = []
    for name, text in texts:
        text = text[:MAX_TEXT]
        blocks = [text] if name.endswith(".sh") else list(_blocks(text))
        found = [command for block in blocks for command in shell_commands(block, name.endswith(".sh"))]
        commands.extend(replace(command, where=name) for command in found[:MAX_COMMANDS])
    return commands


def documented_settings(texts: Iterable[tuple[str, str]]) -> list[Command]:
    """What READMEs list as the settings of their run without showing a command: blocks of nothing but assignments, as
    one command without a script. A name with several values is unknown."""
    values: dict[str, set[str]] = {}
    for name, text in texts:
        for block in () if name.endswith(".sh") else _blocks(text[:MAX_TEXT]):
            lines = [line.strip() for line in block.replace("\\\n", " ").splitlines()]
            words = [_words_of(line) for line in lines if line and not line.startswith("#")]
            if words and all(_is_setting(word) for line in words for word in line) and all(words):
                for word in (word for line in words for word in line if word != "export"):
                    variable, _, value = word.partition("=")
                    values.setdefault(variable, set()).add(value)
    if not values:
        return []
    known = {name: next(iter(found)) for name, found in values.items() if len(found) == 1}
    known = {name: value for name, value in known.items() if "$" not in value and "`" not in value}
    return [Command("", environment=known, unknown=frozenset(values) - known.keys())]


def _words_of(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return []


def _is_setting(word: str) -> bool:
    return word == "export" or SETTING.fullmatch(word) is not None


def _blocks(markdown: str) -> Iterator[str]:
    """What a README shows as a command: fenced blocks, indented blocks, then code in a line."""
    rest = markdown
    for match in FENCE.finditer(markdown):
        if match[2].lower() in ("", "bash", "sh", "shell", "console", "text", "zsh"):
            yield match[3]
    rest = FENCE.sub("", rest)
    for match in INDENTED.finditer(rest):
        yield match[0]
    for match in INLINE.finditer(rest):
        yield match[1]


def shell_commands(text: str, script: bool = False) -> list[Command]:
    """Commands that start Python on a script or module. script: the text is one, in which a line that begins with `#`
    is no prompt. Of `case` and `if` only the arms are read whose condition holds
    or cannot be told; what such arms set is unknown afterwards."""
    text = text.replace("\\\r\n", " ").replace("\\\n", " ").replace("\\_", "_")
    expanded = frozenset(_expanded_for_itself(text))
    text = QUOTED_TEXT.sub(rf"\1{UNKNOWN_VALUE}", HEREDOC.sub("\n", text))
    text = SUBSTITUTION.sub(UNKNOWN_VALUE, PLACEHOLDER.sub(UNKNOWN_VALUE, text))
    shell = Shell({match[1] or match[2] for match in VARIABLE.finditer(text)})
    commands = []
    for line in text.splitlines():
        for words, end in _simple_commands(line, script):
            if len(commands) >= MAX_COMMANDS:
                return commands
            words = shell.enter(words, end)
            command = _command(words, shell) if shell.live else None
            shell.leave(end)
            if command is not None:
                commands.append(replace(command, expanded=expanded))
    return commands


def _expanded_for_itself(text: str) -> Iterator[str]:
    """The variables that a text expands, but for NAME=$NAME."""
    for match in VARIABLE.finditer(text):
        name = match[1] or match[2]
        before = text[max(0, match.start() - len(name) - 2) : match.start()].rstrip("\"'")
        if not before.endswith(f"{name}="):
            yield name


@dataclass
class Arm:
    """A `case` or `if` that the text is in. value: what `case` compares. taken: whether an arm before held for certain.
    before: the variables at its beginning; afters: those at the end of each arm that may have run."""

    kind: str
    value: str
    live: bool | None
    taken: bool
    before: dict[str, str]
    afters: list[dict[str, str]] = field(default_factory=list)
    pattern: bool = False  # a pattern comes next
    matched: bool = False


class Shell:
    """What is known while a script is read. variables: all that are set. used: names that the text itself expands;
    such a variable is a program's only if it is exported."""

    def __init__(self, used: set[str]) -> None:
        self.variables: dict[str, str] = {}
        self.exported: set[str] = set()
        self.used = used
        self.arms: list[Arm] = []

    @property
    def live(self) -> bool:
        """Whether commands here can run."""
        return all(arm.live is not False for arm in self.arms)

    def environment(self) -> dict[str, str]:
        """The variables that a program is started with."""
        return {name: value for name, value in self.variables.items() if name in self.exported or name not in self.used}

    def enter(self, words: list[str], end: str) -> list[str]:
        """Follows `case` and `if`; gives what is left of a simple command."""
        arm = self.arms[-1] if self.arms else None
        if arm is not None and arm.kind == "case" and arm.pattern and words[:1] != ["esac"]:
            if end in (")", "|") and words:
                unknown = UNKNOWN_VALUE in arm.value
                fits = None if unknown else fnmatch.fnmatchcase(arm.value, words[-1])
                arm.matched = arm.matched or fits is not False
                if end == ")":
                    arm.live = (None if unknown else True) if arm.matched and not arm.taken else False
                    arm.taken = arm.taken or arm.live is True
                    arm.pattern = arm.matched = False
                    self.variables = dict(arm.before)
            return []
        while words:
            word = words[0]
            if word in ("if", "elif"):
                if word == "if":
                    self.arms.append(Arm("if", "", True, False, dict(self.variables)))
                else:
                    self._next_arm()
                if self.arms:
                    arm = self.arms[-1]
                    truth = self._truth(words[1:], end)
                    arm.live = False if arm.taken else truth
                    arm.taken = arm.taken or truth is True
                return []
            if word == "case" and words[-1] == "in":
                value = _expanded(" ".join(words[1:-1]), self.variables)
                self.arms.append(Arm("case", value, False, False, dict(self.variables), pattern=True))
                return []
            if word == "else" and self.arms:
                self._next_arm()
                self.arms[-1].live = False if self.arms[-1].taken else None if self.arms[-1].afters else True
                words = words[1:]
            elif word in ("fi", "esac") and self.arms:
                self._close()
                words = words[1:]
            elif word == "then":
                words = words[1:]
            else:
                break
        return words

    def leave(self, end: str) -> None:
        """After a simple command: `;;` ends an arm."""
        if end == ";;" and self.arms and self.arms[-1].kind == "case":
            self._next_arm()
            self.arms[-1].pattern = True

    def _next_arm(self) -> None:
        if self.arms:
            arm = self.arms[-1]
            if arm.live is not False:
                arm.afters.append(self.variables)
            self.variables = dict(arm.before)

    def _close(self) -> None:
        """What the arms set differently is unknown after them."""
        self._next_arm()
        arm = self.arms.pop()
        ways = arm.afters if arm.taken else [*arm.afters, arm.before]
        names = {name for way in ways for name in way}
        self.variables = {}
        for name in names:
            values = {way.get(name, UNKNOWN_VALUE) for way in ways}
            self.variables[name] = values.pop() if len(values) == 1 else UNKNOWN_VALUE

    def _truth(self, words: list[str], end: str) -> bool | None:
        """Whether `[[ a == b ]]` and the like hold, as far as it can be told."""
        words = [_expanded(word, self.variables) for word in words]
        if len(words) != 5 or words[0] not in ("[", "[[") or end != ";" or any(UNKNOWN_VALUE in one for one in words):
            return None
        if words[2] in ("=", "==", "-eq"):
            return words[1] == words[3]
        return words[1] != words[3] if words[2] in ("!=", "-ne") else None


def _simple_commands(line: str, script: bool) -> Iterator[tuple[list[str], str]]:
    """The words of each command of a line, and what ends it; nothing of a line that is no shell."""
    if line.lstrip().startswith("#" if script else "#!"):
        return
    line = re.sub(r"^\s*(?:[$%#>]\s+|\d+\.\s+)(?=\S)", "", line)
    if len(line) > 20_000:
        return
    try:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&()<>")
        lexer.whitespace_split = True
        words = list(lexer)
    except ValueError:
        return
    current: list[str] = []
    for word in words:
        if word in ENDS:
            yield current, word
            current = []
        else:
            current.append(word)
    yield current, ";"


def _command(words: list[str], shell: Shell) -> Command | None:
    """A command as data, or nothing; assignments that outlive it are put into the shell."""
    words = list(words)
    own: dict[str, str] = {}
    while words:
        if words[0] in SHELL_WORDS or (words[0].startswith("-") and own):
            words.pop(0)
        elif words[0] in ("export", "set", "declare"):
            for word in words[1:]:
                if match := ASSIGNMENT.fullmatch(word):
                    shell.variables[match[1]] = _expanded(match[2], shell.variables)
                shell.exported.add(word.partition("=")[0])
            return None
        elif match := ASSIGNMENT.fullmatch(words[0]):
            own[match[1]] = _expanded(match[2], {**shell.variables, **own})
            words.pop(0)
        else:
            break
    if not words:
        shell.variables.update(own)
        return None
    if not STARTERS.match(PurePosixPath(words[0]).name):
        return None
    words = [_expanded(word, {**shell.variables, **own}) for word in words]
    scope = {**shell.environment(), **own}
    environment = {name: value for name, value in scope.items() if UNKNOWN_VALUE not in value}
    unknown = frozenset(scope) - environment.keys()
    processes, module, position = 0, False, 1
    while position < len(words):
        word = words[position]
        if word == "-m" and not words[0].endswith(("torchrun", "accelerate")):
            if position + 1 < len(words) and words[position + 1] in (
                "torch.distributed.run",
                "torch.distributed.launch",
            ):
                position += 2
                continue
            module, position = True, position + 1
            break
        if word in ("-c", "-"):
            return None
        if word.startswith("-"):
            name, _, value = word.partition("=")
            if not value and name in OPTIONS_WITH_VALUE and position + 1 < len(words):
                position += 1
                value = words[position]
            if name in PROCESSES and value.isdigit() and len(value) < 6:
                processes = int(value)
            position += 1
        elif word == "launch":
            position += 1
        else:
            break
    if position >= len(words):
        return None
    script, arguments = words[position], tuple(words[position + 1 :])
    if not module and not re.search(r"\.\w+$", script):
        return None
    return Command(script, arguments, environment, unknown, processes, module)


def _expanded(word: str, scope: Mapping[str, str]) -> str:
    """A word with variables replaced by what is known of them."""
    if "`" in word:
        return UNKNOWN_VALUE

    def value(match: re.Match) -> str:
        name = match[1] or match[2]
        if name in scope:
            return scope[name]
        return match[4] if match[3] and match[3][-1] != "?" else UNKNOWN_VALUE

    for _ in range(EXPANSIONS):  # ${A:-${B}}: from the inside out
        word, count = VARIABLE.subn(value, word[:10_000])
        if not count:
            break
    return UNKNOWN_VALUE if "${" in word else word[:10_000]
