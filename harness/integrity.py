"""What the access monitor cannot see, checked around each phase: shards that were changed without an open, that
somebody held open before they were gated, that lie where a gate does not hold, or somewhere else a second time.

A seal is what `lstat` says about a shard right after it was verified. The kernel sets ctime on every write, truncation,
link, rename and change of mode, and no call sets it back, so that comparing seals is cheap and strong. What it leaves
out (stores through a mapping that was writable before, a write in the same tick, a clock set back by root) is left to
`in_use` before the phases and to `rehash` after them. Nothing here sees writes to the disk below the file system."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import stat
import subprocess
import time
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.data.manifest import FileFacts, sha256_of
from harness.errors import InputError, RefereeError
from harness.policy import Identity

LEASE_PATIENCE_SECONDS = 0.5  # for who has a file open for an instant, such as a listener that was just asked about it

# Local file systems, where every way to a file leads to the one inode that is marked. Not a list of bad ones, so that
# an unknown kind is no place for shards.
LOCAL_FILESYSTEMS = frozenset({"btrfs", "ext2", "ext3", "ext4", "f2fs", "tmpfs", "xfs", "zfs"})
LAYERED_FILESYSTEMS = frozenset({"aufs", "ecryptfs", "overlay", "unionfs"})

_MAPPED_INODE = re.compile(rb":[0-9a-f]+ ([1-9][0-9]*) ")
_MAPPING = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ [0-9a-f]+:[0-9a-f]+ ([1-9][0-9]*) ", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Seal:
    """A shard as `lstat` saw it."""

    path: Path
    device: int
    inode: int
    size: int  # bytes
    links: int
    modified_ns: int
    changed_ns: int  # ctime

    @property
    def identity(self) -> Identity:
        return Identity(self.device, self.inode)


@dataclass(frozen=True)
class Holder:
    """A process that can read a file without opening it."""

    pid: int
    command: str  # chosen by the process itself; for people only
    file: Identity
    how: Literal["open", "mapped"]


def snapshot(facts: Sequence[FileFacts]) -> tuple[Seal, ...]:
    """Seal files that have just been verified. Raises RefereeError if one is no longer the file that was verified."""
    seals = []
    for file in facts:
        seal = _look(file.path.absolute())
        if (seal.device, seal.inode, seal.size) != (file.device, file.inode, file.size):
            raise RefereeError(f"{file.path} was replaced by another file after it had been checked")
        seals.append(seal)
    return tuple(seals)


def recheck(seals: Iterable[Seal]) -> None:
    """Look at every sealed file again, without opening it. Raises RefereeError on the first that is not as it was, with
    what happened to it.
    """
    for seal in seals:
        now = _look(seal.path)
        if now == seal:
            continue
        if now.identity != seal.identity:
            what = "was replaced by another file"
        elif now.size != seal.size:
            what = f"was {'truncated' if now.size < seal.size else 'extended'}: {seal.size} bytes, now {now.size}"
        elif now.links != seal.links:
            what = f"was {'unlinked' if now.links < seal.links else 'linked'}: {seal.links} names, now {now.links}"
        elif now.modified_ns != seal.modified_ns:
            what = "was written to"
        else:
            what = "was touched: its mode, its owner or a name of it, or its contents with the time set back"
        raise RefereeError(f"{seal.path} {what}, after it had been checked; let nothing write to the data during a run")


def rehash(seals: Sequence[Seal], sha256s: Sequence[str]) -> None:
    """Read every sealed file and compare it with its hash, the one at the same place of `sha256s`.

    Raises RefereeError that names the first file that differs or cannot be read."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # hashing does not hold the interpreter's lock
        hashes = pool.map(sha256_of, [seal.path for seal in seals])
        try:
            for seal, expected, found in zip(seals, sha256s, hashes, strict=True):
                if found != expected:
                    raise RefereeError(f"{seal.path} was changed during the run: sha256 was {expected}, now {found}")
        except InputError as error:
            raise RefereeError(f"a shard cannot be read any more: {error}") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def holders(identities: Collection[Identity], ignore_pids: Container[int]) -> list[Holder]:
    """The processes that have one of the files open or mapped, except `ignore_pids`; complete only for root.

    A descriptor opened with O_PATH does not count: to read, it must be opened again, and the gate asks then. What /proc
    does not show under a process's own number (a thread with descriptors of its own, a descriptor in flight between two
    processes or registered with io_uring, a loop device) is found by `in_use`, without a name."""
    wanted = frozenset(identities)
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in ignore_pids:
            process = f"/proc/{name}"
            for how, files in (("open", _open_files(process, wanted)), ("mapped", _mapped_files(process, wanted))):
                held = sorted(wanted.intersection(files))
                found += [Holder(int(name), _command(process), file, how) for file in held]
    return found


def in_use(seals: Iterable[Seal], patience_seconds: float = LEASE_PATIENCE_SECONDS) -> list[Path]:
    """The sealed files that anything on the machine holds open or mapped, as the kernel counts it; it does not say who.

    The kernel (5.4 or newer) grants a write lease only to who alone has the file open, through whatever mount, overlay
    or container. The lease is returned at once; whoever opens the file in between (microseconds) waits, or with
    O_NONBLOCK gets EAGAIN. Opens every file once, so a gate on it asks; who looks in the same way at the same time is
    a holder.
    Raises RefereeError if a file cannot be opened or its file system has no leases."""
    deadline = time.monotonic() + patience_seconds
    return [seal.path for seal in seals if not _leased(seal.path, deadline)]


def filesystem_fault(path: Path) -> str | None:
    """Why files at `path` cannot be gated, as a sentence; None if they can. Raises InputError if there is no `path`."""
    kind, mount_point = _filesystem(path)
    if kind in LOCAL_FILESYSTEMS:
        return None
    if kind in LAYERED_FILESYSTEMS:
        why = "a file can also be opened in the layer below, unseen"
    else:
        why = "this kernel may not see every way to a file, as it does on a local disk"
    return f"{path} lies on {kind} (mounted on {mount_point}), where {why}; move the data to a local disk"


def copies(visible: Iterable[Path], shards: Sequence[FileFacts], skip: Collection[Path] = ()) -> list[Path]:
    """The regular files in the files and directories `visible` that hold what a shard holds, byte for byte, or are one
    under another name. No links are followed. `skip`: files and directories that do not count.

    Raises RefereeError if a part of `visible` cannot be looked through, InputError if a file is exchanged under it."""
    hashes = {shard.sha256 for shard in shards}
    identities = {Identity(shard.device, shard.inode) for shard in shards}
    skipped = [path.resolve() for path in skip]
    found = []
    for path in _files_of_size(_roots(visible), {shard.size for shard in shards}):
        if any(path.is_relative_to(other) for other in skipped):
            continue
        status = os.lstat(path)
        if Identity(status.st_dev, status.st_ino) in identities or sha256_of(path) in hashes:
            found.append(path)
    return sorted(found)


def _look(path: Path) -> Seal:
    try:
        status = os.lstat(path)
    except OSError as error:
        raise RefereeError(f"{path} is gone after it had been checked: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise RefereeError(f"{path} was replaced by something that is no regular file, after it had been checked")
    return Seal(
        path=path,
        device=status.st_dev,
        inode=status.st_ino,
        size=status.st_size,
        links=status.st_nlink,
        modified_ns=status.st_mtime_ns,
        changed_ns=status.st_ctime_ns,
    )


def _open_files(process: str, wanted: Collection[Identity]) -> Iterator[Identity]:
    """Which of the wanted files a process has open otherwise than with O_PATH; none if it is gone."""
    with contextlib.suppress(OSError):
        for descriptor in os.listdir(f"{process}/fd"):
            with contextlib.suppress(OSError):  # closed just now
                status = os.stat(f"{process}/fd/{descriptor}")
                file = Identity(status.st_dev, status.st_ino)
                if file in wanted and not _is_o_path(f"{process}/fdinfo/{descriptor}"):
                    yield file


def _is_o_path(descriptor_facts: str) -> bool:
    with open(descriptor_facts, "rb") as file:
        return bool(int(re.search(rb"^flags:\s*([0-7]+)$", file.read(), re.MULTILINE)[1], 8) & os.O_PATH)


def _mapped_files(process: str, wanted: Collection[Identity]) -> Iterator[Identity]:
    """Which of the wanted files a process has mapped; none if it is gone.

    /proc/PID/maps gives the file system's own device number, which on btrfs is not what stat says, so what has the
    right inode number is looked at through /proc/PID/map_files, where addresses have no leading zeros."""
    with contextlib.suppress(OSError), open(f"{process}/maps", "rb") as file:
        maps = file.read()
        inodes = {b"%d" % file.inode for file in wanted}
        if inodes.isdisjoint(_MAPPED_INODE.findall(maps)):  # the quick look, as there are thousands of lines
            return
        for start, end, inode in _MAPPING.findall(maps):
            if inode in inodes:
                with contextlib.suppress(OSError):  # unmapped just now, or this is not root
                    status = os.stat(f"{process}/map_files/{int(start, 16):x}-{int(end, 16):x}")
                    yield Identity(status.st_dev, status.st_ino)


def _command(process: str) -> str:
    try:
        with open(f"{process}/comm", errors="backslashreplace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""


def _leased(path: Path, deadline: float) -> bool:
    """Whether the kernel grants a write lease on the file until `deadline` (monotonic), that is, nobody else has it
    open.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise RefereeError(f"cannot open {path}: {error.strerror}") from None
    try:
        # Who opens the file now makes the kernel signal us; SIGIO would end the harness, SIGURG does nothing.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        while True:
            try:
                fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.005)
            else:
                return True
    except OSError as error:
        raise RefereeError(f"cannot find out whether anybody has {path} open: {error.strerror}") from None
    finally:
        os.close(descriptor)  # and with it the lease


def _filesystem(path: Path) -> tuple[str, str]:
    """Type and mount point of the mount that `path` is reached through, by the mount's id: a prefix of the path can be
    mounted over.
    """
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)  # opens nothing in the gate's sense
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    try:
        facts = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
    finally:
        os.close(descriptor)
    mount_id = re.search(r"^mnt_id:\s*(\d+)$", facts, re.MULTILINE)[1]
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        mount, _, filesystem = line.decode(errors="backslashreplace").partition(" - ")
        fields = mount.split(" ")
        if fields[0] == mount_id:
            return filesystem.split(" ")[0], fields[4]
    raise RefereeError(f"{path}: the mount that it lies on is not in /proc/self/mountinfo")


def _roots(paths: Iterable[Path]) -> list[Path]:
    """The paths, without links, none inside another."""
    roots: list[Path] = []
    for path in sorted({path.resolve() for path in paths}):  # a directory comes before what is in it
        if not any(path.is_relative_to(root) for root in roots):
            roots.append(path)
    return roots


def _files_of_size(roots: Sequence[Path], sizes: Collection[int]) -> list[Path]:
    """The regular files of these sizes (bytes) under `roots`, found by find(1), one for each root side by side.

    220,000 files take it 0.4 s where os.scandir takes 1.2 s. What the harness's user may not read is left out."""
    if not sizes or not roots:
        return []
    tests = [word for size in sorted(sizes) for word in ("-o", "-size", f"{size}c")][1:]

    def find(root: Path) -> list[Path]:
        command = ["find", root, "-ignore_readdir_race", "-type", "f", "(", *tests, ")", "-readable", "-print0"]
        try:
            done = subprocess.run(command, capture_output=True, env={**os.environ, "LC_ALL": "C"})
        except OSError as error:
            raise RefereeError(f"cannot run find (package findutils): {error.strerror}") from None
        complaints = [line for line in done.stderr.splitlines() if not line.endswith(b": Permission denied")]
        if complaints:
            text = complaints[0].decode(errors="backslashreplace")
            raise RefereeError(f"cannot look through what a sandbox can see: {text}")
        return [Path(os.fsdecode(name)) for name in done.stdout.split(b"\0") if name]

    with ThreadPoolExecutor(len(roots)) as pool:
        return [path for found in pool.map(find, roots) for path in found]
