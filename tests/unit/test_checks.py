"""Start-up checks: what is wrong is found before a worker runs, and said with its mend."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import bentoml
import pytest

from e2i_serving.runtime import checks
from e2i_serving.runtime.checks import CHECKS, HOOK, Problem, add_deployment_hook, file_system, run_checks
from e2i_serving.runtime.definition import ServiceDefinition, define
from e2i_serving.services import RegressionService


class Plain:
    """A class to define a service by."""


def definition(data_dir: Path, inner: type = Plain, **arguments: Any) -> ServiceDefinition:
    """A service with a data directory."""
    return ServiceDefinition("credit", inner, {"data_dir": str(data_dir), **arguments})


def found(service: ServiceDefinition) -> dict[str, list[str]]:
    """Problems as text, by check."""
    return {name: [str(problem) for problem in problems] for name, problems in run_checks(service)}


@pytest.fixture(scope="module")
def stored() -> str:
    """The tag of a model that is in the store."""
    with bentoml.models.create("checked", module="bentoml.sklearn") as model:
        pass
    return str(model.tag)


def test_a_sound_service_has_no_problem(tmp_path):
    """Every check runs, settings first, and the data directory is made."""
    assert found(definition(tmp_path / "a" / "b")) == {"settings": [], **{name: [] for name in CHECKS}}
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_wrong_settings_are_the_only_problem(tmp_path):
    """Without settings nothing else can be checked; each mistake has its line."""
    problems = found(definition(tmp_path, armm="x", relay_batch_sze=1))
    assert list(problems) == ["settings"]
    assert len(problems["settings"]) == 2
    assert "[settings] Unknown setting 'armm'. Did you mean 'arm'?" in problems["settings"][0]


def test_a_data_directory_that_can_not_be_written_to(tmp_path):
    """A file in its place is named, with what to set."""
    (tmp_path / "file").write_text("")
    (problem,) = found(definition(tmp_path / "file" / "data"))["data-directory"]
    assert problem.startswith(f"[data-directory] The data directory {tmp_path}/file/data can't be written to: ")
    assert problem.endswith("Set E2I_SERVING_DATA_DIR to a local directory that the server may write to.")


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p"])
def test_a_network_file_system_is_refused_unless_it_is_wanted(tmp_path, monkeypatch, kind):
    """Locks may not hold there, so it takes a setting to go on."""
    monkeypatch.setattr(checks, "file_system", lambda path: kind)
    (problem,) = found(definition(tmp_path))["data-directory"]
    assert f"is on a network file system ({kind})" in problem
    assert "E2I_SERVING_ALLOW_NETWORK_DATA_DIR=true" in problem
    assert found(definition(tmp_path, allow_network_data_dir=True))["data-directory"] == []


def test_a_model_that_is_not_in_the_store(tmp_path, stored):
    """Each model that the class declares is looked up, its own name for it included."""

    class Missing(RegressionService):
        model = "nowhere:v1"

    class Several:
        first = bentoml.models.BentoModel("nowhere:v2")
        second = bentoml.models.BentoModel(stored)
        third = bentoml.models.BentoModel("nowhere_either:latest")

    (problem,) = found(definition(tmp_path, Missing))["model"]
    assert "Missing.model" in problem
    assert "nowhere:v1" in problem
    assert "bentoml models list" in problem
    assert ["first" in problem or "third" in problem for problem in found(definition(tmp_path, Several))["model"]] == [
        True,
        True,
    ]


def test_a_model_that_is_in_the_store(tmp_path, stored):
    """Named by version or as the latest."""
    for tag in (stored, "checked:latest"):
        inner = type("Stored", (RegressionService,), {"model": tag, "__module__": __name__})
        assert found(definition(tmp_path, inner))["model"] == []


def test_a_problem_reads_as_one_line():
    """Check, what and mend."""
    assert str(Problem("model", "It is gone.", "Train it.")) == "[model] It is gone. Train it."


def test_the_hook_ends_the_supervisor_with_every_problem(tmp_path, capsys):
    """Before any worker runs, all that is wrong is written to the error stream."""

    class Wrong:
        model = bentoml.models.BentoModel("nowhere:v1")

    (tmp_path / "file").write_text("")
    define(Wrong, name="credit", arguments={"data_dir": str(tmp_path / "file")})
    add_deployment_hook(Wrong)
    with pytest.raises(SystemExit) as raised:
        getattr(Wrong, HOOK)()
    assert raised.value.code == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "credit can't be served:"
    assert [line.partition("]")[0] for line in said[1:]] == ["  [data-directory", "  [model"]


def test_the_hook_lets_a_sound_service_start(tmp_path, capsys):
    """Nothing is said when nothing is wrong."""

    class Sound:
        pass

    define(Sound, arguments={"data_dir": str(tmp_path)})
    add_deployment_hook(Sound)
    getattr(Sound, HOOK)()
    assert capsys.readouterr() == ("", "")


def test_the_file_system_is_the_kernels_own_word(tmp_path):
    """The nearest mount above a path says what it is on; where the kernel lists no mounts, nothing does."""
    lists_mounts = Path("/proc/self/mounts").exists()
    assert file_system(Path("/proc/self")) == ("proc" if lists_mounts else "")
    assert file_system(tmp_path / "not" / "there") == file_system(tmp_path)
    assert bool(file_system(tmp_path)) is lists_mounts


@pytest.mark.parametrize("path", ["/proc", "/proc/no/such", "/dev/null/data"])
def test_a_folder_that_takes_no_files_is_a_problem(path):
    """What the server may not write to is found out by writing, also where it runs as root."""
    (problem,) = found(definition(Path(path)))["data-directory"]
    assert problem.startswith(f"[data-directory] The data directory {path} can't be written to: ")


def framework_problems(data_dir: Path, module: str, **attributes: Any) -> list[str]:
    """What the check of frameworks says of a service whose model was saved by a module."""
    with bentoml.models.create("saved_by", module=module) as model:
        pass
    inner = type("Saved", (RegressionService,), {"model": str(model.tag), "__module__": __name__, **attributes})
    return found(definition(data_dir, inner))["framework"]


def test_a_framework_that_is_not_installed(tmp_path, monkeypatch):
    """The module that saved the model is imported before a worker needs it; one line says what is missing."""
    monkeypatch.delitem(sys.modules, "bentoml.lightgbm", raising=False)
    monkeypatch.delitem(sys.modules, "_bentoml_impl.frameworks.lightgbm", raising=False)
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    for module in ("bentoml.lightgbm", "no_such_framework"):
        (problem,) = framework_problems(tmp_path, module)
        assert problem.startswith("[framework] The model saved_by:")
        assert f"was saved by {module}, which can't be imported: " in problem
        assert problem.endswith("Install its framework, or override load().")
        assert "\n" not in problem


def test_a_module_that_loads_no_models(tmp_path):
    """A model made by hand needs a ``load`` of the service's own, and is no problem where there is one."""
    assert "which has no load_model. Override load()." in framework_problems(tmp_path, "json")[0]
    assert "does not say which module saved it. Override load()." in framework_problems(tmp_path, "")[0]
    assert framework_problems(tmp_path, "no_such_framework", load=lambda self: None) == []


def test_a_framework_that_is_installed(tmp_path):
    """Whatever importing it warns of is not said here."""
    assert framework_problems(tmp_path, "bentoml.sklearn") == []
    assert framework_problems(tmp_path, "bentoml.picklable_model") == []


def test_a_service_that_names_no_model_is_a_problem(tmp_path):
    """Forgotten, it would only show when the first worker tries to load it."""
    (problem,) = found(definition(tmp_path, RegressionService))["framework"]
    assert "names no model" in problem


@pytest.mark.parametrize("url", ["mysql://somewhere/else", "no url at all"])
def test_a_store_that_can_not_be_is_a_problem(tmp_path, url):
    """A database that nothing here can write to is refused; one that is away now is not."""
    assert found(definition(tmp_path, audit_url=url))["audit-store"]
    assert found(definition(tmp_path, audit_url="postgresql://localhost:1/nobody"))["audit-store"] == []


@pytest.mark.parametrize(
    ("check", "arguments", "said"),
    [
        ("bounds", {"payload_bytes": 8 << 20}, "payload_bytes (8388608) is more than record_bytes (4194304)"),
        ("bounds", {"journal_bytes": 8 << 20}, "journal_bytes (8388608) is less than 4 segments"),
        ("encryption", {"encryption_key_file": "/nowhere/keys"}, "The key file /nowhere/keys can't be read"),
        ("redaction", {"redaction_rules": [{"path": "inputs.age", "action": "hash"}]}, "redaction_key needs at least"),
        (
            "redaction",
            {"redaction_destinations": {"audit-store": [{"path": "inputs.age", "action": "hash"}]}},
            "For the destination audit-store: redaction_key needs",
        ),
    ],
)
def test_bounds_keys_and_rules_are_checked(tmp_path, check, arguments, said):
    """What would fail in a worker or lose a payload is found before one runs."""
    (problem,) = found(definition(tmp_path, **arguments))[check]
    assert problem.startswith(f"[{check}] {said}")


def test_a_retention_class_that_is_no_name_is_refused(tmp_path):
    """A class's own retention class is held to the form of the setting's."""

    class Kept:
        retention_class = "Ten Years"

    (problem,) = found(definition(tmp_path, Kept))["retention"]
    assert "Kept.retention_class is 'Ten Years'" in problem
