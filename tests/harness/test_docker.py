"""The Docker back-end: what a phase's container has, seen from the host while it runs; how it starts, ends, is killed.

That every cheat and honest twin ends as under bubblewrap is in test_submissions.py; that the harness works from inside
a container, in test_harness_container.py."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from support import TESTS, Referee, assemble

from harness.attack import run_attacks
from harness.errors import EnvironmentMissing, RefereeError
from harness.evidence.record import Verdict
from harness.processes import start_time
from harness.progress import ConsoleObserver
from harness.sandbox import SMALL, Mount, SandboxEvent, SandboxSpec
from harness.sandbox import docker as back_end
from harness.sandbox.backends import find_backend, own_container
from harness.sandbox.docker import COMPOSE, LABEL, PROJECT, DockerRun, DockerSandbox, HostPaths, connect, wrong_mounts
from harness.sandbox.facts import read_mounts

PATIENCE = 20.0
SPEC = SandboxSpec(label="test", command=("true",), mounts=(Mount(source=Path("/a"), target="/in/a"),), limits=SMALL)
TABLE = {
    **{
        target: "ro"
        for target in ("/", "/in/a", "/dev/mqueue", "/sys", PROJECT, "/etc/hosts", "/proc/bus", "/proc/sys")
    },
    **{target: "rw" for target in ("/tmp", "/out", "/dev/shm", "/proc", "/dev", "/dev/pts", "/proc/keys")},
}


def in_docker(test: Callable) -> Callable:
    return pytest.mark.docker(pytest.mark.privileged(test))


@pytest.fixture(scope="module")
def sandbox() -> DockerSandbox:
    return DockerSandbox()


@pytest.fixture
def start(sandbox) -> Iterator[Callable[..., DockerRun]]:
    runs: list[DockerRun] = []

    def begin(*command: str, launch: bool = True, mounts: tuple[Mount, ...] = (), **limits: int) -> DockerRun:
        limit = SMALL.__class__(**{**vars(SMALL), **limits})
        runs.append(sandbox.start(SandboxSpec(label="test", command=command, mounts=mounts, limits=limit)))
        if launch:
            runs[-1].launch()
        return runs[-1]

    yield begin
    for run in runs:
        run.close()


def events(run: DockerRun) -> list[SandboxEvent]:
    """Everything that happens until the sandbox is empty."""
    found: list[SandboxEvent] = []
    deadline = time.monotonic() + PATIENCE
    while not found or found[-1].kind != "empty":
        assert time.monotonic() < deadline, found
        select.select([run], [], [], 0.1)
        if event := run.event():
            found.append(event)
    return found


def printed(run: DockerRun) -> str:
    with open(run.log_descriptor, closefd=False) as log:
        return log.read()


# --- what a phase gets


class Inspector(ConsoleObserver):
    """Looks at the container of each phase of a run, from the host, while its command runs."""

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO()))
        self.faults: dict[str, list[str]] = {}
        self.engine = connect()

    def phase_started(self, seed, phase, clock) -> None:
        super().phase_started(seed, phase, clock)
        label = f"{LABEL}={os.getpid()}-{start_time(os.getpid())}"
        (container,) = self.engine.api.containers(
            filters={"label": [label, f"parameter-golf.phase={phase}, seed {seed}"]}
        )
        self.faults[phase] = list(self._look(container["Id"]))

    def _look(self, container: str) -> Iterator[str]:
        facts = self.engine.api.inspect_container(container)
        init = facts["State"]["Pid"]
        wait_until(lambda: len(processes(init)) > 1, "a command")
        interfaces = [line.split(":")[0].strip() for line in Path(f"/proc/{init}/net/dev").read_text().splitlines()[2:]]
        if interfaces != ["lo"]:
            yield f"network interfaces {interfaces}"
        kinds = mount_kinds(init)
        for target, mode, _ in read_mounts(init):
            if mode == "rw" and target != "/out" and kinds[target] not in ("tmpfs", "proc", "devpts"):
                yield f"{target} is writable ({kinds[target]})"
        if kinds["/out"] != "tmpfs":
            yield f"/out is {kinds['/out']}"
        for pid in processes(init):
            with contextlib.suppress(FileNotFoundError):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
                held = {name: status[name] for name in status if name.startswith("Cap") and int(status[name], 16)}
                ids = {*status["Uid"].split(), *status["Gid"].split(), *status["Groups"].split()}
                if held or "0" in ids:
                    yield f"process {pid}: {held}, ids {ids}"
        root = Path(f"/proc/{init}/root")
        if (root / "run" / "docker.sock").exists():  # /var/run is a link to /run, which would lead to the host's
            yield "the engine's socket"
        if found := os.listdir(root / PROJECT.lstrip("/")):
            yield f"the harness's own code {found}"
        host = facts["HostConfig"]
        if host["Privileged"] or host["CapAdd"] or not host["ReadonlyRootfs"] or host["NetworkMode"] != "none":
            yield f"asked for {host}"
        if not facts["Image"].startswith("sha256:"):
            yield "an image that is not pinned"


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


def processes(init: int) -> list[int]:
    """All of a container, by its pid namespace."""
    own, found = os.stat(f"/proc/{init}/ns/pid").st_ino, []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.stat(entry / "ns/pid").st_ino == own:
                    found.append(int(entry.name))
    return found


def mount_kinds(init: int) -> dict[str, str]:
    lines = [line.split(" ") for line in Path(f"/proc/{init}/mountinfo").read_text().splitlines()]
    return {fields[4]: fields[fields.index("-") + 1] for fields in lines}


@in_docker
def test_the_containers_of_a_run_hold_nothing_that_a_phase_may_not_have(referee: Referee, tmp_path: Path) -> None:
    inspector = Inspector()
    submission = assemble(TESTS / "honest" / "minimal", tmp_path / "submission")
    record, _ = referee.run(submission, inspector, sandbox=find_backend("docker").make())
    assert record.verdict is Verdict.PASS, record.reasons
    assert set(inspector.faults) == {"train", "quantize", "eval", "probe"}
    assert not any(inspector.faults.values()), inspector.faults
    for phase in record.seeds[0].phases.values():
        assert phase.sandbox.capabilities == "0"
        assert phase.sandbox.seccomp == 2
        assert set(phase.sandbox.limited) == {"cpuset", "memory", "pids"}
        assert phase.peak_memory_bytes > 1_000_000
        assert phase.sandbox.shared == ("namespace time", "namespace user")


@in_docker
def test_the_wire_module_is_all_of_the_harness_that_a_phase_can_find(start) -> None:
    program = (
        "import os\n"
        "for folder, folders, files in os.walk('/'):\n"
        "    folders[:] = [name for name in folders if os.path.join(folder, name) not in ('/proc', '/sys')]\n"
        "    for name in files:\n"
        "        if 'harness' in folder.split('/') and name.endswith(('.py', '.pyc', '.toml')):\n"
        "            print(os.path.join(folder, name))\n"
    )
    assert printed(start("python", "-c", program)).splitlines() == ["/wire/harness/scoring/wire.py"]


@in_docker
def test_every_attack_from_inside_is_denied(sandbox) -> None:
    assert not [f"{result.name}: {result.detail}" for result in run_attacks(sandbox) if not result.denied]


@in_docker
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda config: config["Tmpfs"].update({"/srv": "rw"}), r"wrong: \[\('/srv', 'rw'\)\]"),
        (lambda config: config.update(NetworkMode="host", Sysctls={}), "it has the harness's net namespace"),
        (lambda config: config.update(PidMode="host"), "it has the harness's pid namespace"),
    ],
    ids=["a mount", "the network", "processes"],
)
def test_walls_that_are_not_the_ones_asked_for_are_the_referee_s_error(sandbox, monkeypatch, change, text) -> None:
    """What the engine made is read back from the kernel, and is not taken on trust."""
    make = DockerSandbox._host_config

    def other(self: DockerSandbox, spec: SandboxSpec, uid: int) -> dict:
        config = make(self, spec, uid)
        change(config)
        return config

    monkeypatch.setattr(DockerSandbox, "_host_config", other)
    with pytest.raises(RefereeError, match=text):
        sandbox.start(replace(SPEC, mounts=()))
    mine = f"{LABEL}={os.getpid()}-{start_time(os.getpid())}"
    assert not connect().api.containers(all=True, filters={"label": mine})


@in_docker
def test_a_container_of_another_user_is_the_referee_s_error(sandbox, monkeypatch) -> None:
    create = sandbox._client.api.create_container
    monkeypatch.setattr(sandbox._client.api, "create_container", lambda *a, **b: create(*a, **{**b, "user": "0:0"}))
    with pytest.raises(RefereeError, match="it runs under uid 0, asked for was"):
        sandbox.start(replace(SPEC, mounts=()))


@in_docker
def test_without_the_harness_s_filter_a_command_is_not_confined(sandbox, monkeypatch) -> None:
    """The engine's own filter looks the same in /proc but for the count."""
    real = back_end.INIT.read_text()
    text = real.replace("libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)", "0")
    assert text != real
    weak = type("Weak", (), {"read_text": staticmethod(lambda: text)})
    monkeypatch.setattr(back_end, "INIT", weak)
    run = sandbox.start(SandboxSpec(label="test", command=("sleep", "20"), mounts=(), limits=SMALL))
    try:
        run.launch()
        with pytest.raises(RefereeError, match="without the harness's seccomp filter"):
            wait_until(lambda: run.confinement() is not None, "a confinement")
    finally:
        run.close()


# --- how it starts and ends


@in_docker
def test_the_command_waits_for_the_word(start) -> None:
    run = start("sh", "-c", "echo started; cat /in/file; id -u; pwd", launch=False, mounts=(_file("text\n"),))
    assert not select.select([run.log_descriptor], [], [], 0.5)[0], "it ran before its walls were checked"
    assert run.confinement() is None
    at = run.launch()
    exited, empty = events(run)
    assert printed(run) == f"started\ntext\n{run.walls.uid}\n/in/submission\n"
    assert (exited.kind, exited.exit_code) == ("exited", 0)
    assert at <= exited.at <= empty.at


def _file(text: str) -> Mount:
    path = Path("/tmp") / f"docker-test-{os.getpid()}-{time.monotonic_ns()}"
    path.write_text(text)
    path.chmod(0o644)
    return Mount(source=path, target="/in/file")


@in_docker
@pytest.mark.parametrize(
    ("command", "exit_code"),
    [
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "kill -9 $$"), 137),
        (("nonsense",), 127),
        (("python", "-c", "import os; os.kill(1, 2); os.kill(1, 15); os.kill(1, 9); raise SystemExit(5)"), 5),
    ],
    ids=["exit", "signal", "no program", "it cannot end its init"],
)
def test_exit_codes(start, command: tuple[str, ...], exit_code: int) -> None:
    exited, empty = events(start(*command))
    assert (exited.kind, exited.exit_code, empty.kind) == ("exited", exit_code, "empty")


@in_docker
def test_the_clock_runs_until_the_last_process_is_gone(start) -> None:
    run = start("sh", "-c", "(sleep 1; echo late) & exit 0")
    exited, empty = events(run)
    assert 0.8 < empty.at - exited.at < 5
    assert printed(run) == "late\n"


@in_docker
def test_a_kill_ends_everything_at_once(start) -> None:
    run = start("sh", "-c", "trap '' TERM INT; setsid sleep 100 & sleep 100")
    wait_until(lambda: len(processes(run.walls.init_pid)) >= 4, "three processes and init")
    begin = time.monotonic()
    run.kill()
    assert events(run)[-1].at - begin < 5
    assert events(start("true"))[-1].kind == "empty"


@in_docker
def test_an_init_that_is_killed_counts_as_a_killed_command(start) -> None:
    """As the kernel may choose it when the phase's memory is at its limit."""
    run = start("sleep", "100")
    wait_until(lambda: run.confinement() is not None, "a confinement")
    os.kill(run.walls.init_pid, signal.SIGKILL)
    assert [(event.kind, event.exit_code) for event in events(run)] == [("exited", 137), ("empty", None)]


@in_docker
def test_an_engine_that_lets_go_of_a_container_is_the_referee_s_error(start) -> None:
    run = start("sleep", "100")
    wait_until(lambda: run.confinement() is not None, "a confinement")
    connection = socket.socket(fileno=os.dup(run._stream.fileno()))
    connection.shutdown(socket.SHUT_RDWR)
    connection.close()
    with pytest.raises(RefereeError, match=r"init ended without a word .* the engine says of it: 143"):
        events(run)


@in_docker
def test_more_output_than_anybody_reads_blocks_nothing_but_the_command(start) -> None:
    run = start("sh", "-c", "head -c 3000000 /dev/zero; echo end >&2")
    time.sleep(0.5)
    text = printed(run)
    assert len(text) == 3_000_004
    assert text.endswith("end\n")
    assert [event.kind for event in events(run)] == ["exited", "empty"]


@in_docker
def test_a_command_cannot_speak_for_init(start) -> None:
    """Init's word goes over a descriptor that the command does not have, and cannot take from init."""
    program = (
        "import os\n"
        "os.write(2, b'exited 0\\n')\n"
        "for path in ('/proc/1/fd/2', '/proc/1/environ', '/proc/1/mem'):\n"
        "    try: os.write(os.open(path, os.O_WRONLY), b'exited 0\\n'); print('wrote to', path)\n"
        "    except OSError: pass\n"
        "raise SystemExit(9)\n"
    )
    run = start("python", "-c", program)
    assert events(run)[0].exit_code == 9
    assert printed(run) == "exited 0\n"


@in_docker
def test_outputs_can_be_read_when_the_sandbox_is_empty_and_no_longer(start) -> None:
    run = start("sh", "-c", "echo artifact > /out/a && mkdir /out/b")
    events(run)
    assert sorted(os.listdir(run.out_descriptor)) == ["a", "b"]
    assert os.stat("a", dir_fd=run.out_descriptor).st_uid == run.walls.uid


@in_docker
def test_limits_hold(start) -> None:
    run = start(
        "sh", "-c", "head -c 5000000 /dev/zero > /out/a; ls -s /out; ulimit -n", output_bytes=1 << 20, open_files=99
    )
    events(run)
    assert printed(run).splitlines()[-1] == "99"
    assert os.stat("a", dir_fd=run.out_descriptor).st_size <= 1 << 20
    run = start("python", "-c", "x = b'x' * 200_000_000", memory_bytes=64 << 20)
    assert events(run)[0].exit_code == 137


@in_docker
def test_a_machine_without_gpus_is_told_so_by_the_engine(sandbox) -> None:
    gpus, nodes = sandbox.find_gpus()
    if Path("/dev/nvidiactl").exists():
        assert gpus.devices and nodes
    else:
        assert (gpus.devices, nodes) == ((), ())
        assert "Docker has none to give" in gpus.absent
    label = f"{LABEL}={os.getpid()}-{start_time(os.getpid())}"
    assert connect().api.containers(all=True, filters={"label": label}) == [], "what was asked is gone"


# --- a harness that dies


@in_docker
def test_who_removes_a_compose_project_does_not_remove_phases_of_its_image(sandbox, start) -> None:
    engine = connect().api
    inherited = [name for name in engine.inspect_image(sandbox.image)["Config"]["Labels"] if name.startswith(COMPOSE)]
    assert inherited, "the image was not built by compose: this shows nothing"
    start("sleep", "100")
    (container,) = engine.containers(filters={"label": f"{LABEL}={os.getpid()}-{start_time(os.getpid())}"})
    assert {container["Labels"][name] for name in inherited} == {""}


@in_docker
def test_what_a_killed_harness_leaves_is_gone_at_the_next_start(sandbox) -> None:
    program = (
        "import time\n"
        "from harness.sandbox import SMALL, SandboxSpec\n"
        "from harness.sandbox.docker import DockerSandbox\n"
        "run = DockerSandbox().start(SandboxSpec(label='t', command=('sleep', '100'), mounts=(), limits=SMALL))\n"
        "run.launch()\n"
        "print(run.walls.init_pid, flush=True)\n"
        "time.sleep(100)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        init = int(process.stdout.readline())
        descriptor = os.pidfd_open(init)
        assert sandbox.reap() == [], "it is alive"
        process.send_signal(signal.SIGKILL)
    assert select.select([descriptor], [], [], PATIENCE)[0], "the container outlives its harness"
    os.close(descriptor)
    (said,) = sandbox.reap()
    assert f"left behind by harness process {process.pid}" in said
    assert sandbox.reap() == []


@in_docker
def test_a_container_that_cannot_start_is_the_referee_s_error_and_leaves_nothing(sandbox) -> None:
    missing = Mount(source=Path("/nonexistent/file"), target="/in/file")
    with pytest.raises(RefereeError, match=r"sandbox for test: .*nonexistent"):
        sandbox.start(SandboxSpec(label="test", command=("true",), mounts=(missing,), limits=SMALL))
    label = f"{LABEL}={os.getpid()}-{start_time(os.getpid())}"
    assert connect().api.containers(all=True, filters={"label": label}) == []


# --- without an engine


def test_a_machine_without_an_engine_is_told_so(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(EnvironmentMissing, match="no Docker engine answers") as caught:
        DockerSandbox()
    assert "\n" not in str(caught.value)


@in_docker
def test_an_image_that_is_not_there_is_told_with_the_command_that_makes_it() -> None:
    with pytest.raises(EnvironmentMissing, match="no image nonsense:none; `docker compose build demo` makes it"):
        DockerSandbox("nonsense:none")


def test_without_root_it_does_not_start(monkeypatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(EnvironmentMissing, match="needs root"):
        DockerSandbox()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/workspace/runs/x", "/home/me/golf/runs/x"),
        ("/workspace", "/home/me/golf"),
        ("/workspace/data/shard", "/big/data/shard"),
        ("/run/golf", "/run/golf"),
    ],
)
def test_paths_of_the_harness_s_container_become_the_host_s(path: str, expected: str) -> None:
    paths = HostPaths([("/workspace", "/home/me/golf"), ("/workspace/data", "/big/data"), ("/run/golf", "/run/golf")])
    assert paths.find(Path(path)) == expected


@pytest.mark.parametrize("path", ["/opt/parameter-golf/submission", "/workspaces/x", "/"])
def test_a_path_in_no_volume_is_told_with_the_volumes_there_are(path: str) -> None:
    with pytest.raises(EnvironmentMissing, match=r"put it on a volume \(there are: /workspace\)"):
        HostPaths([("/workspace", "/home/me/golf")]).find(Path(path))


def test_on_the_host_paths_are_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert HostPaths(None).find(tmp_path / "link") == str(tmp_path.resolve() / "real")


def test_the_own_container_is_known_by_its_host_name_file(tmp_path: Path) -> None:
    name = "ab" * 32
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 21 0:5 / /proc rw - proc proc rw\n"
        f"66 52 254:0 /var/lib/docker/containers/{name}/hostname /etc/hostname rw - ext4 /dev/vda rw\n"
    )
    assert own_container(table) == name
    table.write_text("66 52 254:0 /etc/hostname /etc/hostname rw - ext4 /dev/vda rw\n")
    assert own_container(table) is None


# --- mount tables


def test_the_mount_table_asked_for_is_right() -> None:
    assert wrong_mounts(SPEC, TABLE) == []


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"/": "rw"}, "/"),
        ({"/in/a": "rw"}, "/in/a"),
        ({"/out": "ro"}, "/out"),
        ({"/sys": "rw"}, "/sys"),
        ({"/host": "ro"}, "/host"),
        ({"/run/docker.sock": "rw"}, "/run/docker.sock"),
        ({"/etc/hosts": "rw"}, "/etc/hosts"),
        ({"/usr/lib": "ro"}, "/usr/lib"),
        ({"/sys/fs/cgroup/memory": "rw"}, "/sys/fs/cgroup/memory"),
    ],
    ids=str,
)
def test_a_mount_too_many_or_too_open_is_wrong(change: dict[str, str], wrong: str) -> None:
    assert [target for target, _ in wrong_mounts(SPEC, {**TABLE, **change})] == [wrong]


@pytest.mark.parametrize("missing", ["/in/a", "/out", "/tmp", "/dev/mqueue", "/sys", PROJECT])
def test_a_mount_that_is_missing_is_wrong(missing: str) -> None:
    table = {target: mode for target, mode in TABLE.items() if target != missing}
    assert [target for target, _ in wrong_mounts(SPEC, table)] == [missing]


def test_the_vendor_s_files_may_be_there_only_with_gpus() -> None:
    with_gpu = SandboxSpec(
        label="test",
        command=("true",),
        mounts=(*SPEC.mounts, Mount(source=Path("/dev/nvidia0"), target="/dev/nvidia0", device=True)),
        limits=SMALL,
        gpus=True,
    )
    library = {"/usr/lib/x86_64-linux-gnu/libcuda.so.580": "ro", "/dev/nvidia0": "rw"}
    assert wrong_mounts(with_gpu, {**TABLE, **library}) == []
    assert wrong_mounts(SPEC, {**TABLE, **library}) != []
    assert wrong_mounts(with_gpu, {**TABLE, "/host": "ro"}) != []
