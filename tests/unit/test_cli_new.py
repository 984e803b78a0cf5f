"""Projects made of the templates: whole, valid, and kept up to date without touching what their owners changed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from typer.testing import CliRunner

from e2i_serving.cli import app, wheels
from e2i_serving.cli.projects import MARK, Answers, Kind, answers_of, project_files, update_project, write_project
from e2i_serving.exceptions import ConfigurationError

ROOT = Path(__file__).parents[2]
REQUIREMENT = "e2i-serving==0.1.0"


def invoke(*args: str | Path):
    """Run the command in this process."""
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def project(tmp_path) -> Path:
    """A project as it was just made."""
    write_project(tmp_path / "churn", Answers("churn", Kind.CLASSIFICATION, REQUIREMENT))
    return tmp_path / "churn"


@pytest.mark.parametrize("name", ["Churn", "1st", "a--b", "a b", "../x", "x" * 41, "a-", ""])
def test_a_name_that_can_not_name_everything_is_refused(name, tmp_path):
    """Exit code 2, what a name is, and nothing written."""
    done = invoke("new", "causal", "--output", tmp_path / "out", "--", name)
    assert done.exit_code == 2
    assert "such as credit-risk" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["true", "on", "no", "null", "none", "class", "false", "path", "service-harness"])
def test_a_word_that_means_something_else_is_no_name(name, tmp_path):
    """What YAML or Python has as a word of its own is refused at once, and nothing is written."""
    done = invoke("new", "causal", "--output", tmp_path / "out", "--", name)
    assert done.exit_code == 2
    assert f"{name!r} can't name a project: " in done.stderr
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


def test_what_the_documentation_puts_into_a_project_is_not_committed(project):
    """The data directory of the tutorial, with its signing key, and files of keys are left out by `git add .`."""
    for name in ("data/signing.key", "data/journal/0/1.seg", "data/checkpoints.jsonl", "keys", "mine.key", "train.csv"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("x")
    subprocess.run(["git", "init", "--quiet", project], check=True, timeout=30)
    subprocess.run(["git", "add", "."], cwd=project, check=True, timeout=30)
    listed = subprocess.run(
        ["git", "ls-files"], cwd=project, check=True, timeout=30, capture_output=True, text=True
    ).stdout.split()
    assert set(listed) >= {"service.py", "observability.yaml", "tests/test_service.py"}
    assert "train.csv" in listed
    assert not [name for name in listed if name.startswith(("data/", "keys")) or name.endswith(".key")]


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
