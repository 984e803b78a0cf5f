"""The doctor's advice: what a service starts with all the same, each with its mend and its section."""

from __future__ import annotations

import os
import re
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from bentoml._internal.container import BentoMLContainer
from typer.testing import CliRunner

from e2i_serving.cli import app
from e2i_serving.runtime.checks import CHECKS
from e2i_serving.runtime.definition import ServiceDefinition
from e2i_serving.runtime.examination import ADVICE, advise, reach
from e2i_serving.services import PredictionService
from e2i_serving.testing import ExportReceiver, Fault

PAGE = Path(__file__).parents[2] / "docs" / "doctor.md"


class Plain:
    """A class to define a service by."""


def found(data_dir: Path, *, layered: bool = True, labels: tuple[str, ...] = (), **settings: Any) -> dict[str, str]:
    """The advice on a service with these settings, as text by check; what has none is left out."""
    data_dir.mkdir(exist_ok=True)
    arguments = {"data_dir": str(data_dir), "journal_bytes": 64 * 2**20, **settings}
    advice = advise(ServiceDefinition("credit", Plain, arguments, labels, layered))
    return {name: str(problem) for name, problems in advice for problem in problems}


@pytest.mark.parametrize("name", ["import", "settings", "load", "destinations", "signals", *CHECKS, *ADVICE])
def test_each_check_has_its_section(name):
    """What a line of the doctor's says to ask for is there: the page's section, which leads to no page beside it."""
    assert PredictionService, "imported, so that its own check is registered"
    assert f"\n## {name}\n" in PAGE.read_text(encoding="utf-8")
    done = CliRunner().invoke(app, ["doctor", "--explain", name])
    assert done.exit_code == 0, done.output
    heading, *rest = done.stdout.splitlines()
    assert heading == name
    assert any(rest)
    assert "](" not in done.stdout
    assert "#" not in done.stdout


def test_a_check_that_is_none_is_not_explained():
    """Those that are explained are named."""
    done = CliRunner().invoke(app, ["doctor", "--explain", "Usage"])
    assert done.exit_code == 2
    assert "import, settings, data-directory" in done.stderr


def test_a_sound_service_needs_no_advice(tmp_path):
    """Every look is taken, and none finds anything."""
    assert found(tmp_path) == {}


def test_a_plain_decorator_sees_less(tmp_path):
    """What is not seen is said."""
    assert "429" in found(tmp_path, layered=False)["layer"]


def test_a_disk_that_is_smaller_than_the_journal(tmp_path):
    """Both sizes are said."""
    said = found(tmp_path, journal_bytes=2**60)["journal-volume"]
    assert f"{2**60:,}" in said
    assert "lower journal_bytes" in said


def test_a_clock_that_went_back(tmp_path):
    """Files from the future show it."""
    (tmp_path / "ledger.db").write_text("")
    later = time.time() + 3600
    os.utime(tmp_path / "ledger.db", (later, later))
    assert "The clock is behind" in found(tmp_path)["clock"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_for_metrics_that_can_not_be_written_to(tmp_path):
    """It is named, and what to set."""
    shut = tmp_path / "shut"
    shut.mkdir(mode=0o500)
    with BentoMLContainer.prometheus_multiproc_dir.patch(str(shut / "metrics")):
        assert str(shut) in found(tmp_path)["prometheus-folder"]


@pytest.mark.parametrize(("errors", "kept"), [(True, "only failures are"), (False, "nothing is")])
def test_sampling_that_keeps_no_prediction(tmp_path, errors, kept):
    """What is recorded nevertheless is said; a name that is always kept makes it sensible."""
    assert kept in found(tmp_path, sampling_rate=0, sampling_errors=errors)["sampling"]
    assert found(tmp_path, sampling_rate=0, sampling_always=["churn"]) == {}


def test_a_label_that_no_metric_can_have(tmp_path):
    """It is named; the others are not."""
    said = found(tmp_path, labels=("brand", "bad-name"))["labels"]
    assert "'bad-name'" in said
    assert "brand" not in said


def test_a_store_that_does_not_answer(tmp_path, free_port):
    """It is named, with what waits for it; no password is shown."""
    url = f"postgresql+psycopg://e2i:secret@127.0.0.1:{free_port}/audit"
    ((name, (problem,)),) = reach(ServiceDefinition("credit", Plain, {"data_dir": str(tmp_path), "audit_url": url}))
    assert name == "destinations: audit-store"
    assert "audit-store: " in str(problem)
    assert "can't be read" in str(problem)
    assert "secret" not in str(problem)


SIGNALS = {"trace_exporter": "otlp-http", "metrics_exporter": "otlp-http", "log_exporter": "otlp-http"}


def signals(tmp_path: Path, **settings: Any) -> dict[str, str]:
    """What a round trip of each signal came to, empty where nothing is wrong."""
    definition = ServiceDefinition("credit", Plain, {"data_dir": str(tmp_path), **settings})
    return {
        name.removeprefix("signals: "): " ".join(map(str, problems))
        for name, problems in reach(definition)
        if name.startswith("signals: ")
    }


def test_receivers_of_signals_are_asked(tmp_path, monkeypatch):
    """Each signal that is sent goes to its receiver once, as an empty request; what a receiver says is shown."""
    assert signals(tmp_path) == {}
    with ExportReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        assert signals(tmp_path, **SIGNALS) == {"spans": "", "metrics": "", "log lines": ""}
        assert [each.path for each in receiver.requests] == ["/v1/traces", "/v1/metrics", "/v1/logs"]
        receiver.judge = lambda _request: Fault(401)
        wrong = signals(tmp_path, **SIGNALS)
    assert all("401" in wrong[name] for name in ("spans", "metrics", "log lines"))
    assert "OTEL_EXPORTER_OTLP_" in wrong["spans"]


@pytest.mark.parametrize("protocol", ["otlp-http", "otlp-grpc"])
def test_a_receiver_that_is_not_there(tmp_path, monkeypatch, free_port, protocol):
    """It is a problem, said within seconds, and not in OpenTelemetry's own words on standard error."""
    monkeypatch.setattr("e2i_serving.runtime.signals.TIMEOUT_SECONDS", 2.0)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port}")
    found = signals(tmp_path, trace_exporter=protocol, metrics_exporter=protocol)
    assert found.keys() == {"spans", "metrics"}
    for name, said in found.items():
        assert re.search(f" {name}: .*{free_port}.*refused", said), said


def test_a_service_that_can_not_be_imported(tmp_path):
    """The module, the folder and the section are named; exit code 1."""
    done = CliRunner().invoke(app, ["doctor", "nowhere:Service", "--working-dir", str(tmp_path)])
    assert done.exit_code == 1
    assert done.stdout.startswith("WRONG  [import] nowhere:Service can't be imported from ")
    assert done.stdout.rstrip().endswith("More: e2i-serving doctor --explain import")


def diagnose(folder: Path, target: str, code: str) -> Any:
    """Run the doctor on a service file of this code."""
    (folder / f"{target.partition(':')[0]}.py").write_text(textwrap.dedent(code))
    return CliRunner().invoke(app, ["doctor", target, "--working-dir", str(folder)])


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import e2i_serving\nundefined", "NameError: name 'undefined' is not defined"),
        ("open('/nowhere/at/all')", "FileNotFoundError: [Errno 2] No such file or directory: '/nowhere/at/all'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise ValueError('one thing:\\n  another\\tthing')", "ValueError: one thing:; another\ufffdthing"),
    ],
)
def test_whatever_an_import_raises_is_one_line(tmp_path, code, said):
    """What the file raised is said, and on which of its lines; the lines of a message are parted by semicolons."""
    name = f"raising_{abs(hash(code))}"
    done = diagnose(tmp_path, f"{name}:Service", code)
    assert done.exit_code == 1
    (line,) = done.stdout.splitlines()
    where = f"{name}:Service can't be imported from {tmp_path}"
    assert line.startswith(f"WRONG  [import] {where}: {said} ({name}.py, line ")


def test_each_service_that_would_be_served_is_examined(tmp_path, monkeypatch):
    """What another service depends on is served too, so that its problems are the deployment's; each line names it."""
    monkeypatch.setenv("E2I_SERVING_DATA_DIR", str(tmp_path / "data"))
    code = """
        import bentoml

        import e2i_serving


        @bentoml.service
        class Unobserved:
            @bentoml.api
            def same(self, x: int) -> int:
                return x


        @e2i_serving.service
        class Child(e2i_serving.RegressionService):
            model = "not_in_the_store:latest"


        @e2i_serving.service
        class Parent:
            child = bentoml.depends(Child)
            unobserved = bentoml.depends(Unobserved)

            @bentoml.api
            def double(self, x: int) -> int:
                return 2 * x
    """
    done = diagnose(tmp_path, "nested_service:Parent", code)
    assert done.exit_code == 1, done.output
    assert re.search(r"(?m)^ok     Parent: model$", done.stdout)
    assert re.search(r"(?m)^WRONG  Child: \[model\] Child.model: The model not_in_the_store:latest is", done.stdout)
    assert "Unobserved" not in done.stdout


def test_a_model_may_need_a_module_beside_its_service(tmp_path, monkeypatch):
    """It is loaded as a worker would load it, which finds that module; afterwards the path is as before."""
    monkeypatch.setenv("E2I_SERVING_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "beside_the_service.py").write_text("x = 1")
    code = """
        import e2i_serving


        @e2i_serving.service
        class Beside(e2i_serving.RegressionService):
            feature_names = ("a",)

            def load(self):
                import beside_the_service

                return beside_the_service
    """
    (tmp_path / "lazy_service.py").write_text(textwrap.dedent(code))
    before = sys.path[:]
    done = CliRunner().invoke(app, ["doctor", "lazy_service:Beside", "--working-dir", str(tmp_path)])
    assert "No module named" not in done.stdout
    assert sys.path == before


def test_the_doctor_says_ok_note_and_wrong(tmp_path, monkeypatch):
    """Advice alone leaves the exit code at 0."""
    monkeypatch.setenv("E2I_SERVING_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("E2I_SERVING_SAMPLING_RATE", "0")
    code = """
        import bentoml

        import e2i_serving


        @e2i_serving.service
        class Advised:
            @bentoml.api
            def double(self, x: int) -> int:
                return 2 * x
    """
    (tmp_path / "advised_service.py").write_text(textwrap.dedent(code))
    done = CliRunner().invoke(app, ["doctor", "advised_service:Advised", "--working-dir", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert re.search(r"(?m)^ok     import$", done.stdout)
    assert re.search(r"(?m)^NOTE   \[sampling\] .* More: e2i-serving doctor --explain sampling$", done.stdout)
