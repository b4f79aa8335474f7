"""A gated file is opened by those who were granted it, by the harnesses, and by nobody else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.policy import Decision, Grant, Identity, Opener, Rights, decide

SHARD, CHECKPOINT, ARTIFACT = Identity(1, 10), Identity(1, 11), Identity(2, 10)
TRAIN, EVAL, THEIRS, HOST = 4001, 4002, 4003, 4000
HARNESS, OTHER_HARNESS, SOMEBODY = 100, 200, 300
RIGHTS = Rights(
    harness_pid=HARNESS,
    grants=(Grant(TRAIN, "train", frozenset({SHARD})), Grant(EVAL, "eval", frozenset({ARTIFACT}))),
    others=(Grant(THEIRS, "theirs", frozenset({SHARD})),),
    other_harness_pids=frozenset({OTHER_HARNESS}),
)


@pytest.mark.parametrize(
    ("file", "pid", "namespace", "expected"),
    [
        (SHARD, SOMEBODY, TRAIN, Decision(True, Opener.PHASE, "train")),
        (CHECKPOINT, SOMEBODY, TRAIN, Decision(False, Opener.PHASE, "train")),
        (ARTIFACT, SOMEBODY, TRAIN, Decision(False, Opener.PHASE, "train")),
        (ARTIFACT, SOMEBODY, EVAL, Decision(True, Opener.PHASE, "eval")),
        (SHARD, SOMEBODY, EVAL, Decision(False, Opener.PHASE, "eval")),
        (SHARD, HARNESS, HOST, Decision(True, Opener.HARNESS, "")),
        (ARTIFACT, HARNESS, HOST, Decision(True, Opener.HARNESS, "")),
        (SHARD, OTHER_HARNESS, HOST, Decision(True, Opener.OTHER_RUN, "")),
        (SHARD, SOMEBODY, THEIRS, Decision(True, Opener.OTHER_RUN, "")),
        (ARTIFACT, SOMEBODY, THEIRS, Decision(False, Opener.OUTSIDER, "")),
        (SHARD, SOMEBODY, HOST, Decision(False, Opener.OUTSIDER, "")),
        (SHARD, HARNESS, None, Decision(False, Opener.UNKNOWN, "")),
        (SHARD, SOMEBODY, None, Decision(False, Opener.UNKNOWN, "")),
        # a process of a sandbox that has, inside or by chance, a harness's number
        (CHECKPOINT, HARNESS, TRAIN, Decision(False, Opener.PHASE, "train")),
        (CHECKPOINT, OTHER_HARNESS, TRAIN, Decision(False, Opener.PHASE, "train")),
    ],
)
def test_the_table(file, pid, namespace, expected) -> None:
    assert decide(file, pid, namespace, RIGHTS) == expected


identities = st.builds(Identity, st.integers(0, 3), st.integers(0, 3))
namespaces = st.integers(1, 4)
grants = st.builds(Grant, namespaces, st.sampled_from(["a", "b"]), st.frozensets(identities, max_size=4))
pids = st.integers(1, 4)
rights = st.builds(
    Rights,
    pids,
    st.lists(grants, max_size=3, unique_by=lambda grant: grant.pid_namespace).map(tuple),
    st.lists(grants, max_size=3).map(tuple),
    st.frozensets(pids, max_size=2),
)


@given(file=identities, pid=pids, namespace=namespaces, given_rights=rights)
def test_a_phase_opens_what_it_was_granted_whatever_its_pid(file, pid, namespace, given_rights: Rights) -> None:
    own = [grant for grant in given_rights.grants if grant.pid_namespace == namespace]
    decision = decide(file, pid, namespace, given_rights)
    if own:
        assert decision == Decision(file in own[0].files, Opener.PHASE, own[0].label)
    else:
        assert decision.opener is not Opener.PHASE


@given(file=identities, pid=pids, namespace=st.none() | namespaces, given_rights=rights)
def test_nothing_is_allowed_without_a_reason(file, pid, namespace, given_rights: Rights) -> None:
    decision = decide(file, pid, namespace, given_rights)
    if namespace is None:
        assert decision == Decision(False, Opener.UNKNOWN, "")
    if decision.allowed:
        granted = any(
            grant.pid_namespace == namespace and file in grant.files
            for grant in (*given_rights.grants, *given_rights.others)
        )
        assert granted or pid == given_rights.harness_pid or pid in given_rights.other_harness_pids
        assert decision.opener in (Opener.PHASE, Opener.HARNESS, Opener.OTHER_RUN)


@given(file=identities, pid=pids, namespace=namespaces, given_rights=rights)
def test_another_run_s_rights_never_widen_this_run_s_phase(file, pid, namespace, given_rights: Rights) -> None:
    alone = Rights(given_rights.harness_pid, given_rights.grants)
    if any(grant.pid_namespace == namespace for grant in given_rights.grants):
        assert decide(file, pid, namespace, given_rights) == decide(file, pid, namespace, alone)


def test_a_device_is_part_of_the_identity() -> None:
    assert decide(Identity(9, SHARD.inode), SOMEBODY, TRAIN, RIGHTS).allowed is False
