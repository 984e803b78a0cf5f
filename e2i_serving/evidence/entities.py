"""The table of entities against the items it is made from: no row more, none less."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Protocol

import msgspec

from e2i_serving.evidence.report import Problem, Report

LONGEST_KEY: Final = 256
"""Most characters of a name or a value that has a row."""

_MOST_STRAYS: Final = 100
_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode


class EntityRows(Protocol):
    """Reads entities and items from a store, all as it was at one time."""

    def stray_items(self, limit: int) -> list[tuple[str, int]]:
        """Items of predictions that are not there: prediction id and index."""

    def entity_rows(self) -> Iterator[Any]:
        """Every row of ``entities``, with its item; see ``stores.chains.EntityRow``."""

    def item_entities(self) -> Iterator[tuple[str, int, str]]:
        """Every item that has entities: prediction id, index and their JSON text."""

    def has_entity(self, name: str, value: str, prediction_id: str, item_index: int) -> bool:
        """Whether ``entities`` has a row."""

    def place_of(self, prediction_id: str) -> tuple[str, int]:
        """Life and sequence number of a prediction; nothing and 0 when it is not there."""


def verify_entities(source: EntityRows) -> Report:
    """Verify that every item belongs to a prediction, and that entities lead to the items that name them."""
    report = Report()
    for prediction_id, index in source.stray_items(_MOST_STRAYS):
        report.note(Problem(f"Item {index} was inserted: there is no such prediction.", "", 0, prediction_id))
    for row in source.entity_rows():
        report.rows["entities"] += 1
        if row.item_time_ns is None:
            fault = f"names item {row.item_index}, which is not there"
        elif entity_values(row.entity).get(row.name, (None, None)).count(row.value) == 0:
            fault = f"is not what item {row.item_index} says"
        elif (row.time_ns, row.model) != (row.item_time_ns, row.item_model):
            fault = f"has another time or model than item {row.item_index}"
        else:
            continue
        what = f"A row of entities was inserted or altered: it {fault}."
        report.note(Problem(what, row.life or "", row.sequence or 0, row.prediction_id))
    expected = sum(len(entity_values(text)) for _, _, text in source.item_entities())
    if expected > report.rows["entities"]:
        _find_missing(source, report)
    report.trim()
    return report


def _find_missing(source: EntityRows, report: Report) -> None:
    missing = [
        (prediction_id, index)
        for prediction_id, index, text in list(source.item_entities())
        for name, forms in entity_values(text).items()
        if not any(source.has_entity(name, value, prediction_id, index) for value in dict.fromkeys(forms))
    ]
    for prediction_id, index in missing:
        life, sequence = source.place_of(prediction_id)
        what = f"A row of entities is missing or was altered: item {index} can't be found by it."
        report.note(Problem(what, life, sequence, prediction_id))


def entity_keys(text: str | None, prediction_id: str, item_index: int) -> list[tuple[str, str, str, int]]:
    """The keys that an item's rows of ``entities`` may have: name, value, prediction id and index.

    Args:
        text: JSON text of the item's entities.
        prediction_id: The item's prediction.
        item_index: The item's index.
    """
    return [
        (name, value, prediction_id, item_index)
        for name, forms in entity_values(text).items()
        for value in dict.fromkeys(forms)
    ]


def entity_values(text: str | None) -> dict[str, tuple[str, str]]:
    """The rows that an item's entities have, by name; of each value the two forms that it may have there."""
    if text is None:
        return {}
    try:
        entity = _decode(text)
    except (msgspec.DecodeError, UnicodeError):
        return {}
    if not isinstance(entity, dict):
        return {}
    found: dict[str, tuple[str, str]] = {}
    for name, value in entity.items():
        if value is None or value == "" or len(name) > LONGEST_KEY:
            continue
        plain = value if isinstance(value, str) else _encode(value).decode()
        if len(plain) <= LONGEST_KEY:
            # What JSON has no type for, such as bytes, is a text in the item and its JSON here.
            found[name] = (plain, _encode(value).decode())
    return found
