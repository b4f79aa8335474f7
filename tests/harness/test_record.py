"""The verdict follows from the reasons, and record.json has one schema, which is the documented one."""

from __future__ import annotations

import itertools
import json

import jsonschema
import pytest

from harness.evidence.record import ReasonEntry, Record, Verdict, json_schema, judge


def reason(kind: str) -> ReasonEntry:
    return ReasonEntry(kind=kind, code="code", text="text")


@pytest.mark.parametrize("violation", [False, True])
@pytest.mark.parametrize("witness", [False, True])
@pytest.mark.parametrize("fault", [False, True])
def test_the_truth_table_of_verdicts(violation: bool, witness: bool, fault: bool) -> None:
    kinds = ["violation"] * violation + ["missing_witness"] * witness + ["referee_error"] * fault
    if fault:
        expected = Verdict.ERROR
    elif violation:
        expected = Verdict.FAIL
    elif witness:
        expected = Verdict.UNPROVEN
    else:
        expected = Verdict.PASS
    for order in itertools.permutations(kinds):
        assert judge([reason(kind) for kind in order]) is expected
    assert judge([reason(kind) for kind in kinds * 2]) is expected


def test_a_kind_of_reason_that_nobody_knows_cannot_be_made() -> None:
    """Else `judge` would not see it, and the verdict would be PASS."""
    with pytest.raises(ValueError, match="kind"):
        reason("warning")


def minimal_record(**changes) -> dict:
    sha256 = "0" * 64
    return {
        "run": "run",
        "verdict": "PASS",
        "reasons": [],
        "started_utc": "2026-01-01T00:00:00+00:00",
        "finished_utc": "2026-01-01T00:00:00+00:00",
        "rules": {"name": "toy", "sha256": sha256},
        "submission": {"name": "minimal", "tree_sha256": sha256},
        "data": {
            "manifest_sha256": sha256,
            "overlap": {"documents": 3, "repeated": 0, "mostly_in_train": 1, "in_train": 1, "example": 17},
        },
        "environment": {},
        "seeds": [],
        "ledger_head": sha256,
        **changes,
    }


def test_a_record_is_read_back_as_it_was_written() -> None:
    record = Record.model_validate(minimal_record())
    assert Record.model_validate_json(record.model_dump_json(indent=2)) == record
    jsonschema.validate(json.loads(record.model_dump_json()), json.loads(json_schema()))


@pytest.mark.parametrize(
    "changes",
    [
        {"unknown": 1},
        {"verdict": "MAYBE"},
        {"format": 2},
        {"ledger_head": "xyz"},
        {"rules": {"name": "toy"}},
        {"rules": {"name": "toy", "sha256": "0" * 64, "path": "x"}},
        {"reasons": [{"kind": "warning", "code": "c", "text": "t"}]},
        {"seeds": [{"seed": 1}]},
        {"environment": {"nested": {}}},
    ],
    ids=str,
)
def test_what_is_no_record_is_refused_by_the_models_and_by_the_schema(changes: dict) -> None:
    data = minimal_record(**changes)
    with pytest.raises(ValueError):
        Record.model_validate(data)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, json.loads(json_schema()))


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(json_schema()))
