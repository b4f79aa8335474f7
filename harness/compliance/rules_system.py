"""What code asks of the system around it: the network, other programs, compilers, binaries."""

from __future__ import annotations

import ast
import posixpath
import re
import shlex
import sys
from collections.abc import Iterator

from harness.compliance import native
from harness.compliance.findings import Finding, Status
from harness.compliance.program import UNKNOWN, ExternalCall, Program, Scope
from harness.compliance.slices import Slice
from harness.compliance.training import is_contestant

NETWORK = (
    "urllib.request.",
    "urllib3.",
    "requests.",
    "http.client.",
    "httpx.",
    "aiohttp.",
    "ftplib.",
    "smtplib.",
    "xmlrpc.",
    "websocket.",
    "websockets.",
    "paramiko.",
    "boto3.",
    "s3fs.",
    "gcsfs.",
    "google.cloud.",
    "gdown.",
    "kagglehub.",
    "huggingface_hub.",
    "datasets.load_dataset",
    "torch.hub.",
    "torch.utils.model_zoo.",
    "wandb.init",
    "wandb.login",
    "mlflow.",
    "comet_ml.",
    "neptune.init",
    "socket.socket",
    "socket.create_connection",
    "socket.getaddrinfo",
)
NETWORK_ERRORS = re.compile(r"\.(exceptions?|errors?)\b|Error$")
# Packages that open no address but for what `NETWORK` names, and these functions: most calls of a script are theirs.
NO_ADDRESSES = ("torch.", "numpy.", "math.", "time.", "re.", "logging.", "sys.", "warnings.")
ADDRESSES = re.compile(r"numpy\..*(loadtxt|genfromtxt|DataSource)")
URL = re.compile(r"^(https?|ftp|hf|s3|gs)://")
DOWNLOADERS = frozenset(
    {"curl", "wget", "pip", "pip3", "uv", "conda", "apt", "apt-get", "hf", "huggingface-cli", "aws", "gsutil", "ssh"}
    | {"scp", "rsync", "nc", "npm", "aria2c"}
)
PROCESSES = frozenset(
    {"subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_call", "subprocess.check_output"}
    | {"subprocess.getoutput", "subprocess.getstatusoutput", "os.system", "os.popen", "os.execv", "os.execve"}
    | {"os.execvp", "os.execvpe", "os.execl", "os.execlp", "os.spawnv", "os.spawnvp", "os.spawnl", "os.posix_spawn"}
    | {"asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell", "pty.spawn"}
)
HARMLESS = frozenset(  # they report on the machine or the repository, or shorten Python; they run no code
    {"nvidia-smi", "rocm-smi", "hostname", "uname", "lscpu", "nproc", "free", "df", "date", "whoami", "sysctl", "git"}
    | {"cat", "ls", "lsb_release", "du", "ps", "uptime", "echo", "mkdir", "rm", "cp", "mv", "sync", "pyminify"}
)
BINARIES = native.LIBRARIES | {"torch.jit.load", "torch.package.PackageImporter", "onnxruntime.InferenceSession"}
COMPILER_COMMANDS = re.compile(
    r"^(gcc|g\+\+|cc|c\+\+|clang|clang\+\+|nvcc|rustc|go|cargo|make|cmake|ninja|tcc|gfortran)[-\d.]*$"
)
UNPICKLERS = frozenset({"pickle.loads", "pickle.load", "dill.loads", "cloudpickle.loads", "joblib.load"})
PICKLERS = frozenset({"pickle.dumps", "pickle.dump", "dill.dumps", "cloudpickle.dumps", "joblib.dump"})
# Those that contestants use, their like, and this one: what they do is documented, and anybody can read it.
PACKAGES = frozenset(
    {"accelerate", "aiohttp", "aiter", "apex", "bitsandbytes", "blosc2", "boto3", "brotli", "causal_conv1d"}
    | {"causal_conv1d_cuda", "click", "cloudpickle", "constriction", "cuda", "cupy", "cutlass", "cython", "dask"}
    | {"datasets", "deepspeed", "dill", "dotenv", "einops", "fla", "flash_attn", "flash_attn_3"}
    | {"flash_attn_interface", "flax", "fsspec", "google", "gram_newton_schulz", "h5py", "harness", "httpx"}
    | {"huggingface_hub", "hydra", "IPython", "jax", "joblib", "kernels", "liger_kernel", "lightning", "lz4"}
    | {"mamba_ssm", "matplotlib", "mlx", "modal", "msgpack", "networkx", "numba", "numpy", "nvidia", "omegaconf"}
    | {"onnx", "onnxruntime", "opt_einsum", "optax", "orjson", "packaging", "pandas", "peft", "pkg_resources"}
    | {"plotly", "polars", "psutil", "pyarrow", "pydantic", "pynvml", "pytest", "python_minifier"}
    | {"pytorch_lightning", "ray", "regex", "requests", "rich", "safetensors", "scipy", "seaborn"}
    | {"selective_scan_cuda", "sentencepiece", "setuptools", "sklearn", "snappy", "sympy", "tensorboard"}
    | {"tensorboardX", "tiktoken", "tinygrad", "tokenizers", "tokenmonster", "torch", "torchao", "torchaudio"}
    | {"torchinfo", "torchvision", "tqdm", "transformer_engine", "transformers", "triton", "typer"}
    | {"typing_extensions", "ujson", "urllib3", "wandb", "xformers", "xxhash", "yaml", "zstandard", "zstd"}
)
FETCHED_BINARIES = frozenset({"kernels.get_kernel"})
# What clocks, scores, sizes and tokens are made with: what is said of a program does not hold if these are replaced.
RELIED_ON = re.compile(
    r"(time|math|numpy|glob|struct|torch\.Tensor|os\.path|builtins(?!\.print$))\.\w+$|sentencepiece\."
    r"|os\.(stat|environ|getenv)$"
    r"|torch\.(nn\.functional\.|special\.)?(cross_entropy|nll_loss|log_softmax|softmax|logsumexp|log|log2|exp|gather)$"
)
CODE_OF_FUNCTIONS = ("__code__", "__defaults__", "__kwdefaults__")
DECODERS = ("base64.", "binascii.", "builtins.bytes.fromhex")


def check_network(program: Program) -> Iterator[Finding]:
    """network-at-eval: downloads, sockets and package installation in what trains or scores."""
    if not is_contestant(program):
        return
    used = [
        (call, reason, _certain(program, call))
        for call in program.external_calls
        if (reason := _network(program, call)) is not None
    ]
    certain: dict[str, bool] = {}
    for call, _, sure in used:
        certain[call.name] = certain.get(call.name, False) or sure
    for call, reason, sure in used:
        maker = call.name.partition("()")[0]
        if maker != call.name and certain.get(maker, -1) >= sure:  # what makes its object says it
            continue
        place = program.place(call.node, call.scope.module.source, reason)
        if call.name not in FETCHED_BINARIES and sure:  # those may have been fetched before
            yield Finding("network-at-eval", Status.FLAG, f"The network is used: {reason}.", (place,))
        else:
            message = f"The network may be used: {reason}. See whether this happens in a run of the contest."
            yield Finding("network-at-eval", Status.HOLD, message, (place,))
    for node, _, scope, _ in program.live_of(ast.Call):
        for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
            name = program.imported_name(argument, scope)
            if name is not None and name.startswith(NETWORK) and not NETWORK_ERRORS.search(name):
                place = program.place(argument, scope.module.source, f"{name} is handed over")
                message = f"The network may be used: {name} is handed to something that may call it."
                yield Finding("network-at-eval", Status.HOLD, message, (place,))


def _network(program: Program, call: ExternalCall) -> str | None:
    if call.name.startswith(NETWORK) and not NETWORK_ERRORS.search(call.name):
        return f"{call.name} is called"
    if call.name in FETCHED_BINARIES:
        return f"{call.name} downloads what is not there yet"
    if call.name.endswith(".from_pretrained") and not _local_path(program, call):
        return f"{call.name} downloads what is not there yet"
    if call.name in PROCESSES:
        words = command_words(program, call)
        program_name = posixpath.basename(words[0]) if words else ""
        if program_name in DOWNLOADERS or words[1:3] == ["-m", "pip"]:
            return f"`{' '.join(words)[:80]}` is run"
        if program_name == "git" and {"clone", "fetch", "pull", "push"} & set(words[1:3]):
            return f"`{' '.join(words)[:80]}` is run"
        for name in ("sh", "bash"):
            if program_name == name and any(word in DOWNLOADERS for text in words[1:] for word in text.split()):
                return f"`{' '.join(words)[:80]}` is run"
        return None
    if call.name.startswith("builtins.") and call.name != "builtins.open":
        return None
    if not call.node.args or (call.name.startswith(NO_ADDRESSES) and not ADDRESSES.match(call.name)):
        return None
    first = program.constant(call.node.args[0], call.scope)
    return f"{call.name} reads {first}" if isinstance(first, str) and URL.match(first) else None


def _local_path(program: Program, call: ExternalCall) -> bool:
    first = program.constant(call.node.args[0], call.scope) if call.node.args else UNKNOWN
    return isinstance(first, str) and first.startswith((".", "/"))


def _certain(program: Program, call: ExternalCall) -> bool:
    """Whether a call runs, if not on every rank then on one of them."""
    if call.sure is True:
        return True
    if program.scope_reached(call.scope) is not True or any(program.handlers(call.statement)):
        return False
    unknown = [
        (test, scope) for test, scope in program.conditions(call.statement) if program.truth(test, scope) is UNKNOWN
    ]
    return bool(unknown) and all(_about_rank(program, test, scope) for test, scope in unknown)


def _about_rank(program: Program, test: ast.expr, scope: Scope) -> bool:
    one = Slice(program, test, scope)
    if "torch.distributed.get_rank" in one.calls():
        return True
    return any(isinstance(node, ast.Constant) and node.value in ("RANK", "LOCAL_RANK") for node, _ in one.nodes)


def command_words(program: Program, call: ExternalCall) -> list[str]:
    """The words of the command that a call of `PROCESSES` runs, as far as they are known; "?" stands for the others."""
    arguments = [*call.node.args, *(one.value for one in call.node.keywords if one.arg in ("args", "cmd", "command"))]
    if not arguments:
        return []
    if call.name.startswith(("os.spawn",)):
        arguments = arguments[1:]
    if call.name.startswith(("os.exec", "os.spawn", "os.posix", "asyncio.create_subprocess_exec")):
        parts = arguments
    else:
        parts = _elements(program, arguments[0], call.scope)
    if parts is None:
        text = program.constant(arguments[0], call.scope)
        if isinstance(text, list | tuple):
            return [str(word) for word in text]
        if isinstance(text, str):
            try:
                return shlex.split(text)
            except ValueError:
                return text.split()
        known = [str(value) for value in program.constants(arguments[0], call.scope) if isinstance(value, str)]
        return known[0].split() if known else ["?"]
    words = []
    for part in parts:
        known = [one for one in program.constants(part, call.scope) if one is not None]  # shutil.which
        value = known[0] if len(known) == 1 else UNKNOWN
        if known and not words and all(isinstance(one, str) and posixpath.basename(one) in HARMLESS for one in known):
            value = known[0]  # whichever it is
        if value is UNKNOWN:
            value = "python" if program.external(part, call.scope) == "sys.executable" else "?"
        words += [str(word) for word in value] if isinstance(value, list | tuple) else [str(value)]
    return words


def _elements(program: Program, node: ast.expr, scope: Scope) -> list[ast.expr] | None:
    """The elements of a list display, also behind a name."""
    if isinstance(node, ast.List | ast.Tuple):
        return node.elts
    if isinstance(node, ast.Name):
        bindings = program.lookup(node, scope)[1]
        if len(bindings) == 1 and isinstance(bindings[0].value, ast.List | ast.Tuple) and not bindings[0].path:
            return bindings[0].value.elts
    return None


def check_hidden_code(program: Program) -> Iterator[Finding]:
    """hidden-code: other programs, compilers, binaries and pickles. What `exec` runs is unpacked elsewhere."""
    compiled = False
    pickles = any(call.name in PICKLERS for call in program.external_calls)
    loaded: list[tuple[ExternalCall, str]] = []
    for call in program.external_calls:
        source = call.scope.module.source
        if call.name in PROCESSES:
            words = command_words(program, call)
            name = posixpath.basename(words[0]) if words else "?"
            if (
                name in HARMLESS
                or name in DOWNLOADERS
                or words[1:3] == ["-m", "pip"]
                or _runs_known_file(program, words)
            ):
                continue
            compiled = compiled or COMPILER_COMMANDS.match(name) is not None
            if COMPILER_COMMANDS.match(name):
                what = f"the compiler `{name}` is run; read the source that it compiles"
            elif name == "?":
                what = "a command is run that could not be worked out"
            else:
                what = f"`{' '.join(words)[:80]}` is run; what it does is not in this code"
            yield Finding(
                "hidden-code",
                Status.HOLD,
                f"Another program is run: {what}.",
                (program.place(call.node, source, what),),
            )
        elif call.name in native.COMPILERS:
            compiled = True
            what = f"{call.name} compiles other code at run time"
            message = f"{what}: read its source, which this program cannot check."
            yield Finding("hidden-code", Status.HOLD, message, (program.place(call.node, source, what),))
        elif call.name in FETCHED_BINARIES:
            what = f"{call.name} runs a binary that it fetches"
            message = f"Code may run that cannot be read: {what}."
            yield Finding("hidden-code", Status.HOLD, message, (program.place(call.node, source, what),))
        elif call.name in BINARIES:
            path = program.constant(call.node.args[0], call.scope) if call.node.args else UNKNOWN
            if native.is_system_library(path):
                continue
            if call.node.args and "ctypes.util.find_library" in Slice(program, call.node.args[0], call.scope).calls():
                continue
            loaded.append((call, path if isinstance(path, str) else ""))
        elif call.name in UNPICKLERS and call.node.args:
            one = Slice(program, call.node.args[0], call.scope)
            literal = any(isinstance(node, ast.Constant) and len(_text(node.value)) > 200 for node, _ in one.nodes)
            if literal and any(name.startswith(DECODERS) for name in one.calls()):
                what = "a pickle that is written in the code is loaded"
            elif not pickles:
                what = "a pickle is loaded that this program does not write"
            else:
                continue
            message = f"Code may run that cannot be read: {what}."
            yield Finding("hidden-code", Status.HOLD, message, (program.place(call.node, source, what),))
    yield from _missing_modules(program)
    yield from _replaced(program)
    for call, path in loaded:
        what = f"the binary {path or 'that is loaded here'} is run"
        place = (program.place(call.node, call.scope.module.source, what),)
        if path and not compiled and call.sure is True:
            yield Finding("hidden-code", Status.FLAG, f"Code runs that cannot be read: {what}.", place)
        elif not compiled:
            yield Finding("hidden-code", Status.HOLD, f"Code may run that cannot be read: {what}.", place)


def _replaced(program: Program) -> Iterator[Finding]:
    """Functions of packages that the program replaces by something else, and code of functions that is changed."""
    for name, receiver, scope in program.attribute_stores():
        if program.scope_reached(scope) is False:
            continue
        if name in CODE_OF_FUNCTIONS:
            what = f"`{name}` of a function is changed"
            message = f"{what}: what it does is not what its text says."
        else:
            package = program.external(receiver, scope)
            dotted = f"{package}.{name}"
            if package is None or not RELIED_ON.match(dotted):
                continue
            what = f"{dotted} is replaced"
            message = f"{what} by something of the program's own: see what relies on it."
        place = program.place(receiver, scope.module.source, what)
        yield Finding("hidden-code", Status.HOLD, message, (place,))


def _missing_modules(program: Program) -> Iterator[Finding]:
    """Modules that a contestant's program imports, and whose code is neither here nor anybody's to read."""
    if not is_contestant(program):
        return
    named: set[str] = set()
    for node, _, scope, _ in program.live_of(ast.Import, ast.ImportFrom):
        for dotted in program.foreign_imports(node):
            name = dotted.split(".")[0]
            if name in named or name in PACKAGES or name in sys.stdlib_module_names:
                continue
            named.add(name)
            what = f"`{name}` is imported, which is neither among the checked files nor a known package"
            place = program.place(node, scope.module.source, what)
            yield Finding("hidden-code", Status.HOLD, f"Code may run that cannot be read: {what}.", (place,))


def _text(value: object) -> str | bytes:
    return value if isinstance(value, str | bytes) else ""


def _runs_known_file(program: Program, words: list[str]) -> bool:
    names = {posixpath.basename(module.source.file) for module in program.modules.values()}
    return any(posixpath.basename(word) in names for word in words)
