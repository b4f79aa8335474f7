"""JSON keeps to its committed schema; SARIF to what the standard demands of a log, and viewers need."""

from __future__ import annotations

import dataclasses
import json
import re
from urllib.parse import unquote

import jsonschema
import pytest
from support import TESTS

from harness.compliance.catalogue import CHECKS
from harness.compliance.findings import Finding, Place, Report, Source, Status
from harness.compliance.interchange import as_json, as_sarif, fingerprints, json_schema

# What SARIF 2.1.0 (OASIS, errata 01) says of the parts that are written here: 3.13 to 3.52.
ARTIFACT = {
    "type": "object",
    "required": ["uri"],
    "additionalProperties": False,
    "properties": {
        "uri": {"type": "string", "pattern": r"^[A-Za-z0-9\-._~!$&'()*+,;=:@/%]+$"},
        "uriBaseId": {"const": "%SRCROOT%"},
    },
}
REGION = {
    "type": "object",
    "required": ["startLine"],
    "additionalProperties": False,
    "properties": {
        "startLine": {"type": "integer", "minimum": 1},
        "startColumn": {"type": "integer", "minimum": 1},
        "snippet": {"type": "object", "required": ["text"]},
    },
}
MESSAGE = {"type": "object", "required": ["text"], "properties": {"text": {"type": "string", "minLength": 1}}}
LOCATION = {
    "type": "object",
    "required": ["physicalLocation"],
    "additionalProperties": False,
    "properties": {
        "physicalLocation": {
            "type": "object",
            "required": ["artifactLocation", "region"],
            "additionalProperties": False,
            "properties": {"artifactLocation": ARTIFACT, "region": REGION},
        },
        "logicalLocations": {"type": "array", "items": {"required": ["fullyQualifiedName"]}},
        "message": MESSAGE,
    },
}
RULE = {
    "type": "object",
    "required": ["id", "name", "shortDescription", "fullDescription", "help", "defaultConfiguration"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": "string", "minLength": 1},
        "name": {"type": "string", "minLength": 1},
        "shortDescription": MESSAGE,
        "fullDescription": MESSAGE,
        "help": MESSAGE,
        "defaultConfiguration": {
            "properties": {"level": {"enum": ["none", "note", "warning", "error"]}},
            "additionalProperties": False,
        },
    },
}
RESULT = {
    "type": "object",
    "required": ["ruleId", "ruleIndex", "level", "message", "locations", "partialFingerprints"],
    "additionalProperties": False,
    "properties": {
        "ruleId": {"enum": list(CHECKS)},
        "ruleIndex": {"type": "integer", "minimum": 0},
        "level": {"enum": ["none", "note", "warning", "error"]},
        "message": MESSAGE,
        "locations": {"type": "array", "items": LOCATION, "minItems": 1, "maxItems": 1},
        "partialFingerprints": {"additionalProperties": {"type": "string"}, "required": ["primaryLocationLineHash"]},
        "codeFlows": {
            "type": "array",
            "items": {
                "required": ["threadFlows"],
                "properties": {
                    "threadFlows": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "required": ["locations"],
                            "properties": {
                                "locations": {
                                    "type": "array",
                                    "minItems": 1,
                                    "items": {"required": ["location"], "properties": {"location": LOCATION}},
                                }
                            },
                        },
                    }
                },
            },
        },
    },
}
SARIF = {
    "type": "object",
    "required": ["$schema", "version", "runs"],
    "properties": {
        "$schema": {"pattern": r"sarif-schema-2\.1\.0\.json$"},
        "version": {"const": "2.1.0"},
        "runs": {
            "type": "array",
            "minItems": 1,
            "items": {
                "required": ["tool", "results"],
                "properties": {
                    "columnKind": {"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
                    "results": {"type": "array", "items": RESULT},
                    "tool": {
                        "required": ["driver"],
                        "properties": {
                            "driver": {
                                "required": ["name", "rules"],
                                "properties": {
                                    "semanticVersion": {"pattern": r"^\d+\.\d+\.\d+"},
                                    "rules": {"type": "array", "uniqueItems": True, "items": RULE},
                                },
                            }
                        },
                    },
                },
            },
        },
    },
}


def sarif(*reports: Report) -> dict:
    log = json.loads(as_sarif(reports))
    jsonschema.Draft202012Validator(SARIF).validate(log)
    return log["runs"][0]


def test_the_committed_schema_is_current() -> None:
    """After a change of harness/compliance/interchange.py: `make schema`."""
    assert (TESTS.parent / "docs" / "check.schema.json").read_text() == json_schema()


def test_json_keeps_to_the_schema_and_has_everything(report: Report) -> None:
    found = json.loads(as_json([report, Report("other")]))
    jsonschema.Draft202012Validator(json.loads(json_schema())).validate(found)
    assert (found["status"], [target["status"] for target in found["targets"]]) == ("FLAG", ["FLAG", "CLEAN"])
    target = found["targets"][0]
    assert set(target["checks"]) == set(CHECKS)
    assert {name for name, status in target["checks"].items() if status == "FLAG"} == {
        "record-logs",
        "target-keyed-cache",
    }
    assert [finding["check"] for finding in target["findings"]] == [finding.check for finding in report.findings]
    last = target["findings"][-1]["flow"][-1]
    assert (last["path"], last["line"], last["column"], last["note"]) == ("train_gpt.py", 4, 10, "and go into the key")
    assert "hash((a, b))" in last["code"]
    assert len(target["sources"]) == 2


def test_sarif_has_the_rules_and_what_somebody_must_look_at(report: Report) -> None:
    run = sarif(report)
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == list(CHECKS)
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    assert [(result["ruleId"], result["level"]) for result in run["results"]] == [
        ("record-logs", "error"),
        ("hidden-code", "warning"),
        ("target-keyed-cache", "error"),
    ]


def test_a_hold_is_a_warning_whatever_its_check(report: Report) -> None:
    held = dataclasses.replace(report, findings=(dataclasses.replace(report.findings[3], status=Status.HOLD),))
    (result,) = sarif(held)["results"]
    assert result["level"] == "warning" and result["message"]["text"].startswith("HOLD: ")


def test_the_flow_ends_at_the_result_s_own_line(report: Report) -> None:
    result = sarif(report)["results"][2]
    (flow,) = result["codeFlows"][0]["threadFlows"]
    lines = [step["location"]["physicalLocation"]["region"]["startLine"] for step in flow["locations"]]
    assert lines == [3, 4]
    assert result["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "records/mine/train_gpt.py", "uriBaseId": "%SRCROOT%"},
        "region": {
            "startLine": 4,
            "startColumn": 10,
            "snippet": {"text": "    keys = [hash((a, b)) for a, b in zip(history, targets)]"},
        },
    }


def test_a_place_in_packed_code_points_into_the_file_that_exists(report: Report) -> None:
    location = sarif(report)["results"][1]["locations"][0]
    assert location["physicalLocation"]["region"] == {"startLine": 1}
    assert location["logicalLocations"] == [{"fullyQualifiedName": "packed.py!lzma!base85:2"}]
    assert "line 2: b = open(a)" in location["message"]["text"]


@pytest.mark.parametrize("name", ["with space.py", "per%cent.py", "ümlaut.py", "odd\udcff.py", "line\nend#?.py"])
def test_names_are_uris(name: str) -> None:
    place = Place(Source(name, "x = 1\n"), 1, 1, "here")
    (result,) = sarif(Report(".", (Finding("slot", Status.FLAG, "m", (place,)),), root="."))["results"]
    uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert unquote(uri, errors="surrogateescape") == name


def test_a_finding_about_a_folder_points_at_a_file_of_it(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    report = Report("mine", (Finding("record-logs", Status.FLAG, "m"),), root="mine")

    def uri() -> str:
        return sarif(report)["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]

    assert uri() == "mine"
    (tmp_path / "mine" / "README.md").touch()
    assert uri() == "mine/README.md"
    (tmp_path / "mine" / "submission.json").touch()
    assert uri() == "mine/submission.json"


def test_what_is_outside_the_working_tree_has_a_whole_uri(tmp_path) -> None:
    place = Place(Source("a b.py", "x = 1\n"), 1, 1, "here")
    report = Report(str(tmp_path), (Finding("slot", Status.FLAG, "m", (place,)),), root=str(tmp_path))
    (result,) = sarif(report)["results"]
    artifact = result["locations"][0]["physicalLocation"]["artifactLocation"]
    assert artifact == {"uri": f"file://{tmp_path}/a%20b.py"}


def test_fingerprints_move_with_the_code_and_tell_findings_apart(report: Report) -> None:
    def shifted(place: Place) -> Place:
        source = dataclasses.replace(place.source, text="# new\n\n" + place.source.text)
        return dataclasses.replace(place, source=source, line=place.line + 2)

    moved = tuple(
        dataclasses.replace(finding, message="other words", flow=tuple(map(shifted, finding.flow)))
        for finding in report.findings
    )
    before = [fingerprint for _, fingerprint in fingerprints(report)]
    assert [fingerprint for _, fingerprint in fingerprints(dataclasses.replace(report, findings=moved))] == before
    twice = dataclasses.replace(report, findings=report.findings * 2)
    found = [fingerprint for _, fingerprint in fingerprints(twice)]
    assert len(set(found)) == 8 and all(re.fullmatch("[0-9a-f]{64}", fingerprint) for fingerprint in found)


def test_no_finding_is_an_empty_run() -> None:
    assert sarif(Report("a"))["results"] == []
    assert sarif()["results"] == []
