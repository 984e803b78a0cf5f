"""Puts payloads that were too large for the audit store back into the rows that are read from it."""

from __future__ import annotations

import logging
from pathlib import Path

from e2i_serving.encryption import cipher_of
from e2i_serving.exceptions import E2IServingError
from e2i_serving.record import Row
from e2i_serving.relay.payloads import Payload, read_payload
from e2i_serving.settings import Settings

logger = logging.getLogger("e2i_serving.audit")


class PayloadReader:
    """Reads payload files of a data directory. One that can't be read is said once, and left out.

    Args:
        data_dir: The data directory.
        settings: What they are encrypted by.
    """

    def __init__(self, data_dir: Path, settings: Settings) -> None:
        self._data_dir = data_dir
        self._settings = settings
        self._failed = False

    def complete(self, row: Row, items: list[Row]) -> None:
        """Fill in a prediction's attributes, and the inputs and outputs of its items, where a file holds them.

        Args:
            row: The prediction's row.
            items: Its items' rows; may be none.
        """
        digest = row["payload_digest"]
        payload = self._read(digest) if digest else None
        if payload is None:
            return
        row["attributes"] = row["attributes"] or payload.attributes or None
        by_item = payload.rows()
        for item in items:
            if item["item_index"] < len(by_item) and not item["erased"]:
                inputs, outputs = by_item[item["item_index"]]
                item["inputs"] = item["inputs"] or inputs or None
                item["outputs"] = {**outputs, **(item["outputs"] or {})} or None

    def _read(self, digest: str) -> Payload | None:
        try:
            return read_payload(self._data_dir, digest, cipher_of(self._settings))
        except E2IServingError as error:
            if not self._failed:
                self._failed = True
                logger.warning("Not all payloads can be shown: %s", error)
            return None
