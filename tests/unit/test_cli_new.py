"""Projects made of the templates: whole, valid, and kept up to date without touching what their owners changed."""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from e2i_serving.cli import app, wheels
from e2i_serving.cli.projects import MARK, Answers, Kind, answers_of, project_files, update_project, write_project
from e2i_serving.exceptions import ConfigurationError
from e2i_serving.settings import load_settings
from e2i_serving.slo import load_objectives

ROOT = Path(__file__).parents[2]
REQUIREMENT = "e2i-serving==0.1.0"
CHOICES = [
    frozenset(chosen)
    for number in range(6)
    for chosen in itertools.combinations(("feast", "opik", "otlp", "pyproject", "sentry"), number)
]
OF_FEAST = {"features.py", "feature_repo/definitions.py", "feature_repo/feature_store.yaml"}
COMMON = {
    "README.md",
    "collector.yaml",
    "kubernetes.yaml",
    "observability.yaml",
    "prometheus.yml",
    "prometheus/alerts.yaml",
    "prometheus/objectives.yaml",
    "dashboards/e2i-model.json",
    "dashboards/e2i-overview.json",
    "requirements.txt",
    "service.py",
    "slo.yaml",
    "tests/test_service.py",
    "train.py",
}


def invoke(*args: str | Path):
    """Run the command in this process."""
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def project(tmp_path) -> Path:
    """A project as it was just made."""
    write_project(tmp_path / "churn", Answers("churn", Kind.CLASSIFICATION, REQUIREMENT))
    return tmp_path / "churn"


@pytest.mark.parametrize(
    ("kind", "chosen"),
    [
        *((Kind.CLASSIFICATION, chosen) for chosen in CHOICES),
        *((kind, chosen) for kind in (Kind.REGRESSION, Kind.CAUSAL) for chosen in (CHOICES[0], CHOICES[-1])),
    ],
    ids=lambda part: part if isinstance(part, str) else "+".join(sorted(part)) or "none",
)
def test_every_file_is_what_its_name_says(kind, chosen, tmp_path):
    """Whatever is chosen: Python compiles, YAML and TOML parse, settings and objectives are taken by their readers."""
    options = dict.fromkeys(chosen, True)
    files = project_files(Answers("credit-risk_2", kind, REQUIREMENT, **options))
    assert set(files) >= COMMON
    assert (set(files) >= OF_FEAST) is ("feast" in chosen)
    for path, text in files.items():
        assert "{{" not in text.replace("{{ $", "").replace("{{$", "") or path.startswith(
            ("prometheus/", "dashboards/")
        )
        assert text.endswith("\n")
        assert "\n\n\n\n" not in text
        match Path(path).suffix:
            case ".py":
                ast.parse(text)
            case ".yaml" | ".yml":
                assert list(yaml.safe_load_all(text))
            case ".json":
                json.loads(text)
    for name in ("observability.yaml", "slo.yaml"):
        (tmp_path / name).write_text(files[name])
    settings = load_settings(config_dir=tmp_path).settings
    assert settings.trace_exporter == ("otlp-grpc" if "otlp" in chosen else "none")
    assert settings.opik_enabled is ("opik" in chosen)
    assert load_objectives(tmp_path / "slo.yaml")
    assert ("bentofile.yaml" in files) is ("pyproject" not in chosen)
    build = tomllib.loads(files["pyproject.toml"]).get("tool", {}).get("bentoml", {}).get("build")
    described = build or yaml.safe_load(files["bentofile.yaml"])
    assert described["service"] == "service:CreditRisk2"
    assert described["name"] == "credit_risk_2"
    assert ("feature_repo/*" in described["include"]) is ("feast" in chosen)


@pytest.mark.parametrize(
    ("chosen", "variable"),
    [("opik", "OPIK_API_KEY"), ("otlp", "OTEL_EXPORTER_OTLP_ENDPOINT"), ("sentry", "SENTRY_DSN")],
)
def test_where_it_goes_is_told_by_the_environment(chosen, variable):
    """Settings, README and manifest name the variable of what was chosen, and of nothing else."""
    plain = project_files(Answers("churn", Kind.CAUSAL, REQUIREMENT))
    files = project_files(Answers("churn", Kind.CAUSAL, REQUIREMENT, **{chosen: True}))
    for name in ("observability.yaml", "README.md", "kubernetes.yaml"):
        assert variable in files[name]
        assert variable not in plain[name]
    assert f"#   {variable}=" in files["observability.yaml"]


def test_extras_are_those_that_are_needed():
    """Opik is spoken to without its SDK, so that the bento carries none."""
    everything = Answers("churn", Kind.CAUSAL, REQUIREMENT, feast=True, opik=True, otlp=True, sentry=True)
    assert everything.extras == ("feast", "otlp", "sentry")
    assert Answers("churn", Kind.CAUSAL, REQUIREMENT).extras == ()


def test_kubernetes_keeps_the_journal_and_lets_the_relay_end_last():
    """Probes, a grace period longer than the relay's last delivery, and the same volume for server and relay."""
    text = project_files(Answers("churn", Kind.REGRESSION, REQUIREMENT))["kubernetes.yaml"]
    service, workload = yaml.safe_load_all(text)
    pod = workload["spec"]["template"]["spec"]
    (server,), (relay,) = pod["containers"], pod["initContainers"]
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(server)
    assert pod["terminationGracePeriodSeconds"] > load_settings().settings.relay_shutdown_seconds
    assert relay["restartPolicy"] == "Always"
    assert relay["volumeMounts"] == server["volumeMounts"]
    assert relay["env"] == server["env"]
    assert workload["spec"]["volumeClaimTemplates"][0]["metadata"]["name"] == server["volumeMounts"][0]["name"]
    assert service["spec"]["selector"] == workload["spec"]["selector"]["matchLabels"]


@pytest.mark.parametrize(
    ("kind", "name", "example"), [("regression", "conformal", "diabetes"), ("causal", "uplift", "uplift")]
)
def test_models_are_those_of_the_examples(kind, name, example):
    """A template's model is the tested one of the examples."""
    template = ROOT / "templates" / "kinds" / kind / f"{name}.py.jinja"
    assert template.read_text() == (ROOT / "examples" / example / f"{name}.py").read_text()


@pytest.mark.parametrize("name", ["Churn", "1st", "a--b", "a b", "../x", "x" * 41, "a-", ""])
def test_a_name_that_can_not_name_everything_is_refused(name, tmp_path):
    """Exit code 2, what a name is, and nothing written."""
    done = invoke("new", "causal", "--output", tmp_path / "out", "--", name)
    assert done.exit_code == 2
    assert "such as credit-risk" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_left_alone(project):
    """A project is never written over another one."""
    before = (project / "service.py").read_text()
    done = invoke("new", "regression", "churn", "--output", project)
    assert done.exit_code == 2
    assert "is not empty" in done.stderr
    assert (project / "service.py").read_text() == before


def test_new_prints_its_files(tmp_path):
    """Each file that was written is named, and what comes next."""
    done = invoke("new", "causal", "voucher", "--output", tmp_path / "v")
    assert done.exit_code == 0, done.output
    assert str(tmp_path / "v" / "uplift.py") in done.stdout
    assert (tmp_path / "v" / "uplift.py").exists()
    assert "README.md" in done.stdout.splitlines()[-1]


def test_an_update_with_nothing_new_does_nothing(project):
    """What is as it should be is not written again, whatever its owner changed."""
    (project / "train.py").write_text("mine\n")
    assert update_project(project, REQUIREMENT) == {}
    assert (project / "train.py").read_text() == "mine\n"


def test_an_update_keeps_what_was_changed(project):
    """A newer file replaces an untouched one, lies beside a changed one until it is deleted; what is gone stays so."""
    mark = json.loads((project / MARK).read_text())
    for path in ("slo.yaml", "collector.yaml", "kubernetes.yaml"):  # as if an older release had made them otherwise
        (project / path).write_text("older\n")
        mark["files"][path] = hashlib.sha256(b"older\n").hexdigest()
    del mark["files"]["prometheus.yml"]  # as if it were new in this release
    (project / MARK).write_text(json.dumps(mark))
    (project / "prometheus.yml").unlink()
    (project / "collector.yaml").write_text("mine\n")
    (project / "kubernetes.yaml").unlink()
    made = project_files(Answers("churn", Kind.CLASSIFICATION, REQUIREMENT))

    done = invoke("update", project)

    assert done.exit_code == 1
    assert "collector.yaml" in done.stdout
    assert (project / "slo.yaml").read_text() == made["slo.yaml"]
    assert (project / "prometheus.yml").read_text() == made["prometheus.yml"]
    assert (project / "collector.yaml").read_text() == "mine\n"
    assert (project / "collector.yaml.new").read_text() == made["collector.yaml"]
    assert not (project / "kubernetes.yaml").exists()
    again = invoke("update", project)
    assert (again.exit_code, again.stdout.split()) == (1, ["kept", "collector.yaml"])
    (project / "collector.yaml.new").unlink()
    assert invoke("update", project).exit_code == 0
    (project / "slo.yaml.new").write_text("older\n")
    (project / "slo.yaml").write_text("older\n")
    mark = json.loads((project / MARK).read_text())
    mark["files"]["slo.yaml"] = hashlib.sha256(b"older\n").hexdigest()
    (project / MARK).write_text(json.dumps(mark))
    assert update_project(project, answers_of(project).requirement) == {"slo.yaml": "written", "slo.yaml.new": "kept"}


def test_an_update_needs_a_project(tmp_path):
    """A folder without the mark is refused, with what is missing; a mark that was damaged likewise."""
    with pytest.raises(ConfigurationError, match="holds no project"):
        update_project(tmp_path, REQUIREMENT)
    (tmp_path / MARK).write_text("{}")
    with pytest.raises(ConfigurationError, match="can't be read"):
        update_project(tmp_path, REQUIREMENT)


def wheel_of(folder: Path, release: str) -> Path:
    """A wheel of this package, of some release."""
    wheel = folder / f"e2i_serving-{release}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("e2i_serving/__init__.py", "")
    return wheel


def test_an_update_keeps_the_wheel_that_is_still_required(tmp_path):
    """A wheel goes once no requirement names it: not while an edited requirements.txt is kept that does."""
    project, older, newer = tmp_path / "churn", wheel_of(tmp_path, "1.0.0"), wheel_of(tmp_path, "9.9.9")
    assert invoke("new", "causal", "churn", "--output", project, "--wheel", older).exit_code == 0
    required = project / "requirements.txt"
    required.write_text(required.read_text() + "lightgbm\n")

    assert invoke("update", project, "--wheel", newer).exit_code == 1
    assert older.name in required.read_text()
    assert {path.name for path in (project / "wheels").iterdir()} == {older.name, newer.name}

    (project / "requirements.txt.new").replace(required)
    assert invoke("update", project, "--wheel", newer).exit_code == 0
    assert [path.name for path in (project / "wheels").iterdir()] == [newer.name]


def test_a_wheel_that_is_named_is_carried(tmp_path):
    """It is copied into the project and required from there."""
    wheel = wheel_of(tmp_path, "9.9.9")
    line = wheels.requirement_for(tmp_path / "project", wheel, ["sentry", "otlp"])
    assert line == "./wheels/e2i_serving-9.9.9-py3-none-any.whl\ne2i-serving[otlp,sentry]"
    assert [path.name for path in (tmp_path / "project" / "wheels").iterdir()] == [wheel.name]
    with pytest.raises(ConfigurationError, match="is no wheel of e2i-serving"):
        wheels.requirement_for(tmp_path / "project", tmp_path / "x.whl", [])


def test_an_installation_becomes_the_wheel_it_came_from(tmp_path, monkeypatch):
    """What was installed from a folder is put together again: pip installs it, with the same files and commands."""
    source = tmp_path / "source"
    source.mkdir()
    wheel = source / "e2i_serving-0.0.1-py3-none-any.whl"
    info = "e2i_serving-0.0.1.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("e2i_serving/__init__.py", "x = 1\n")
        archive.writestr("e2i_serving/_templates/a.jinja", "{{ a }}\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: e2i-serving\nVersion: 0.0.1\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/entry_points.txt", "[console_scripts]\ne2i-serving = e2i_serving:x\n")
        archive.writestr(f"{info}/RECORD", "")

    def install(which: Path, target: Path) -> Distribution:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target]
        subprocess.run([*pip, which], check=True, timeout=120)
        return next(iter(Distribution.discover(name="e2i-serving", path=[str(target)])))

    installed = install(wheel, tmp_path / "first")
    monkeypatch.setattr(wheels, "distribution", lambda _: installed)
    line = wheels.requirement_for(tmp_path / "project", None, [])
    assert line == f"./wheels/{wheel.name}"
    again = install(tmp_path / "project" / "wheels" / wheel.name, tmp_path / "second")
    assert (tmp_path / "second" / "e2i_serving" / "_templates" / "a.jinja").read_text() == "{{ a }}\n"
    assert [point.name for point in again.entry_points] == ["e2i-serving"]
    with zipfile.ZipFile(tmp_path / "project" / "wheels" / wheel.name) as archive:
        assert not [name for name in archive.namelist() if name.endswith((".pyc", "INSTALLER", "direct_url.json"))]


def test_an_editable_installation_is_required_by_its_version(tmp_path):
    """There is no wheel to carry then; the version is pinned, extras included."""
    if not wheels.is_editable():
        pytest.skip("the package is installed")
    assert (
        wheels.requirement_for(tmp_path, None, ["otlp"]) == f"e2i-serving[otlp]=={distribution('e2i-serving').version}"
    )
