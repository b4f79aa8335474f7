"""A data directory made of published files: all of them, each checked, or one clear line and nothing under a name that
looks finished."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_hub import COMMIT, REPOSITORY, FakeHub, serve_hub
from huggingface_hub import file_download
from rich.console import Console
from support import TESTS

from harness.data import collect as collecting
from harness.data.collect import FolderOrigin, Origin, collect
from harness.data.hub import HubOrigin
from harness.data.manifest import Manifest, sha256_of, verify
from harness.data.published import Pinned
from harness.data.shards import HEADER_BYTES, read_shard, write_shard
from harness.errors import EnvironmentMissing, InputError
from harness.progress import FileProgress
from harness.referee import load_dataset
from harness.scoring.bpb import prove_text

REPOSITORY_ROOT = TESTS.parent
SHARED_DATA = REPOSITORY_ROOT / ".." / "shared" / "data"
SHARD_TOKENS = 6000
NAME = "fineweb10B_sp320"
TOKENIZER = "tokenizers/toy_320.model"
VAL = f"datasets/{NAME}/fineweb_val_000000.bin"


def train(number: int) -> str:
    return f"datasets/{NAME}/fineweb_train_{number:06d}.bin"


def write_published(folder: Path, shards: dict[str, np.ndarray], tokenizer: Path, vocab_size: int, docs: int) -> None:
    """Lay out a tree as it is published; shards: train and val streams, cut here into files."""
    (folder / "tokenizers").mkdir(parents=True)
    (folder / "datasets" / NAME).mkdir(parents=True)
    shutil.copy(tokenizer, folder / TOKENIZER)
    stats = {"docs_val": docs}
    for split, tokens in shards.items():
        parts = [tokens[begin : begin + SHARD_TOKENS] for begin in range(0, len(tokens), SHARD_TOKENS)]
        for number, part in enumerate(parts):
            write_shard(folder / "datasets" / NAME / f"fineweb_{split}_{number:06d}.bin", part)
        stats |= {f"files_{split}": len(parts), f"tokens_{split}": len(tokens)}
    entry = {"name": NAME, "tokenizer_name": "toy", "vocab_size": vocab_size, "stats": stats, "bos_id": 1}
    manifest = {
        "shard_size": SHARD_TOKENS,
        "tokenizers": [{"name": "toy", "model_path": TOKENIZER}],
        "datasets": [entry],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="session")
def made(toy_data: Path, tmp_path_factory) -> Path:
    """The toy data as it would be published: several train shards, of which only the last is shorter."""
    folder = tmp_path_factory.mktemp("published") / "tree"
    manifest = Manifest.load(toy_data)
    streams = {
        "train": np.concatenate([read_shard(toy_data / shard.file) for shard in manifest.train]),
        "val": read_shard(toy_data / manifest.val[0].file)[:SHARD_TOKENS],
    }
    documents = int((streams["val"] == 1).sum())
    write_published(folder, streams, toy_data / manifest.tokenizer.file, manifest.vocab_size, documents)
    return folder


@pytest.fixture
def tree(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "tree"))


@pytest.fixture(autouse=True)
def small_and_local(monkeypatch) -> None:
    """The library writes 10 MiB at a time, waits a second before it tries again, and would ask a proxy."""
    monkeypatch.setattr(file_download.constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def contents(tree: Path) -> dict[str, bytes]:
    """What a hub holds if this tree is published on it."""
    return {f"datasets/{path.relative_to(tree)}": path.read_bytes() for path in tree.rglob("*") if path.is_file()}


@pytest.fixture
def hub(tree: Path) -> Iterator[FakeHub]:
    with serve_hub(contents(tree)) as served:
        yield served


class Watched:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.files = self.size = 0
        self.positions: list[int] = []
        self.finished: list[str] = []
        self.notes: list[str] = []

    def begin(self, files: int, size: int) -> None:
        self.files, self.size = files, size

    def at(self, position: int) -> None:
        self.positions.append(position)

    def done(self, name: str) -> None:
        self.finished.append(name)

    def note(self, text: str) -> None:
        self.notes.append(text)


def fetch(hub: FakeHub, out: Path, train_shards: int = 2, **options) -> tuple[Manifest, Watched]:
    return bring(HubOrigin(REPOSITORY, hub.endpoint), out, train_shards, **options)


def bring(origin: Origin, out: Path, train_shards: int = 2, **options) -> tuple[Manifest, Watched]:
    watched = Watched()
    options = {"variant": "sp320", **options}
    return collect(origin, out, train_shards=train_shards, watcher=watched, **options), watched


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")} if folder.exists() else set()


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".")] if folder.exists() else []


NAMES = ["toy_320.model", "fineweb_val_000000.bin", "fineweb_train_000000.bin", "fineweb_train_000001.bin"]


# --- the whole of it


def test_a_fetched_directory_is_one_that_a_run_takes(hub, tree, tmp_path, toy_rules) -> None:
    out = tmp_path / "deep" / "out"
    mask = os.umask(0o077)
    try:
        manifest, watched = fetch(hub, out)
    finally:
        os.umask(mask)
    assert hub.strange == []
    assert visible(out) == {*NAMES, "manifest.json"}
    assert hidden(out) == []
    assert (manifest.name, manifest.vocab_size) == (NAME, 320)
    assert [facts.path.name for facts in verify(out)] == [NAMES[0], *NAMES[2:], NAMES[1]]
    for path in (TOKENIZER, VAL, train(0), train(1)):
        assert (out / Path(path).name).read_bytes() == (tree / path).read_bytes()
    assert {(out / name).stat().st_mode & 0o777 for name in NAMES} == {0o644}
    val = read_shard(out / NAMES[1])
    assert manifest.text.val.documents == int((val == 1).sum())
    assert manifest.text.val.bytes == int(prove_text(val, out / NAMES[0]).sum())
    assert manifest.text.train is None
    assert hub.downloaded() == NAMES

    assert manifest.provenance["origin"] == f"dataset {REPOSITORY} at commit {COMMIT}"
    assert manifest.provenance["sha256_said_by_origin"] == " ".join(NAMES)
    assert "not from the documents" in manifest.provenance["text"]
    assert (watched.files, watched.finished) == (4, NAMES)
    assert watched.positions == sorted(watched.positions)
    assert watched.positions[-1] == watched.size == sum((out / name).stat().st_size for name in NAMES)
    assert watched.notes == ["counting the text behind the tokens of val"]

    dataset = load_dataset(out, toy_rules.rules, tmp_path, Watched())
    assert int(dataset.val_bytes.sum()) == manifest.text.val.bytes


def test_a_second_fetch_brings_and_writes_nothing(hub, tmp_path) -> None:
    first, _ = fetch(hub, tmp_path / "out")
    before = {path: path.stat() for path in (tmp_path / "out").iterdir()}
    hub.downloads.clear()
    second, watched = fetch(hub, tmp_path / "out")
    assert hub.downloaded() == []
    assert {path: path.stat().st_mtime_ns for path in before} == {path: s.st_mtime_ns for path, s in before.items()}
    assert {path: path.stat().st_ino for path in before} == {path: status.st_ino for path, status in before.items()}
    assert second == first
    assert watched.notes == ["all 4 files are there: checking them"]


def test_more_shards_are_added_to_those_that_are_there(hub, tmp_path) -> None:
    fetch(hub, tmp_path / "out", 1)
    hub.downloads.clear()
    manifest, _ = fetch(hub, tmp_path / "out", 3)
    assert hub.downloaded() == ["fineweb_train_000001.bin", "fineweb_train_000002.bin"]
    assert len(manifest.train) == 3
    fewer, _ = fetch(hub, tmp_path / "out", 2)
    assert len(fewer.train) == 2
    verify(tmp_path / "out")


def test_an_import_is_the_same_data_in_files_of_its_own(hub, tree, tmp_path) -> None:
    fetched, _ = fetch(hub, tmp_path / "fetched")
    for path in tree.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o400)
    before = {path: path.stat() for path in tree.rglob("*")}
    imported, watched = bring(FolderOrigin(tree), tmp_path / "imported")
    assert imported.entries() == fetched.entries()
    assert imported.text == fetched.text
    assert imported.provenance["origin"] == "files that were on this machine"
    verify(tmp_path / "imported")
    for path, status in before.items():
        kept = path.stat()
        for field in ("st_ino", "st_nlink", "st_size", "st_mode", "st_mtime_ns", "st_ctime_ns"):
            assert getattr(kept, field) == getattr(status, field), (path, field)
    assert not {status.st_ino for status in before.values()} & {p.stat().st_ino for p in tmp_path.glob("imported/*")}
    assert watched.finished == NAMES


# --- downloads that stop


def test_a_connection_that_ends_early_is_taken_up_again_where_it_ended(hub, tree, tmp_path) -> None:
    hub.cuts[f"datasets/{train(0)}"] = [5000, 2100]
    fetch(hub, tmp_path / "out")
    tried = [first for path, first in hub.downloads if path.endswith(train(0))]
    assert tried == [0, 5000, 7000]
    assert (tmp_path / "out" / NAMES[2]).read_bytes() == (tree / train(0)).read_bytes()


def test_the_next_fetch_goes_on_where_the_last_one_stopped(hub, tree, tmp_path) -> None:
    out = tmp_path / "out"
    hub.cuts[f"datasets/{train(0)}"] = [5000]
    hub.refuses = {f"datasets/{train(0)}"}
    with pytest.raises(EnvironmentMissing, match=r"fineweb_train_000000.bin: the hub answers 503; run this again") as e:
        fetch(hub, out)
    assert "\n" not in str(e.value)
    assert visible(out) == {NAMES[0], NAMES[1]}, "what is complete and checked has its name, nothing else"
    (partial,) = hidden(out)
    assert partial.read_bytes() == (tree / train(0)).read_bytes()[:5000]

    hub.refuses.clear()
    hub.downloads.clear()
    _, watched = fetch(hub, out)
    assert [(path.rpartition("/")[2], first) for path, first in hub.downloads[1:]] == [(NAMES[2], 5000), (NAMES[3], 0)]
    assert (out / NAMES[2]).read_bytes() == (tree / train(0)).read_bytes()
    assert hidden(out) == []
    assert watched.positions[0] > 5000, "the bar begins with what was there"
    verify(out)


def test_a_hub_that_cannot_go_on_in_the_middle_begins_again(hub, tree, tmp_path) -> None:
    hub.cuts[f"datasets/{train(0)}"] = [5000]
    hub.knows_ranges = False
    fetch(hub, tmp_path / "out")
    assert (tmp_path / "out" / NAMES[2]).read_bytes() == (tree / train(0)).read_bytes()


def test_half_of_one_file_is_not_continued_with_half_of_another(hub, tree, tmp_path) -> None:
    out = tmp_path / "out"
    hub.cuts[f"datasets/{train(0)}"] = [5000]
    hub.refuses = {f"datasets/{train(0)}"}
    with pytest.raises(EnvironmentMissing):
        fetch(hub, out)
    hub.refuses.clear()
    write_shard(tree / train(0), np.full(SHARD_TOKENS, 7))
    hub.files = contents(tree)
    fetch(hub, out)
    assert (out / NAMES[2]).read_bytes() == (tree / train(0)).read_bytes()
    assert hidden(out) == []


def test_a_hub_that_stays_silent(hub, tmp_path) -> None:
    hub.cuts[f"datasets/{VAL}"] = [0] * 20
    with pytest.raises(EnvironmentMissing, match=r"fineweb_val_000000.bin: .*; run this again") as caught:
        fetch(hub, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert visible(tmp_path / "out") == {NAMES[0]}


def test_a_file_without_a_hash_is_brought_again_rather_than_continued(hub, tmp_path) -> None:
    hub.says_hashes = False
    hub.cuts[f"datasets/{train(0)}"] = [5000]
    hub.refuses = {f"datasets/{train(0)}"}
    with pytest.raises(EnvironmentMissing):
        fetch(hub, tmp_path / "out")
    hub.refuses.clear()
    hub.downloads.clear()
    fetch(hub, tmp_path / "out")
    assert [first for _, first in hub.downloads] == [0] * 5


# --- files that are not what they should be


def rewritten(change: Callable[[bytearray], object], path: str = VAL) -> Callable[[Path], None]:
    """Changes bytes of a published file; its hash, where the hub says one, is that of the changed file."""

    def spoil(tree: Path) -> None:
        content = bytearray((tree / path).read_bytes())
        change(content)
        (tree / path).write_bytes(content)

    return spoil


def put(offset: int, *values: int) -> Callable[[bytearray], None]:
    def change(content: bytearray) -> None:
        content[offset : offset + len(values)] = bytes(values)

    return change


def restate(**changes: int) -> Callable[[Path], None]:
    """Changes what the published manifest says of the data set."""

    def spoil(tree: Path) -> None:
        manifest = json.loads((tree / "manifest.json").read_text())
        manifest["datasets"][0] |= {name: value for name, value in changes.items() if name == "vocab_size"}
        manifest["datasets"][0]["stats"] |= {name: value for name, value in changes.items() if name != "vocab_size"}
        (tree / "manifest.json").write_text(json.dumps(manifest))

    return spoil


def origin_of(kind: str, tree: Path, hub: FakeHub) -> Origin:
    hub.files = contents(tree)
    return HubOrigin(REPOSITORY, hub.endpoint) if kind == "hub" else FolderOrigin(tree)


@pytest.mark.parametrize("kind", ["hub", "folder"])
@pytest.mark.parametrize(
    ("spoil", "named", "message"),
    [
        (rewritten(put(0, 0)), NAMES[1], "not a token shard: it begins with"),
        (rewritten(put(4, 2)), NAMES[1], "shard version 2"),
        (rewritten(put(8, 1, 0)), NAMES[1], "bytes too many"),
        (rewritten(put(700, 1)), NAMES[1], "hides something"),
        (rewritten(put(HEADER_BYTES + 20, 0xFF, 0xFF)), NAMES[1], "token 65535 at position 10 is outside the voc"),
        (rewritten(lambda content: content.clear(), TOKENIZER), NAMES[0], ""),
        (rewritten(lambda content: content.reverse(), TOKENIZER), NAMES[0], "is not a SentencePiece model"),
        (restate(vocab_size=321), NAMES[0], "has 320 tokens, the published manifest.json says 321"),
        (restate(docs_val=7), "out", r"its val split has \d+ documents and should have 7"),
        (lambda tree: (tree / train(1)).unlink(), NAMES[3], "fewer"),
        (lambda tree: (tree / TOKENIZER).unlink(), NAMES[0], ""),
        (rewritten(lambda content: content.pop(), train(1)), NAMES[3], "bytes"),
        (restate(tokens_train=2 * SHARD_TOKENS - 1, files_train=2), NAMES[3], "11,999|5,999"),
        (lambda tree: (tree / "manifest.json").unlink(), "manifest.json", ""),
        (lambda tree: shutil.copy(tree / train(0), tree / train(1)), NAMES[3], "is a copy of fineweb_train_000000"),
    ],
)
def test_each_fault_of_published_data_is_named(kind, spoil, named, message, tree, hub, tmp_path) -> None:
    spoil(tree)
    with pytest.raises(InputError, match=f"{named}.*({message})") as caught:
        bring(origin_of(kind, tree, hub), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert ".partial" not in str(caught.value)
    assert "manifest.json" not in visible(tmp_path / "out")
    if named in NAMES and "is a copy" not in message:
        assert named not in visible(tmp_path / "out")
    assert hidden(tmp_path / "out") == []


def test_a_folder_s_headers_are_looked_at_before_anything_is_copied(tree, tmp_path) -> None:
    rewritten(put(0, 0), train(1))(tree)
    with pytest.raises(InputError, match=r"fineweb_train_000001.bin: not a token shard"):
        bring(FolderOrigin(tree), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_arrives_must_have_the_hash_that_the_hub_says(hub, tmp_path) -> None:
    hub.wrong_hashes = {f"datasets/{train(0)}"}
    with pytest.raises(
        InputError, match=r"fineweb_train_000000.bin: sha256 is \w{64} and should be \w{64}; it was not k"
    ):
        fetch(hub, tmp_path / "out")
    assert visible(tmp_path / "out") == {NAMES[0], NAMES[1]}
    assert hidden(tmp_path / "out") == []


@pytest.mark.parametrize("says_hashes", [True, False])
def test_what_is_pinned_outweighs_the_hub(hub, tmp_path, says_hashes: bool) -> None:
    hub.says_hashes = says_hashes
    pinned = Pinned(sha256={NAMES[0]: 64 * "a"})
    with pytest.raises(InputError, match=rf"{NAMES[0]}: .*sha256 is \w+ .*{64 * 'a'}"):
        fetch(hub, tmp_path / "out", pinned=pinned)
    assert hub.downloaded() == ([] if says_hashes else [NAMES[0]])
    assert visible(tmp_path / "out") == set()


def test_hashes_that_nobody_says_are_computed_and_that_is_said(hub, tree, tmp_path) -> None:
    hub.says_hashes = False
    pinned = Pinned(sha256={NAMES[0]: sha256_of(tree / TOKENIZER)})
    manifest, watched = fetch(hub, tmp_path / "out", pinned=pinned)
    assert manifest.provenance["sha256_said_by_pinned"] == NAMES[0]
    assert manifest.provenance["sha256_said_by_nobody"] == " ".join(NAMES[1:])
    assert "sha256_said_by_origin" not in manifest.provenance
    assert any("sha256 of fineweb_val_000000.bin and 2 more" in note for note in watched.notes)
    assert manifest.val[0].sha256 == sha256_of(tree / VAL)


def test_a_file_that_was_damaged_later_is_named_and_then_brought_again(hub, tree, tmp_path) -> None:
    out = tmp_path / "out"
    first, _ = fetch(hub, out)
    damaged = bytearray((tree / train(1)).read_bytes())
    damaged[-1] ^= 1
    (out / NAMES[3]).write_bytes(damaged)
    hub.downloads.clear()
    with pytest.raises(InputError, match=r"fineweb_train_000001.bin: .*; delete it and run this again"):
        fetch(hub, out)
    (out / NAMES[3]).unlink()
    assert fetch(hub, out)[0] == first
    assert hub.downloaded() == [NAMES[3]]


# --- where it is put


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.txt", "mine", "holds notes.txt, which is no part of fineweb10B_sp320"),
        ("other.model", "mine", "holds other.model, which is no part"),
        ("manifest.json", '{"name": "demo"}', "holds demo, not fineweb10B_sp320"),
        ("manifest.json", "{", "holds a manifest.json that is not ours, not"),
    ],
)
def test_a_directory_with_anything_else_is_not_touched(name, content, message, tree, tmp_path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text(content)
    with pytest.raises(InputError, match=message):
        bring(FolderOrigin(tree), out)
    assert [path.name for path in out.iterdir()] == [name]
    assert (out / name).read_text() == content


def test_the_tree_itself_is_no_place_to_import_to(tree) -> None:
    with pytest.raises(InputError, match=r"holds datasets, which is no part|holds a manifest.json that is not ours"):
        bring(FolderOrigin(tree), tree)


def test_a_disk_that_is_too_small_is_noticed_before(hub, tree, tmp_path, monkeypatch) -> None:
    needed = sum((tree / path).stat().st_size for path in (TOKENIZER, VAL, train(0), train(1))) + collecting.SPARE_BYTES
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(collecting.shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    with pytest.raises(EnvironmentMissing, match=f"needs {needed:,} bytes more, the disk has {needed - 1:,} free"):
        fetch(hub, tmp_path / "out")
    assert hub.downloaded() == []
    monkeypatch.setattr(collecting.shutil, "disk_usage", lambda _: usage._replace(free=needed))
    fetch(hub, tmp_path / "out")
    monkeypatch.setattr(collecting.shutil, "disk_usage", lambda _: usage._replace(free=0))
    fetch(hub, tmp_path / "out")  # needs nothing more


def test_two_at_once_do_not_mix(hub, tmp_path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    descriptor = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another fetch or import is at work"):
            fetch(hub, out)
    finally:
        os.close(descriptor)
    fetch(hub, out)


def test_a_file_in_the_directory_s_place(tree, tmp_path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="out: cannot make the data there"):
        bring(FolderOrigin(tree), tmp_path / "out")


# --- the hub


def test_a_repository_that_is_not_there(hub) -> None:
    with pytest.raises(InputError, match=f"nobody/nothing: no such dataset on {hub.endpoint}"):
        HubOrigin("nobody/nothing", hub.endpoint)
    with pytest.raises(InputError, match="no such dataset"):
        HubOrigin("no//name", hub.endpoint)


def test_a_hub_that_is_not_there() -> None:
    with serve_hub({}) as hub:
        pass
    with pytest.raises(EnvironmentMissing, match=f"{hub.endpoint}: .*; run this again"):
        HubOrigin(REPOSITORY, hub.endpoint)


# --- the command


def harness(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "harness.cli", *map(str, arguments)],
        cwd=REPOSITORY_ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def test_fetch_and_verify_as_commands(hub, tmp_path) -> None:
    hub.cuts[f"datasets/{VAL}"] = [5000]
    options = ["--variant", "sp320", "--train-shards", 2, "--out", tmp_path / "out", "--repository", REPOSITORY]
    ended = harness("data", "fetch", *options, HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path / "home"))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "12,000 train tokens in 2 shards" in ended.stdout
    ended = harness("data", "verify", "--data", tmp_path / "out")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert hub.strange == [], "nothing but the data is asked for"
    assert not list((tmp_path / "home").rglob("*.bin")), "no second copy in the library's cache"


def test_faults_end_the_commands_in_one_line_and_their_exit_codes(tree, tmp_path) -> None:
    (tree / train(1)).unlink()
    ended = harness("data", "import", tree, "--variant", "sp320", "--train-shards", 2, "--out", tmp_path / "out")
    assert ended.returncode == 65
    assert ended.stderr.startswith(f"harness: {tree / train(1)}: missing")
    assert ended.stderr.count("\n") == 1
    with serve_hub({}) as hub:
        pass
    ended = harness("data", "fetch", "--out", tmp_path / "out", HF_ENDPOINT=hub.endpoint)
    assert (ended.returncode, ended.stderr.count("\n")) == (69, 1)
    assert not (tmp_path / "out").exists()


def test_only_fetching_loads_the_library() -> None:
    code = "import sys, harness.cli, harness.referee, harness.data.collect; print('huggingface_hub' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY_ROOT, capture_output=True, text=True)
    assert ended.stdout == "False\n", ended.stderr


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_counts_bytes_and_files(terminal: bool, monkeypatch) -> None:
    monkeypatch.setattr("harness.progress.LINE_SECONDS", 0)
    screen = io.StringIO()
    progress = FileProgress(Console(file=screen, force_terminal=terminal, width=120))
    progress.begin(2, 3_000_000)
    progress.at(1_500_000)
    progress.done("a.bin")
    progress.at(3_000_000)
    progress.close()
    assert "1 of 2 files" in screen.getvalue()
    assert ("1,500,000 of 3,000,000 bytes" in screen.getvalue()) is not terminal


# --- real data


def test_real_shards_in_the_contest_s_own_tokens(tmp_path) -> None:
    """Three shards of English prose, cut with the contest's tokenizer, which normalises and knows no bytes."""
    prose, model = SHARED_DATA / "prose_sp1024", SHARED_DATA / "tokenizers" / "fineweb_1024_bpe.model"
    if not prose.exists():
        pytest.skip("the shards for tests (../shared/data/prose_sp1024) are not on this machine")
    tree, name = tmp_path / "tree", "fineweb10B_sp1024"
    (tree / "tokenizers").mkdir(parents=True)
    (tree / "datasets" / name).mkdir(parents=True)
    (tree / "tokenizers" / model.name).symlink_to(model)
    for path in prose.glob("*.bin"):
        (tree / "datasets" / name / path.name.replace("prose", "fineweb")).symlink_to(path)
    stats = {"files_train": 2, "files_val": 1, "docs_val": 479, "tokens_val": 1_052_687}
    entry = {"name": name, "tokenizer_name": "sp_bpe_1024", "vocab_size": 1024, "stats": stats}
    tokenizers = [{"name": "sp_bpe_1024", "model_path": f"tokenizers/{model.name}"}]
    (tree / "manifest.json").write_text(json.dumps({"tokenizers": tokenizers, "datasets": [entry]}))
    with pytest.raises(InputError, match="known to have"):
        bring(FolderOrigin(tree), tmp_path / "out", variant="sp1024")  # it is not the contest's
    tokenizer_hash = "849ea920119b5135ace5016137e82ab397738fc29d723d5f9a6b74c4e31af191"
    pinned = Pinned(sha256={model.name: tokenizer_hash})
    manifest, _ = bring(FolderOrigin(tree), tmp_path / "out", variant="sp1024", pinned=pinned)
    assert [shard.tokens for shard in manifest.train] == [8_759_605, 8_659_808]
    assert manifest.text.val.documents == 479
    assert manifest.text.val.bytes == 2_205_573, "of 2,421,556 in the original documents"
    verify(tmp_path / "out", manifest)
