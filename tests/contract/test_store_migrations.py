"""A store of each release becomes this one's, with its rows, and only then is it read."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text

from e2i_serving.exceptions import StoreError
from e2i_serving.record import PredictionFilter, RowBatch
from e2i_serving.stores import migrations
from e2i_serving.stores.engine import open_engine, sqlite_url
from e2i_serving.stores.migrations import HEAD, VERSION_TABLE, VERSIONS, version_of
from e2i_serving.stores.query import SqlAuditQuery
from e2i_serving.stores.sql import SqlAuditStore
from e2i_serving.stores.tables import metadata

EVERYTHING = PredictionFilter()
FIRST_RELEASE = """
CREATE TABLE predictions (prediction_id TEXT NOT NULL, time_ns BIGINT NOT NULL, duration {double} NOT NULL,
 outcome TEXT NOT NULL, status INTEGER NOT NULL, service TEXT, endpoint TEXT, route TEXT, method TEXT, request_id TEXT,
 trace_id TEXT, span_id TEXT, parent_span_id TEXT, parent_request_id TEXT, sampled BOOLEAN NOT NULL, principal TEXT,
 principal_source TEXT, phases {json}, model TEXT, model_version TEXT, model_digest TEXT, code_digest TEXT, task TEXT,
 bento TEXT, bento_version TEXT, environment TEXT, namespace TEXT, pod TEXT, revision TEXT, arm TEXT, error_type TEXT,
 error_message TEXT, labels {json}, attributes {json}, items BIGINT NOT NULL, request_bytes BIGINT,
 response_bytes BIGINT, sampling_fraction {double} NOT NULL, redactions {json}, release TEXT,
 schema_version INTEGER NOT NULL, life TEXT NOT NULL, sequence BIGINT NOT NULL, PRIMARY KEY (prediction_id));
CREATE INDEX ix_predictions_request_id ON predictions (request_id);
CREATE INDEX ix_predictions_trace_id ON predictions (trace_id);
CREATE INDEX ix_predictions_model_time ON predictions (model, time_ns);
CREATE INDEX ix_predictions_time ON predictions (time_ns);
CREATE TABLE items (prediction_id TEXT NOT NULL, item_index BIGINT NOT NULL, time_ns BIGINT NOT NULL, model TEXT,
 model_version TEXT, entity {json}, inputs {json}, outputs {json}, prediction {json}, score {double}, decision TEXT,
 threshold {double}, lower {double}, upper {double}, level {double}, treatment TEXT, propensity {double},
 outcome_control {double}, outcome_treated {double}, effect {double}, policy TEXT, exploration BOOLEAN,
 PRIMARY KEY (prediction_id, item_index));
CREATE TABLE entities (name TEXT NOT NULL, value TEXT NOT NULL, prediction_id TEXT NOT NULL,
 item_index BIGINT NOT NULL, time_ns BIGINT NOT NULL, model TEXT,
 PRIMARY KEY (name, value, prediction_id, item_index)) {rowid};
CREATE INDEX ix_entities_value ON entities (value);
INSERT INTO predictions (prediction_id, time_ns, duration, outcome, status, sampled, items, sampling_fraction,
 schema_version, life, sequence, labels) VALUES ('old', 1, 0.5, 'ok', 200, false, 1, 1.0, 1, 'life-0', 1,
 '{{"brand":"north"}}');
INSERT INTO items (prediction_id, item_index, time_ns, score) VALUES ('old', 0, 1, 0.25);
INSERT INTO entities (name, value, prediction_id, item_index, time_ns) VALUES ('customer', 'c1', 'old', 0, 1)
"""
"""What the first release made, and a prediction in it."""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path) -> str:
    """The URL of an empty store on each database."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "audit.db")
    address: str = request.getfixturevalue("postgres_url")
    return address


@pytest.fixture
def engine(url) -> Iterator[Engine]:
    """The store's engine."""
    made = open_engine(url)
    yield made
    made.dispose()


@pytest.fixture
def first_release(engine) -> Engine:
    """A store of the first release, with one prediction."""
    types = (
        {"double": "DOUBLE", "json": "TEXT", "rowid": "WITHOUT ROWID"}
        if engine.dialect.name == "sqlite"
        else {"double": "DOUBLE PRECISION", "json": "JSON", "rowid": ""}
    )
    with engine.begin() as connection:
        for statement in FIRST_RELEASE.format(**types).split(";\n"):
            connection.exec_driver_sql(statement)
    return engine


def schema(engine: Engine) -> dict[str, Any]:
    """All that the database says of its tables."""
    there = inspect(engine)
    return {
        name: (
            [{**column, "type": str(column["type"])} for column in there.get_columns(name)],
            there.get_pk_constraint(name),
            sorted((index["name"], index["column_names"], index["unique"]) for index in there.get_indexes(name)),
        )
        for name in there.get_table_names()
    }


def version(engine: Engine) -> str | None:
    """The version that a store has."""
    with engine.connect() as connection:
        return version_of(connection)


def write(url: str, batch: RowBatch) -> int:
    """Write to a store as a relay that was just started."""
    with closing(SqlAuditStore(url)) as store:
        return store.write(batch)


def test_every_version_is_known():
    """The list of versions is that of the steps, in their order, and the last one is the head."""
    config = Config()
    config.set_main_option("script_location", f"{migrations.__name__}:")
    steps = ScriptDirectory.from_config(config)
    assert tuple(reversed([step.revision for step in steps.walk_revisions()])) == VERSIONS
    assert steps.get_heads() == [HEAD]


def test_a_new_store_is_what_the_tables_say(url, engine):
    """Alembic finds no difference between the tables in the code and those that were made."""
    assert version(engine) is None
    write(url, RowBatch())
    assert version(engine) == HEAD
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []
    assert schema(engine).keys() == {*metadata.tables, VERSION_TABLE}


def test_a_store_of_the_first_release_is_upgraded_with_its_rows(url, first_release, request, tmp_path):
    """Old rows stay, in no chain, and the tables are the same as those of a new store."""
    assert version(first_release) == "0001"
    write(url, RowBatch())
    assert version(first_release) == HEAD
    with closing(SqlAuditQuery(url)) as reader:
        (row,) = reader.predictions(PredictionFilter(labels={"brand": "north"}, entity="customer=c1"))
        assert (row["prediction_id"], row["hash"], row["salt"], row["retention"]) == ("old", None, None, None)
        assert [item["score"] for item in reader.items(["old"])["old"]] == [0.25]
    fresh = (
        sqlite_url(tmp_path / "fresh.db")
        if url.startswith("sqlite")
        else url.rpartition("%3D")[0] + "%3D" + second_schema(first_release)
    )
    write(fresh, RowBatch())
    other = open_engine(fresh)
    try:
        assert schema(other) == schema(first_release)
    finally:
        other.dispose()


def second_schema(engine: Engine) -> str:
    """The name of one more empty schema in PostgreSQL."""
    with engine.begin() as connection:
        name = f"{connection.execute(text('SELECT current_schema()')).scalar_one()}_fresh"
        connection.execute(text(f"CREATE SCHEMA {name}"))
    return name


def test_half_made_tables_are_completed(url, first_release):
    """A store whose making was interrupted in the first release is completed."""
    with first_release.begin() as connection:
        connection.exec_driver_sql("DROP TABLE items")
    write(url, RowBatch())
    assert version(first_release) == HEAD
    assert schema(first_release).keys() == {*metadata.tables, VERSION_TABLE}


def test_a_failed_upgrade_changes_nothing(url, first_release):
    """An upgrade that can't be finished leaves the store as it was, to be tried again."""
    with first_release.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE holds (in_the_way INTEGER)")
    before = schema(first_release)
    with pytest.raises(StoreError, match="holds"):
        write(url, RowBatch())
    assert schema(first_release) == before
    with first_release.begin() as connection:
        connection.exec_driver_sql("DROP TABLE holds")
    write(url, RowBatch())
    assert version(first_release) == HEAD


def test_a_store_of_a_newer_release_is_left_alone(url, engine):
    """Neither written nor read: its tables mean something else."""
    write(url, RowBatch())
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(StoreError, match=r"made by a newer release.*9999.*Install"):
        write(url, RowBatch())
    with closing(SqlAuditQuery(url)) as reader, pytest.raises(StoreError, match="newer release"):
        reader.count(EVERYTHING)


def test_a_store_of_an_older_release_is_not_read_before_its_upgrade(url, first_release):
    """A reader changes nothing, and says what brings the store up to date."""
    with closing(SqlAuditQuery(url)) as reader:
        with pytest.raises(StoreError, match=r"older release.*audit upgrade"):
            reader.count(EVERYTHING)
        write(url, RowBatch())
        assert reader.count(EVERYTHING) == 1


def test_several_relays_upgrade_at_once(url, first_release):
    """Instances that share a store may be upgraded together; each step is run once."""
    errors: list[Exception] = []

    def run() -> None:
        try:
            write(url, RowBatch())
        except StoreError as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert version(first_release) == HEAD


def test_a_store_at_the_head_needs_no_alembic(url):
    """A relay that has nothing to upgrade does not import what upgrades."""
    write(url, RowBatch())
    code = (
        "import sys\n"
        "from e2i_serving.record import RowBatch\n"
        "from e2i_serving.stores.sql import SqlAuditStore\n"
        "store = SqlAuditStore(sys.argv[1]); store.write(RowBatch()); store.close()\n"
        "print('alembic' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_upgrade_leaves_logging_as_it_was(url):
    """Alembic's steps configure no handler and no level, and disable no logger."""
    root, own = logging.getLogger(), logging.getLogger("e2i_serving.relay")
    before = (list(root.handlers), root.level, own.disabled)
    write(url, RowBatch())
    assert (list(root.handlers), root.level, own.disabled) == before
