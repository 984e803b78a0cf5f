"""Projects made of the templates: their files, and how a newer release brings them up to date."""

from __future__ import annotations

import hashlib
import json
import keyword
import re
import tempfile
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

import e2i_serving
from e2i_serving.cli.pages import page
from e2i_serving.exceptions import ConfigurationError
from e2i_serving.slo import load_objectives
from e2i_serving.slo.dashboards import dashboard_files
from e2i_serving.slo.files import rule_files
from e2i_serving.slo.rules import RUNBOOKS

MARK: Final = ".e2i-serving.json"
"""The file of a project that remembers what it was made of."""

NEWER: Final = ".new"
"""The ending of what a template makes now, beside a file that was changed."""

LONGEST_NAME: Final = 40

_NAME: Final = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
TAKEN: Final = frozenset({"Any", "FeastFeatureStore", "Iterator", "Path", "ServiceHarness"})
"""Names that the templates import beside the class of the service."""

_PACKAGE: Final = Path(__file__).resolve().parents[1]
_PLACES: Final = (_PACKAGE / "_templates", _PACKAGE.parent / "templates")
"""In the wheel, and in the source tree."""


class Kind(StrEnum):
    """What a project's model predicts."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    CAUSAL = "causal"


_OF_KIND: Final[dict[Kind, dict[str, str]]] = {
    Kind.CLASSIFICATION: {
        "answers": "predictions",
        "entity": "patient",
        "purpose": "Says which class something is of, and how sure that is.",
        "extra_files": "",
    },
    Kind.REGRESSION: {
        "answers": "predictions",
        "entity": "patient",
        "purpose": "Says a value, and the interval in which it lies.",
        "extra_files": ", `conformal.py`",
    },
    Kind.CAUSAL: {
        "answers": "effects",
        "entity": "customer",
        "purpose": "Says what a treatment changes, and whom to treat.",
        "extra_files": ", `uplift.py`",
    },
}


_BODIES: Final = {False: '{{"instances": {}[:10].tolist()}}', True: '{{"entities": publish({}[:10])}}'}
"""What train.py writes as a request, given the name of the held-out rows; by whether features are fetched."""


class Answers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a project is made of.

    Attributes:
        name: The project's name.
        kind: What its model predicts.
        requirement: The line of ``requirements.txt`` that installs this package.
        pyproject: Whether the bento is described in ``pyproject.toml``, not in ``bentofile.yaml``.
        feast: Whether features are fetched from a Feast repository, by entity.
        opik: Whether predictions go to Opik.
        otlp: Whether spans go to an OpenTelemetry collector.
        sentry: Whether errors go to Sentry, or to what speaks its protocol.
    """

    name: str
    kind: Kind
    requirement: str
    pyproject: bool = False
    feast: bool = False
    opik: bool = False
    otlp: bool = False
    sentry: bool = False

    @property
    def extras(self) -> tuple[str, ...]:
        """The extras of this package that the project needs; Opik is spoken to without its SDK."""
        return tuple(name for name in ("feast", "otlp", "sentry") if getattr(self, name))


class _Mark(msgspec.Struct, forbid_unknown_fields=False):
    release: str
    answers: Answers
    files: dict[str, str]


def check_name(name: str) -> None:
    """Refuse a name that a model, a class and a Kubernetes object can't all be named by, in YAML and in Python.

    Raises:
        ConfigurationError: It is such a name.
    """
    if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise ConfigurationError(
            f"{name!r} can't name a project. Take up to {LONGEST_NAME} lower-case letters and digits, in words "
            "parted by - or _, such as credit-risk."
        )
    named = _class_name(name)
    means_something = not isinstance(yaml.safe_load(name), str) or keyword.iskeyword(name) or keyword.iskeyword(named)
    if means_something or named in TAKEN:
        raise ConfigurationError(
            f"{name!r} can't name a project: it is a word that YAML, Python or the project's own code has a use for. "
            f"Take another one, such as {name}-model."
        )


def project_files(answers: Answers) -> dict[str, str]:
    """The text of each file of a project, by its path.

    Raises:
        ConfigurationError: The templates are missing from the installation.
    """
    files = dict(_rendered(answers))
    with tempfile.TemporaryDirectory() as folder:
        objectives = Path(folder, "slo.yaml")
        objectives.write_text(files["slo.yaml"], encoding="utf-8")
        rules = rule_files(load_objectives(objectives))
    files |= {f"prometheus/{name}": text for name, text in rules.items()}
    files |= {f"dashboards/{name}": text for name, text in dashboard_files().items()}
    return files | {RUNBOOKS: page("runbooks.md")}


def write_project(folder: Path, answers: Answers) -> list[str]:
    """Write a new project.

    Args:
        folder: Where to; it must be missing or empty, but for wheels.
        answers: What it is made of.

    Returns:
        The paths of the files, in it.

    Raises:
        ConfigurationError: The templates are missing from the installation.
        OSError: The folder can't be written to.
    """
    files = project_files(answers)
    for path, text in files.items():
        _write(folder / path, text)
    _remember(folder, answers, {path: _digest(text) for path, text in files.items()})
    return sorted(files)


def update_project(folder: Path, requirement: str) -> dict[str, str]:
    """Bring a project to the templates of this release.

    A file that nobody changed is written anew. One that was changed, and would be another now, stays; the new text is
    put beside it, and it counts as kept until that is deleted. One that was deleted stays away.

    Args:
        folder: The project's.
        requirement: The line of ``requirements.txt`` that installs this release.

    Returns:
        What was done, ``written``, ``added`` or ``kept``, by path; files that are as they should be are left out.

    Raises:
        ConfigurationError: The folder holds no project, or the templates are missing from the installation.
        OSError: The folder can't be written to.
    """
    mark = _read_mark(folder)
    answers = msgspec.structs.replace(mark.answers, requirement=requirement)
    files = project_files(answers)
    done: dict[str, str] = {}
    for path, text in files.items():
        target, digest = folder / path, _digest(text)
        before = mark.files.get(path)
        if digest == before:
            continue
        if not target.exists():
            if before is None:
                _write(target, text)
                done[path] = "added"
            continue
        found = _digest(target.read_text(encoding="utf-8"))
        if found == digest:
            continue
        if found == before:
            _write(target, text)
            done[path] = "written"
        else:
            _write(_newer(target), text)
            done[path] = "kept"
    # Whether its owner is done with it is known by its being deleted, whichever update wrote it.
    lying = {path for path in files if _newer(folder / path).exists()}
    done |= {path if path not in done else path + NEWER: "kept" for path in lying if done.get(path) != "kept"}
    _remember(folder, answers, {path: _digest(text) for path, text in files.items()})
    return done


def answers_of(folder: Path) -> Answers:
    """What a project was made of.

    Raises:
        ConfigurationError: The folder holds no project.
    """
    return _read_mark(folder).answers


def _rendered(answers: Answers) -> Iterator[tuple[str, str]]:
    import jinja2  # noqa: PLC0415  # keeps --help fast

    root = _templates()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(root),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701  # makes source code, not pages
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    variables = _variables(answers)
    sources = {}
    for place in (root / "project", root / "kinds" / answers.kind):
        for path in sorted(place.rglob("*.jinja")):
            sources[path.relative_to(place).as_posix().removesuffix(".jinja")] = path.relative_to(root).as_posix()
    for target, source in sources.items():
        text = environment.get_template(source).render(variables)
        if text.strip():
            yield target, text.lstrip("\n")


def _variables(answers: Answers) -> dict[str, Any]:
    words = re.split("[-_]", answers.name)
    return {
        **_OF_KIND[answers.kind],
        "name": answers.name,
        "kind": answers.kind.value,
        "model": "_".join(words),
        "slug": "-".join(words),
        "service": _class_name(answers.name),
        "requirement": answers.requirement,
        "pyproject": answers.pyproject,
        "rows": "entities" if answers.feast else "instances",
        "body": _BODIES[answers.feast],
        "written": "entities with features" if answers.feast else "held-out rows",
        "feast": answers.feast,
        "opik": answers.opik,
        "otlp": answers.otlp,
        "sentry": answers.sentry,
    }


def _class_name(name: str) -> str:
    return "".join(word.capitalize() for word in re.split("[-_]", name))


def _templates() -> Path:
    for place in _PLACES:
        if (place / "project").is_dir():
            return place
    raise ConfigurationError("This installation has no templates. Install the package again, from its wheel.")


def _read_mark(folder: Path) -> _Mark:
    path = folder / MARK
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Mark)
    except OSError:
        raise ConfigurationError(
            f"{folder.absolute()} holds no project of `e2i-serving new`: {MARK} is not there. Name its folder."
        ) from None
    except msgspec.MsgspecError as error:
        raise ConfigurationError(f"{path} can't be read: {error}. Take it back from version control.") from None


def _remember(folder: Path, answers: Answers, files: Mapping[str, str]) -> None:
    mark = _Mark(release=e2i_serving.__version__, answers=answers, files=dict(sorted(files.items())))
    (folder / MARK).write_text(json.dumps(msgspec.to_builtins(mark), indent=1) + "\n", encoding="utf-8")


def _newer(path: Path) -> Path:
    return path.with_name(path.name + NEWER)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
