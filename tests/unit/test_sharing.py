"""Services that share a data directory: equal in what their relay goes by, or not started."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack, closing
from typing import Any

import bentoml
import pytest

import e2i_serving
from e2i_serving.exceptions import ConfigurationError
from e2i_serving.record import ModelInfo
from e2i_serving.runtime.checks import run_checks
from e2i_serving.runtime.definition import ServiceDefinition, definition_of
from e2i_serving.runtime.worker import Worker
from e2i_serving.settings import OF_A_SERVICE, Settings, differing

RULES = {"audit-store": ({"path": "request_id", "action": "mask"},)}


class Plain:
    """A class to define a service by."""


def definition(name: str, data_dir: Any, **arguments: Any) -> ServiceDefinition:
    """A service with a data directory."""
    return ServiceDefinition(name, Plain, {"data_dir": str(data_dir), "relay_enabled": False, **arguments})


def problems(service: ServiceDefinition) -> list[str]:
    """What keeps it from starting."""
    return [str(problem) for _, found in run_checks(service) for problem in found]


@pytest.fixture
def start(tmp_path):
    """Start a worker of a service on the one data directory."""
    with ExitStack() as running:

        def run(name: str, **arguments: Any) -> Worker:
            worker = Worker(definition(name, tmp_path, **arguments), ModelInfo(), {}, strict=True)
            return running.enter_context(closing(worker))

        yield run


@pytest.mark.parametrize(
    "settings",
    [
        {"redaction_destinations": RULES},
        {"audit_url": "sqlite:////elsewhere/audit.db"},
        {"jsonl_path": "/elsewhere/trail.jsonl"},
        {"redaction_key": "a secret of sixteen"},
    ],
)
def test_another_service_with_other_settings_is_refused_while_one_runs(start, tmp_path, settings):
    """Both by the check and by the worker, with what differs and what to do; what is kept stays as it was."""
    running = start("credit", **settings)
    kept = (tmp_path / "settings.json").read_bytes()
    (name,) = settings
    (problem,) = problems(definition("churn", tmp_path))
    assert f"churn and credit, which runs, share the data directory {tmp_path}" in problem
    assert f"set differently: {name}." in problem
    assert "a data directory of its own" in problem
    with pytest.raises(ConfigurationError, match=f"set differently: {name}."):
        start("churn")
    assert (tmp_path / "settings.json").read_bytes() == kept
    assert problems(definition("credit", tmp_path)) == []  # a release of itself
    running.close()
    assert problems(definition("churn", tmp_path)) == []
    start("churn")


def test_one_of_nothing_but_defaults_is_no_exception(tmp_path):
    """A service that sets nothing has settings, too."""
    plain = ServiceDefinition("credit", Plain)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(tmp_path))
        with closing(Worker(plain, ModelInfo(), {}, strict=True)) as worker:
            assert (worker.data_dir / "settings.json").read_text() == "{}"
            (problem,) = problems(definition("churn", worker.data_dir, jsonl_path="x"))
    assert "set differently: jsonl_path." in problem


def test_secrets_are_told_apart(start, tmp_path):
    """Two keys differ though neither is written down."""
    start("credit", redaction_key="a secret of sixteen")
    (problem,) = problems(definition("churn", tmp_path, redaction_key="another of sixteen"))
    assert "redaction_key" in problem
    assert problems(definition("churn", tmp_path, redaction_key="a secret of sixteen")) == []


def test_services_that_agree_share_a_directory(start, tmp_path):
    """What only their workers go by may differ, and so may one that has no records to deliver."""
    start("credit", redaction_destinations=RULES, labels=("brand",), relay_batch_size=7)
    start("churn", redaction_destinations=RULES, durability="power-loss", relay_batch_size=7)
    kept = (tmp_path / "settings.json").read_bytes()
    start("unaudited", audit_enabled=False)
    assert (tmp_path / "settings.json").read_bytes() == kept
    assert json.loads(kept)["relay_batch_size"] == 7


def test_services_of_one_bento_are_compared_before_any_runs(tmp_path, monkeypatch):
    """The check of the one that clients reach knows those that it depends on, at any depth."""
    monkeypatch.setenv("E2I_SERVING_DATA_DIR", str(tmp_path))

    @e2i_serving.service(observability={"redaction_destinations": RULES})
    class Deepest:
        @bentoml.api
        def ask(self) -> int:
            return 1

    @e2i_serving.service
    class Between:
        deepest = bentoml.depends(Deepest)

        @bentoml.api
        def ask(self) -> int:
            return 1

    @e2i_serving.service
    class First:
        between = bentoml.depends(Between)

        @bentoml.api
        def ask(self) -> int:
            return 1

    found = problems(definition_of(First.inner))
    assert len(found) == 2
    assert all("set differently: redaction_destinations." in problem for problem in found)
    assert [name in found[0] + found[1] for name in ("First", "Between", "Deepest")] == [True] * 3
    assert problems(definition_of(Deepest.inner)) == []
    monkeypatch.delenv("E2I_SERVING_DATA_DIR")
    assert problems(definition_of(First.inner)) == []  # each has a directory of its own


def test_what_may_differ_is_documented(project_root):
    """The list for those who set services up is the one that these are compared by."""
    text = (project_root / "docs" / "operations.md").read_text(encoding="utf-8")
    section = text.partition("## Services that share a data directory\n")[2].partition("\n## ")[0]
    listed = "".join(line for line in section.splitlines() if line.startswith("- "))
    assert set(re.findall(r"`(\w+)`", listed)) == OF_A_SERVICE - {"data_dir"}


def test_what_may_differ_are_settings():
    """And none by which records are stored, redacted or sent."""
    assert set(Settings.model_fields) >= OF_A_SERVICE
    for prefix in ("audit_url", "redaction", "relay_poll", "opik", "webhook", "jsonl", "otlp", "checkpoint", "payload"):
        assert not [name for name in OF_A_SERVICE if name.startswith(prefix)]
    assert differing(Settings(labels=("a",)), Settings(labels=("b",))) == []
    assert differing(Settings(jsonl_path="a"), Settings()) == ["jsonl_path"]
