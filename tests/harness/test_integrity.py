"""A shard that was changed, exchanged, held, copied or badly placed is found, though no open tells of it; and what
honest neighbours do is not.

Every fault is made for real, on files in temporary directories."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import TESTS

from harness.data.manifest import FileFacts
from harness.errors import InputError, RefereeError
from harness.integrity import Holder, copies, filesystem_fault, holders, in_use, recheck, rehash, snapshot
from harness.policy import Identity

CONTENT = b"tokens" * 1000


def facts_of(path: Path) -> FileFacts:
    """What `verify` would return for the file."""
    status, data = path.stat(), path.read_bytes()
    return FileFacts(
        role="val",
        path=path,
        device=status.st_dev,
        inode=status.st_ino,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def identity_of(path: Path) -> Identity:
    return Identity(path.stat().st_dev, path.stat().st_ino)


@pytest.fixture
def shards(tmp_path) -> list[Path]:
    """Two files of the same size; the faults happen to the second."""
    paths = [tmp_path / "shard-0.bin", tmp_path / "shard-1.bin"]
    paths[0].write_bytes(CONTENT[::-1])
    paths[1].write_bytes(CONTENT)
    return paths


@pytest.fixture
def shard(shards) -> Path:
    return shards[1]


# Seals


def replace_with_same_content(path: Path) -> None:
    shutil.copy2(path, path.with_name("new"))
    path.with_name("new").rename(path)


def replace_with_link(path: Path) -> None:
    moved = path.rename(path.with_name("moved"))
    path.symlink_to(moved)


def write_with_time_restored(path: Path) -> None:
    status = path.stat()
    path.write_bytes(b"TOKENS" * 1000)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def link_and_unlink(path: Path) -> None:
    path.with_name("link").hardlink_to(path)
    path.with_name("link").unlink()


def rename_and_back(path: Path) -> None:
    path.rename(path.with_name("moved")).rename(path)


FAULTS: list[tuple[Callable[[Path], object], str]] = [
    (replace_with_same_content, "was replaced by another file"),
    (replace_with_link, "was replaced by something that is no regular file"),
    (Path.unlink, "is gone"),
    (lambda path: os.truncate(path, 100), "was truncated: 6000 bytes, now 100"),
    (lambda path: os.truncate(path, 7000), "was extended: 6000 bytes, now 7000"),
    (lambda path: path.write_bytes(CONTENT), "was written to"),
    (lambda path: path.with_name("link").hardlink_to(path), "was linked: 1 names, now 2"),
    (lambda path: path.chmod(0o600), "was touched"),
    (lambda path: os.setxattr(path, "user.note", b"1"), "was touched"),
    (write_with_time_restored, "was touched"),
    (link_and_unlink, "was touched"),
    (rename_and_back, "was touched"),
]


@pytest.mark.parametrize(("fault", "text"), FAULTS, ids=[text.split(":")[0] for _, text in FAULTS])
def test_a_shard_that_is_not_as_it_was_is_named_with_what_happened(shards, fault, text):
    seals = snapshot([facts_of(path) for path in shards])
    time.sleep(0.01)  # before Linux 6.13 ctime moves with the timer's tick
    fault(shards[1])
    with pytest.raises(RefereeError, match=f"{shards[1]} {text}"):
        recheck(seals)


def test_reading_mapping_and_neighbours_do_not_break_a_seal(shards):
    seals = snapshot([facts_of(path) for path in shards])
    time.sleep(0.01)
    with shards[1].open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        assert mapping[:] == CONTENT
    shards[1].with_name("neighbour").write_bytes(CONTENT)
    recheck(seals)
    rehash(seals, [facts_of(path).sha256 for path in shards])


def test_rechecking_opens_nothing(shard):
    """A gate would ask about an open, and its listeners would have it among the evidence."""
    program = """
        import os, sys
        from pathlib import Path
        from harness.integrity import _look, recheck
        seals = [_look(Path(sys.argv[1]))]
        sys.addaudithook(lambda event, arguments: event == "open" and os._exit(7))
        recheck(seals)
        os._exit(0)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(shard)]
    assert subprocess.run(command, cwd=TESTS.parent).returncode == 0


def test_a_shard_that_was_exchanged_after_it_was_verified_is_not_sealed(shard):
    facts = facts_of(shard)
    replace_with_same_content(shard)
    with pytest.raises(RefereeError, match="replaced by another file"):
        snapshot([facts])


def test_a_store_through_an_old_mapping_moves_no_time_but_changes_the_hash(shards):
    with shards[1].open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[0] = mapping[0]  # from here on the page is writable, and the kernel sees no further store
        facts = [facts_of(path) for path in shards]
        seals = snapshot(facts)
        mapping[0] = ord("T")
        recheck(seals)
        with pytest.raises(
            RefereeError, match=rf"{shards[1]} was changed during the run: sha256 was {facts[1].sha256}"
        ):
            rehash(seals, [file.sha256 for file in facts])


def test_a_shard_that_cannot_be_read_any_more_is_the_referees_fault(shard):
    facts = facts_of(shard)
    seals = snapshot([facts])
    shard.unlink()
    with pytest.raises(RefereeError, match=str(shard)):
        rehash(seals, [facts.sha256])


# Who holds a shard


@contextlib.contextmanager
def other_process(program: str, path: Path) -> Iterator[int]:
    """The pid of a process that has executed `program`, with the file's path as `path`, and now waits."""
    lines = ["import mmap, os, socket, sys", "path = sys.argv[1]", program, "print(flush=True)", "input()"]
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "\n".join(lines), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


OPEN = "fd = os.open(path, os.O_RDONLY)"
MAP = f"{OPEN}; mapping = mmap.mmap(fd, 0, prot=mmap.PROT_READ); os.closerange(3, 100)"  # mmap keeps a duplicate
MAP_LOW = f"""
import ctypes
{OPEN}
libc = ctypes.CDLL(None)
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.mmap.restype = ctypes.c_void_p
assert libc.mmap(0x1000000, 4096, mmap.PROT_READ, mmap.MAP_PRIVATE, fd, 0) == 0x1000000
os.close(fd)
"""
ONLY_O_PATH = "fd = os.open(path, os.O_PATH)"
IN_FLIGHT = f"{OPEN}; a, b = socket.socketpair(); socket.send_fds(a, [b'x'], [fd]); os.close(fd)"


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root is shown what others have mapped")


@pytest.mark.parametrize(
    ("program", "how"),
    [
        pytest.param(OPEN, "open", id="open"),
        pytest.param(MAP, "mapped", id="mapped", marks=needs_root),
        pytest.param(MAP_LOW, "mapped", id="low", marks=needs_root),
    ],
)
def test_a_process_that_holds_a_shard_is_named(shards, program, how):
    files = {identity_of(path) for path in shards}
    seals = snapshot([facts_of(path) for path in shards])
    with other_process(program, shards[1]) as pid:
        command = Path(f"/proc/{pid}/comm").read_text().strip()
        assert holders(files, ()) == [Holder(pid, command, identity_of(shards[1]), how)]
        assert holders(files, {pid}) == []
        assert in_use(seals, 0) == [shards[1]]
    assert holders(files, ()) == []
    assert in_use(seals, 0) == []


@needs_root
def test_one_process_is_named_once_for_each_way_and_file(shard):
    with other_process(f"{OPEN}; other = os.dup(fd); mapping = mmap.mmap(fd, 0, prot=mmap.PROT_READ)", shard):
        assert [holder.how for holder in holders([identity_of(shard)], ())] == ["open", "mapped"]


def test_a_descriptor_that_reads_nothing_does_not_count(shard):
    seals = snapshot([facts_of(shard)])
    with other_process(ONLY_O_PATH, shard):
        assert holders([identity_of(shard)], ()) == []
        assert in_use(seals, 0) == []


def test_a_descriptor_on_its_way_between_processes_is_in_use_though_nobody_holds_it(shard):
    seals = snapshot([facts_of(shard)])
    with other_process(IN_FLIGHT, shard):
        assert holders([identity_of(shard)], ()) == []
        assert in_use(seals, 0) == [shard]


def test_who_has_a_shard_open_for_an_instant_is_waited_for(shard):
    seals = snapshot([facts_of(shard)])
    descriptor = os.open(shard, os.O_RDONLY)
    closing = threading.Timer(0.1, os.close, [descriptor])
    closing.start()
    try:
        assert in_use(seals, 10.0) == []
    finally:
        closing.join()


def test_who_opens_a_shard_during_the_look_gets_it_and_does_not_end_the_harness(shard):
    """A lease that is in somebody's way makes the kernel send a signal, which would end a process by default."""
    program = """
        import signal, sys
        from pathlib import Path
        from harness.integrity import in_use, _look
        seals = [_look(Path(sys.argv[1]))]
        print(flush=True)
        for _ in range(20000):
            in_use(seals, 0)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(shard)], stdout=subprocess.PIPE, cwd=TESTS.parent
    )
    with process:
        process.stdout.readline()
        while process.poll() is None:
            os.close(os.open(shard, os.O_RDONLY))
    assert process.returncode == 0


# Where shards lie


def test_shards_may_lie_where_these_tests_write_but_not_on_proc(tmp_path):
    assert filesystem_fault(tmp_path) is None
    assert "lies on proc (mounted on /proc)" in filesystem_fault(Path("/proc/self/status"))
    with pytest.raises(InputError, match="missing: No such file"):
        filesystem_fault(tmp_path / "missing")


@pytest.mark.privileged
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting an overlay needs root")
def test_an_overlay_is_no_place_for_shards_and_hides_nobody(tmp_path):
    """In a mount namespace of its own: a shard on the lower layer, seen through an overlay, and a disk over a part of
    that overlay.
    """
    script = """
        set -e
        cd "$1"; mkdir lower lower/part merged upper disk
        mount -t tmpfs none upper; mkdir upper/files upper/work
        echo tokens > lower/shard; echo tokens > disk/shard
        mount -t overlay none -o lowerdir=lower,upperdir=upper/files,workdir=upper/work merged
        mount --bind disk merged/part
        cd "$2"; exec "$3" -c "$4" "$1"
    """
    program = """
        import mmap, os, sys
        from pathlib import Path
        from harness.integrity import _look, filesystem_fault, holders, in_use
        here = Path(sys.argv[1])
        merged, lower = here / "merged/shard", here / "lower/shard"
        assert f"lies on overlay (mounted on {here / 'merged'})" in filesystem_fault(merged)
        assert "layer below" in filesystem_fault(merged)
        assert filesystem_fault(lower) is None
        assert filesystem_fault(here / "merged/part/shard") is None
        descriptor = os.open(merged, os.O_RDONLY)
        mapping = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        os.closerange(3, 100)
        # Here, as on btrfs, stat has another device number than /proc/PID/maps.
        [holder] = holders([_look(merged).identity], ())
        assert (holder.pid, holder.how) == (os.getpid(), "mapped")
        assert in_use([_look(lower)], 0) == [lower]
    """
    arguments = [str(tmp_path), str(TESTS.parent), sys.executable, textwrap.dedent(program)]
    ended = subprocess.run(
        ["unshare", "--mount", "sh", "-c", textwrap.dedent(script), "sh", *arguments], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr


# Where shards lie a second time


def test_a_copy_and_a_hard_link_are_found_whatever_they_are_called(shards, tmp_path):
    visible = tmp_path / "usr"
    (visible / "deep" / "er").mkdir(parents=True)
    named = [visible / "deep" / "er" / "libc\n.so", visible / "-name", visible / "deep" / ".hidden"]
    shutil.copy(shards[0], named[0])
    shutil.copy(shards[1], named[1])
    named[2].hardlink_to(shards[1])
    facts = [facts_of(path) for path in shards]
    assert copies([visible], facts) == sorted(named)
    assert copies([visible], facts, skip=[visible / "deep"]) == [named[1]]
    assert copies([visible, visible / "deep", named[1]], facts) == sorted(named)  # each once
    assert copies([visible], facts[:1]) == [named[0]]
    assert copies([visible], []) == []


def test_what_only_looks_like_a_shard_is_no_copy(shard, tmp_path):
    visible = tmp_path / "usr"
    visible.mkdir()
    (visible / "sparse").touch()
    os.truncate(visible / "sparse", len(CONTENT))
    (visible / "longer").write_bytes(CONTENT + b"\0")
    (visible / "link").symlink_to(shard)
    (visible / "linked-directory").symlink_to(shard.parent)
    os.mkfifo(visible / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(visible / "socket"))
    directory_sized = shard.with_name("directory-sized")
    directory_sized.write_bytes(b"\1" * visible.stat().st_size)
    (visible / "directory").mkdir()
    assert copies([visible], [facts_of(shard), facts_of(directory_sized)]) == []


def test_a_hard_link_is_known_without_reading_it(shard, tmp_path):
    """It is gated, and the harness's own opens go into the evidence."""
    visible = tmp_path / "usr"
    visible.mkdir()
    (visible / "link").hardlink_to(shard)
    facts = facts_of(shard)
    wrong_hash = FileFacts(**{**vars(facts), "sha256": "0" * 64})
    assert copies([visible], [wrong_hash]) == [visible / "link"]


def test_what_is_visible_through_a_link_is_looked_through(shard, tmp_path):
    (tmp_path / "real").mkdir()
    shutil.copy(shard, tmp_path / "real" / "copy")
    (tmp_path / "venv").symlink_to("real")
    assert copies([tmp_path / "venv"], [facts_of(shard)]) == [tmp_path / "real" / "copy"]


def test_what_cannot_be_looked_through_is_not_taken_for_clean(shard, tmp_path):
    with pytest.raises(RefereeError, match=r"cannot look through what a sandbox can see: .*missing"):
        copies([tmp_path / "missing"], [facts_of(shard)])
