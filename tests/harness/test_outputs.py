"""What a phase leaves is taken over as bytes in files of the harness's own; all but declared files is refused."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import stat
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest
from support import exchanging

from harness import outputs as outputs_module
from harness.errors import Reason, RefereeError, Violation
from harness.outputs import CHUNK, collect, remove_tree

LIMIT = 1000
DECLARED = {"one": LIMIT, "two": LIMIT}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def out(tmp_path) -> Path:
    (tmp_path / "out").mkdir()
    (tmp_path / "received").mkdir()
    (tmp_path / "out" / "one").write_bytes(b"first")
    (tmp_path / "out" / "two").write_bytes(b"second")
    return tmp_path / "out"


def take(out: Path, declared=DECLARED):
    directory = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return collect(directory, declared, out.parent / "received")
    finally:
        os.close(directory)


def refused(out: Path, declared=DECLARED) -> Violation:
    with pytest.raises(Violation) as caught:
        take(out, declared)
    return caught.value


def test_declared_files_are_copied_byte_by_byte(out: Path) -> None:
    content = os.urandom(3 * CHUNK + 17)
    (out / "one").write_bytes(content)
    (out / "two").write_bytes(b"")
    found = take(out, {"one": len(content), "two": 0})
    assert found["one"].path.read_bytes() == content
    assert (found["one"].bytes, found["one"].sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert (found["two"].bytes, found["two"].sha256) == (0, hashlib.sha256(b"").hexdigest())
    assert sorted(path.name for path in (out.parent / "received").iterdir()) == ["one", "two"]


def test_the_copy_is_the_harness_s_own(out: Path) -> None:
    """Attack X37: what still holds the original open changes nothing."""
    original = out / "one"
    os.chmod(original, 0o4777)
    os.utime(original, ns=(1, 1))
    os.setxattr(original, "user.hidden", b"payload")
    with original.open("r+b") as held:
        copy = take(out)["one"].path
        held.write(b"later")
    facts = copy.stat()
    assert copy.read_bytes() == b"first"
    assert facts.st_ino != original.stat().st_ino
    assert stat.S_IMODE(facts.st_mode) == 0o444
    assert facts.st_uid == os.geteuid()
    assert facts.st_mtime_ns != 1
    assert os.listxattr(copy) == []


@needs_root
def test_owner_capabilities_lists_and_flags_are_not_carried_over(out: Path) -> None:
    original = out / "one"
    os.chown(original, 12345, 12345)
    capability = struct.pack("<5I", 0x02000001, 1 << 21, 0, 0, 0)  # version 2, effective; CAP_SYS_ADMIN
    os.setxattr(original, "security.capability", capability)
    user, named, group, mask, other = ((tag, 7, 0xFFFFFFFF) for tag in (1, 2, 4, 16, 32))
    entries = b"".join(struct.pack("<HHI", *entry) for entry in (user, (*named[:2], 12345), group, mask, other))
    os.setxattr(original, "system.posix_acl_access", struct.pack("<I", 2) + entries)
    os.setxattr(original, "trusted.note", b"payload")
    assert len(os.listxattr(original)) == 3
    subprocess.run(["chattr", "+i", original], check=True)
    try:
        copy = take(out)["one"].path
    finally:
        subprocess.run(["chattr", "-i", original], check=True)
    assert (copy.stat().st_uid, copy.stat().st_gid, stat.S_IMODE(copy.stat().st_mode)) == (0, 0, 0o444)
    assert os.listxattr(copy) == []
    copy.unlink()  # an immutable copy could not be


def test_a_file_that_never_had_a_name_before_is_as_good_as_another(out: Path) -> None:
    (out / "two").unlink()
    unnamed, directory = os.open(out, os.O_TMPFILE | os.O_WRONLY), os.open(out, os.O_RDONLY)
    os.write(unnamed, b"second")
    os.link(f"/proc/self/fd/{unnamed}", "two", dst_dir_fd=directory, follow_symlinks=True)
    os.close(unnamed)
    os.close(directory)
    assert take(out)["two"].path.read_bytes() == b"second"


@pytest.mark.parametrize("change", [b"longer by this", b"second"], ids=["grows", "is rewritten"])
def test_a_file_that_changes_while_it_is_copied_is_the_referee_s_fault(out: Path, monkeypatch, change: bytes) -> None:
    """Nobody can be alive who writes; if somebody is, no copy may pass for what the phase left."""
    real = os.read

    def read_and_write(descriptor: int, count: int) -> bytes:
        data = real(descriptor, count)
        time.sleep(0.01)  # before Linux 6.13 times move with the timer's tick
        with (out / "two").open("r+b") as file:
            file.write(change)
        return data

    monkeypatch.setattr(outputs_module, "os", Wrapped(os, read=read_and_write))
    with pytest.raises(RefereeError, match="/out/two was written to"):
        take(out)


class Wrapped:
    """A module with some functions replaced."""

    def __init__(self, module, **replaced) -> None:
        self._module = module
        vars(self).update(replaced)

    def __getattr__(self, name: str):
        return getattr(self._module, name)


@pytest.mark.parametrize(("size", "fits"), [(LIMIT - 1, True), (LIMIT, True), (LIMIT + 1, False)])
def test_the_limit_is_exact(out: Path, size: int, fits: bool) -> None:
    (out / "two").write_bytes(b"x" * size)
    if fits:
        assert take(out)["two"].bytes == size
    else:
        assert refused(out).reason is Reason.OUTPUT_TOO_LARGE
        assert not (out.parent / "received" / "two").exists()


def test_a_hole_counts_with_its_whole_length(out: Path) -> None:
    """Attack X36: a sparse file is as long as it says, and it is refused before it is read."""
    with (out / "two").open("wb") as file:
        file.truncate(1 << 40)
    assert refused(out).reason is Reason.OUTPUT_TOO_LARGE


def test_a_hole_within_the_limit_becomes_zeros(out: Path) -> None:
    with (out / "two").open("wb") as file:
        file.truncate(LIMIT)
    copy = take(out)["two"]
    assert copy.path.read_bytes() == bytes(LIMIT)
    assert copy.sha256 == hashlib.sha256(bytes(LIMIT)).hexdigest()


@pytest.mark.parametrize("name", DECLARED)
def test_a_missing_file_is_named(out: Path, name: str) -> None:
    (out / name).unlink()
    violation = refused(out)
    assert violation.reason is Reason.OUTPUT_MISSING
    assert name in violation.text


def make_symlink(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def make_dangling_symlink(path: Path) -> None:
    path.symlink_to("/nowhere")


def make_symlink_to_sibling(path: Path) -> None:
    path.symlink_to("one")


def make_symlink_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def make_directory(path: Path) -> None:
    path.mkdir()


def make_hard_link_to_sibling(path: Path) -> None:
    os.link(path.with_name("one"), path)


def make_hard_link_to_outside(path: Path) -> None:
    outside = path.parents[1] / "outside"
    outside.write_bytes(b"bytes of somebody else")
    os.link(outside, path)


SPECIAL = [
    make_symlink,
    make_dangling_symlink,
    make_symlink_to_sibling,
    make_symlink_to_itself,
    make_fifo,
    make_socket,
    make_directory,
    make_hard_link_to_sibling,
    make_hard_link_to_outside,
]


@pytest.mark.parametrize("make", SPECIAL, ids=lambda make: make.__name__)
def test_what_is_no_regular_file_of_its_own_is_refused(out: Path, make) -> None:
    """At once, without waiting for a FIFO's other end and without following anything."""
    (out / "two").unlink()
    make(out / "two")
    caught: list[Violation] = []
    thread = threading.Thread(target=lambda: caught.append(refused(out)), daemon=True)
    thread.start()
    thread.join(10)
    assert caught, "the collection hangs"
    assert caught[0].reason is Reason.OUTPUT_NOT_REGULAR
    received = out.parent / "received"
    assert not (received / "two").exists()


@needs_root
@pytest.mark.privileged
@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
def test_a_device_node_is_refused(out: Path, kind: int) -> None:
    (out / "two").unlink()
    os.mknod(out / "two", kind | 0o666, os.makedev(1, 3) if kind == stat.S_IFCHR else os.makedev(7, 200))
    assert refused(out).reason is Reason.OUTPUT_NOT_REGULAR


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_an_unreadable_file_is_refused(out: Path) -> None:
    (out / "two").chmod(0)
    assert refused(out).reason is Reason.OUTPUT_NOT_REGULAR


@pytest.mark.parametrize(
    "name",
    [
        b"three",
        b".hidden",
        b"one.partial",
        b"ONE",
        b"one ",
        b" ",
        b"\n",
        b"\xff\xfe",
        "öne".encode(),
        b"-rf",
        b"x" * 255,
    ],
)
@pytest.mark.parametrize("make", [make_directory, make_symlink, make_fifo, Path.touch])
def test_an_undeclared_name_is_refused_whatever_it_is(out: Path, name: bytes, make) -> None:
    make(Path(os.fsdecode(os.fsencode(out) + b"/" + name)))
    violation = refused(out)
    assert violation.reason is Reason.OUTPUT_UNDECLARED
    assert violation.text.isprintable()
    assert violation.text.isascii()
    assert list((out.parent / "received").iterdir()) == []


def test_a_payload_in_thousands_of_names_is_refused_without_being_listed(out: Path, monkeypatch) -> None:
    """Attack X35: empty files whose names carry data; the listing stops at the first."""
    for number in range(10_000):
        (out / f"{number:0200d}").touch()
    looked_at = []
    real = os.scandir

    class Counting:
        def __init__(self, entries) -> None:
            self.entries = entries

        def __enter__(self):
            return self

        def __exit__(self, *_) -> None:
            self.entries.close()

        def __iter__(self):
            for entry in self.entries:
                looked_at.append(entry.name)
                yield entry

    monkeypatch.setattr(os, "scandir", lambda path: Counting(real(path)))
    assert refused(out).reason is Reason.OUTPUT_UNDECLARED
    assert len(looked_at) <= len(DECLARED) + 1
    monkeypatch.undo()


def test_nothing_may_be_left_where_nothing_is_declared(out: Path) -> None:
    assert refused(out, {}).reason is Reason.OUTPUT_UNDECLARED
    for path in out.iterdir():
        path.unlink()
    assert take(out, {}) == {}


def test_no_descriptor_stays_open(out: Path) -> None:
    before = os.listdir("/proc/self/fd")
    take(out)
    (out / "two").unlink()
    make_fifo(out / "two")
    shutil.rmtree(out.parent / "received")
    (out.parent / "received").mkdir()
    refused(out)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("other", ["link", "hard link", "folder", "larger"])
def test_a_name_exchanged_while_it_is_collected_leads_nowhere(out: Path, other: str) -> None:
    """The sandbox is empty when its outputs are collected; if it were not, this would still hold."""
    secret, beside = b"S" * LIMIT, out.parent / "beside"
    (out.parent / "secret").write_bytes(secret)
    if other == "link":
        beside.symlink_to(out.parent / "secret")
    elif other == "hard link":
        beside.hardlink_to(out.parent / "secret")
    elif other == "folder":
        beside.mkdir()
    else:
        beside.write_bytes(secret + b"S")
    outcomes = {"taken": 0, "refused": 0}
    with exchanging((out / "two", beside)):
        deadline = time.monotonic() + 20
        while min(outcomes.values()) < 3 or sum(outcomes.values()) < 200:
            assert time.monotonic() < deadline, outcomes
            try:
                found = take(out)
            except Violation as violation:
                wanted = Reason.OUTPUT_TOO_LARGE if other == "larger" else Reason.OUTPUT_NOT_REGULAR
                assert violation.reason is wanted
                outcomes["refused"] += 1
            except RefereeError as error:  # the exchange was seen by its change of the file's ctime
                assert "/out/two was written to" in str(error)
                outcomes["refused"] += 1
            else:
                assert found["two"].path.read_bytes() == b"second"
                outcomes["taken"] += 1
            for path in (out.parent / "received").iterdir():
                path.unlink()


def test_a_hostile_tree_can_be_removed(tmp_path: Path) -> None:
    """3,000 directories inside each other, which a recursive removal gives up on, and a link out of the tree."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").touch()
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "link").symlink_to(outside)
    here = os.open(tree, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    remove_tree(tree)
    assert not tree.exists()
    assert (outside / "keep").exists()
    remove_tree(tree)
