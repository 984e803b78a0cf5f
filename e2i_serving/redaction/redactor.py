"""The redactor: compiled once from the settings, run on each record before anything else sees it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar
from uuid import UUID

import msgspec

from e2i_serving.exceptions import ConfigurationError
from e2i_serving.record import (
    AccessEvent,
    Column,
    LateResult,
    ModelInfo,
    OutcomeEvent,
    PredictionRecord,
    StreamEnd,
)
from e2i_serving.redaction.actions import HASH_PREFIX, MASK, SHORTEST_KEY, Findings, Hasher, keyed_hash, text_of
from e2i_serving.redaction.columns import ColumnRedactor, Place
from e2i_serving.redaction.paths import COLUMN_ROOTS, FIELD_ROOTS, NOWHERE, TREE_ROOTS, Rule, State, compile_paths
from e2i_serving.redaction.patterns import Patterns
from e2i_serving.redaction.values import ValueRedactor
from e2i_serving.settings import Settings

logger = logging.getLogger("e2i_serving")

WATCHED_RECORDS: Final = 1000
"""Records after which a rule that has matched nothing is warned of."""

FEATURES: Final = "features"
"""The column of inputs whose named parts are inputs by their own name."""

CALLERS_IDS: Final = ("opik_trace_id", "opik_parent_span_id")
"""Attributes with the trace of a caller, which an allow-list lets through when they are UUIDs."""

_Event = TypeVar("_Event", StreamEnd, LateResult)


class Redactor:
    """Takes out of records what the settings say must not be kept. Any thread may call it.

    Args:
        rules: What is done to which path.
        allow: The only paths that are kept, if any are given.
        patterns: What is masked in free text.
        hasher: The keyed hash, if there is a key.
        model: The model of this life, for the names of its features and classes.

    Raises:
        ConfigurationError: A path or a pattern is wrong.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        allow: Sequence[str],
        patterns: Patterns | None,
        hasher: Hasher | None,
        model: ModelInfo,
    ) -> None:
        self._rules = tuple(rules)
        self._paths = compile_paths(rules, "redaction_rules", fields=True)
        kept = [Rule(number, path, "keep") for number, path in enumerate(allow)]
        self._allowed = compile_paths(kept, "redaction_allow", fields=False) if allow else None
        self._patterns = patterns
        self._hasher = hasher
        self._model = model
        self._hits = [0] * len(self._rules)
        self._seen = 0
        self._values = ValueRedactor(patterns, hasher, self._hits)
        self._columns = ColumnRedactor(self._values)
        inputs = self._paths["inputs"]
        allowed = self._allowed["inputs"] if self._allowed is not None else None
        # Both `inputs.features.age` and `inputs.age` lead into the features.
        self._features = Place(
            inputs.step(FEATURES).joined(inputs), allowed.step(FEATURES).joined(allowed) if allowed else None
        )
        self._fields = [(name, self._paths[name]) for name in FIELD_ROOTS if self._paths[name].alive]

    def record(self, record: PredictionRecord) -> PredictionRecord:
        """The record without what must not be kept; it names in ``redactions`` what made a change, and where."""
        findings = Findings(record.redactions)
        model = self._model if record.model in ("", self._model.name) else ModelInfo()
        changes: dict[str, Any] = {}
        for root in COLUMN_ROOTS:
            columns: dict[str, Column] = getattr(record, root)
            if columns and self._touches(root):
                changes[root] = self._of_columns(root, columns, model, findings)
        for root in TREE_ROOTS:
            tree: dict[str, Any] = getattr(record, root)
            if tree and self._touches(root):
                changes[root] = self._tree(root, tree, findings)
        for name, state in self._fields:
            changes[name] = self._field(state, getattr(record, name), findings)
        if self._patterns is not None and record.error_message:
            findings.root = "error_message"
            message = changes.get("error_message", record.error_message)
            changes["error_message"] = self._patterns.text(message, findings)
        self._watch()
        if not changes:
            return record
        return msgspec.structs.replace(record, **changes, redactions=findings.names)

    def stream_end(self, event: StreamEnd) -> StreamEnd:
        """The end of an answer, its message redacted."""
        return self._event(event, Findings(), {})

    def late_result(self, event: LateResult) -> LateResult:
        """A late result, its message and outputs redacted."""
        findings = Findings(event.redactions)
        changes: dict[str, Any] = {}
        if event.outputs and self._touches("outputs"):
            changes["outputs"] = self._of_columns("outputs", event.outputs, self._model, findings)
        redacted = self._event(event, findings, changes)
        return msgspec.structs.replace(redacted, redactions=findings.names)

    def outcome(self, event: OutcomeEvent) -> OutcomeEvent:
        """A truth or a score: its value as the output of its name, its comment and source as free text."""
        findings = Findings()
        state = self._paths["outputs"].step(event.name)
        return msgspec.structs.replace(
            event,
            request_id=self._field(self._paths["request_id"], event.request_id, findings),
            value=self._values.redacted(event.value, state, findings),
            score=self._score(state, event.score, findings),
            comment=self.text(event.comment),
            source=self.text(event.source),
        )

    def access(self, event: AccessEvent) -> AccessEvent:
        """A look at the trail: what it asked for, as it stands in the trail."""
        findings = Findings()
        conditions: dict[str, Any] = self._values.redacted(event.conditions, NOWHERE, findings)
        asked = event.conditions.get("entity")
        if isinstance(asked, str):
            name, separator, value = asked.partition("=")
            if separator:
                conditions["entity"] = f"{name}={self.entity(name, value)}"
            elif self._touches("entities"):  # of any name, so that nobody knows by which rule it is kept
                conditions["entity"] = MASK
        for name in ("request_id", "id"):  # what is looked up as any id may be a request's
            if isinstance(any_id := event.conditions.get(name), str):
                conditions[name] = self.request_id(any_id)
        if isinstance(labels := event.conditions.get("labels"), dict):
            conditions["labels"] = self._values.redacted(labels, self._paths["labels"], findings, texts=True)
        return msgspec.structs.replace(event, conditions=conditions)

    def text(self, text: str) -> str:
        """Free text, with what the patterns find masked."""
        return self._patterns.text(text, Findings()) if self._patterns is not None and text else text

    def entity(self, name: str, value: str) -> str:
        """What an entity's value stands in the trail as, so that it can be looked up; empty if it is not there."""
        if self._allowed is not None and self._allowed["entities"].step(name).rule is None:
            return ""
        kept = self._values.redacted(value, self._paths["entities"].step(name), Findings())
        return kept if isinstance(kept, str) else ""

    def tells_apart(self, name: str, value: str) -> bool:
        """Whether what an entity's value stands in the trail as is no other value's: it is kept, or hashed."""
        kept = self.entity(name, value)
        rule = self._paths["entities"].step(name).rule
        return kept == value if rule is None else kept.startswith(HASH_PREFIX)

    def request_id(self, request_id: str) -> str:
        """What a request id stands in the trail as, so that it can be looked up."""
        return self._field(self._paths["request_id"], request_id, Findings())

    def labels(self, labels: dict[str, str]) -> dict[str, str]:
        """What labels stand in the trail as."""
        return self._tree("labels", labels, Findings()) if labels and self._touches("labels") else labels

    def _touches(self, root: str) -> bool:
        return self._patterns is not None or self._allowed is not None or self._paths[root].alive

    def _of_columns(
        self, root: str, columns: Mapping[str, Column], model: ModelInfo, findings: Findings
    ) -> dict[str, Column]:
        findings.root = root
        paths = self._paths[root]
        allowed = self._allowed[root] if self._allowed is not None else None
        kept: dict[str, Column] = {}
        for name, column in columns.items():
            place = Place(paths.step(name), allowed.step(name) if allowed is not None else None)
            if root == "inputs" and name == FEATURES:
                place = self._features._replace(names=model.feature_names, unplaced=paths.names() - columns.keys())
            elif root == "outputs" and name == "probabilities":
                place = place._replace(names=model.classes)
            known_as = self._values.key(name, kept, findings)
            kept[known_as] = self._columns.redacted(column, place, findings)
        return kept

    def _tree(self, root: str, tree: dict[str, Any], findings: Findings) -> dict[str, Any]:
        findings.root = root
        if self._allowed is not None:
            # Ids that a caller sent in headers of their own are no more than the trace's, which no list names either.
            ids = _callers_ids(tree) if root == "attributes" else {}
            others = {name: value for name, value in tree.items() if name not in ids}
            tree = {**(self._values.kept(others, self._allowed[root], findings) if others else {}), **ids}
        redacted: dict[str, Any] = self._values.redacted(tree, self._paths[root], findings, texts=root == "labels")
        return redacted

    def _field(self, state: State, text: str, findings: Findings) -> str:
        if state.rule is None or not text:
            return text
        self._values.note(state, findings)
        return text_of(state.rule, text, self._hasher)

    def _event(self, event: _Event, findings: Findings, changes: dict[str, Any]) -> _Event:
        message = self._field(self._paths["error_message"], event.error_message, findings)
        if self._patterns is not None and message:
            findings.root = "error_message"
            message = self._patterns.text(message, findings)
        return msgspec.structs.replace(event, **changes, error_message=message)

    def _score(self, state: State, score: float | None, findings: Findings) -> float | None:
        kept = self._values.redacted(score, state, findings)
        return kept if isinstance(kept, float | int) else None

    def _watch(self) -> None:
        self._seen += 1
        if self._seen == WATCHED_RECORDS:
            for rule, hits in zip(self._rules, self._hits, strict=True):
                if not hits and rule.path not in FIELD_ROOTS:  # these are right, and may seldom be filled
                    logger.warning(
                        "The redaction rule %r matched nothing in the first %d records. Is the path right?",
                        rule.path,
                        WATCHED_RECORDS,
                    )


def _callers_ids(attributes: Mapping[str, Any]) -> dict[str, str]:
    """The ids of a caller's trace, as far as they are ids and no other text."""
    found: dict[str, str] = {}
    for name in CALLERS_IDS:
        if isinstance(text := attributes.get(name), str):
            try:
                is_id = str(UUID(text)) == text
            except ValueError:
                continue
            if is_id:
                found[name] = text
    return found


def redactor_of(settings: Settings, model: ModelInfo, destination: str | None = None) -> Redactor | None:
    """The redactor that the settings ask for.

    Args:
        settings: The settings.
        model: The model served; its feature names and classes name the parts of arrays.
        destination: A destination of the relay, whose further rules are wanted in place of those of the worker.

    Returns:
        The redactor; ``None`` when nothing is to be taken out.

    Raises:
        ConfigurationError: A rule or a pattern is wrong, or ``hash`` is asked for without a key.
    """
    declared = settings.redaction_rules if destination is None else settings.redaction_destinations.get(destination, ())
    allow = settings.redaction_allow if destination is None else ()
    wanted = settings.redaction_patterns if destination is None else ()
    if not (declared or allow or wanted):
        return None
    key = settings.redaction_key.get_secret_value()
    needs_key = [rule.path for rule in declared if rule.action == "hash"]
    if len(key) < SHORTEST_KEY and (needs_key or key):
        why = f"the rule for {needs_key[0]!r} hashes with it" if needs_key else "it is too short to keep a secret"
        raise ConfigurationError(f"redaction_key needs at least {SHORTEST_KEY} characters: {why}.")
    hasher = keyed_hash(key.encode()) if key else None
    rules = [Rule(number, rule.path, rule.action, rule.digits) for number, rule in enumerate(declared)]
    return Redactor(rules, allow, Patterns(wanted, hasher) if wanted else None, hasher, model)
