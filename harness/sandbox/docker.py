"""The Docker back-end: each phase is a container beside the harness's own, made from one pinned image.

What bubblewrap does by itself is asked of the engine here, and then read back from the kernel: no network, a read-only
root, no capabilities, no new privileges, limits of its own, a host uid that no other process has. Pid 1 is `init.py`,
which adds the seccomp filter of `seccomp.py` to the engine's, waits for the word, and ends when the harness does.

The harness may run on the host or in a container of the same image (with the host's pid namespace and the engine's
socket). There its paths are those of its own container, and the engine wants those of the host: `HostPaths`."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import docker
from docker.errors import DockerException, ImageNotFound
from docker.types import DeviceRequest, LogConfig, Mount, Ulimit

from harness.errors import EnvironmentMissing, RefereeError
from harness.gpus import Gpus, read_gpus
from harness.processes import is_running, start_time
from harness.sandbox import (
    Confinement,
    SandboxEvent,
    SandboxSpec,
    Walls,
    base_environment,
)
from harness.sandbox.backends import DEFAULT_IMAGE, own_container
from harness.sandbox.facts import (
    children_of,
    confinement_of,
    namespace_of,
    not_clean,
    out_no_routes,
    read_mounts,
    unused_uid,
)
from harness.sandbox.seccomp import filter_program

INIT = Path(__file__).with_name("init.py")
PYTHON = "/opt/venv/bin/python"  # in the image, as are the next
PROJECT = "/opt/parameter-golf"  # the harness's own code, which no phase sees
IMAGE_TREES = ("/bin", "/boot", "/etc", "/home", "/lib", "/opt/venv", "/root", "/sbin", "/srv", "/usr", "/var", "/wire")
LABEL = "parameter-golf.harness"  # value: process id and start time of the harness that made it
# Compose labels the images that it builds, and containers inherit that. A phase that did would count as one of the
# project's containers, and end when somebody removes those.
COMPOSE = "com.docker.compose."
CPU_SHARES = 10_240  # ten times what others have, for the reason that `processes.favour` gives
KILLED = 128 + signal.SIGKILL
BUILD_SECONDS = 60.0  # an engine needs half a second
EMPTY_SECONDS = 20.0
SAMPLE_SECONDS = 0.5  # between two looks at a container's memory
NAMESPACES = ("mnt", "pid", "net", "ipc", "uts", "cgroup")  # the user namespace is the engine's choice

# What the engine and its runtime mount by themselves. Below /proc and /sys they cover single files.
ENGINE_MOUNTS = {"/proc", "/dev", "/dev/pts", "/sys", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}
WRITABLE_ENGINE_MOUNTS = {"/proc", "/dev", "/dev/pts", "/sys/fs/cgroup"}  # what is in them belongs to root
GPU_MOUNTS = re.compile(r"/((usr|lib|lib64|etc|proc/driver/nvidia)(/|$)|(run|dev)/nvidia)")  # of the vendor's runtime


class HostPaths:
    """Where the engine finds what the harness sees. `mounts`: of the harness's own container, (path in it, path on the
    host); None on the host itself.
    """

    def __init__(self, mounts: Sequence[tuple[str, str]] | None) -> None:
        self._mounts = None if mounts is None else sorted(mounts, key=lambda mount: len(mount[0]), reverse=True)

    def find(self, path: Path) -> str:
        """The host's name of `path`; raises EnvironmentMissing if it lies in no volume."""
        real = os.path.realpath(path)
        if self._mounts is None:
            return real
        for inside, outside in self._mounts:
            if real == inside or real.startswith(inside.rstrip("/") + "/"):
                return outside + real[len(inside.rstrip("/")) :]
        folders = (inside for inside, _ in self._mounts if not inside.startswith(("/run/", "/var/run/")))
        volumes = ", ".join(sorted(folders)) or "none"
        raise EnvironmentMissing(
            f"{real} lies inside the harness's own container, where no other container can see it; put it on a volume "
            f"(there are: {volumes})"
        )


def connect() -> docker.DockerClient:
    """The engine that the usual variables name (DOCKER_HOST), or the local one; raises EnvironmentMissing."""
    try:
        client = docker.from_env(timeout=BUILD_SECONDS)
        client.ping()
    except DockerException as error:
        raise EnvironmentMissing(
            f"no Docker engine answers ({_reason(error)}); start one, or set DOCKER_HOST"
        ) from None
    return client


def _reason(error: Exception) -> str:
    """The last and most exact cause in the text of an error of the SDK, in one line."""
    return " ".join(str(getattr(error, "explanation", None) or error).split())[-300:]


class DockerSandbox:
    """The back-end. image: what phases run in, if the harness itself runs on the host; in a container it is that
    container's own. Raises EnvironmentMissing if there is no engine, no such image, or no root.
    """

    name = "docker"
    shared_namespaces = ("time", "user")  # the engine makes none, and its filter lets nobody else make one

    def __init__(self, image: str = DEFAULT_IMAGE) -> None:
        if os.geteuid() != 0:
            raise EnvironmentMissing("the Docker back-end needs root: it looks into its containers through /proc")
        self._client = connect()
        container = own_container()
        try:
            if container:
                facts = self._client.api.inspect_container(container)
                self.image = facts["Image"]
                self._paths = HostPaths([(mount["Destination"], mount["Source"]) for mount in facts["Mounts"]])
                if facts["HostConfig"]["PidMode"] != "host":
                    raise EnvironmentMissing("the harness's container needs the host's pid namespace (`pid: host`)")
            else:
                self.image = self._client.images.get(image).id
                self._paths = HostPaths(None)
            self._image_facts = self._client.api.inspect_image(self.image)
            labels = self._image_facts["Config"]["Labels"] or {}
            self._no_project = dict.fromkeys((name for name in labels if name.startswith(COMPOSE)), "")
            self._engine = self._client.version()["Version"]
        except ImageNotFound:
            raise EnvironmentMissing(f"there is no image {image}; `docker compose build demo` makes it") from None
        except DockerException as error:
            raise EnvironmentMissing(f"the Docker engine does not answer as it should: {_reason(error)}") from None

    def __str__(self) -> str:
        return f"Docker {self._engine}, image {self.image}"

    def environment(self) -> dict[str, str]:
        return base_environment(PYTHON)

    def fingerprint(self) -> str:
        return f"{self.name} {self._engine} {self.image}"

    def facts(self) -> dict[str, str]:
        return {"sandbox": self.name, "sandbox_engine": self._engine, "sandbox_image": self.image}

    def visible_paths(self) -> list[Path] | None:
        if own_container():  # of the same image
            return [path for path in map(Path, IMAGE_TREES) if path.is_dir()]
        layers = self._image_facts.get("GraphDriver", {}).get("Data") or {}
        found = [Path(path) for key in ("UpperDir", "LowerDir") for path in (layers.get(key) or "").split(":") if path]
        return found if found and all(path.is_dir() for path in found) else None

    def find_gpus(self) -> tuple[Gpus, tuple[str, ...]]:
        """GPUs and their device nodes, as a container that asks for all of them sees them. The harness's own has none,
        so that it starts on any machine.
        """
        config = self._client.api.create_host_config(
            network_mode="none",
            pid_mode="host",  # who uses a GPU is told by the host's process ids
            read_only=True,
            cap_drop=["ALL"],
            device_requests=[DeviceRequest(count=-1, capabilities=[["gpu", "utility"]])],
        )
        labels = {LABEL: f"{os.getpid()}-{start_time(os.getpid())}", **self._no_project}
        command = [PYTHON, "-m", "harness.gpus"]
        container = None
        try:
            container = self._client.api.create_container(
                self.image, command, entrypoint=[], user="0", host_config=config, labels=labels
            )
            self._client.api.start(container)
            code = self._client.api.wait(container)["StatusCode"]
            said = self._client.api.logs(container).decode(errors="replace").strip()
            if code != 0:
                return Gpus(absent=said[-300:]), ()
            return read_gpus(said)
        except DockerException as error:
            return Gpus(absent=f"Docker has none to give ({_reason(error)})"), ()
        finally:
            if container:
                with contextlib.suppress(DockerException):  # then the next start removes it
                    self._client.api.remove_container(container, force=True, v=True)

    def check_paths(self, paths: Sequence[Path]) -> None:
        for path in paths:
            self._paths.find(path)

    def reap(self) -> list[str]:
        """Remove the containers of harnesses that are gone."""
        found = []
        try:
            ours = self._client.api.containers(all=True, filters={"label": LABEL})
        except DockerException as error:
            raise EnvironmentMissing(f"the Docker engine does not list its containers: {_reason(error)}") from None
        for container in ours:
            pid, started = map(int, container["Labels"][LABEL].split("-"))
            if is_running(pid, started):
                continue
            with contextlib.suppress(DockerException):  # another start of the harness was faster
                self._client.api.remove_container(container["Id"], force=True, v=True)
                found.append(f"removed container {container['Id'][:12]}, left behind by harness process {pid}")
        return found

    def start(self, spec: SandboxSpec) -> DockerRun:
        uid = unused_uid()
        try:
            container = self._client.api.create_container(
                self.image,
                command=self._command(spec),
                entrypoint=[],
                user=f"{uid}:{uid}",
                hostname="sandbox",
                working_dir=spec.working_directory,
                stdin_open=True,
                labels={
                    LABEL: f"{os.getpid()}-{start_time(os.getpid())}",
                    "parameter-golf.phase": spec.label,
                    **self._no_project,
                },
                host_config=self._host_config(spec, uid),
            )
        except DockerException as error:
            raise RefereeError(f"sandbox for {spec.label}: {_reason(error)}") from None
        run = DockerRun(self._client, container["Id"])
        try:
            run.build(spec, uid)
        except DockerException as error:
            run.close()
            raise RefereeError(f"sandbox for {spec.label}: {_reason(error)}") from None
        except BaseException:
            run.close()
            raise
        return run

    def _command(self, spec: SandboxSpec) -> list[str]:
        program = PYTHON if spec.command[0] == "python" else spec.command[0]
        plan = {
            "command": [program, *spec.command[1:]],
            "environment": {**self.environment(), **spec.environment},
            "seccomp": filter_program().hex(),
        }
        return [PYTHON, "-I", "-S", "-c", INIT.read_text(), json.dumps(plan)]

    def _host_config(self, spec: SandboxSpec, uid: int) -> dict:
        limits = spec.limits
        inputs = [mount for mount in spec.mounts if not mount.device]
        tmpfs = {
            "/tmp": f"rw,exec,nosuid,nodev,mode=1777,size={limits.scratch_bytes}",
            "/out": f"rw,exec,nosuid,nodev,mode=0755,uid={uid},gid={uid},size={limits.output_bytes},"
            f"nr_inodes={limits.output_files}",
            "/dev/mqueue": "ro,nosuid,nodev,noexec,size=4k",  # covers the message queues, which would be writable
            PROJECT: "ro,nosuid,nodev,noexec,size=4k",
        }
        if not spec.gpus:  # NCCL reads there how GPUs are connected
            tmpfs["/sys"] = "ro,nosuid,nodev,noexec,size=4k"
        config = self._client.api.create_host_config(
            network_mode="none",
            ipc_mode="private",
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            mounts=[
                Mount(mount.target, self._paths.find(mount.source), type="bind", read_only=True) for mount in inputs
            ],
            tmpfs=tmpfs,
            shm_size=limits.shared_memory_bytes,
            mem_limit=limits.memory_bytes,
            memswap_limit=limits.memory_bytes,
            pids_limit=limits.processes,
            cpu_shares=CPU_SHARES,
            cpuset_cpus=",".join(map(str, sorted(os.sched_getaffinity(0)))),
            ulimits=[
                Ulimit(name=name, soft=value, hard=value)
                for name, value in (
                    ("core", 1),  # byte: no file, and unlike 0 no pipe to a program of the host either (core(5))
                    ("nofile", limits.open_files),
                    ("fsize", limits.output_bytes),
                    ("nproc", limits.processes),
                )
            ],
            sysctls={"net.ipv6.conf.all.disable_ipv6": "0"},  # otherwise the kernel does not count its attempts
            log_config=LogConfig(type="none"),
            device_requests=[DeviceRequest(count=-1, capabilities=[["gpu"]])] if spec.gpus else None,
        )
        config["CgroupnsMode"] = "private"
        return config


class DockerRun:
    """A running container (see `harness.sandbox.RunningSandbox`).

    Two threads: one copies what the container prints to a pipe, and takes init's word of the command's exit code; one
    waits for the end of the command and of init, and stamps both."""

    walls: Walls

    def __init__(self, client: docker.DockerClient, container: str) -> None:
        self._client = client
        self._container = container
        self._stream: socket.SocketIO | None = None
        self._init_descriptor = -1
        self._command_descriptor = -1
        self._counters: list[int] = []
        self._events: queue.SimpleQueue[SandboxEvent | str] = queue.SimpleQueue()
        self._waiting = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
        self._exit_code: int | None = None
        self._told = threading.Event()  # the exit code is known, or will never be
        self._peak: int | None = None
        self._threads: list[threading.Thread] = []
        self._killed_at: float | None = None
        self._empty = False
        self._closed = False
        self.log_descriptor, self._log_write = os.pipe()
        self.out_descriptor = -1

    def fileno(self) -> int:
        return self._waiting

    def build(self, spec: SandboxSpec, uid: int) -> None:
        """Start the container and compare what the kernel shows with what was asked for; raises RefereeError."""
        parameters = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        self._stream = self._client.api.attach_socket(self._container, parameters)
        self._client.api.start(self._container)
        state = self._client.api.inspect_container(self._container)["State"]
        init = state["Pid"]
        if not init:
            raise RefereeError(f"sandbox for {spec.label}: its init ended at once{self._excerpt()}")
        self._init_descriptor = os.pidfd_open(init)
        command = self._wait_for_command(spec, init)
        self._command_descriptor = os.pidfd_open(command)
        # These files belong to the network namespace and can still be read after its last process is gone.
        self._counters = [os.open(f"/proc/{init}/net/{name}", os.O_RDONLY) for name in ("snmp", "snmp6")]
        self.out_descriptor = os.open(f"/proc/{init}/root/out", os.O_RDONLY | os.O_DIRECTORY)
        mounts = read_mounts(init)
        table = {target: mode for target, mode, _ in mounts}
        if wrong := wrong_mounts(spec, table):
            raise RefereeError(f"sandbox for {spec.label}: its mount table is not the one asked for; wrong: {wrong}")
        ours = [kind for kind in NAMESPACES if namespace_of(init, kind) == namespace_of(os.getpid(), kind)]
        if ours:
            raise RefereeError(f"sandbox for {spec.label}: it has the harness's {', '.join(ours)} namespace")
        if _uid_of(init) != uid:
            raise RefereeError(f"sandbox for {spec.label}: it runs under uid {_uid_of(init)}, asked for was {uid}")
        host = {device for _, _, device in read_mounts(os.getpid())}
        # Made for each container: its overlay, the engine's files, its part of each hierarchy of control groups.
        own = {mount.target for mount in spec.mounts} | ENGINE_MOUNTS | {"/"}
        own |= {target for target in table if target.startswith("/sys/fs/cgroup/")}
        self.walls = Walls(
            init_pid=init,
            pid_namespace=namespace_of(init, "pid"),
            uid=uid,
            mounts=tuple(sorted(table.items())),
            limited=tuple(sorted(limited(init, spec))),
            shared=tuple(
                sorted(
                    {target for target, _, device in mounts if device in host and target not in own}
                    | {f"namespace {kind}" for kind in DockerSandbox.shared_namespaces}
                )
            ),
        )
        self._threads = [
            threading.Thread(target=self._copy, name="container log", daemon=True),
            threading.Thread(target=self._watch, name="container end", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _wait_for_command(self, spec: SandboxSpec, init: int) -> int:
        """Id of init's one child, which waits to become the command."""
        deadline = time.monotonic() + BUILD_SECONDS
        while time.monotonic() < deadline:
            if select.select([self._init_descriptor], [], [], 0.002)[0]:
                break
            try:
                if children := children_of(init):
                    return children[0]
            except OSError:
                break
        raise RefereeError(f"sandbox for {spec.label}: its init did not start{self._excerpt()}")

    def _excerpt(self) -> str:
        """What was printed so far, for an error message."""
        with contextlib.suppress(DockerException, OSError):
            if select.select([self._stream.fileno()], [], [], 0.5)[0]:
                data = os.read(self._stream.fileno(), 2000)
                return " | " + data[8:].decode(errors="replace").strip().replace("\n", " | ")
        return ""

    def _check_that_it_waits(self) -> None:
        """Raise RefereeError if the command runs already: then init is not what it should be."""
        init = self.walls.init_pid
        children = children_of(init)
        lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (init, *children)]
        if len(lines) != 2 or lines[0] != lines[1]:
            raise RefereeError("the command of a sandbox was started before the walls were checked")

    def launch(self) -> float:
        try:
            self._check_that_it_waits()
            at = time.monotonic()
            os.write(self._stream.fileno(), b"x")
        except OSError as error:
            raise RefereeError(f"sandbox did not launch: {error}") from None
        return at

    def event(self) -> SandboxEvent | None:
        if self._empty:
            return None
        try:
            os.eventfd_read(self._waiting)
        except BlockingIOError:
            if self._killed_at and time.monotonic() > self._killed_at + EMPTY_SECONDS:
                raise RefereeError(not_clean(self.walls, EMPTY_SECONDS)) from None
            return None
        event = self._events.get()
        if isinstance(event, str):
            raise RefereeError(f"sandbox: {event}")
        self._empty = event.kind == "empty"
        return event

    def confinement(self) -> Confinement | None:
        init = self.walls.init_pid
        try:
            children = children_of(init)
            if not children:
                return None
            before = Path(f"/proc/{init}/cmdline").read_bytes()
            if Path(f"/proc/{children[0]}/cmdline").read_bytes() == before:  # about to become the command
                return None
            filters = [_status(pid, "Seccomp_filters") for pid in (init, children[0])]
        except OSError:
            return None
        found = confinement_of(children[0])
        if found and int(filters[1] or 0) < int(filters[0] or 0) + 1:
            raise RefereeError("the command of a sandbox runs without the harness's seccomp filter")
        return found

    def peak_memory_bytes(self) -> int | None:
        return self._peak

    def kill(self) -> None:
        if self._init_descriptor >= 0 and not self._empty:
            self._killed_at = self._killed_at or time.monotonic()
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                signal.pidfd_send_signal(self._init_descriptor, signal.SIGKILL)

    def network_attempts(self) -> int:
        return sum(out_no_routes(os.pread(descriptor, 1 << 16, 0).decode()) for descriptor in self._counters)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.kill()
        if self._init_descriptor >= 0:
            patience = (self._killed_at or time.monotonic()) + EMPTY_SECONDS - time.monotonic()
            if not select.select([self._init_descriptor], [], [], max(0.0, patience))[0]:
                raise RefereeError(not_clean(self.walls, EMPTY_SECONDS))
        try:
            self._client.api.remove_container(self._container, force=True, v=True)
        except DockerException as error:
            raise RefereeError(f"a container could not be removed: {_reason(error)}") from None
        finally:
            os.close(self.log_descriptor)  # a thread that still copies there ends with an error
            self.log_descriptor = -1
            for thread in self._threads:
                thread.join()
            if not self._threads:
                os.close(self._log_write)
            if self._stream:
                self._stream.close()
            descriptors = (self._init_descriptor, self._command_descriptor, self.out_descriptor, self._waiting)
            for descriptor in (*descriptors, *self._counters):
                if descriptor >= 0:
                    os.close(descriptor)

    def _tell(self, event: SandboxEvent | str) -> None:
        self._events.put(event)
        os.eventfd_write(self._waiting, 1)

    def _copy(self) -> None:
        """In a thread: what the command prints (the engine's stream 1) to the log, init's word (stream 2) to us."""
        descriptor, said = self._stream.fileno(), b""
        try:
            while True:
                kind, size = struct.unpack(">B3xI", self._read(descriptor, 8))
                data = self._read(descriptor, size)
                if kind != 2:
                    os.write(self._log_write, data)
                    continue
                said += data
                if found := re.fullmatch(rb"exited (\d+)\n", said):
                    self._exit_code = int(found[1])
                    self._told.set()
        except (OSError, EOFError):  # the end of the stream, or nobody reads the log any more
            pass
        finally:
            self._told.set()
            os.close(self._log_write)

    @staticmethod
    def _read(descriptor: int, size: int) -> bytes:
        """Exactly `size` bytes; raises EOFError at the end."""
        data = b""
        while len(data) < size:
            select.select([descriptor], [], [])
            piece = os.read(descriptor, size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def _watch(self) -> None:
        """In a thread: stamp the end of the command and of the container."""
        poll = select.poll()
        poll.register(self._init_descriptor, select.POLLIN)
        poll.register(self._command_descriptor, select.POLLIN)
        exited_at: float | None = None
        exit_told = False
        self._peak = _memory_peak(self.walls.init_pid)  # of a command that ends before the next look, what there is
        while True:
            ready = {descriptor for descriptor, _ in poll.poll(SAMPLE_SECONDS * 1000)}
            now = time.monotonic()
            self._peak = max(filter(None, (self._peak, _memory_peak(self.walls.init_pid))), default=None)
            if self._command_descriptor in ready:
                exited_at = now
                poll.unregister(self._command_descriptor)
            if self._init_descriptor in ready:
                break
            if exited_at and not exit_told:
                self._told.wait(SAMPLE_SECONDS)
                if self._exit_code is not None:
                    exit_told = True
                    self._tell(SandboxEvent("exited", exited_at, self._exit_code))
        if not exit_told:
            self._told.wait(EMPTY_SECONDS)  # the stream ends with the container
            code = self._exit_code if self._exit_code is not None else self._end_without_word()
            if code != KILLED and self._exit_code is None:
                self._tell(f"init ended without a word of the command's exit code; the engine says of it: {code}")
                return
            self._tell(SandboxEvent("exited", exited_at or now, code))
        self._tell(SandboxEvent("empty", now))

    def _end_without_word(self) -> int | str:
        """KILLED if init was killed, by the harness or by the kernel for its memory: nothing else can. Otherwise the
        engine has let go of the container, and this is what it says.
        """
        try:
            return self._client.api.wait(self._container, timeout=EMPTY_SECONDS)["StatusCode"]
        except (DockerException, OSError) as error:
            return _reason(error)


def wrong_mounts(spec: SandboxSpec, table: dict[str, str]) -> list[tuple[str, str]]:
    """What of a container's mount table (mount point -> "ro" or "rw") should not be, or is missing."""
    asked = {
        "/": "ro",
        "/tmp": "rw",
        "/out": "rw",
        "/dev/shm": "rw",
        "/dev/mqueue": "ro",
        PROJECT: "ro",
        **{mount.target: "ro" for mount in spec.mounts if not mount.device},
    }
    if not spec.gpus:
        asked["/sys"] = "ro"
    wrong = [(target, f"{mode} is missing") for target, mode in asked.items() if table.get(target) != mode]
    for target, mode in table.items():
        if target in asked or (spec.gpus and GPU_MOUNTS.match(target)):
            continue
        in_kernel_views = target.startswith(("/proc/", "/sys/"))
        may_write = target in WRITABLE_ENGINE_MOUNTS or target.startswith("/proc/")
        if (target not in ENGINE_MOUNTS and not in_kernel_views) or (mode == "rw" and not may_write):
            wrong.append((target, mode))
    return sorted(wrong)


def _status(pid: int, name: str) -> str | None:
    """A field of /proc/PID/status; raises OSError if the process is gone."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return line.partition(":")[2].strip()
    return None


def _uid_of(pid: int) -> int:
    return int((_status(pid, "Uid") or "-1").split()[0])


def _cgroup_file(pid: int, controller: str, version_2: str, version_1: str) -> Path | None:
    """A file of the control group that process `pid` is in, where the harness can see it."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if path == "/":  # a process that has ended is back in the root
            continue
        if controller in controllers.split(","):
            file = Path(f"/sys/fs/cgroup/{controller}{path}/{version_1}")
        elif not controllers:
            file = Path(f"/sys/fs/cgroup{path}/{version_2}")
        else:
            continue
        if file.exists():
            return file
    return None


def _memory_peak(pid: int) -> int | None:
    file = _cgroup_file(pid, "memory", "memory.peak", "memory.max_usage_in_bytes")
    try:
        return int(file.read_text()) if file else None
    except (OSError, ValueError):  # it has just been removed
        return None


def limited(pid: int, spec: SandboxSpec) -> list[str]:
    """Which of "cpuset", "memory" and "pids" the control group of `pid` limits as asked, read from the kernel."""
    found, page = [], os.sysconf("SC_PAGE_SIZE")
    wanted = {
        "memory": (("memory.max", "memory.limit_in_bytes"), spec.limits.memory_bytes),
        "pids": (("pids.max", "pids.max"), spec.limits.processes),
    }
    for controller, (names, value) in wanted.items():
        file = _cgroup_file(pid, controller, *names)
        if file and file.read_text().strip() == str(value // page * page if controller == "memory" else value):
            found.append(controller)
    processors = _cgroup_file(pid, "cpuset", "cpuset.cpus", "cpuset.cpus")
    if processors and os.sched_getaffinity(pid) <= os.sched_getaffinity(0):
        found.append("cpuset")
    return found
