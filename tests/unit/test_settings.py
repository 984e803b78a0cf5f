"""Settings: one table, four sources, and a clear word when one is wrong."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from e2i_serving.exceptions import ConfigurationError
from e2i_serving.settings import (
    CONFIG_FILE_NAME,
    Origin,
    ResolvedSettings,
    Settings,
    data_dir_of,
    default_data_dirs,
    environment_of,
    instance_name,
    keep_settings,
    load_settings,
)


@pytest.fixture
def resolve(tmp_path, monkeypatch):
    """Resolve settings from arguments, variables without their prefix, and the text of the file."""
    monkeypatch.chdir(tmp_path)

    def load(
        arguments: dict[str, Any] | None = None, env: dict[str, str] | None = None, file: str | None = None
    ) -> ResolvedSettings:
        folder = tmp_path / "service"
        folder.mkdir(exist_ok=True)
        if file is not None:
            (folder / CONFIG_FILE_NAME).write_text(file, encoding="utf-8")
        environ = {f"E2I_SERVING_{name}": value for name, value in (env or {}).items()}
        return load_settings(arguments, config_dir=folder, environ={**environ, "HOME": "/", "OTHER": "x"})

    return load


def refusal(resolve: Any, *sources: Any, **named: Any) -> list[str]:
    """The lines of the error."""
    with pytest.raises(ConfigurationError) as raised:
        resolve(*sources, **named)
    return str(raised.value).splitlines()


def test_everything_has_a_default(resolve):
    """Nothing needs to be set."""
    settings, origins, config_file = resolve()
    assert settings == Settings()
    assert set(origins) == set(Settings.model_fields)
    assert set(origins.values()) == {Origin.DEFAULT}
    assert config_file is None
    assert settings.audit_enabled
    assert settings.durability == "process"


def test_an_argument_wins_over_the_environment_over_the_file_over_the_default(resolve):
    """Each source is asked in turn, and each value says where it came from."""
    file = "relay_batch_size: 1\nsegment_bytes: 2097152\nrelay_poll_seconds: 0.5\n"
    env = {"RELAY_BATCH_SIZE": "2", "RELAY_POLL_SECONDS": "0.6"}
    settings, origins, config_file = resolve({"relay_batch_size": 3}, env, file)
    assert (settings.relay_batch_size, settings.relay_poll_seconds, settings.segment_bytes) == (3, 0.6, 2097152)
    assert origins["relay_batch_size"] is Origin.ARGUMENT
    assert origins["relay_poll_seconds"] is Origin.ENVIRONMENT
    assert origins["segment_bytes"] is Origin.FILE
    assert origins["record_bytes"] is Origin.DEFAULT
    assert config_file is not None
    assert config_file.name == CONFIG_FILE_NAME
    assert resolve(None, env, file).settings.relay_batch_size == 2
    assert resolve(None, None, file).settings.relay_batch_size == 1


def test_a_source_wins_even_with_a_falsy_value(resolve):
    """False, zero and an empty list are values like any others."""
    settings = resolve(
        {"audit_enabled": False, "relay_linger_seconds": 0, "labels": ()},
        {"AUDIT_ENABLED": "true", "RELAY_LINGER_SECONDS": "5", "LABELS": '["brand"]'},
    ).settings
    assert (settings.audit_enabled, settings.relay_linger_seconds, settings.labels) == (False, 0, ())


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("1", True), ("FALSE", False), ("0", False), ("no", False)]
)
def test_booleans_in_the_environment(resolve, text, value):
    """A variable may say yes and no in the usual ways."""
    assert resolve(env={"AUDIT_REQUIRED": text}).settings.audit_required is value


def test_lists_in_the_environment_are_json(resolve):
    """A list is written as JSON, and the error says so when it is not."""
    assert resolve(env={"LABELS": '["brand", "region"]'}).settings.labels == ("brand", "region")
    (line,) = refusal(resolve, env={"LABELS": "brand,region"})
    assert "labels" in line
    assert "A list setting is written as JSON in the environment, such as '[\"brand\"]'." in line


def test_an_empty_variable_counts_as_not_set(resolve):
    """Compose files and charts pass empty variables on for what is not given."""
    settings, origins, _ = resolve(
        env={"RELAY_BATCH_SIZE": "", "DURABILITY": "", "LABELS": ""}, file="durability: power-loss"
    )
    assert settings.relay_batch_size == Settings().relay_batch_size
    assert settings.durability == "power-loss"
    assert origins["durability"] is Origin.FILE


def test_variables_of_others_are_left_alone():
    """Only names with the prefix are read."""
    assert load_settings(environ={"LABELS": "x", "E2I_OTHER": "y", "PATH": "/bin"}).settings == Settings()


@pytest.mark.parametrize("name", ["", "CHURN_"])
def test_what_kubernetes_says_of_a_service_is_no_setting(resolve, name):
    """A Service named e2i-serving puts variables with the prefix into every pod of its namespace."""
    given = {
        "SERVICE_HOST": "10.0.0.1",
        "SERVICE_PORT": "80",
        "SERVICE_PORT_HTTP": "80",
        "PORT": "tcp://10.0.0.1:80",
        "PORT_80_TCP": "tcp://10.0.0.1:80",
        "PORT_80_TCP_PROTO": "tcp",
        "PORT_80_TCP_PORT": "80",
        "PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert resolve(env={name + key: value for key, value in given.items()}).settings == Settings()


def test_a_name_that_only_looks_like_one_of_kubernetes_is_refused(resolve):
    """Mistakes are still found beside them."""
    assert len(refusal(resolve, env={"PORT_HTTP": "80", "PORTS": "80", "PORT_80_TCP_X": "1", "SERVICE": "a"})) == 4


def test_the_process_environment_is_read_by_default(monkeypatch):
    """Without an environment of its own, the process's is asked."""
    monkeypatch.setenv("E2I_SERVING_ARM", "b")
    assert load_settings().settings.arm == "b"


@pytest.mark.parametrize(
    "file",
    [
        "audit_required: true\nrelay_poll_seconds: 1\nlabels: [brand, region]\n",
        "audit:\n  required: true\nrelay:\n  poll_seconds: 1\nlabels:\n- brand\n- region\n",
        "audit: {required: true}\nrelay_poll_seconds: 1.0\nlabels: [brand, region]\n",
    ],
)
def test_the_file_may_be_flat_or_nested(resolve, file):
    """A section and a prefix mean the same."""
    settings = resolve(file=file).settings
    assert (settings.audit_required, settings.relay_poll_seconds) == (True, 1)
    assert settings.labels == ("brand", "region")


@pytest.mark.parametrize("file", ["", "# nothing\n", "---\n"])
def test_an_empty_file_sets_nothing(resolve, file):
    """A file of comments is a file all the same."""
    resolved = resolve(file=file)
    assert resolved.settings == Settings()
    assert resolved.config_file is not None


def test_the_file_is_found_beside_the_service_or_by_name(tmp_path, monkeypatch):
    """The variable names a file, the folder holds one, else the working directory does."""
    here, beside, named = tmp_path / "here", tmp_path / "beside", tmp_path / "named.yaml"
    for folder, arm in ((here, "here"), (beside, "beside")):
        folder.mkdir()
        (folder / CONFIG_FILE_NAME).write_text(f"arm: {arm}")
    named.write_text("arm: named")
    monkeypatch.chdir(here)
    assert load_settings(environ={}).settings.arm == "here"
    assert load_settings(config_dir=beside, environ={}).settings.arm == "beside"
    resolved = load_settings(config_dir=beside, environ={"E2I_SERVING_CONFIG_FILE": str(named)})
    assert resolved.settings.arm == "named"
    assert resolved.config_file == named
    with pytest.raises(ConfigurationError, match=r"E2I_SERVING_CONFIG_FILE names .*gone.yaml, which is no file"):
        load_settings(environ={"E2I_SERVING_CONFIG_FILE": str(tmp_path / "gone.yaml")})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: [", "can't be read"),
        (b"\xff\xfe\x00", "can't be read"),
        (b"- a\n- b\n", "must hold settings by name, not list"),
        (b"just text", "must hold settings by name, not str"),
    ],
)
def test_a_file_that_is_no_table_is_named(resolve, tmp_path, content, said):
    """A broken file is an error that says which file."""
    resolve()
    (tmp_path / "service" / CONFIG_FILE_NAME).write_bytes(content)
    assert any(CONFIG_FILE_NAME in line and said in line for line in [" ".join(refusal(resolve))])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("  url: 'postgresql://u:hunter2@h/db", "while scanning a quoted scalar: found unexpected end of stream"),
        ("  url: @hunter2", "found character '@' that cannot start any token"),
        ("  url: *hunter2", "found undefined alias"),
        ("  url: !hunter2 x", "could not determine a constructor for the tag"),
        ("  url: !hunter2!x y", "found undefined tag handle"),
        ("  url: {a: postgresql://u:hunter2@h/db, b: [}", "but found '}'"),
        ("  url: 2030-13-41", "month must be in 1..12"),
    ],
)
def test_a_mistake_in_the_file_is_told_without_what_stands_there(resolve, line, said):
    """The problem and its place are told, and never the line, for it may hold the store's password."""
    (told,) = refusal(resolve, file=f"audit:\n{line}\n")
    assert said in told
    assert "hunter2" not in told
    assert re.search(r"can't be read: .*(in line [23], column \d+\.|1\.\.12)", told)


@pytest.mark.parametrize(
    ("source", "spelled"),
    [
        ({"arguments": {"audit_requird": True}}, "setting 'audit_requird'."),
        ({"env": {"AUDIT_REQUIRD": "true"}}, "environment variable E2I_SERVING_AUDIT_REQUIRD."),
        ({"file": "audit:\n  requird: true"}, "setting 'audit_requird' in "),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(resolve, source, spelled):
    """A typing mistake is no setting, wherever it is made, and the right name is suggested."""
    (line,) = refusal(resolve, **source)
    assert line.startswith(f"Unknown {spelled}")
    meant = "E2I_SERVING_AUDIT_REQUIRED" if "environment variable" in line else "audit_required"
    assert line.endswith(f"Did you mean '{meant}'?")


def test_an_unknown_name_like_no_other_says_where_all_are(resolve):
    """Without a near name, the command that lists them is named."""
    assert refusal(resolve, {"zzzzzz": 1}) == ["Unknown setting 'zzzzzz'. `e2i-serving settings` lists all."]
    assert refusal(resolve, file="1: 2\n")[0].startswith("Unknown setting '1' in")


@pytest.mark.parametrize(
    ("source", "start", "message"),
    [
        (
            {"arguments": {"relay_batch_size": 0}},
            "Bad value for setting 'relay_batch_size': ",
            "greater than or equal to 1",
        ),
        (
            {"env": {"RELAY_BATCH_SIZE": "many"}},
            "Bad value for environment variable E2I_SERVING_RELAY_BATCH_SIZE: ",
            "valid integer",
        ),
        ({"file": "durability: forever"}, "Bad value for setting 'durability' in ", "'process' or 'power-loss'"),
        ({"arguments": {"instance": "a/b"}}, "Bad value for setting 'instance': ", "match pattern"),
        ({"file": "labels: brand"}, "Bad value for setting 'labels' in ", "tuple"),
        ({"file": "audit_enabled: {deep: true}"}, "Bad value for setting 'audit_enabled' in ", "bool"),
        ({"arguments": {"record_bytes": 2**40}}, "Bad value for setting 'record_bytes': ", "less than or equal to"),
    ],
)
def test_a_bad_value_says_where_it_stands(resolve, source, start, message):
    """Which setting, in which source, and what it takes."""
    (line,) = refusal(resolve, **source)
    assert line.startswith(start)
    assert message in line
    assert line.endswith("; `e2i-serving settings` shows what it takes.")


def test_all_mistakes_are_said_at_once(resolve):
    """One line each, whichever source they stand in."""
    assert len(refusal(resolve, {"labls": 1, "arms": 1}, {"PODS": "x"}, "enviroment: x")) == 4
    assert len(refusal(resolve, {"relay_batch_size": 0}, {"DURABILITY": "x"}, "record_bytes: 1")) == 3


def test_settings_do_not_change():
    """A worker's settings are the same as long as it lives."""
    with pytest.raises(ValidationError):
        Settings().arm = "b"  # type: ignore[misc]


def test_settings_read_no_source_by_themselves(monkeypatch):
    """Only ``load_settings`` knows the environment, and so where a value came from."""
    monkeypatch.setenv("E2I_SERVING_ARM", "b")
    assert Settings().arm == ""


def test_a_child_process_resolves_the_same(resolve, tmp_path):
    """What is handed on as variables gives equal settings, lists, numbers and paths included."""
    settings = resolve(
        {
            "data_dir": tmp_path / "data",
            "labels": ("brand", "région"),
            "audit_required": True,
            "relay_poll_seconds": 0.25,
            "audit_url": "postgresql://u:p%40@h/db",
            "segment_bytes": 2 * 1024 * 1024,
        }
    ).settings
    assert load_settings(config_dir=tmp_path, environ=environment_of(settings)).settings == settings
    assert load_settings(config_dir=tmp_path, environ=environment_of(Settings())).settings == Settings()


def test_a_child_process_keeps_a_default_that_was_given_in_code(resolve, tmp_path):
    """An argument wins over the environment in the child as well, though it be the default."""
    inherited = {"E2I_SERVING_RELAY_BATCH_SIZE": "7", "E2I_SERVING_AUDIT_URL": "postgresql://h/other"}
    given = {"relay_batch_size": Settings().relay_batch_size, "audit_url": ""}
    settings = load_settings(given, config_dir=tmp_path, environ=inherited).settings
    child = {**inherited, **environment_of(settings)}
    assert load_settings(config_dir=tmp_path, environ=child).settings == settings


def test_a_child_process_reads_nothing_but_what_it_is_handed(resolve, tmp_path):
    """What is empty or unset in the parent is so in the child, whatever a file, a service or a variable says there."""
    file = f"jsonl_path: /real.jsonl\nlabels: [brand]\ncheckpoint_dir: {tmp_path}\nretention: {{standard: 1d}}\n"
    inherited = {"CHECKPOINT_DIR": "/real", "WEBHOOK_URL": "http://real", "RETENTION": '{"failure": "1d"}'}
    given = dict.fromkeys(["checkpoint_dir", "encryption_key_file"]) | dict.fromkeys(["jsonl_path", "webhook_url"], "")
    resolved = resolve({**given, "labels": (), "retention": {}}, inherited, file)
    keep_settings(load_settings({"encryption_key_file": tmp_path, "jsonl_path": "/kept"}, environ={}), tmp_path)
    environ = {f"E2I_SERVING_{name}": value for name, value in inherited.items()}
    child = load_settings(
        config_dir=tmp_path / "service",
        environ={**environ, "E2I_SERVING_CONFIG_FILE": "/gone.yaml", **environment_of(resolved.settings)},
        data_dir=tmp_path,
    )
    assert child.settings == resolved.settings
    assert child.config_file is None


def test_what_may_be_empty_is_so_by_default():
    """An empty variable counts as not set, so a child process could not be told of any other default."""
    for name, default in Settings().model_dump().items():
        if isinstance(default, str) and default:
            with pytest.raises(ValidationError):
                Settings.model_validate({name: ""})
        elif default is not None and not isinstance(default, str):
            with pytest.raises(ValidationError):
                Settings.model_validate({name: None})


def test_every_setting_is_documented():
    """No setting is without a sentence."""
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.rstrip().endswith("."), name


def test_an_instance_has_a_name(monkeypatch):
    """The one set, else the host's, safe as a folder's name."""
    assert instance_name(Settings(instance="one")) == "one"
    for host, name in (("web-1.example", "web-1.example"), ("a b/c:d", "a-b-c-d"), ("", "local"), ("x" * 99, "x" * 64)):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        assert instance_name(Settings()) == name


def test_the_data_directory_is_the_one_set_or_bentomls(tmp_path, monkeypatch):
    """Set, it is used as it is; unset, each service and instance has its own under BentoML's home."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert data_dir_of(Settings(instance="one"), "credit") == tmp_path / "e2i" / "credit" / "one"
    assert data_dir_of(Settings(data_dir=Path("here")), "credit") == tmp_path / "here"
    assert data_dir_of(Settings(data_dir=Path("~/data")), "credit") == Path.home() / "data"
    monkeypatch.delenv("BENTOML_HOME")
    assert data_dir_of(Settings(instance="one"), "credit") == Path.home() / "bentoml" / "e2i" / "credit" / "one"


def test_default_data_directories_are_found_newest_first(tmp_path, monkeypatch):
    """Only folders with a journal are data directories."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    assert default_data_dirs() == []
    made = []
    for at, service in enumerate(("a", "b", "c")):
        folder = tmp_path / "e2i" / service / "one"
        (folder / "journal").mkdir(parents=True)
        os.utime(folder, (at, at))
        made.insert(0, folder)
    (tmp_path / "e2i" / "d" / "one").mkdir(parents=True)
    assert default_data_dirs() == made


def test_a_secret_reaches_the_relay_and_nobody_else(resolve):
    """A child process is given it in clear; what is printed, logged or refused never shows it."""
    secret = "not for anyone's eyes"
    settings = resolve({"redaction_key": secret}).settings
    assert environment_of(settings)["E2I_SERVING_REDACTION_KEY"] == secret
    assert load_settings(environ=environment_of(settings)).settings.redaction_key == settings.redaction_key
    assert secret not in repr(settings)
    assert secret not in settings.model_dump_json()
    assert secret not in str(refusal(resolve, {"redaction_key": [secret]}))
    assert secret not in str(refusal(resolve, {"redaction_key": secret, "relay_batch_size": 0}))
