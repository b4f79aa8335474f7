"""A run ends in a record whose every number can be checked against the files beside it, whatever happens on the way."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gzip
import hashlib
import io
import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from rich.console import Console
from support import TESTS, Disk, give_val_to_train

from harness import cli, doctor
from harness import referee as referee_module
from harness import supervisor as supervisor_module
from harness.access import AccessMonitor
from harness.contestant import IGNORED, load_contestant
from harness.data.documents import read_documents, write_documents
from harness.data.manifest import Manifest, PlainFile
from harness.data.shards import read_shard
from harness.errors import EnvironmentMissing, ExitCode, InputError, RefereeError
from harness.evidence import ledger as ledger_module
from harness.evidence.ledger import Ledger, read_ledger
from harness.evidence.record import Record, Verdict, json_schema
from harness.processes import start_time
from harness.progress import ConsoleObserver
from harness.registry import Registration, Use, default_directory
from harness.rules import load_rules
from harness.sandbox.bubblewrap import BubblewrapSandbox
from harness.scoring import nats
from harness.scoring.bpb import TokenBytes, unigram_nats
from harness.scoring.scorer import Scorer
from harness.supervisor import Log, Supervisor

MINIMAL = TESTS / "honest" / "minimal"
REPOSITORY = TESTS.parent
PATIENCE = 30.0
pytestmark = pytest.mark.sandbox
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can watch opens")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.01)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def submission(tmp_path) -> Path:
    """A copy of the minimal submission to change."""
    return Path(shutil.copytree(MINIMAL, tmp_path / "submission"))


@pytest.fixture
def changed_rules(tmp_path):
    """The toy rules with some values changed, as (key, value) of TOML lines."""

    def make(**changes: str):
        text = (TESTS / "toy.toml").read_text()
        for key, value in changes.items():
            text, count = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
            assert count, key
        path = tmp_path / "changed.toml"
        path.write_text(text)
        return load_rules(str(path))

    return make


@pytest.fixture
def own_registry(tmp_path, monkeypatch) -> Path:
    """Runs of this test see no others."""
    directory = tmp_path / "registry"
    monkeypatch.setattr("harness.registry.default_directory", lambda: directory)
    return directory


def runs_of(referee) -> list[Path]:
    return sorted(referee.out.iterdir()) if referee.out.exists() else []


# --- one honest run, looked at from all sides


@pytest.fixture(scope="module")
def honest(toy_rules, toy_data, machine, tmp_path_factory):
    from support import Referee

    referee = Referee(toy_rules, toy_data, tmp_path_factory.mktemp("honest") / "runs", machine)
    record, directory = referee.run(MINIMAL, environment={"kernel": "test"}, seeds=(1, 2))
    return referee, record, directory


@needs_root
def test_the_run_passes_and_nothing_is_left_lying_about(honest) -> None:
    _, record, directory = honest
    assert (record.verdict, record.reasons) == (Verdict.PASS, ())
    assert sorted(path.name for path in directory.iterdir() if not path.name.startswith("submission")) == [
        "ledger.jsonl",
        "record.json",
        "seed-1",
        "seed-2",
    ]
    logs = ["eval.log", "probe.log", "quantize.log", "train.log"]
    files = ["artifact.bin", "calibration.bin", "checkpoint.safetensors", *logs, "nats.f32.gz"]
    assert sorted(path.name for path in (directory / "seed-1").iterdir()) == sorted(files)


def test_the_file_says_what_was_returned_and_fits_its_schema(honest) -> None:
    _, record, directory = honest
    data = json.loads((directory / "record.json").read_text())
    assert Record.model_validate(data) == record
    schema = json.loads(json_schema())
    jsonschema.validate(data, schema, cls=jsonschema.Draft202012Validator)
    for place in (data, data["seeds"][0], data["seeds"][0]["phases"]["train"], data["rules"]):
        place["unknown"] = 1
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(data, schema, cls=jsonschema.Draft202012Validator)
        del place["unknown"]


def test_the_keys_that_the_issue_names_are_there(honest) -> None:
    _, _, directory = honest
    data = json.loads((directory / "record.json").read_text())
    assert {"verdict", "reasons", "rules", "submission", "data", "environment", "seeds"} <= set(data)
    seed = data["seeds"][0]
    assert seed.keys() >= {"seed", "phases", "artifact_bytes", "code_bytes", "total_bytes"}
    assert seed.keys() >= {"val_loss", "val_bpb", "tokens", "bytes"}
    assert list(seed["phases"]) == ["train", "quantize", "eval", "probe"]
    for phase in seed["phases"].values():
        assert phase.keys() >= {
            "prepare_seconds",
            "clock_seconds",
            "limit_seconds",
            "exit_code",
            "opens_allowed",
            "opens_denied",
        }


def test_every_hash_and_size_is_that_of_the_file(honest) -> None:
    referee, record, directory = honest
    assert record.run == directory.name
    assert record.rules.sha256 == sha256(TESTS / "toy.toml")
    assert record.data.manifest_sha256 == sha256(referee.data / "manifest.json")
    assert record.data.overlap.repeated == 0
    assert 50 <= record.data.overlap.documents <= 60
    for seed in record.seeds:
        folder = directory / f"seed-{seed.seed}"
        assert set(seed.outputs) == {"checkpoint.safetensors", "artifact.bin", "calibration.bin"}
        for name, output in seed.outputs.items():
            assert (output.bytes, output.sha256) == ((folder / name).stat().st_size, sha256(folder / name))
            assert (folder / name).stat().st_mode & 0o777 == 0o444
        assert seed.artifact_bytes == (folder / "artifact.bin").stat().st_size
        assert seed.total_bytes == seed.artifact_bytes + seed.code_bytes
        assert seed.nats_sha256 == hashlib.sha256(gzip.decompress((folder / "nats.f32.gz").read_bytes())).hexdigest()
        for name, phase in seed.phases.items():
            assert phase.log_bytes == (folder / f"{name}.log").stat().st_size
            assert not phase.log_truncated


def test_the_submission_s_numbers_follow_from_its_files(honest, toy_rules, tmp_path) -> None:
    _, record, directory = honest
    lines = ""
    for path in sorted(path for path in MINIMAL.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        lines += f"{sha256(path)}  {path.relative_to(MINIMAL)}\n"
    assert record.submission.tree_sha256 == hashlib.sha256(lines.encode()).hexdigest()
    command = json.dumps(["python", "serve.py"])
    by_hand = len((MINIMAL / "serve.py").read_bytes()) + len("serve.py") + len(command)
    assert {seed.code_bytes for seed in record.seeds} == {by_hand}
    assert load_contestant(MINIMAL, toy_rules.rules, tmp_path / "again").code_bytes == by_hand
    assert (directory / "submission" / "serve.py").read_bytes() == (MINIMAL / "serve.py").read_bytes()


def test_the_score_follows_from_the_kept_nats_and_the_data(honest) -> None:
    referee, record, directory = honest
    val = read_shard(referee.data / "toy_val_000000.bin")
    text_bytes = Manifest.load(referee.data).text.val.bytes
    assert TokenBytes.from_tokenizer(referee.data / "tokenizer.model").count(val) == text_bytes
    logits = np.frombuffer((directory / "seed-1" / "artifact.bin").read_bytes(), np.float16).astype(np.float64)
    expected = np.log(np.exp(logits).sum()) - logits[val[1:]]
    for seed in record.seeds:
        kept = gzip.decompress((directory / f"seed-{seed.seed}" / "nats.f32.gz").read_bytes())
        found = np.frombuffer(kept, "<f4").astype(np.float64)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert (seed.tokens, seed.bytes) == (len(val) - 1, text_bytes)
        assert seed.val_loss == pytest.approx(found.mean(), rel=1e-12)
        assert seed.val_bpb == pytest.approx(found.sum() / math.log(2) / text_bytes, rel=1e-12)
        assert seed.unigram_bpb == pytest.approx(unigram_nats(val) / math.log(2) / text_bytes, rel=1e-12)
        assert seed.val_bpb > seed.unigram_bpb, "no unigram model beats the best one"


@needs_root
def test_the_clocks_add_up(honest) -> None:
    referee, record, directory = honest
    events, head = read_ledger(directory / "ledger.jsonl")
    assert head == record.ledger_head
    limits = referee.rules.rules.clock
    for seed in record.seeds:
        train, quantize, evaluation = (seed.phases[name] for name in ("train", "quantize", "eval"))
        assert train.limit_seconds == limits.train_seconds
        assert quantize.limit_seconds == pytest.approx(limits.train_seconds - train.clock_seconds)
        assert evaluation.limit_seconds == limits.eval_seconds
        for phase in seed.phases.values():
            assert phase.gate_seen
            assert phase.exit_code == 0
            assert 0 < phase.prepare_seconds < phase.prepare_limit_seconds
            assert 0 < phase.clock_seconds < phase.limit_seconds
            assert phase.opens_denied == ()
        assert (train.opens_allowed, quantize.opens_allowed, evaluation.opens_allowed) == (2, 1, 1)
        for name, phase in seed.phases.items():
            begin, end = (
                event["monotonic"]
                for event in events
                if event["event"] in ("phase_start", "phase_end")
                and (event["seed"], event["phase"]) == (seed.seed, name)
            )
            assert phase.prepare_seconds + phase.clock_seconds <= end - begin


def test_each_phase_s_walls_are_evidence(honest) -> None:
    _, record, _ = honest
    phases = [phase for seed in record.seeds for phase in seed.phases.values()]
    assert len({phase.sandbox.pid_namespace for phase in phases}) >= 2
    if os.geteuid() == 0:
        assert len({phase.sandbox.uid for phase in phases}) == len(phases), "each phase has a uid of its own"
    for phase in phases:
        assert {target for target, kind in phase.sandbox.mounts if kind == "rw" and not target.startswith("/dev/")} == {
            "/out",
            "/proc",
            "/tmp",
        }
    quantize = {target for target, _ in record.seeds[0].phases["quantize"].sandbox.mounts if target.startswith("/in")}
    assert quantize == {
        "/in/phase.json",
        "/in/submission",
        "/in/checkpoint/checkpoint.safetensors",
        "/in/train/toy_train_000000.bin",  # decoys
        "/in/train/toy_train_000001.bin",
        "/in/val/toy_val_000000.bin",
    }


def test_the_ledger_tells_the_run_in_order(honest) -> None:
    _, _, directory = honest
    events, _ = read_ledger(directory / "ledger.jsonl")
    kinds = [event["event"] for event in events if event["event"] not in ("open", "gate", "walls")]
    one_seed = [
        *("phase_start", "phase_end", "output"),
        *("calibration_key", "phase_start", "phase_end", "output", "output"),
        *("phase_start", "phase_end", "score"),
        *("probe_key", "phase_start", "phase_end"),
    ]
    assert kinds == ["start", *one_seed, *one_seed, "verdict"]
    keys = [event["key"] for event in events if event["event"] == "calibration_key"]
    assert len(set(keys)) == 2, "each seed has a key of its own"
    for place, event in enumerate(events):
        if event["event"] == "probe_key":
            assert events[place - 1]["event"] == "score"
            assert events[place - 1]["nats_sha256"], "the losses are in the ledger before any probe is chosen"
            known = f"probes {event['seed']} {events[place]['previous']}"
            assert event["key"] == hashlib.sha256(known.encode()).hexdigest(), "whoever has the ledger can check"
    times = [event["monotonic"] for event in events]
    assert times == sorted(times)


# --- input that does not fit: an InputError, and nothing left behind


def test_a_shard_in_the_submission_is_refused(referee, submission: Path) -> None:
    """Attack D09: a verbatim copy under another name."""
    shutil.copy(referee.data / "toy_val_000000.bin", submission / "weights.bin")
    record, directory = referee.run(submission)
    assert record.verdict is Verdict.FAIL
    assert [reason.code for reason in record.reasons] == ["shard_copy"]
    assert "weights.bin" in record.reasons[0].text
    assert record.seeds == ()
    assert not (directory / "seed-1").exists()


@pytest.mark.parametrize("shard", ["toy_train_000001.bin", "toy_val_000000.bin"])
def test_a_part_of_a_shard_in_the_submission_is_refused(referee, submission: Path, shard: str) -> None:
    """Attack D09, a little varied: no header, odd offsets, in the middle of a program."""
    code = (submission / "quantize.py").read_bytes() + b'\nTEXT = b"""'
    piece = (referee.data / shard).read_bytes()[1501:2101]
    (submission / "quantize.py").write_bytes(code + piece + b'"""\n')
    record, directory = referee.run(submission)
    assert [(reason.code, reason.phase) for reason in record.reasons] == [("shard_copy", None)]
    found = re.fullmatch(
        rf"quantize.py of the submission holds, at byte (\d+), 256 bytes that the shard {shard} has at byte (\d+)",
        record.reasons[0].text,
    )
    assert int(found[1]) - len(code) == int(found[2]) - 1501
    assert not (directory / "seed-1").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"val_tokens": "12345"}, "12,345"),
        ({"tokenizer_sha256": f'"{"a" * 64}"'}, "a" * 64),
        ({"vocab_size": "321"}, "321"),
        ({"name": '"another"'}, "rules.another"),
    ],
)
def test_rules_that_do_not_fit_leave_nothing_behind(referee, submission, changed_rules, changes, named) -> None:
    with pytest.raises(InputError, match=named):
        referee.run(submission, rules=changed_rules(**changes))
    assert runs_of(referee) == []


@pytest.fixture
def damaged_data(toy_data, tmp_path) -> Path:
    return Path(shutil.copytree(toy_data, tmp_path / "damaged"))


def flip_a_byte(data: Path) -> None:
    path = data / "toy_train_000001.bin"
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)


def remove_a_shard(data: Path) -> None:
    (data / "toy_val_000000.bin").unlink()


def link_a_shard(data: Path) -> None:
    path = data / "toy_val_000000.bin"
    path.rename(data / "elsewhere")
    path.symlink_to("elsewhere")


def lie_about_the_text(data: Path) -> None:
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["text"]["val"]["bytes"] += 1
    (data / "manifest.json").write_text(json.dumps(manifest))


def remove_the_manifest(data: Path) -> None:
    (data / "manifest.json").unlink()


@pytest.mark.parametrize("damage", [flip_a_byte, remove_a_shard, link_a_shard, lie_about_the_text, remove_the_manifest])
def test_data_that_is_not_as_it_should_be_leaves_nothing_behind(referee, submission, damaged_data, damage) -> None:
    damage(damaged_data)
    with pytest.raises(InputError):
        referee.run(submission, data=damaged_data)
    assert runs_of(referee) == []


@pytest.mark.parametrize(("every", "share"), [(1, "100.0"), (5, r"(7[5-9]|8\d)\.\d")])
def test_data_whose_val_documents_are_in_train_leaves_nothing_behind(
    referee, submission, damaged_data, every: int, share: str
) -> None:
    """Attack D20."""
    give_val_to_train(damaged_data, every)
    allowed = rf"{share}% of the val documents are in train, \d+ of 5\d, such as .* at token \d+ .* toy allow 10.0%"
    for _ in range(2):  # the second time from memory
        with pytest.raises(InputError, match=allowed):
            referee.run(submission, data=damaged_data)
    assert runs_of(referee) == []


def test_the_rules_say_how_much_of_val_may_be_in_train(referee, submission, damaged_data, changed_rules) -> None:
    give_val_to_train(damaged_data)
    (submission / "train.py").write_text("raise SystemExit(5)")
    record, _ = referee.run(submission, data=damaged_data, rules=changed_rules(max_val_documents_in_train="1.0"))
    found = record.data.overlap
    assert found.documents == found.repeated == found.mostly_in_train == found.in_train
    assert found.example is not None


def test_a_submission_that_cannot_be_read_leaves_nothing_behind(referee, submission: Path) -> None:
    os.mkfifo(submission / "fifo")
    with pytest.raises(InputError):
        referee.run(submission)
    assert runs_of(referee) == []


def test_runs_inside_the_submission_are_refused(referee, submission: Path) -> None:
    with pytest.raises(InputError, match="inside"):
        referee.run(submission, out=submission / "runs")
    assert not (submission / "runs").exists()


def test_an_out_that_is_a_file_is_refused(referee, submission: Path, tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="run directory"):
        referee.run(submission, out=tmp_path / "file")


@pytest.fixture
def neighbour(own_registry):
    """Registers another run, which lives."""
    process = subprocess.Popen(["sleep", "600"])

    def register(use: Use) -> None:
        own_registry.mkdir(mode=0o700, exist_ok=True)
        entry = {"harness_pid": process.pid, "start_time": start_time(process.pid), "use": use, "grants": []}
        (own_registry / "other.json").write_text(json.dumps(entry))

    yield register
    process.kill()
    process.wait()


@pytest.mark.parametrize(("exclusive", "others"), [("true", Use.SHARED), ("false", Use.EXCLUSIVE)])
def test_a_run_beside_one_that_should_be_alone_does_not_start(
    referee, submission, changed_rules, neighbour, exclusive, others
) -> None:
    neighbour(others)
    with pytest.raises(EnvironmentMissing, match="wants the machine to itself; wait for its end"):
        referee.run(submission, rules=changed_rules(exclusive=exclusive))
    assert runs_of(referee) == []


@needs_root
@pytest.mark.parametrize(("exclusive", "others"), [("true", Use.SHARED), ("false", Use.EXCLUSIVE)])
def test_a_run_that_was_beside_one_that_should_be_alone_is_an_error(
    referee, submission, changed_rules, neighbour, monkeypatch, exclusive, others
) -> None:
    """It comes while train runs."""
    real = AccessMonitor.check_alive
    (submission / "train.py").write_text("import time\ntime.sleep(6)")

    def check_alive(self) -> None:
        neighbour(others)
        real(self)

    monkeypatch.setattr(AccessMonitor, "check_alive", check_alive)
    record, _ = referee.run(submission, rules=changed_rules(exclusive=exclusive))
    assert record.verdict is Verdict.ERROR
    assert "wants the machine to itself" in record.reasons[0].text
    assert record.environment["other_runs_seen"] == 1


@needs_root
def test_what_a_crash_has_left_is_removed_and_told_before_a_run(referee, own_registry, tmp_path, monkeypatch) -> None:
    """Attack F10: it is not taken for a live run either."""
    scratch = tmp_path / "left behind"
    scratch.mkdir()
    own_registry.mkdir(mode=0o700)
    entry = {"harness_pid": os.getpid(), "start_time": 1, "use": Use.EXCLUSIVE, "grants": [], "scratch": str(scratch)}
    (own_registry / "crashed.json").write_text(json.dumps(entry))
    notes = []
    monkeypatch.setattr(ConsoleObserver, "note", lambda self, text: notes.append(text))
    record, _ = referee.run(MINIMAL)
    assert (record.verdict, record.environment["other_runs_seen"]) == (Verdict.PASS, 0)
    assert f"removed {scratch}, left behind by run crashed" in notes
    assert not scratch.exists()
    assert list(own_registry.glob("*.json")) == []


@needs_root
def test_other_runs_are_counted(referee, neighbour) -> None:
    neighbour(Use.SHARED)
    record, _ = referee.run(MINIMAL)
    assert (record.verdict, record.environment["other_runs_seen"]) == (Verdict.PASS, 1)


# --- rules about the whole


def test_too_few_seeds_fail(referee, submission, changed_rules) -> None:
    (submission / "train.py").write_text("raise SystemExit(5)")
    record, _ = referee.run(submission, rules=changed_rules(minimum="2"))
    assert record.verdict is Verdict.FAIL
    assert [reason.code for reason in record.reasons] == ["exit_code", "seeds_missing"]


@needs_root
@pytest.mark.privileged
@pytest.mark.parametrize(
    ("baseline", "seeds", "codes"),
    [
        ("[3.25, 3.26, 3.27]", (1, 2), []),
        ("[3.1, 3.2, 3.3]", (1, 2), ["baseline_not_beaten"]),  # better on average, but not beyond doubt
        ("[3.0, 3.01]", (1, 2), ["baseline_not_beaten"]),
        ("[9.0, 9.1]", (1,), ["baseline_not_beaten"]),  # one value has no variance
    ],
)
def test_a_baseline_must_be_beaten_beyond_doubt(referee, submission, changed_rules, baseline, seeds, codes) -> None:
    """The minimal submission scores about 3.187 nats with every seed; a little noise makes its two seeds differ."""
    code = (submission / "serve.py").read_text()
    noise = "json.loads(Path('/in/phase.json').read_text())['seed'] % 2 * 1e-3 * (np.arange(320) % 2)"
    (submission / "serve.py").write_text("import json\n" + code.replace("= logits", f"= logits + {noise}"))
    rules = changed_rules(baseline_val_loss=baseline, baseline_name='"test"')
    record, _ = referee.run(submission, rules=rules, seeds=seeds)
    assert [reason.code for reason in record.reasons] == codes
    assert (record.significance is None) == (len(seeds) == 1)


@pytest.mark.parametrize(("spare", "verdict"), [(0, Verdict.PASS), (-1, Verdict.FAIL)])
@needs_root
def test_the_size_limit_is_exact(referee, submission, changed_rules, tmp_path, spare: int, verdict) -> None:
    code = load_contestant(submission, referee.rules.rules, tmp_path / "measured").code_bytes
    artifact = 320 * 2
    rules = changed_rules(artifact_and_code_bytes=str(code + artifact + spare))
    record, _ = referee.run(submission, rules=rules)
    assert record.verdict is verdict
    assert record.seeds[0].total_bytes == code + artifact
    assert [reason.code for reason in record.reasons] == ([] if spare == 0 else ["size_over_limit"])
    assert list(record.seeds[0].phases) == ["train", "quantize", *(["eval", "probe"] if spare == 0 else [])]


def test_a_missing_witness_makes_the_best_verdict_unproven(referee, submission) -> None:
    record, directory = referee.run(submission, monitored=False, missing_witnesses=["access monitor: test"])
    assert record.verdict is Verdict.UNPROVEN
    assert [(reason.kind, reason.text) for reason in record.reasons] == [("missing_witness", "access monitor: test")]
    phase = record.seeds[0].phases["train"]
    assert not phase.gate_seen
    assert phase.prepare_seconds == 0
    assert phase.clock_seconds > 0
    assert read_ledger(directory / "ledger.jsonl")[1] == record.ledger_head


def test_a_missing_witness_does_not_excuse_a_broken_rule(referee, submission) -> None:
    (submission / "train.py").write_text("raise SystemExit(5)")
    record, _ = referee.run(submission, monitored=False, missing_witnesses=["access monitor: test"])
    assert record.verdict is Verdict.FAIL
    assert {reason.kind for reason in record.reasons} == {"missing_witness", "violation"}


def test_a_seed_that_fails_does_not_stop_the_others(referee, submission) -> None:
    """Attack C10: every seed is in the record, also the unlucky ones."""
    text = (submission / "train.py").read_text()
    guard = "import json\nif json.load(open('/in/phase.json'))['seed'] == 2: raise SystemExit(9)\n"
    (submission / "train.py").write_text(guard + text)
    record, _ = referee.run(submission, seeds=(2, 1))
    assert record.verdict is Verdict.FAIL
    assert [(reason.code, reason.seed, reason.phase) for reason in record.reasons] == [("exit_code", 2, "train")]
    assert [seed.seed for seed in record.seeds] == [2, 1]
    assert [seed.val_bpb is None for seed in record.seeds] == [True, False]


# --- clocks


@needs_root
@pytest.mark.parametrize("hours", [1, -1])
def test_a_wall_clock_that_is_set_changes_no_duration(referee, monkeypatch, hours: int) -> None:
    """Attack C08: NTP, or root, sets the clock while a run lasts."""
    real_time, calls = time.time, []

    class Stepped(datetime):
        """Right when the run starts; then set, again and again."""

        @classmethod
        def now(cls, tz=None):
            calls.append(tz)
            return datetime.now(tz) + timedelta(hours=hours) * (len(calls) - 1)

    monkeypatch.setattr(time, "time", lambda: real_time() + 3600 * hours * len(calls))
    monkeypatch.setattr(referee_module, "datetime", Stepped)
    monkeypatch.setattr(ledger_module, "datetime", Stepped)
    began = time.monotonic()
    record, directory = referee.run(MINIMAL)
    took = time.monotonic() - began
    assert (record.verdict, record.reasons) == (Verdict.PASS, ())
    phases = record.seeds[0].phases.values()
    assert all(0 < phase.clock_seconds < 8 and 0 < phase.prepare_seconds < 8 for phase in phases)
    assert sum(phase.clock_seconds + phase.prepare_seconds for phase in phases) < took
    stamps = [datetime.fromisoformat(stamp) for stamp in (record.started_utc, record.finished_utc)]
    assert abs(stamps[1] - stamps[0]) > timedelta(hours=5), "what the wall clock said is written down as it was"
    times = [event["monotonic"] for event in read_ledger(directory / "ledger.jsonl")[0]]
    assert times == sorted(times)
    assert times[-1] - times[0] < took


@needs_root
@pytest.mark.slow
def test_a_harness_that_is_stopped_does_not_stop_the_clock(toy_data, submission, changed_rules, tmp_path) -> None:
    """Attack C08: the phase is over its limit, and over, before the harness can look."""
    code = "import time\nopen('/in/train/toy_train_000000.bin').close()\nprint('started', flush=True)\ntime.sleep(3)\n"
    (submission / "train.py").write_text(code + (submission / "train.py").read_text())
    changed_rules(train_seconds="2")
    harness = subprocess.Popen(
        command(toy_data, submission, tmp_path / "runs", rules=tmp_path / "changed.toml"),
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
    )
    wait_until(lambda: has_started(tmp_path / "runs"), "it trains")
    harness.send_signal(signal.SIGSTOP)
    time.sleep(5)
    harness.send_signal(signal.SIGCONT)
    assert harness.wait(PATIENCE) == ExitCode.FAIL
    (found,) = (tmp_path / "runs").glob("*/record.json")
    record = Record.model_validate_json(found.read_text())
    assert [(reason.code, reason.phase) for reason in record.reasons] == [("clock_over_limit", "train")]
    train = record.seeds[0].phases["train"]
    assert 3 <= train.clock_seconds < 5, "until the phase ended, not until the harness went on"
    assert train.exit_code == 0


# --- a host that lacks something

# Stands in for Python when a listener is started: the kernel has no fanotify, or does not permit it.
WITHOUT_FANOTIFY = """#!{python}
import ctypes, os, runpy, sys
sys.path.insert(0, os.getcwd())
from harness import fanotify
class Kernel:
    def fanotify_init(self, *arguments):
        ctypes.set_errno({number})
        return -1
fanotify._libc = Kernel()
del sys.argv[:2]
runpy.run_module("harness.listener", run_name="__main__", alter_sys=True)
"""
NO_NAMESPACES = """#!/bin/sh
[ "$1" = --version ] && exec echo bubblewrap 0
echo "bwrap: No permissions to create new namespace" >&2
exit 1
"""


def program(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def run_command_line(monkeypatch, data: Path, out: Path) -> tuple[int, str]:
    """Exit code, and what was printed."""
    printed = io.StringIO()
    for name in ("console", "errors"):
        monkeypatch.setattr(cli, name, Console(file=printed, width=10_000))
    monkeypatch.setattr(sys, "argv", command(data, MINIMAL, out)[2:])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code, printed.getvalue()


@needs_root
@pytest.mark.privileged
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM], ids=errno.errorcode.get)
def test_a_kernel_without_permission_events_leaves_it_unproven(toy_data, tmp_path, monkeypatch, number: int) -> None:
    """Attack F12."""
    text = WITHOUT_FANOTIFY.format(python=sys.executable, number=number)
    python = program(tmp_path / "python", text)
    monkeypatch.setattr("harness.access.sys", types.SimpleNamespace(executable=python))
    code, said = run_command_line(monkeypatch, toy_data, tmp_path / "runs")
    assert code == ExitCode.UNPROVEN, said
    assert re.search(f"no PASS possible: access monitor: .*fanotify_init: {os.strerror(number)}", said)


@pytest.mark.parametrize(
    ("bwrap", "told"),
    [(None, "bubblewrap is not installed"), (NO_NAMESPACES, "user namespaces must be allowed")],
    ids=["no bubblewrap", "no namespaces"],
)
def test_a_host_that_can_build_no_sandbox_runs_nothing(toy_data, tmp_path, monkeypatch, bwrap, told) -> None:
    """Attack F12."""
    path = program(tmp_path / "bwrap", bwrap) if bwrap else None
    monkeypatch.setattr("harness.sandbox.bubblewrap.shutil.which", lambda name: path)
    code, said = run_command_line(monkeypatch, toy_data, tmp_path / "runs")
    assert code == ExitCode.ENVIRONMENT, said
    assert told in said
    assert not (tmp_path / "runs").exists()


@needs_root
def test_without_control_groups_the_evidence_says_that_memory_was_not_limited(referee, monkeypatch) -> None:
    """Attack F12: a version that is not there, or is read-only."""
    monkeypatch.setattr("harness.sandbox.bubblewrap.hierarchies", lambda: [])
    record, _ = referee.run(MINIMAL)
    assert record.verdict is Verdict.PASS
    assert {phase.sandbox.limited for phase in record.seeds[0].phases.values()} == {()}


@needs_root
@pytest.mark.privileged
def test_data_on_an_overlay_leaves_it_unproven(referee, toy_data, tmp_path) -> None:
    """Attack F12: the layer below can be read unseen."""
    disk, merged = tmp_path / "disk", tmp_path / "merged"
    disk.mkdir()
    merged.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(disk)], check=True)
    try:
        for name in ("upper", "work"):
            (disk / name).mkdir()
        options = f"lowerdir={toy_data},upperdir={disk / 'upper'},workdir={disk / 'work'}"
        subprocess.run(["mount", "-t", "overlay", "none", "-o", options, str(merged)], check=True)
        record, _ = referee.run(MINIMAL, data=merged)
    finally:
        subprocess.run(["umount", "--quiet", "--lazy", str(merged)], check=False)
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
    assert record.verdict is Verdict.UNPROVEN
    assert re.fullmatch("missing_witness: .* lies on overlay .*", f"{record.reasons[0].kind}: {record.reasons[0].text}")


def test_what_every_sandbox_sees_is_searched_for_copies_of_shards(referee, toy_data, tmp_path) -> None:
    """An earlier run, or anybody, has put what a shard holds where no gate is."""
    copy = tmp_path / "usr" / "share" / "words"
    copy.parent.mkdir(parents=True)
    shutil.copyfile(toy_data / "toy_val_000000.bin", copy)

    class Seeing(BubblewrapSandbox):
        def visible_paths(self) -> list[Path]:
            return [tmp_path / "usr"]

    record, _ = referee.run(MINIMAL, sandbox=Seeing())
    assert record.verdict is Verdict.ERROR
    assert [reason.text for reason in record.reasons] == [
        f"{copy} holds what a shard holds, and every sandbox can see it; move or remove it"
    ]


@pytest.mark.privileged
@pytest.mark.parametrize("permitted", [True, False])
def test_the_page_cache_is_dropped_before_each_phase_and_the_record_says_whether(
    referee, submission, monkeypatch, permitted: bool
) -> None:
    """Attack X29."""
    order: list[str] = []
    start = BubblewrapSandbox.start

    def drop() -> bool:
        order.append("dropped")
        return permitted

    def started(self, spec):
        order.append(spec.label)
        return start(self, spec)

    monkeypatch.setattr(supervisor_module, "drop_page_cache", drop)
    monkeypatch.setattr(BubblewrapSandbox, "start", started)
    record, _ = referee.run(submission)
    phases = record.seeds[0].phases
    assert order[::2] == ["dropped"] * len(phases)
    assert len(order) == 2 * len(phases) == 8
    assert {phase.page_cache_dropped for phase in phases.values()} == {permitted}


# --- faults of the referee


def test_ctrl_c_leaves_a_record_with_verdict_error(referee, submission, monkeypatch) -> None:
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(referee_module, "quantize_phase", interrupted)
    with pytest.raises(KeyboardInterrupt):
        referee.run(submission)
    (directory,) = runs_of(referee)
    record = Record.model_validate_json((directory / "record.json").read_text())
    assert record.verdict is Verdict.ERROR
    assert [reason.code for reason in record.reasons] == ["interrupted"]
    assert list(record.seeds[0].phases) == ["train"]
    assert not (directory / "INCOMPLETE").exists()
    assert not (directory / "scratch").exists()


class BrokenSandbox(BubblewrapSandbox):
    """Works for train, then fails in some way."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def start(self, spec):
        if spec.label.startswith("quantize"):
            raise self.error
        return super().start(spec)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RefereeError("the walls fell"), "referee_error"),
        (ZeroDivisionError("surprise"), "unexpected"),
        (OSError(5, "Input/output error"), "unexpected"),
        (OSError(28, "No space left on device"), "referee_error"),
        (MemoryError(), "unexpected"),
        (RecursionError(), "unexpected"),
    ],
)
def test_a_fault_of_the_harness_is_an_error_and_keeps_the_evidence(referee, submission, error, code) -> None:
    record, directory = referee.run(submission, sandbox=BrokenSandbox(error))
    assert record.verdict is Verdict.ERROR
    assert [(reason.kind, reason.code) for reason in record.reasons] == [("referee_error", code)]
    assert (directory / "seed-1" / "checkpoint.safetensors").exists()
    assert list(record.seeds[0].phases) == ["train"]
    assert read_ledger(directory / "ledger.jsonl")[1] == record.ledger_head
    assert (directory / "harness-error.txt").exists() == (code == "unexpected")
    shard = referee.data / "toy_train_000000.bin"
    assert subprocess.run(["cat", str(shard)], capture_output=True).returncode == 0, "no mark is left behind"


def test_a_ledger_that_cannot_be_written_is_an_error_with_a_record(referee, submission, monkeypatch) -> None:
    """Attack X43: a full disk takes half a line and says nothing."""

    class HalfFull:
        """The os module, whose writes come up short after the third."""

        writes = 0

        def __getattr__(self, name: str):
            return getattr(os, name)

        def write(self, descriptor: int, data: bytes) -> int:
            self.writes += 1
            return os.write(descriptor, data if self.writes <= 3 else data[:7])

    monkeypatch.setattr(ledger_module, "os", HalfFull())
    record, directory = referee.run(submission)
    assert record.verdict is Verdict.ERROR
    assert any("short write" in reason.text for reason in record.reasons)
    assert (directory / "record.json").exists()


def exhaust(spare: int) -> Callable[[int], None]:
    """Leaves a process `spare` descriptors that it does not have yet."""

    def limit(pid: int) -> None:
        used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
        free = (number for number in range(len(used) + spare + 1) if number not in used)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (list(free)[spare], 4096))

    return limit


@needs_root
@pytest.mark.privileged
@pytest.mark.parametrize("victims", [(0,), (1,), (0, 1)], ids=["first", "second", "both"])
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda pid: os.kill(pid, signal.SIGSTOP), r"access listener \d does not answer"),
        (lambda pid: os.kill(pid, signal.SIGKILL), r"access listener \d was lost"),
        (exhaust(0), r"access listener \d: the kernel could not report an open: Too many open files"),
        (exhaust(1), r"access listener \d: the kernel could not tell which process \d+ is"),
    ],
    ids=["stopped", "killed", "no descriptor", "one descriptor"],
)
def test_a_listener_in_trouble_ends_the_run_as_an_error(
    referee, submission, monkeypatch, own_registry, harm, said, victims
) -> None:
    """Attacks X13, D15, D17: no verdict about opens that nobody saw, no blame for the submission, nothing left."""
    (submission / "train.py").write_text(
        "import time\nfor _ in range(70):\n    open('/in/train/toy_train_000000.bin').close()\n    time.sleep(0.1)\n"
    )
    monitors, harmed = [], []
    real = AccessMonitor.grant

    def grant(self, *arguments) -> None:
        real(self, *arguments)
        monitors.append(self)
        threading.Timer(0.7, harm_listeners).start()

    def harm_listeners() -> None:
        harmed.append(time.monotonic())
        for victim in victims:
            harm(monitors[0]._processes[victim].pid)

    monkeypatch.setattr("harness.access.ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(AccessMonitor, "grant", grant)
    record, directory = referee.run(submission)
    took = time.monotonic() - harmed[0]
    assert record.verdict is Verdict.ERROR
    (reason,) = record.reasons
    assert re.match(said, reason.text), reason.text
    assert took < 12, f"{took:.1f} s"
    assert all(process.poll() is not None for process in monitors[0]._processes)
    assert list(own_registry.glob("*.json")) == []
    assert not (directory / "scratch").exists()
    shard = referee.data / "toy_train_000000.bin"
    assert subprocess.run(["cat", str(shard)], capture_output=True, timeout=PATIENCE).returncode == 0


@pytest.fixture
def small_disk(referee):
    """Run directories lie on 4 MB of their own; what is returned fills up what is left of it."""
    referee.out.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(referee.out)], check=True)

    def fill(*_, **__) -> None:
        with contextlib.suppress(OSError), (referee.out / "filler").open("ab", buffering=0) as file:
            while file.write(bytes(1 << 16)):
                pass

    yield fill
    subprocess.run(["umount", "--lazy", str(referee.out)], check=True)


MOMENTS = {
    "log": (Log, "pump"),
    "output": (supervisor_module, "collect"),
    "checkpoint": (referee_module, "canonical_checkpoint"),
    "ledger": (Ledger, "append"),
    "room of the next phase": (referee_module, "quantize_phase"),
    "nats": (Scorer, "run"),
}


@needs_root
@pytest.mark.privileged
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_disk_that_fills_up_ends_the_run_as_an_error_with_its_evidence(
    referee, submission, small_disk, monkeypatch, moment
) -> None:
    """Attack X43: room for the last line and the record was set aside."""
    code = (submission / "train.py").read_text()
    (submission / "train.py").write_text("for _ in range(50): print('x' * 1000)\n" + code)
    place, name = MOMENTS[moment]
    real = getattr(place, name)

    def filled(*arguments, **options):
        if not (referee.out / "filler").exists():
            small_disk()
        return real(*arguments, **options)

    monkeypatch.setattr(place, name, filled)
    record, directory = referee.run(submission)
    assert record.verdict is Verdict.ERROR
    assert re.search(r"no room was left for (a file in )?/|the ledger cannot be written", record.reasons[0].text)
    assert not any("\n" in reason.text for reason in record.reasons)
    assert Record.model_validate_json((directory / "record.json").read_text()) == record
    events, head = read_ledger(directory / "ledger.jsonl")
    assert (head, events[-1]["event"], events[-1]["verdict"]) == (record.ledger_head, "verdict", "ERROR")
    assert not {"INCOMPLETE", "reserve", "scratch"} & {path.name for path in directory.iterdir()}


@needs_root
@pytest.mark.privileged
def test_a_record_that_has_no_room_is_no_record(referee, submission, small_disk, monkeypatch) -> None:
    real = referee_module.write_atomically

    def write(path, content) -> None:
        if path.name == "record.json":
            small_disk()
        real(path, content)

    monkeypatch.setattr(referee_module, "write_atomically", write)
    monkeypatch.setattr(doctor, "MINIMUM_FREE_BYTES", 0)
    monkeypatch.setattr("harness.preflight.disk_bytes", lambda *_: 0)  # it would not let the run begin
    monkeypatch.setattr(sys, "argv", command(referee.data, submission, referee.out)[2:])
    printed = io.StringIO()
    monkeypatch.setattr(cli, "errors", Console(file=printed, width=10_000))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == ExitCode.ERROR
    (line,) = printed.getvalue().splitlines()
    assert "record.json cannot be written: No space left on device; this run has no verdict" in line
    (directory,) = (path for path in referee.out.iterdir() if path.is_dir())
    assert (directory / "INCOMPLETE").exists()
    assert not [path for path in directory.iterdir() if "record" in path.name]


@needs_root
@pytest.mark.privileged
def test_a_disk_that_is_full_before_the_run_is_bad_input(referee, submission, small_disk) -> None:
    small_disk()
    with pytest.raises(InputError, match="cannot make the run directory"):
        referee.run(submission)
    assert [path.name for path in referee.out.iterdir()] == ["filler"]


@needs_root
@pytest.mark.privileged
@pytest.mark.parametrize("phase", ["train", "quantize", "eval"])
def test_data_that_is_mounted_anew_between_phases_ends_as_an_error(
    referee, submission, toy_data, tmp_path, monkeypatch, phase
) -> None:
    """Attack D12: the marks are gone, and nothing else is different."""
    real = BubblewrapSandbox.start
    with Disk(tmp_path / "image", tmp_path / "disk") as disk:
        shutil.copytree(toy_data, disk.folder / "toy")

        def start(self, spec):
            if spec.label.startswith(phase):
                disk.mount_anew()
            return real(self, spec)

        monkeypatch.setattr(BubblewrapSandbox, "start", start)
        record, _ = referee.run(submission, data=disk.folder / "toy")
        assert record.verdict is Verdict.ERROR
        assert re.search(r"the gate on .*/toy_\w+\.bin is gone", record.reasons[0].text)
        assert len(record.reasons) == 1


@needs_root
@pytest.mark.privileged
def test_data_that_is_mounted_anew_while_a_sandbox_lives_keeps_its_gates(
    referee, submission, toy_data, tmp_path, monkeypatch
) -> None:
    """The guard's mount namespace holds the file system, and so the marks, whatever the sandbox itself sees."""
    real, denied = Supervisor._watch, []
    with Disk(tmp_path / "image", tmp_path / "disk") as disk:
        shutil.copytree(toy_data, disk.folder / "toy")

        def watch(self, running) -> None:
            if self.phase == "eval":
                disk.unmount()
                disk.mount()
                shard = disk.folder / "toy" / "toy_val_000000.bin"
                denied.append(subprocess.run(["cat", str(shard)], capture_output=True).returncode != 0)
            real(self, running)

        monkeypatch.setattr(Supervisor, "_watch", watch)
        record, _ = referee.run(submission, data=disk.folder / "toy")
    assert denied == [True]
    assert record.verdict is Verdict.PASS


HOLD = """
import os, socket, sys
descriptor = os.open(sys.argv[1], os.O_RDONLY)
if sys.argv[2] == "in flight":
    ours, theirs = socket.socketpair()
    socket.send_fds(ours, [b"x"], [descriptor])
    os.close(descriptor)
print(flush=True)
input()
"""


@needs_root
@pytest.mark.privileged
@pytest.mark.parametrize("how", ["open", "in flight"])
def test_a_shard_that_somebody_has_open_already_is_an_error(referee, toy_data, tmp_path, own_registry, how) -> None:
    """Attack X10: no open is left to ask about. In flight between two processes, it is in nobody's table."""
    data = Path(shutil.copytree(toy_data, tmp_path / "data"))
    shard = data / "toy_val_000000.bin"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(shard), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        holder.stdout.readline()
        record, _ = referee.run(MINIMAL, data=data)
        holder.kill()
    assert record.verdict is Verdict.ERROR
    (reason,) = record.reasons
    assert shard.name in reason.text
    assert (f"process {holder.pid} " if how == "open" else "something has") in reason.text
    assert record.seeds == ()
    assert referee.run(MINIMAL, data=data)[0].verdict is Verdict.PASS


def test_a_fault_of_the_referee_that_cannot_be_written_down_is_never_a_pass(referee, tmp_path, monkeypatch) -> None:
    """A full disk: neither the scores nor the error can be kept."""
    real_write, real_text = referee_module.write_atomically, Path.write_text

    def full_for_nats(path, content):
        if Path(path).name == "nats.f32.gz":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(path, content)

    def full_for_error(self, *args, **options):
        if self.name == "harness-error.txt":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_text(self, *args, **options)

    monkeypatch.setattr(referee_module, "write_atomically", full_for_nats)
    monkeypatch.setattr(Path, "write_text", full_for_error)
    with contextlib.suppress(OSError):
        referee.run(MINIMAL)
    (found,) = (tmp_path / "runs").glob("*/record.json")
    record = Record.model_validate_json(found.read_text())
    assert record.verdict is Verdict.ERROR


# --- the scorer's faults, and its probes


def kept_nats(directory: Path, seed: int = 1) -> np.ndarray:
    return np.frombuffer(gzip.decompress((directory / f"seed-{seed}" / "nats.f32.gz").read_bytes()), "<f4")


def test_a_scorer_that_breaks_is_an_error_with_partial_evidence(referee, monkeypatch) -> None:
    """Not the submission's fault, and what was scored until then is kept."""
    real, calls = nats.commit, []

    def break_after_three(logits, targets, own):
        if len(calls) == 3:
            raise MemoryError("no memory left for the scorer")
        calls.append(len(targets))
        return real(logits, targets, own)

    monkeypatch.setattr(nats, "commit", break_after_three)
    begin = time.monotonic()
    record, directory = referee.run(MINIMAL)
    assert time.monotonic() - begin < 20
    assert record.verdict is Verdict.ERROR
    assert "no memory left for the scorer" in record.reasons[0].text
    kept = kept_nats(directory)
    assert sum(calls) / 2 < np.isfinite(kept).sum() <= sum(calls), "all of it, but for blind probes"
    assert np.isnan(kept).any()
    assert record.seeds[0].nats_sha256 == hashlib.sha256(kept.tobytes()).hexdigest()
    assert record.seeds[0].val_bpb is None


def test_the_record_says_what_the_probes_showed(honest) -> None:
    _, record, _ = honest
    for seed in record.seeds:
        after = seed.probes_after
        windows = 1 + -(-(seed.tokens - 64) // 16)
        assert windows <= after.probes <= 1.25 * windows, "all windows of so short a stream, and suspects again"
        assert after.looking_ahead > 0.8 * after.probes
        assert (after.largest_deviation_nats, after.mean_gain_nats) == (0, 0), "a unigram model is exact"
        assert after.missed_share == pytest.approx(1 - 1e-6 ** (1 / after.looking_ahead))
        assert seed.probes_blind.probes > 0
        assert seed.adaptive is False


def test_the_standard_error_is_that_of_the_documents(honest) -> None:
    _, record, _ = honest
    for seed in record.seeds:
        assert 0 < seed.val_loss_standard_error < 0.1 * seed.val_loss
        assert 0 < seed.val_bpb_standard_error < 0.1 * seed.val_bpb


def test_probes_that_were_not_answered_leave_the_score_but_no_pass(referee, submission) -> None:
    """A server that works once only: the score is evidence, the verdict is not PASS."""
    serve = (submission / "serve.py").read_text()
    look = 'import sys\nif "/probe-1.sock" in open("/proc/self/mountinfo").read():\n    sys.exit(0)\n'
    (submission / "serve.py").write_text(look + serve)
    record, _ = referee.run(submission)
    assert record.verdict is Verdict.FAIL
    (seed,) = record.seeds
    assert list(seed.phases) == ["train", "quantize", "eval", "probe"]
    assert seed.val_bpb is not None
    assert seed.probes_after.probes == 0
    assert {reason.phase for reason in record.reasons} == {"probe"}


def test_other_original_documents_are_refused_before_anything_runs(referee, damaged_data) -> None:
    documents = list(read_documents(damaged_data / "toy_val_documents.jsonl"))
    write_documents(damaged_data / "toy_val_documents.jsonl", [*documents[:5], documents[5].upper(), *documents[6:]])
    manifest = Manifest.load(referee.data)
    entry = PlainFile.of(damaged_data / "toy_val_documents.jsonl")
    manifest.model_copy(update={"val_documents": entry}).write(damaged_data)
    with pytest.raises(InputError, match="document 5 of the val split"):
        referee.run(MINIMAL, data=damaged_data)
    assert runs_of(referee) == []


# --- odd submissions


def test_what_is_ignored_of_a_folder_is_in_no_sandbox(referee, submission) -> None:
    """Attack A04: text kept in a repository's history, in compiled modules or in a virtual environment."""
    canary = "canary-" + "7f3a" * 8
    for place in (".git/objects/pack/pack-1.pack", "__pycache__/x.pyc", "deep/__pycache__/y.pyc", ".venv/lib/z.py"):
        (submission / place).parent.mkdir(parents=True)
        (submission / place).write_text(canary)
    (submission / "deep" / "seen.txt").write_text("and " + canary[:-1])
    look = f"""
import os
found = []
for folder, folders, files in os.walk("/in"):
    found += [name for name in folders + files if name in {sorted(IGNORED)}]
    for name in files:
        if name.endswith((".bin", ".safetensors", ".sock")):
            continue
        data = open(os.path.join(folder, name), "rb").read()
        found += [name] if {canary[:-1].encode()} + b"{canary[-1]}" in data else []
        assert name != "seen.txt" or {canary[:-1].encode()} in data
assert os.path.exists("/in/submission/serve.py") and not found, found
"""
    text = (submission / "submission.toml").read_text()
    (submission / "submission.toml").write_text(text.replace('eval_files = ["serve.py"]', ""))
    for name in ("train.py", "quantize.py", "serve.py"):
        (submission / name).write_text(look + (submission / name).read_text())
    record, _ = referee.run(submission)
    assert record.verdict is (Verdict.PASS if os.geteuid() == 0 else Verdict.UNPROVEN), record.reasons


@pytest.mark.slow
def test_odd_names_and_many_files_are_no_obstacle(referee, submission) -> None:
    folder = submission / "a folder"
    folder.mkdir()
    for name in ("file with spaces.txt", "ünïcode", "back\\slash", "-rf", "x" * 200, "%s", "'quoted\"", "[1]*?"):
        (folder / name).write_text("odd")
    for number in range(3100):
        (folder / f"{number}.txt").touch()
    text = (submission / "submission.toml").read_text()
    (submission / "submission.toml").write_text(text.replace('eval_files = ["serve.py"]', ""))
    record, _ = referee.run(submission)
    assert record.verdict is (Verdict.PASS if os.geteuid() == 0 else Verdict.UNPROVEN), record.reasons


def test_a_deep_tree_left_behind_does_not_stop_the_record(referee, submission) -> None:
    code = "import os\nos.chdir('/out')\nfor _ in range(900):\n    os.mkdir('d'); os.chdir('d')\n"
    (submission / "train.py").write_text((submission / "train.py").read_text() + code)
    record, directory = referee.run(submission)
    assert [reason.code for reason in record.reasons] == ["output_undeclared"]
    assert not (directory / "scratch").exists()


def test_a_log_is_cut_at_its_limit_and_the_record_says_so(referee, submission) -> None:
    """Attack X44."""
    (submission / "train.py").write_text("print('x' * 5_000_000)\nraise SystemExit(1)")
    record, directory = referee.run(submission)
    phase = record.seeds[0].phases["train"]
    assert phase.log_truncated
    assert phase.log_bytes > 5_000_000
    assert (directory / "seed-1" / "train.log").stat().st_size == referee.rules.rules.limits.log_bytes


def test_a_calibration_key_follows_from_the_checkpoint_and_the_ledger(honest) -> None:
    """Attack Q06: the key cannot be known before the checkpoint is fixed, so it cannot be searched."""
    _, record, directory = honest
    events, _ = read_ledger(directory / "ledger.jsonl")
    checkpoints = [seed.outputs["checkpoint.safetensors"].sha256 for seed in record.seeds]
    found = [event for event in events if event["event"] == "calibration_key"]
    for event, checkpoint in zip(found, checkpoints, strict=True):
        material = f"calibration {checkpoint} {event['previous']}"
        assert event["key"] == hashlib.sha256(material.encode()).hexdigest()


# --- shards that are not what they were (attack D11)


def exchange(shard: Path) -> None:
    """Put another file of the same size under a shard's name."""
    other = shard.with_name("other")
    other.write_bytes(shard.read_bytes()[::-1])
    other.rename(shard)


def after(monkeypatch, place, name: str, act: Callable[[], object]) -> None:
    """Let something happen right after the first call of a function."""
    real, calls = getattr(place, name), []

    def call_and_act(*arguments, **options):
        result = real(*arguments, **options)
        if not calls:
            act()
        calls.append(name)
        return result

    monkeypatch.setattr(place, name, call_and_act)


@needs_root
@pytest.mark.privileged
@pytest.mark.parametrize("name", ["toy_train_000001.bin", "toy_val_000000.bin"])
@pytest.mark.parametrize(
    ("moment", "phases"),
    [("load_dataset", []), ("snapshot", []), ("train_phase", []), ("quantize_phase", ["train"])],
)
def test_a_shard_exchanged_between_two_steps_is_an_error(
    referee, submission, damaged_data, monkeypatch, name: str, moment: str, phases: list[str]
) -> None:
    """After it was verified, after it was sealed, after it was marked and before the first phase, between phases."""
    after(monkeypatch, referee_module, moment, lambda: exchange(damaged_data / name))
    record, _ = referee.run(submission, data=damaged_data)
    assert record.verdict is Verdict.ERROR
    assert str(damaged_data / name) in record.reasons[0].text
    assert [list(seed.phases) for seed in record.seeds] == ([phases] if moment.endswith("phase") else [])


@needs_root
@pytest.mark.privileged
@pytest.mark.parametrize("name", ["toy_train_000001.bin", "toy_val_000000.bin"])
def test_a_shard_exchanged_in_the_middle_of_a_phase_is_an_error(referee, submission, damaged_data, name: str) -> None:
    wait = "print('started', flush=True)\nimport time\ntime.sleep(1.5)\n"
    (submission / "train.py").write_text(wait + (submission / "train.py").read_text())

    def exchange_while_it_trains() -> None:
        wait_until(lambda: has_started(referee.out), "it trains")
        exchange(damaged_data / name)

    thread = threading.Thread(target=exchange_while_it_trains)
    thread.start()
    record, _ = referee.run(submission, data=damaged_data)
    thread.join()
    assert record.verdict is Verdict.ERROR
    assert str(damaged_data / name) in record.reasons[0].text
    assert len(record.seeds[0].phases) == 0, "nothing can be said about that phase"


@needs_root
@pytest.mark.privileged
def test_a_shard_linked_or_mounted_into_the_submission_is_refused(referee, submission, damaged_data) -> None:
    shard = damaged_data / "toy_val_000000.bin"
    (submission / "weights.bin").hardlink_to(shard)
    record, _ = referee.run(submission, data=damaged_data)
    assert [reason.code for reason in record.reasons] == ["shard_copy"]
    (submission / "weights.bin").unlink()
    (submission / "weights.bin").touch()
    subprocess.run(["mount", "--bind", shard, submission / "weights.bin"], check=True)
    try:
        record, _ = referee.run(submission, data=damaged_data)
    finally:
        subprocess.run(["umount", submission / "weights.bin"], check=True)
    assert [reason.code for reason in record.reasons] == ["shard_copy"]
    assert "weights.bin" in record.reasons[0].text


@needs_root
@pytest.mark.privileged
def test_a_file_dropped_beside_the_shards_is_in_no_sandbox(referee, submission, damaged_data, monkeypatch) -> None:
    """Attack X20: what came after the marks has none."""
    look = """
import os
names = sorted(name for folder in ("/in/train", "/in/val") for name in os.listdir(folder))
assert names == ["toy_train_000000.bin", "toy_train_000001.bin", "toy_val_000000.bin"], names
"""
    for name in ("train.py", "quantize.py", "serve.py"):
        (submission / name).write_text(look + (submission / name).read_text())
    dropped = damaged_data / "toy_train_000002.bin"
    after(monkeypatch, AccessMonitor, "prove_alive", lambda: shutil.copy(damaged_data / "toy_val_000000.bin", dropped))
    record, _ = referee.run(submission, data=damaged_data)
    assert dropped.exists()
    assert (record.verdict, record.reasons) == (Verdict.PASS, ())


# --- processes from outside


ALONE = """
import sys
from pathlib import Path
from harness import cli, registry
directory = Path(sys.argv.pop(1))
registry.default_directory = lambda: directory
cli.main()
"""


def command(
    data: Path, submission: Path, out: Path, registry: Path | None = None, rules: Path = TESTS / "toy.toml"
) -> list[str]:
    """The command line of a run; with `registry`, of one that sees only the runs that register there."""
    options = {"--rules": rules, "--submission": submission, "--data": data, "--out": out}
    parts = [str(part) for pair in options.items() for part in pair]
    start = ["-c", ALONE, str(registry)] if registry else ["-m", "harness.cli"]
    return [sys.executable, *start, "record", *parts]


@needs_root
@pytest.mark.privileged
@pytest.mark.slow
def test_two_runs_at_once_on_the_same_data_both_pass(toy_data, submission, tmp_path) -> None:
    """The first is in its train phase, its marks in place, when the second starts."""
    slow = Path(shutil.copytree(submission, tmp_path / "slow"))
    wait = "import time\nprint('started', flush=True)\ntime.sleep(5)\n"
    (slow / "train.py").write_text((slow / "train.py").read_text() + wait)
    first = subprocess.Popen(
        command(toy_data, slow, tmp_path / "first"), cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    wait_until(lambda: has_started(tmp_path / "first"), "the first run trains")
    second = subprocess.run(
        command(toy_data, submission, tmp_path / "second"), cwd=REPOSITORY, capture_output=True, timeout=PATIENCE
    )
    assert second.returncode == 0, second.stdout + second.stderr
    said, _ = first.communicate(timeout=PATIENCE)
    assert first.returncode == 0, said
    for folder in ("first", "second"):
        (found,) = (tmp_path / folder).glob("*/record.json")
        record = Record.model_validate_json(found.read_text())
        assert sum(phase.outsider_opens_denied for phase in record.seeds[0].phases.values()) == 0


@needs_root
@pytest.mark.privileged
@pytest.mark.slow
def test_two_runs_that_start_together_both_pass(toy_data, tmp_path) -> None:
    """Each has the shards open while the other looks whether anybody has."""
    runs = [
        subprocess.Popen(
            command(toy_data, MINIMAL, tmp_path / name, tmp_path / "registry"),
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for name in ("first", "second")
    ]
    for run in runs:
        said, _ = run.communicate(timeout=PATIENCE)
        assert run.returncode == 0, said


@needs_root
@pytest.mark.privileged
@pytest.mark.slow
def test_kill_9_leaves_nothing_behind_but_a_directory_that_says_incomplete(toy_data, submission, tmp_path) -> None:
    """Attack F06: while the harness dies the shards stay closed to the sandbox, and afterwards open to everybody."""
    (submission / "train.py").write_text(
        "import time\nopen('/in/train/toy_train_000000.bin')\nprint('started', flush=True)\ntime.sleep(3600)\n"
    )
    shard = toy_data / "toy_train_000000.bin"
    harness = subprocess.Popen(
        command(toy_data, submission, tmp_path / "runs"), cwd=REPOSITORY, stdout=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: has_started(tmp_path / "runs"), "it trains")
        (directory,) = (tmp_path / "runs").iterdir()
        entry = json.loads((default_directory() / f"{directory.name}.json").read_text())
        ((init, _, _),) = entry["sandboxes"]
        uid = os.stat(f"/proc/{init}").st_uid
        assert processes_of(uid)
        assert subprocess.run(["cat", str(shard)], capture_output=True).returncode != 0, "gated"
    finally:
        harness.send_signal(signal.SIGKILL)
        harness.wait()
    wait_until(lambda: not processes_of(uid), "the sandbox is gone")
    wait_until(lambda: subprocess.run(["cat", str(shard)], capture_output=True).returncode == 0, "the shard is open")
    (directory,) = (tmp_path / "runs").iterdir()
    assert (directory / "INCOMPLETE").exists()
    assert not (directory / "record.json").exists()
    events, _ = read_ledger(directory / "ledger.jsonl")
    assert events[-1]["event"] == "phase_start"
    with Registration("after", tmp_path / "registry") as registration:  # and the next run can mark them again
        monitor = AccessMonitor(registration, tmp_path)
        monitor.mark(shard, "shard")
        monitor.close()


def has_started(out: Path) -> bool:
    return any(b"started" in log.read_bytes() for log in out.glob("*/seed-1/train.log"))


def processes_of(uid: int) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid == uid:
                found.append(entry.name)
    return found


def test_a_request_is_data() -> None:
    assert dataclasses.is_dataclass(referee_module.RunRequest)
    with pytest.raises(TypeError):
        referee_module.RunRequest()
