"""The audit trail as a library."""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from e2i_serving.encryption import cipher_of
from e2i_serving.exceptions import ConfigurationError, QueryError, StoreError
from e2i_serving.record import (
    Entry,
    LateResult,
    Life,
    Matrix,
    ModelInfo,
    Outcome,
    OutcomeEvent,
    PredictionFilter,
    PredictionRecord,
    Values,
)
from e2i_serving.redaction import redactor_of
from e2i_serving.relay.explode import explode
from e2i_serving.relay.payloads import LargePayloads, payload_path
from e2i_serving.runtime.trail import AuditTrail, find_data_dir, prediction_filter, time_ns_of
from e2i_serving.settings import load_settings
from e2i_serving.stores.engine import sqlite_url
from e2i_serving.stores.sql import SqlAuditStore
from e2i_serving.testing.stores import InMemoryAuditStore

LIFE = Life(life="life-1", service="credit", started_ns=1, pid=1, model=ModelInfo(name="scorer", version="v1"))
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def entry(number: int, **changes: Any) -> Entry:
    """A prediction of two items; later numbers arrived later."""
    fields: dict[str, Any] = {
        "prediction_id": f"p{number}",
        "time_ns": number * 1_000_000_000,
        "duration": number / 1000,
        "outcome": Outcome.OK,
        "status": 200,
        "request_id": f"r{number}",
        "items": 2,
        "inputs": {"features": Matrix.of(np.array([[1.0], [2.0]]), ("age",))},
        "outputs": {"score": Matrix.of(np.array([0.1, 0.2]))},
        **changes,
    }
    return Entry(LIFE, number, PredictionRecord(**fields))


@pytest.fixture
def trail() -> AuditTrail:
    """A trail of four predictions, in memory."""
    store = InMemoryAuditStore()
    store.write(
        explode(
            [
                entry(1, trace_id=TRACE),
                entry(2, trace_id=TRACE, request_id="shared"),
                entry(3, request_id="shared", outcome=Outcome.ERROR, status=500),
                entry(4, request_id="p1", items=0, inputs={}, outputs={}),
            ]
        )
    )
    return AuditTrail(store)


@pytest.mark.parametrize("look", [AuditTrail.find, AuditTrail.get])
def test_what_is_on_its_way_is_waited_for(look):
    """A prediction that the store does not have yet is found once the relay has brought it; a known one at once."""
    store, waits = InMemoryAuditStore(), []

    def catch_up() -> None:
        waits.append(True)
        store.write(explode([entry(1)]))

    trail = AuditTrail(store, catch_up=catch_up)
    for _ in range(2):
        found = look(trail, "p1")
        assert (found[0] if isinstance(found, list) else found)["request_id"] == "r1"
    assert waits == [True]
    assert not look(trail, "nobody")


@pytest.fixture
def data_dir(tmp_path) -> Path:
    """A data directory whose audit store holds one prediction."""
    folder = tmp_path / "data"
    (folder / "journal").mkdir(parents=True)
    with closing(SqlAuditStore(sqlite_url(folder / "audit.db"))) as store:
        store.write(explode([entry(1)]))
    return folder


def test_query_gives_rows_with_their_items(trail):
    """Rows come newest first, each with the list of its items."""
    rows = trail.query().rows()
    assert [row["prediction_id"] for row in rows] == ["p4", "p3", "p2", "p1"]
    assert [len(row["item_rows"]) for row in rows] == [0, 2, 2, 2]
    assert rows[1]["items"] == 2
    assert [item["score"] for item in rows[1]["item_rows"]] == [0.1, 0.2]


def test_query_takes_conditions_by_name_and_as_a_filter(trail):
    """Keyword conditions come on top of a filter's."""
    shared = PredictionFilter(request_id="shared")
    assert [row["prediction_id"] for row in trail.query(shared)] == ["p3", "p2"]
    assert [row["prediction_id"] for row in trail.query(shared, outcome=Outcome.ERROR)] == ["p3"]
    assert [row["prediction_id"] for row in trail.query(limit=1, newest_first=False)] == ["p1"]
    assert "item_rows" not in next(iter(trail.query(items=False)))
    assert trail.count(status=500) == 1


def test_rows_can_be_read_again(trail):
    """Each iteration asks the store anew."""
    rows = trail.query(outcome="ok")
    assert list(rows) == rows.rows()
    assert len(rows.rows()) == 3


def test_times_choose_by_arrival(trail):
    """``since`` is inclusive, ``until`` is not."""
    rows = trail.query(since="1970-01-01T00:00:02Z", until=datetime(1970, 1, 1, 0, 0, 4, tzinfo=UTC))
    assert [row["prediction_id"] for row in rows] == ["p3", "p2"]


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        ({"modle": "x"}, "Did you mean 'model'"),
        ({"zzz": "x"}, "There are prediction_id"),
        ({"status": "500x"}, "wrong value"),
        ({"outcome": "failed"}, "no outcome 'failed'"),
        ({"limit": -1}, "limit is -1"),
        ({"since": "yesterday"}, "is no time"),
        ({"since": "99999w99"}, "is no time"),
        ({"since": "999999999w"}, "is no time"),
        ({"since": 5}, "not int"),
        ({"until": "9999-01-01"}, "out of range"),
    ],
)
def test_a_wrong_condition_is_refused_at_once(trail, conditions, said):
    """A mistake in a query is said when it is made, not when rows are read."""
    with pytest.raises(QueryError, match=said):
        trail.query(**conditions)


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("45s", timedelta(seconds=45)),
        ("30m", timedelta(minutes=30)),
        ("1h", timedelta(hours=1)),
        (" 7 d ", timedelta(days=7)),
        ("2w", timedelta(weeks=2)),
    ],
)
def test_a_time_may_be_how_long_ago(text, ago):
    """A number and a unit count back from now."""
    before = time.time_ns() - 1000
    found = time_ns_of(text) + ago // timedelta(microseconds=1) * 1000
    assert before <= found <= time.time_ns() + 1000


def test_a_time_may_be_a_point():
    """Without a time zone a time is in UTC, and no digit is lost."""
    expected = 1_900_000_000_123_456_000
    assert time_ns_of("2030-03-17T17:46:40.123456") == expected
    assert time_ns_of("2030-03-17T17:46:40.123456Z") == expected
    assert time_ns_of("2030-03-17T19:46:40.123456+02:00") == expected
    assert time_ns_of(datetime(2030, 3, 17, 17, 46, 40, 123456)) == expected  # noqa: DTZ001  # without one, on purpose
    zone = timezone(timedelta(hours=2))
    assert time_ns_of(datetime(2030, 3, 17, 19, 46, 40, 123456, zone)) == expected


def test_get_is_one_prediction(trail):
    """A prediction comes whole by its id, an unknown one is None."""
    row = trail.get("p2")
    assert row is not None
    assert len(row["item_rows"]) == 2
    assert trail.get("r2") is None


def test_find_lists_all_that_an_id_may_mean(trail):
    """An id finds by prediction, request and trace, each prediction once, the newest first."""
    assert [row["prediction_id"] for row in trail.find("shared")] == ["p3", "p2"]
    assert [row["prediction_id"] for row in trail.find(TRACE.upper())] == ["p2", "p1"]
    assert [row["prediction_id"] for row in trail.find("p1")] == ["p4", "p1"]
    assert trail.find("nowhere") == []
    trail._source.write(explode([Entry(LIFE, 8, entry(8, trace_id=TRACE[:16].zfill(32)).body)]))
    assert [row["prediction_id"] for row in trail.find(TRACE[:16])] == ["p8"]


def test_get_and_find_tell_what_came_after_the_answer(trail):
    """A late result stands beside the record; a list of predictions does not ask for it."""
    late = LateResult("p1", duration=7.5, outcome=Outcome.OK, items=2, outputs={"score": Values([0.1, 0.2])})
    trail._source.write(explode([Entry(LIFE, 9, late)]))
    row = trail.get("p1")
    assert row is not None
    assert [(event["kind"], event["duration"], event["outcome"]) for event in row["events"]] == [("late", 7.5, "ok")]
    assert [len(found["events"]) for found in trail.find(TRACE)] == [0, 1]
    assert "events" not in next(iter(trail.query()))


def test_outcomes_come_when_they_are_asked_for(trail):
    """A row has every version of its outcomes, the first recorded first; without asking, none."""
    for sequence, value in enumerate(["first", "second"], start=20):
        event = OutcomeEvent(f"o{sequence}", sequence, prediction_id="p3", item_index=0, value=value)
        trail._source.write(explode([Entry(LIFE, sequence, event)]))
    rows = trail.query(outcomes=True).rows()
    assert [[outcome["value"] for outcome in row["outcomes"]] for row in rows] == [[], ["first", "second"], [], []]
    assert "outcomes" not in next(iter(trail.query()))
    assert [row["value"] for row in trail.outcomes(limit=1)] == ["second"]
    assert trail.outcomes(prediction_id="p1") == trail.outcomes(name="quality") == []
    with pytest.raises(QueryError, match="Did you mean 'source'"):
        trail.outcomes(sauce="x")


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_a_payload_in_a_file_is_read_with_its_items(tmp_path, monkeypatch, caplog, is_encrypted):
    """What was too large for the store comes back into the rows; when its file is gone or altered, the rest does."""
    if is_encrypted:
        key_file = tmp_path / "keys"
        key_file.write_text(f"1 {base64.b64encode(bytes(32)).decode()}\n")
        key_file.chmod(0o600)
        monkeypatch.setenv("E2I_SERVING_ENCRYPTION_KEY_FILE", str(key_file))
    cipher = cipher_of(load_settings().settings)
    outputs = {"score": Values([0.5, 0.75]), "reason": Values(["r0", "r1"])}
    large = msgspec.structs.replace(entry(1, outputs=outputs, attributes={"deep": [1]}), size=2**20)
    taken, digest = LargePayloads(tmp_path, 1024, "file", cipher).take_out(large)
    batch = explode([taken])
    batch.predictions[0]["payload_digest"] = digest
    with closing(SqlAuditStore(sqlite_url(tmp_path / "audit.db"))) as store:
        store.write(batch)
    with AuditTrail.open(tmp_path) as trail:
        row = trail.get("p1")
        assert row is not None
        assert row["attributes"] == {"deep": [1]}
        assert [item["inputs"] for item in row["item_rows"]] == [{"age": 1.0}, {"age": 2.0}]
        assert [(item["score"], item["outputs"]) for item in row["item_rows"]] == [
            (0.5, {"reason": "r0"}),
            (0.75, {"reason": "r1"}),
        ]
        path = payload_path(tmp_path, digest)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        with caplog.at_level("WARNING"):
            altered = [trail.get("p1"), trail.get("p1")][0]
        assert altered is not None
        assert [item["inputs"] for item in altered["item_rows"]] == [None, None]
        assert len([record for record in caplog.records if "payloads" in record.message]) == 1
        path.unlink()
        assert trail.get("p1") == altered


@pytest.mark.parametrize(
    "settings",
    [
        {"redaction_rules": [{"path": "entities.customer", "action": "mask"}]},
        {"redaction_rules": [{"path": "entities.customer", "action": "round", "digits": -2}]},
        {"redaction_rules": [{"path": "entities.customer", "action": "drop"}]},
        {"redaction_allow": ["entities.loan"]},
        {"redaction_patterns": [r"47\d+"]},
    ],
)
def test_what_is_kept_of_everybody_is_nobodys(settings):
    """Where an entity is masked, rounded or left out, everybody's predictions are not shown as one person's."""
    redactor = redactor_of(load_settings(settings, environ={}).settings, ModelInfo())
    assert redactor is not None
    store = InMemoryAuditStore()
    masked = [
        redactor.record(entry(number, entities={"customer": Values([f"470{number}", "4711"])}).body)
        for number in (1, 2)
    ]
    store.write(explode([Entry(LIFE, number, body) for number, body in enumerate(masked, start=1)]))
    trail = AuditTrail(store, redactor=redactor)
    for ask in (trail.query, trail.count, trail.latency):
        with pytest.raises(QueryError, match="stands for others"):
            ask(entity="customer=4711")
    if kept := redactor.entity("customer", "4711"):
        assert trail.count(entity=f"customer={kept}") == 2


def test_latency_is_exact():
    """Percentiles are those of the durations themselves."""
    store = InMemoryAuditStore()
    durations = np.random.default_rng(7).exponential(size=333)
    store.write(explode([entry(number, duration=float(value)) for number, value in enumerate(durations)]))
    store.write(explode([entry(1000, model="one", model_version="v2", duration=0.5)]))
    latency = AuditTrail(store).latency()
    found = latency["scorer", "v1"]
    assert found.pop("count") == 333
    assert list(found) == ["p50", "p95", "p99"]
    assert list(found.values()) == pytest.approx(np.percentile(durations, [50, 95, 99]).tolist())
    assert latency["one", "v2"] == {"count": 1, "p50": 0.5, "p95": 0.5, "p99": 0.5}
    assert AuditTrail(store).latency(model="other") == {}


def test_to_pandas_has_one_row_an_item(trail):
    """A frame has the prediction beside each item; without items, one row a prediction."""
    frame = trail.query().to_pandas()
    assert len(frame) == 7
    assert frame["score"].dropna().tolist() == [0.1, 0.2] * 3
    assert str(frame["time"].iloc[0]) == "1970-01-01 00:00:04+00:00"
    assert len(trail.query(items=False).to_pandas()) == 4
    assert trail.query(model="other").to_pandas().empty


def test_to_pandas_names_the_extra_when_it_is_missing(trail, monkeypatch):
    """Without pandas the error says what to install."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigurationError, match=r"e2i-serving\[pandas\]"):
        trail.query().to_pandas()


def test_open_takes_a_directory_a_file_or_a_url(data_dir):
    """The three ways to name a store lead to the same one."""
    for where in (data_dir, str(data_dir), data_dir / "audit.db", sqlite_url(data_dir / "audit.db")):
        with AuditTrail.open(where) as trail:
            assert trail.count() == 1
    copy = shutil.copy(data_dir / "audit.db", data_dir.parent / "trail.copy")
    for where in (copy, sqlite_url(Path(copy))):
        with AuditTrail.open(where) as trail:
            assert trail.count() == 1


def test_open_without_a_name_asks_the_settings(data_dir, monkeypatch):
    """The store set by URL comes first, then the data directory that is set."""
    monkeypatch.setenv("E2I_SERVING_DATA_DIR", str(data_dir))
    with AuditTrail.open() as trail:
        assert trail.count() == 1
    monkeypatch.setenv("E2I_SERVING_AUDIT_URL", "mysql://h/db")
    with pytest.raises(ConfigurationError, match="mysql"):
        AuditTrail.open()


def test_open_without_a_name_takes_the_only_data_directory(tmp_path, monkeypatch):
    """None and several data directories are mistakes that say what to do."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    settings = load_settings().settings
    with pytest.raises(ConfigurationError, match="--data-dir"):
        find_data_dir(settings)
    (tmp_path / "e2i" / "credit" / "one" / "journal").mkdir(parents=True)
    assert find_data_dir(settings) == tmp_path / "e2i" / "credit" / "one"
    (tmp_path / "e2i" / "fraud" / "one" / "journal").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match=r"(?s)credit.*fraud|fraud.*credit"):
        find_data_dir(settings)


def test_open_of_nothing_is_a_store_error(tmp_path):
    """A directory or file that is not there is named."""
    for where in (tmp_path / "none", tmp_path / "none.db", tmp_path):
        with pytest.raises(StoreError, match="no audit store at"):
            AuditTrail.open(where)
    assert list(tmp_path.iterdir()) == []


def test_a_filter_can_be_made_of_nothing():
    """None is no condition."""
    assert prediction_filter(model=None, since=None) == PredictionFilter()


def test_the_trail_imports_no_database_before_it_is_opened():
    """A program that may read a trail pays for SQLAlchemy and pandas only when it does."""
    code = "import sys, e2i_serving.runtime.trail; print({'sqlalchemy', 'pandas'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
