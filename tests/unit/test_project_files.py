"""What a project made of the templates holds: files that are what their names say, and agree with each other."""

from __future__ import annotations

import ast
import itertools
import json
import re
import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from e2i_serving.cli.projects import TAKEN, Answers, Kind, project_files
from e2i_serving.runtime.exporting import exporter_problems
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
    "docs/runbooks.md",
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


def leaves(value: Any, without: Collection[str]) -> Iterator[Any]:
    """What stands in a document, at whatever depth; under some keys it is passed over."""
    match value:
        case dict():
            for key, inner in value.items():
                yield key
                if key not in without:
                    yield from leaves(inner, without)
        case list():
            for inner in value:
                yield from leaves(inner, without)
        case _:
            yield value


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
    assert settings.trace_exporter == ("otlp-http" if "otlp" in chosen else "none")
    assert settings.opik_enabled is ("opik" in chosen)
    assert load_objectives(tmp_path / "slo.yaml")
    assert ("bentofile.yaml" in files) is ("pyproject" not in chosen)
    build = tomllib.loads(files["pyproject.toml"]).get("tool", {}).get("bentoml", {}).get("build")
    described = build or yaml.safe_load(files["bentofile.yaml"])
    assert described["service"] == "service:CreditRisk2"
    assert described["name"] == "credit_risk_2"
    assert ("feature_repo/*" in described["include"]) is ("feast" in chosen)


def test_a_name_is_text_in_every_file():
    """Whatever YAML would take a name for, it stands there as text."""
    files = project_files(Answers("no", Kind.CAUSAL, REQUIREMENT, feast=True, opik=True, otlp=True, sentry=True))
    for path, text in files.items():
        if path.endswith((".yaml", ".yml")):
            assert False not in list(leaves(list(yaml.safe_load_all(text)), without={"allowPrivilegeEscalation"})), path


@pytest.mark.parametrize("kind", Kind)
def test_no_service_is_named_as_what_stands_beside_it(kind):
    """Each class that a file with the service's class imports is a name that no project may have."""
    files = project_files(Answers("churn", kind, REQUIREMENT, feast=True))
    for path in ("service.py", "tests/test_service.py"):
        imports = (node for node in ast.walk(ast.parse(files[path])) if isinstance(node, ast.ImportFrom))
        names = {alias.name for node in imports if node.module != "service" for alias in node.names}
        assert {name for name in names if name[0].isupper()} <= TAKEN


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


def test_alerts_lead_to_their_runbooks():
    """The links of the rules hold in the project itself, and its page of runbooks leads to nothing else."""
    files = project_files(Answers("churn", Kind.REGRESSION, REQUIREMENT))
    rules = files["prometheus/alerts.yaml"] + files["prometheus/objectives.yaml"]
    named = re.findall(r"runbook_url: (\S+)", rules)
    page = files["docs/runbooks.md"]
    headings = {heading.lower() for heading in re.findall(r"(?m)^## (\w+)$", page)}
    assert named
    assert set(named) <= {f"docs/runbooks.md#{heading}" for heading in headings}
    assert {link.removeprefix("#") for link in re.findall(r"\]\(([^)]*)\)", page)} <= headings


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


def test_no_container_of_the_pod_may_gain_rights():
    """Server and relay are as confined as a namespace of the restricted standard wants them."""
    _, workload = yaml.safe_load_all(project_files(Answers("churn", Kind.CAUSAL, REQUIREMENT))["kubernetes.yaml"])
    pod = workload["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    for container in (*pod["containers"], *pod["initContainers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }


def test_every_signal_finds_the_collector(tmp_path):
    """Whatever the settings send, those in comments too, goes where the manifest says and the collector listens."""
    files = project_files(Answers("churn", Kind.CAUSAL, REQUIREMENT, otlp=True))
    wanted = re.sub(r"(?m)^# (\w+: (?:otlp-\w+|true))", r"\1", files["observability.yaml"])
    (tmp_path / "observability.yaml").write_text(wanted)
    settings = load_settings(config_dir=tmp_path).settings
    assert settings.otlp_logs_enabled
    assert {settings.trace_exporter, settings.metrics_exporter, settings.log_exporter} == {"otlp-http"}

    _, workload = yaml.safe_load_all(files["kubernetes.yaml"])
    (server,) = workload["spec"]["template"]["spec"]["containers"]
    (endpoint,) = (each["value"] for each in server["env"] if each["name"] == "OTEL_EXPORTER_OTLP_ENDPOINT")
    collector = yaml.safe_load(files["collector.yaml"])
    assert collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"] == f"0.0.0.0:{urlsplit(endpoint).port}"
    assert f"OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:{urlsplit(endpoint).port}" in files["observability.yaml"]
    pipelines = collector["service"]["pipelines"]
    assert pipelines.keys() == {"metrics", "traces", "logs"}
    assert all("otlp" in pipeline["receivers"] for pipeline in pipelines.values())


def commands_of(page: str, heading: str) -> list[str]:
    """The commands under a heading of a README, each on one line."""
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    blocks = "".join(re.findall(r"(?ms)^```console\n(.*?)^```", section)).replace("\\\n", "")
    return [" ".join(line.partition("  #")[0].split()) for line in re.findall(r"(?m)^\$ (.*)$", blocks)]


def test_a_container_may_write_to_its_volume():
    """A new volume is root's: the image's user gets it before the server runs on it, which is told all."""
    options = {"opik": True, "otlp": True, "sentry": True}
    _, give, run = commands_of(
        project_files(Answers("churn", Kind.CAUSAL, REQUIREMENT, **options))["README.md"], "A container"
    )
    volume = "-v churn-data:/var/lib/e2i-serving"
    assert give == (
        f"docker run --rm --user root --entrypoint chown {volume} churn:latest 1034:1034 /var/lib/e2i-serving"
    )
    assert volume in run
    assert run.endswith(" churn:latest")
    for name in ("OPIK_URL_OVERRIDE", "OPIK_API_KEY", "OTEL_EXPORTER_OTLP_ENDPOINT", "SENTRY_DSN"):
        assert f" -e {name} " in run
    plain = commands_of(project_files(Answers("churn", Kind.CAUSAL, REQUIREMENT))["README.md"], "A container")
    assert plain[2].count(" -e ") == 1


def test_a_project_for_opik_says_where_it_is_before_it_serves(tmp_path, monkeypatch):
    """Without an address or a key the start is refused, and what README exports is enough for it."""
    files = project_files(Answers("churn", Kind.CAUSAL, REQUIREMENT, opik=True))
    (tmp_path / "observability.yaml").write_text(files["observability.yaml"])
    for name in ("OPIK_URL_OVERRIDE", "OPIK_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert list(exporter_problems(load_settings(config_dir=tmp_path).settings))
    lines = commands_of(files["README.md"], "Run it")
    assert lines.index("export OPIK_URL_OVERRIDE=http://localhost:5173/api") < lines.index("bentoml serve churn:latest")
    monkeypatch.setenv("OPIK_URL_OVERRIDE", "http://localhost:5173/api")
    assert not list(exporter_problems(load_settings(config_dir=tmp_path).settings))


@pytest.mark.parametrize(
    ("kind", "name", "example"), [("regression", "conformal", "diabetes"), ("causal", "uplift", "uplift")]
)
def test_models_are_those_of_the_examples(kind, name, example):
    """A template's model is the tested one of the examples."""
    template = ROOT / "templates" / "kinds" / kind / f"{name}.py.jinja"
    assert template.read_text() == (ROOT / "examples" / example / f"{name}.py").read_text()
