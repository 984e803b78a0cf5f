"""What the command line prints: text and JSON that no terminal acts on, and times in UTC."""

from __future__ import annotations

import json

from e2i_serving.cli.printing import as_json, clean, iso_time

NOON = 1_900_000_000_000_000_000


def test_clean_text_and_json():
    """Characters that act on a terminal are replaced in text and escaped in JSON, which still says the same."""
    hostile = "a\x07\x1b]0;t\x07\x9b2J\u202eb\u2066"
    assert clean(hostile) == "a\ufffd\ufffd]0;t\ufffd\ufffd2J\ufffdb\ufffd"
    assert "\u202e" not in as_json([hostile])
    assert json.loads(as_json([hostile])) == [hostile]
    assert iso_time(NOON + 1234) == "2030-03-17T17:46:40.000001Z"
