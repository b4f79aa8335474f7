"""A submission is a folder of plain files; what it weighs is what eval can read, and its hash is what it is."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import time
from pathlib import Path

import pytest
from support import TESTS, exchanging

from harness import contestant as contestant_module
from harness.contestant import IGNORED, MAX_DEPTH, load_contestant
from harness.errors import InputError
from harness.rules import load_rules

MINIMAL = TESTS / "honest" / "minimal"


@pytest.fixture
def folder(tmp_path) -> Path:
    found = tmp_path / "submission"
    shutil.copytree(MINIMAL, found, ignore=shutil.ignore_patterns("__pycache__", "expect.toml"))
    return found


@pytest.fixture
def load(tmp_path, toy_rules):
    """Load a folder into a fresh place each time; `size`: values of the rules' table of that name."""
    count = iter(range(100))

    def into_a_fresh_place(folder: Path, **size: int):
        rules = toy_rules.rules
        changed = rules.model_copy(update={"size": rules.size.model_copy(update=size)})
        return load_contestant(folder, changed, tmp_path / f"copy-{next(count)}")

    return into_a_fresh_place


def refused(load, folder: Path, **size: int) -> str:
    with pytest.raises(InputError) as caught:
        load(folder, **size)
    text = str(caught.value)
    assert "\n" not in text
    return text


def rewrite(folder: Path, old: str, new: str) -> None:
    path = folder / "submission.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_minimal_submission_is_read(load, folder: Path) -> None:
    found = load(folder)
    assert found.name == "minimal"
    assert found.commands.train == ("python", "train.py")
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in found.checkpoint.items()} == {
        "logits": ("F32", (320,))
    }
    assert [file.path for file in found.files] == [
        "checkpoint.json",
        "quantize.py",
        "serve.py",
        "submission.toml",
        "train.py",
    ]
    for file in found.files:
        content = (folder / file.path).read_bytes()
        assert (file.bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_code_bytes_by_hand(load, folder: Path) -> None:
    (folder / "serve.py").write_bytes(b"x" * 1000)
    (folder / "pkg").mkdir()
    (folder / "pkg" / "ü.py").write_bytes(b"y" * 10)
    rewrite(folder, '["serve.py"]', '["serve.py", "pkg/ü.py"]')
    command = len('["python", "serve.py"]')
    assert load(folder).code_bytes == 1000 + len("serve.py") + 10 + len("pkg/ü.py".encode()) + command
    rewrite(folder, 'eval = ["python", "serve.py"]', 'eval = ["python", "serve.py", "--temperature", "ü"]')
    assert load(folder).code_bytes == 1000 + 8 + 10 + 9 + len('["python", "serve.py", "--temperature", "ü"]'.encode())


def test_without_a_list_eval_reads_and_pays_for_everything(load, folder: Path) -> None:
    rewrite(folder, 'eval_files = ["serve.py"]', "")
    found = load(folder)
    total = sum(len((folder / file.path).read_bytes()) + len(file.path) for file in found.files)
    assert found.code_bytes == total + len('["python", "serve.py"]')
    assert found.eval_files == found.files


def test_a_file_named_twice_is_paid_for_and_mounted_once(load, folder: Path) -> None:
    once = load(folder).code_bytes
    rewrite(folder, '["serve.py"]\n', '["serve.py", "serve.py"]\n')
    assert load(folder).code_bytes == once


def test_eval_s_folder_holds_its_files_alone(load, folder: Path) -> None:
    (folder / "pkg").mkdir()
    (folder / "pkg" / "a.py").write_text("a")
    (folder / "pkg" / "b.py").write_text("b")
    rewrite(folder, '["serve.py"]', '["serve.py", "pkg/b.py"]')
    found = load(folder)
    inside = sorted(str(path.relative_to(found.eval_directory)) for path in found.eval_directory.rglob("*"))
    assert inside == ["pkg", "pkg/b.py", "serve.py"]


def test_every_byte_and_every_name_is_in_the_tree_hash(load, folder: Path) -> None:
    hashes = {load(folder).tree_sha256}
    (folder / "train.py").write_bytes((folder / "train.py").read_bytes() + b"#")
    hashes.add(load(folder).tree_sha256)
    (folder / "new").touch()
    hashes.add(load(folder).tree_sha256)
    (folder / "new").rename(folder / "renamed")
    hashes.add(load(folder).tree_sha256)
    (folder / "sub").mkdir()
    (folder / "renamed").rename(folder / "sub" / "renamed")
    hashes.add(load(folder).tree_sha256)
    assert len(hashes) == 5
    again = load(folder).tree_sha256
    assert again in hashes
    os.utime(folder / "train.py", (1, 1))
    (folder / "train.py").chmod(0o777)
    assert load(folder).tree_sha256 == again, "times and modes do not matter, they are not copied"


def test_the_tree_hash_is_the_documented_one(load, folder: Path) -> None:
    lines = ""
    for name in sorted(path.name for path in folder.iterdir()):
        lines += f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
    assert load(folder).tree_sha256 == hashlib.sha256(lines.encode()).hexdigest()


def test_the_copy_is_independent_and_plain(load, folder: Path) -> None:
    os.setxattr(folder / "train.py", "user.hidden", b"payload")
    (folder / "train.py").chmod(0o4777)
    found = load(folder)
    copy = found.directory / "train.py"
    before = copy.read_bytes()
    (folder / "train.py").write_bytes(b"changed afterwards")
    assert copy.read_bytes() == before
    assert copy.stat().st_mode & 0o7777 == 0o755, "executable as the original, and nothing else of its mode"
    assert (found.directory / "serve.py").stat().st_mode & 0o7777 == 0o644
    assert os.listxattr(copy) == []
    assert copy.stat().st_nlink == 1


@pytest.mark.parametrize("name", sorted(IGNORED))
def test_ignored_folders_are_neither_copied_nor_counted(load, folder: Path, name: str) -> None:
    before = load(folder)
    for place in (folder / name, folder / "deep" / name):
        place.mkdir(parents=True)
        (place / "hidden").write_text("x")
    found = load(folder)
    assert found.files == before.files
    assert not list(found.directory.rglob("hidden"))


def make_symlink(folder: Path) -> None:
    (folder / "link.py").symlink_to("train.py")


def make_symlink_to_a_folder(folder: Path) -> None:
    (folder / "link").symlink_to("/etc")


def make_symlink_out(folder: Path) -> None:
    (folder / "train.py").unlink()
    (folder / "train.py").symlink_to("/etc/hostname")


def make_fifo(folder: Path) -> None:
    os.mkfifo(folder / "fifo")


def make_socket(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))


def make_name_with_a_line_break(folder: Path) -> None:
    (folder / "x\ny").touch()


def make_name_that_is_not_utf8(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).touch()


def make_folder_that_is_not_utf8(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).mkdir()


@pytest.mark.parametrize(
    "make",
    [
        make_symlink,
        make_symlink_to_a_folder,
        make_symlink_out,
        make_fifo,
        make_socket,
        make_name_with_a_line_break,
        make_name_that_is_not_utf8,
        make_folder_that_is_not_utf8,
    ],
    ids=lambda make: make.__name__,
)
def test_what_is_no_plain_file_is_refused(load, folder: Path, make) -> None:
    make(folder)
    assert str(folder) in refused(load, folder)


def test_a_manifest_that_is_a_link_is_refused(load, folder: Path) -> None:
    (folder / "submission.toml").rename(folder.parent / "elsewhere.toml")
    (folder / "submission.toml").symlink_to(folder.parent / "elsewhere.toml")
    refused(load, folder)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('name = "minimal"', "", "name"),
        ('name = "minimal"', 'name = ""', "name"),
        ('name = "minimal"', 'name = "a/b"', "name"),
        ('name = "minimal"', 'name = "x\\u001b[31m"', "name"),
        ('name = "minimal"', 'name = "minimal"\nauthor = "me"', "author"),
        ('train = ["python", "train.py"]', "", "rules.toy.train"),
        ('train = ["python", "train.py"]', "train = []", "rules.toy.train"),
        ('train = ["python", "train.py"]', 'train = ["python", ""]', "rules.toy.train"),
        ('train = ["python", "train.py"]', 'train = "python train.py"', "rules.toy.train"),
        ('train = ["python", "train.py"]', 'train = ["python", 1]', "rules.toy.train"),
        ('train = ["python", "train.py"]', 'trian = ["python", "train.py"]', "rules.toy.trian"),
        ('checkpoint = "checkpoint.json"', "", "rules.toy.checkpoint"),
        ('"checkpoint.json"', '"nothing.json"', "nothing.json"),
        ('"checkpoint.json"', '"./checkpoint.json"', "./checkpoint.json"),
        ('"checkpoint.json"', '"../submission/checkpoint.json"', "../submission"),
        ('["serve.py"]', '["serve.py", "nothing.py"]', "nothing.py"),
        ('["serve.py"]', '["/etc/passwd"]', "/etc/passwd"),
        ('["serve.py"]', '["../outside"]', "../outside"),
        ('["serve.py"]', '[".git/config"]', ".git/config"),
        ("[rules.toy]", "[rules.record]", "rules.toy"),
        ("[rules.toy]", "[rules", "not TOML"),
    ],
)
def test_a_wrong_manifest_is_named(load, folder: Path, old: str, new: str, named: str) -> None:
    (folder.parent / "outside").touch()
    (folder / ".git").mkdir()
    (folder / ".git" / "config").touch()
    if old == '["serve.py"]':
        old, new = f"eval_files = {old}", f"eval_files = {new}"
    rewrite(folder, old, new)
    assert named in refused(load, folder)


@pytest.mark.parametrize(
    "schema",
    [
        "",
        "[]",
        "{}",
        '{"a": 1}',
        '{"a": {"dtype": "F32"}}',
        '{"a": {"dtype": "F64", "shape": [1]}}',
        '{"a": {"dtype": "I32", "shape": [1]}}',
        '{"a": {"dtype": "F32", "shape": [0]}}',
        '{"a": {"dtype": "F32", "shape": [-1]}}',
        '{"a": {"dtype": "F32", "shape": [1.5]}}',
        '{"a": {"dtype": "F32", "shape": ["1"]}}',
        '{"a": {"dtype": "F32", "shape": [1], "extra": 1}}',
    ],
)
def test_a_wrong_checkpoint_schema_is_named(load, folder: Path, schema: str) -> None:
    (folder / "checkpoint.json").write_text(schema)
    assert "checkpoint.json" in refused(load, folder)


def test_a_folder_without_a_manifest_is_no_submission(load, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "nothing", TESTS / "toy.toml"):
        assert "submission.toml" in refused(load, place)


def test_too_many_files_or_folders_are_refused(load, folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(contestant_module, "MAX_NAMES", 5)
    load(folder)
    for make in (Path.touch, Path.mkdir):
        make(folder / "sixth")
        assert "5 files" in refused(load, folder)
        (folder / "sixth").rename(folder.parent / f"was-{make.__name__}")
    load(folder)


def test_the_folder_s_limit_is_exact_and_counts_names(load, folder: Path) -> None:
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "ü").write_bytes(b"12345")
    files = [path for path in folder.rglob("*") if path.is_file()]
    total = sum(path.stat().st_size + len(str(path.relative_to(folder)).encode()) for path in files)
    load(folder, submission_bytes=total)
    assert f"{total - 1:,} bytes" in refused(load, folder, submission_bytes=total - 1)
    (folder / ("x" * 200)).touch()
    assert f"{total:,} bytes" in refused(load, folder, submission_bytes=total), "data in names is data"


@pytest.mark.parametrize("rules", ["demo", "record"])
def test_this_repository_s_submission_fits_well(tmp_path, rules: str) -> None:
    found = load_contestant(TESTS.parent / "submission", load_rules(rules).rules, tmp_path / "copy")
    assert 10 * sum(file.bytes for file in found.files) < load_rules(rules).rules.size.submission_bytes


def test_a_folder_is_there_for_its_files_alone(load, folder: Path) -> None:
    """Names of empty folders would be in no hash and in no size."""
    (folder / "empty" / "payload").mkdir(parents=True)
    (folder / "full").mkdir()
    (folder / "full" / "file").touch()
    copy = load(folder).directory
    assert sorted(path.name for path in copy.iterdir() if path.is_dir()) == ["full"]


def test_folders_inside_each_other_have_a_limit(load, folder: Path) -> None:
    def nested(depth: int) -> None:
        deepest = folder.joinpath(*["d"] * depth)
        deepest.mkdir(parents=True, exist_ok=True)
        (deepest / "file").touch()

    nested(MAX_DEPTH)
    load(folder)
    nested(MAX_DEPTH + 1)
    assert f"{MAX_DEPTH} folders" in refused(load, folder)


def test_a_huge_sparse_file_is_refused_without_reading_it(load, folder: Path) -> None:
    with (folder / "huge").open("wb") as file:
        file.truncate(1 << 40)
    assert "huge" in refused(load, folder)


def test_the_schema_s_order_of_keys_does_not_matter(load, folder: Path) -> None:
    tensors = {"b": {"shape": [2], "dtype": "F16"}, "a": {"dtype": "BF16", "shape": []}}
    (folder / "checkpoint.json").write_text(json.dumps(tensors))
    assert set(load(folder).checkpoint) == {"a", "b"}


# --- who exchanges names while the folder is copied

SECRET = b"SECRET of the harness's user"


def test_a_name_exchanged_for_a_link_while_it_is_copied_leads_nowhere(folder: Path, toy_rules, tmp_path) -> None:
    """Attack S06: between the look at a name and its use, a folder becomes a link to another's folder, a file a link to
    another's file.
    """
    private = tmp_path / "private"
    (private / "pkg").mkdir(parents=True)
    (private / "pkg" / "module.py").write_bytes(SECRET)
    (folder / "pkg").mkdir()
    (folder / "pkg" / "module.py").touch()
    (folder / "file.py").touch()
    (folder.parent / "link-to-folder").symlink_to(private / "pkg")
    (folder.parent / "link-to-file").symlink_to(private / "pkg" / "module.py")
    outcomes = {"copied": 0, "refused": 0}
    with exchanging(
        (folder / "pkg", folder.parent / "link-to-folder"), (folder / "file.py", folder.parent / "link-to-file")
    ):
        deadline = time.monotonic() + 20
        while min(outcomes.values()) < 3 or sum(outcomes.values()) < 300:
            assert time.monotonic() < deadline, outcomes
            copy = tmp_path / "copy"
            try:
                load_contestant(folder, toy_rules.rules, copy)
                outcomes["copied"] += 1
            except InputError as error:
                assert "not a regular file" in str(error)
                outcomes["refused"] += 1
            for path in copy.rglob("*"):
                assert not path.is_symlink()
                assert path.is_dir() or SECRET not in path.read_bytes()
            shutil.rmtree(copy)
            shutil.rmtree(tmp_path / "copy-eval", ignore_errors=True)
