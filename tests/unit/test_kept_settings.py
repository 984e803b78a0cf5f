"""A service's settings in its data directory: commands beside it do as it does."""

from __future__ import annotations

import json
import stat

import pytest

from e2i_serving.exceptions import ConfigurationError, QueryError
from e2i_serving.runtime.places import locate
from e2i_serving.runtime.questions import entity_as_stored
from e2i_serving.settings import Origin, keep_settings, kept_for_relay, load_settings


def keep(folder, **arguments):
    """Write settings down as a service does."""
    keep_settings(load_settings(arguments, environ={}), folder)


def test_what_was_set_takes_the_place_of_defaults(tmp_path):
    """A command that names the data directory gets the service's settings; its own environment still wins."""
    keep(tmp_path, audit_url="sqlite:////elsewhere/audit.db", relay_batch_size=7)
    resolved = load_settings(environ={"E2I_SERVING_RELAY_BATCH_SIZE": "9"}, data_dir=tmp_path)
    assert resolved.settings.audit_url == "sqlite:////elsewhere/audit.db"
    assert resolved.settings.relay_batch_size == 9
    assert resolved.origins["audit_url"] is Origin.SERVICE
    assert resolved.origins["relay_batch_size"] is Origin.ENVIRONMENT
    assert resolved.origins["segment_bytes"] is Origin.DEFAULT


def test_what_the_service_turned_off_stays_off_beside_its_file(tmp_path):
    """A relay that runs in the service's folder goes by what came of the file in the service, not by the file."""
    (tmp_path / "observability.yaml").write_text("jsonl_path: /real.jsonl\nrelay_batch_size: 7\nopik_enabled: true\n")
    service = load_settings({"jsonl_path": "", "relay_batch_size": 9}, config_dir=tmp_path, environ={})
    keep_settings(service, tmp_path)
    (tmp_path / "observability.yaml").write_text("jsonl_path: /real.jsonl\nrelay_batch_size: 7\nopik_spans: true\n")
    beside = load_settings(config_dir=tmp_path, environ={}, data_dir=tmp_path).settings
    assert (beside.jsonl_path, beside.relay_batch_size, beside.opik_enabled, beside.opik_spans) == ("", 9, True, True)


def test_secrets_and_defaults_are_not_kept(tmp_path):
    """The file holds what was set and is no secret, and only its owner reads it."""
    keep(tmp_path, redaction_key="a secret of sixteen", relay_batch_size=7, data_dir=str(tmp_path))
    file = tmp_path / "settings.json"
    kept = json.loads(file.read_text())
    assert kept.pop("fingerprints").keys() == {"redaction_key"}
    assert kept == {"relay_batch_size": 7}
    assert "a secret of sixteen" not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


def test_it_is_another_file_only_with_other_settings(tmp_path):
    """A relay begins anew when the file changes: a worker's start changes nothing, another secret does."""
    file = tmp_path / "settings.json"
    keep(tmp_path, redaction_key="a secret of sixteen", relay_batch_size=7)
    first = file.read_bytes()
    keep(tmp_path, redaction_key="a secret of sixteen", relay_batch_size=7)
    assert file.read_bytes() == first
    keep(tmp_path, redaction_key="another of sixteen", relay_batch_size=7)
    assert file.read_bytes() != first


def test_a_relay_looks_at_what_it_goes_by(tmp_path):
    """Services that share it and differ in what only workers go by don't let the relay begin anew by turns."""
    seen = []
    for settings in ({"labels": ("a",)}, {"labels": ("b",)}, {"arm": "b"}, {"jsonl_path": "x"}):
        keep(tmp_path, **settings)
        seen.append(kept_for_relay(tmp_path))
    assert seen == [{}, {}, {"arm": "b"}, {"jsonl_path": "x"}]
    (tmp_path / "settings.json").unlink()
    assert kept_for_relay(tmp_path) is None


def test_names_of_another_release_are_left_out(tmp_path):
    """What this release does not know does not stop a command."""
    (tmp_path / "settings.json").write_text('{"relay_batch_size": 7, "of_tomorrow": 1}')
    assert load_settings(environ={}, data_dir=tmp_path).settings.relay_batch_size == 7


@pytest.mark.parametrize("content", ["{", "\xff", '{"relay_batch_size": -1}'])
def test_a_damaged_file_is_named(tmp_path, content):
    """What can't be read says which file it is, or which setting of it."""
    (tmp_path / "settings.json").write_text(content, encoding="latin-1")
    with pytest.raises(ConfigurationError, match=r"settings\.json|wrote into its data directory"):
        load_settings(environ={}, data_dir=tmp_path)


def test_a_data_directory_leads_to_the_store_of_its_service(tmp_path):
    """Whoever names the directory reads the store that the service writes to."""
    keep(tmp_path, audit_url=f"sqlite:///{tmp_path}/elsewhere.db")
    place = locate(tmp_path)
    assert place.url == f"sqlite:///{tmp_path}/elsewhere.db"
    assert place.data_dir == tmp_path


def test_a_url_leads_to_the_service_that_writes_there(tmp_path, monkeypatch):
    """A store asked for by its URL is that of the one service here that wrote it down, with its checkpoints."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    url = f"sqlite:///{tmp_path}/elsewhere.db"
    for service, kept in (("credit", url), ("churn", f"{url}2")):
        folder = tmp_path / "e2i" / service / "host"
        (folder / "journal").mkdir(parents=True)
        keep(folder, audit_url=kept)
    (tmp_path / "elsewhere.db").touch()
    assert locate(url).data_dir == tmp_path / "e2i" / "credit" / "host"
    monkeypatch.setenv("E2I_SERVING_AUDIT_URL", url)
    assert locate(None).data_dir == tmp_path / "e2i" / "credit" / "host"
    assert locate(f"sqlite:///{tmp_path}/other.db").is_reader_s_own


def test_an_entity_is_asked_for_as_it_is_stored():
    """Where a rule hashes entities, their names are hashed as well; a hash is taken as it is."""
    rules = [{"path": "entities.*", "action": "hash"}]
    settings = load_settings({"redaction_rules": rules, "redaction_key": "a secret of sixteen"}, environ={}).settings
    stored = entity_as_stored(settings, "customer=4711")
    assert stored.startswith("customer=hmac:")
    assert entity_as_stored(settings, stored) == stored
    plain = load_settings({}, environ={}).settings
    assert entity_as_stored(plain, "customer=4711") == "customer=4711"
    with pytest.raises(ConfigurationError, match="redaction_key"):
        entity_as_stored(load_settings({"redaction_rules": rules}, environ={}).settings, "customer=4711")


@pytest.mark.parametrize(
    ("settings", "entity"),
    [
        ({"redaction_rules": [{"path": "entities.*", "action": "mask"}]}, "customer=4711"),
        ({"redaction_rules": [{"path": "entities.*", "action": "mask"}]}, "customer=***"),
        ({"redaction_rules": [{"path": "entities.customer", "action": "drop"}]}, "customer=4711"),
        ({"redaction_rules": [{"path": "entities.age", "action": "round", "digits": -1}]}, "age=37"),
        ({"redaction_rules": [{"path": "entities.age", "action": "round", "digits": -1}]}, "age=40"),
        ({"redaction_allow": ["entities.customer"]}, "mail=4711"),
        ({"redaction_patterns": ["email"]}, "mail=erika@example.com"),
    ],
)
def test_an_entity_that_stands_for_many_is_refused(settings, entity):
    """What is masked, rounded, dropped or not allowed would mean everybody, so nobody is erased or held by it."""
    with pytest.raises(QueryError, match="stands for others"):
        entity_as_stored(load_settings(settings, environ={}).settings, entity)


def test_an_entity_beside_one_that_is_masked_is_taken():
    """Only the entity that a rule or a pattern changes is refused."""
    rules = [{"path": "entities.customer", "action": "mask"}]
    settings = load_settings({"redaction_rules": rules, "redaction_patterns": ["email"]}, environ={}).settings
    assert entity_as_stored(settings, "mail=4711") == "mail=4711"
    assert entity_as_stored(settings, "customer=hmac:0123") == "customer=hmac:0123"
