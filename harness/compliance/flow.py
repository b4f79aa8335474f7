"""The checks that follow tokens: caches keyed by what they predict, rescoring, training on validation tokens, SLOT,
calibration. What is known comes from `flow_engine.py`, what came first from `flow_order.py`."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Sequence

from harness.compliance.findings import Finding, Place, Status
from harness.compliance.flow_engine import Engine, TooMuch
from harness.compliance.flow_gates import BETTER_KEPT, TOLD
from harness.compliance.flow_order import Order
from harness.compliance.flow_values import (
    COUNT_OPEN,
    COUNT_TARGET,
    GATED,
    GENERATED,
    NATIVE,
    TRAIN,
    VAL,
    Event,
    Step,
    Value,
    nodes_of,
)
from harness.compliance.logs import calibrated_until
from harness.compliance.reported import reported

STEPS_AT_MOST = 12
TRAIN_SECONDS = 600
KEPT_AT_LEAST = 3  # seconds for calibration; what keeps less may not fit
LATE_SECONDS = 1.0  # the step in flight, and what a log rounds
GROSS_SECONDS = 5.0  # more than time that was kept can have been misjudged by
BESIDE = (
    "likelihoods of the token that came are mixed with a number that is the same for every token, as an entropy is: "
    "over the vocabulary the mixture's sum is above one"
)
SPREAD = (
    "the loss of a token is shared out among its bytes, and the shares are used as likelihoods of bytes: they are "
    "known for the token that came alone, and mixed with others their sum over all tokens can be above one"
)


def check_flow(program) -> list[Finding]:
    """What the token checks say about a program; FLAG and HOLD, and CLEAN for what is recognised as allowed."""
    engine = Engine(program)
    try:
        engine.run()
        order = Order(engine.root, engine.real)
    except (TooMuch, RecursionError):
        return [_hold(program, f"{program.entry.source.name} is too large to follow its tokens: read it")]
    findings = on_scores(program, engine, order)
    if findings:
        findings = _as_reported(program, engine, order, findings)
    findings += calibration(program, order, trained_again=_trains_on_val(findings))
    findings += not_followed(program, order)
    program.idle = not order.updates and not order.scores
    learned = [event.value.labels & (TRAIN | VAL) for event in order.updates]
    program.only_adapts = bool(learned) and all(labels == VAL for labels in learned)
    if not order.complete:
        findings.append(_hold(program, f"{program.entry.source.name} has too many paths to follow its tokens: read it"))
    return findings


def on_scores(program, engine: Engine, order: Order) -> list[Finding]:
    """What depends on how tokens are scored."""
    mixed = (target_keyed(program, order), target_gate(program, engine, order), unnormalised(program, engine, order))
    return [*itertools.chain(*mixed), *out_of_order(program, order)]


def _as_reported(program, engine: Engine, every: Order, findings: list[Finding]) -> list[Finding]:
    """What remains of findings where the logs tell which of several scores is the one that is claimed. Violations that
    are shown for another score only are questions: logs are the author's word. Nothing remains of what was recognised
    or asked for another score."""
    found = reported(list(engine.prints.values()), program.log_texts, program.claims)
    if found is None:
        return findings
    steps = [every.printed_at[one] for one in found.prints if one in every.printed_at]
    order = Order(engine.root, engine.real, found.sums, max(steps, default=None))
    if not order.scores:
        return findings
    kept = on_scores(program, engine, order)
    known = {finding.check for finding in kept}
    first = found.prints[0]
    claimed = place(program, first.node, first.module, "by the logs, the score that is claimed is printed here")
    for finding in findings:
        if finding.status is Status.FLAG and finding.check not in known:
            message = f"by the logs not in the score that is claimed, see which one counts: {finding.message}"
            kept.append(Finding(finding.check, Status.HOLD, message, (*finding.flow, claimed)))
    return kept


def _trains_on_val(findings: Sequence[Finding]) -> bool:
    return any(finding.check == "trains-on-val" and finding.status is Status.FLAG for finding in findings)


def _hold(program, message) -> Finding:
    return Finding(
        "trains-on-val", Status.HOLD, message, (program.place(program.entry.tree, program.entry.source, ""),)
    )


def place(program, node, module, note) -> Place:
    return program.place(node, (module or program.entry).source, note)


def path(program, event: Event, note: str) -> tuple[Place, ...]:
    """The steps that lead to an event, and the event."""
    places = []
    step: Step | None = event.value.step
    while step is not None and len(places) < STEPS_AT_MOST:
        one = place(program, step.node, step.module, step.note)
        if not places or (one.line, one.note) != (places[-1].line, places[-1].note):
            places.append(one)
        step = step.before
    places.reverse()
    last = place(program, event.node, event.module, note)
    return (*places, last)


def target_keyed(program, order: Order) -> list[Finding]:
    for event in order.scores:
        if event.value.labels & COUNT_TARGET:
            message = (
                "the score mixes in a count that is read under a hash of the context and the very token that is "
                "predicted, divided by the context's count: it is no distribution over the vocabulary"
            )
            note = "and added to the score"
            return [Finding("target-keyed-cache", Status.FLAG, message, path(program, event, note))]
    for event in order.scores:
        if event.value.labels & COUNT_OPEN:
            message = (
                "the score mixes in one hashed count divided by another, and the program could not tell whether the "
                "first key holds the predicted token: compare how the two keys are made"
            )
            return [Finding("target-keyed-cache", Status.HOLD, message, path(program, event, "and added to the score"))]
    return []


def target_gate(program, engine: Engine, order: Order) -> list[Finding]:
    """A mixing weight, or a choice between scores, that looks at the token that came."""
    for event in order.scores:
        if not event.value.labels & GATED:
            continue
        flow = (place(program, event.node, event.module, "and added to the score"),)
        nodes = nodes_of(event.value, "gate")
        gates = [gate for node, gate in engine.gates.items() if node in nodes]
        for gate in gates[:1]:
            decided = Event("gate", gate.node, gate.module, Value(step=gate.step))
            flow = (*path(program, decided, gate.note), *flow)
        message = (
            "which likelihoods are mixed into the score, or which score counts, is decided by the very token that is "
            "predicted: what is used is no distribution that was fixed before the token came"
        )
        if gates and gates[0].note == TOLD:
            message = (
                "the prediction is changed where the very token that is predicted stands, before that token is scored: "
                "it knows what comes"
            )
        found = [Finding("target-gate", Status.FLAG, message, flow)]
        if any(gate.note == BETTER_KEPT and _replaces(program, gate.node) for gate in gates):
            message = "tokens are scored in several passes, and of each the best score is kept"
            found.append(Finding("two-pass-rescoring", Status.FLAG, message, flow))
        return found
    for event in order.scores:
        if event.value.labels & NATIVE:
            calls = dict.fromkeys(place(program, step.node, step.module, step.note) for step in engine.native)
            flow = (*list(calls)[:STEPS_AT_MOST], place(program, event.node, event.module, "and added to the score"))
            message = (
                "the score holds what native code made of validation tokens, and the program cannot read that code: "
                "see whether what it mixes, or when, looks at the token that came"
            )
            return [Finding("target-gate", Status.HOLD, message, flow)]
    return []


def unnormalised(program, engine: Engine, order: Order) -> list[Finding]:
    """Likelihoods that are mixed with a number which looks at no token, or with equal shares for a token's bytes."""
    for event in order.scores:
        for kind, steps, message in (("beside", engine.sides, BESIDE), ("spread", engine.spread, SPREAD)):
            nodes = nodes_of(event.value, kind)
            for step in (step for node, step in steps.items() if node in nodes):
                mixed = Event("score", step.node, step.module, Value(step=step.before))
                end = place(program, event.node, event.module, "and added to the score")
                flow = (*path(program, mixed, step.note), end)
                return [Finding("unnormalised-mixture", Status.FLAG, message, flow)]
    return []


def _replaces(program, node: ast.Call) -> bool:
    """Whether what a call gives replaces one of its arguments: best[i] = minimum(best[i], now)."""
    statements = [one.statement for one in program.live_of(ast.Call) if one.node is node]
    replaced = {ast.unparse(target) for one in statements for target in getattr(one, "targets", ())}
    compared = [*node.args, getattr(node.func, "value", node.func)]  # as a function, or a method of one of them
    return any(ast.unparse(one) in replaced for one in compared)


def out_of_order(program, order: Order) -> list[Finding]:
    findings: dict[str, Finding] = {}
    learned_first = set()  # scores of tokens that the weights had learned
    scored_tables = {tag for event in order.scores for tag in event.value.tags}
    scored_reads = {tag[1] for tag in scored_tables if type(tag) is tuple and tag[0] == "read"}
    trains = any(event.value.labels & TRAIN or not event.value.labels & VAL for event in order.updates)
    for pair in order.pairs.values():
        before, after = pair.before, pair.after
        if after.kind == "read":
            known = pair.state in scored_tables and after.node in scored_reads
            if not known or pair.state.name == "unique":
                continue
            said = {
                "two-pass-rescoring": "a cache is filled with validation tokens, and after that the same tokens are "
                "scored with it: each token finds itself in the cache"
            }
            first, second = "the cache is filled with validation tokens", "and then read to score them"
        elif before is after:
            said = {"slot": "a loss on validation tokens gives a gradient, and its result scores the same tokens"}
            first, second = "", "tokens are scored with what was fitted to them"
        elif pair.state.root.kind == "parameter" and pair.turn is None:
            said = {"slot": "a vector is fitted to the loss of validation tokens, and these tokens are scored with it"}
            first, second = "a vector is fitted to the loss of validation tokens", "and the tokens are scored with it"
        elif pair.turn is not None:
            said = {
                "trains-on-val": "weights are updated with validation tokens over several turns, and a later turn "
                "scores them"
            }
            first, second = "weights are updated with validation tokens", "and the next turn scores these"
            learned_first.add(after.node)
        elif pair.again:
            said = {
                "two-pass-rescoring": "validation tokens are scored once more after weights were adapted to them",
                "trains-on-val": "weights were adapted to validation tokens before these are scored for the last time",
            }
            first, second = "weights are adapted to validation tokens", "and these are scored again"
        elif before.value.labels & TRAIN or not trains:
            said = {"val-in-training": "the training loop learns from validation tokens"}
            first, second = "the training loop updates weights with validation tokens", "the tokens are scored later"
        else:
            said = {"trains-on-val": "weights are updated with validation tokens before these are scored"}
            first, second = "weights are updated with validation tokens", "the tokens are scored later"
            learned_first.add(after.node)
        flow = (*(path(program, before, first) if first else ()), place(program, after.node, after.module, second))
        if before is after:
            flow = path(program, after, second)
        for check, message in said.items():
            findings.setdefault(check, Finding(check, Status.FLAG, message, flow))
    # A second pass later on does not change how the first one was made; weights that knew the tokens before it do.
    bad = {pair.before.node for pair in order.pairs.values() if not pair.again or pair.turn is not None}
    again = {pair.before.node for pair in order.pairs.values() if pair.again}
    legal = [
        (scored, update)
        for node, (scored, update, counted) in order.legal.items()
        if (counted or node in again) and node not in bad and scored.node not in learned_first
    ]
    if legal:
        scored, update = legal[0]
        flow = (
            place(program, scored.node, scored.module, "a chunk's loss is added to the score"),
            place(program, update.node, update.module, "and then the weights learn from it"),
        )
        message = "test-time training that scores each chunk first"
        findings["score-first-ttt"] = Finding("score-first-ttt", Status.CLEAN, message, flow)
    return list(findings.values())


def not_followed(program, order: Order) -> list[Finding]:
    """A program that trains, but no tokens of a split were seen: nothing was shown, so a person must read it."""
    if not order.updates:
        return []
    learned = any(event.value.labels & (TRAIN | VAL) for event in order.updates)
    if order.scores and learned:
        return []
    what = "what is learned from" if order.scores else "how validation tokens become the score"
    message = f"the program could not follow {what}: read how shards are loaded, and where they go"
    node = order.updates[0].node
    flow = (place(program, node, order.updates[0].module, "weights are updated here"),)
    return [Finding("trains-on-val", Status.HOLD, message, flow)]


def calibration(program, order: Order, trained_again: bool) -> list[Finding]:
    """trained_again: on validation tokens, before they are scored."""
    findings = []
    for event, trained in order.calibrations:
        labels = event.value.labels
        if labels & VAL:
            message = "quantization is calibrated on validation tokens"
            flow = path(program, event, "statistics for quantization are collected")
            findings.append(Finding("calibration-data", Status.FLAG, message, flow))
        elif labels & TRAIN and trained is not None:
            flow = (
                place(program, trained.node, trained.module, "the training loop"),
                *path(program, event, "after it, statistics for quantization are collected from train shards"),
            )
            found = _after_training(order.training_seconds(), program.log_texts, trained_again)
            if found is not None:
                status, what = found
                message = f"quantization is calibrated on train shards after the training loop, {what}"
                findings.append(Finding("calibration-data", status, message, flow))
        elif labels & GENERATED and not labels & (TRAIN | VAL):
            message = "quantization is calibrated on tokens that are random or sampled from the model"
            flow = path(program, event, "statistics for quantization are collected")
            findings.append(Finding("self-generated-calibration", Status.CLEAN, message, flow))
    unique = {}
    for finding in findings:
        unique.setdefault(finding.check, finding)
    return list(unique.values())


def _after_training(seconds: float | None, logs: Sequence[str], trained_again: bool) -> tuple[Status, str] | None:
    """What is wrong with a calibration on train shards after a loop that ends at so many seconds, if something is. Logs
    that say when the loop ended and how long the calibration took beat the code."""
    if seconds is not None and seconds > TRAIN_SECONDS:  # a longer clock is no record's
        return None
    if seconds == TRAIN_SECONDS:
        return Status.FLAG, f"which ends at {seconds:g} s: no time is kept for it"
    ends = [one for text in logs for one in calibrated_until(text, trained_again)]
    kept = 0 if seconds is None else TRAIN_SECONDS - seconds
    if ends:
        late = max(ends) - TRAIN_SECONDS
        if late <= (LATE_SECONDS if kept < KEPT_AT_LEAST else GROSS_SECONDS):
            return None
        return Status.FLAG, f"at {max(ends):,.1f} s by the logs: what is kept for it is too little"
    if seconds is None:
        return Status.HOLD, "and the program could not tell when that loop ends: see whether both fit into the 600 s"
    if kept < KEPT_AT_LEAST:
        fits = f"see in the logs whether both fit into the {TRAIN_SECONDS} s"
        return Status.HOLD, f"which keeps only {kept:g} s for it: {fits}"
    return None
