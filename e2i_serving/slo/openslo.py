"""Reading ``slo.yaml``: OpenSLO documents of kind SLO, of which a part is understood."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from e2i_serving.exceptions import ConfigurationError
from e2i_serving.slo.objectives import DEFAULT_OBJECTIVES, FAILED, Indicator, Objective, Objectives

FILE_NAME: Final = "slo.yaml"
PREFIX: Final = "e2i-serving/"
"""How the annotations begin that are read here; all others are left alone."""

_DAYS: Final = {"28d": 28, "4w": 28, "30d": 30}
_MENDS: Final = {
    "extra_forbidden": "Remove it: no such field is understood",
    "missing": "Add it",
}
_PATHS: Final = {
    "name": ("metadata", "name"),
    "service": ("spec", "service"),
    "indicator": ("spec", "indicatorRef"),
    "target": ("spec", "objectives", 0, "target"),
    "subject": ("metadata", "annotations"),
    "job": ("metadata", "annotations", f"{PREFIX}job"),
    "bad": ("metadata", "annotations", f"{PREFIX}bad"),
}

FieldPath = Sequence[str | int]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Metadata(_Strict):
    name: str
    displayName: str = ""  # noqa: N815  # OpenSLO's spelling
    labels: dict[str, str | list[str]] = {}
    annotations: dict[str, str] = {}


class _TimeWindow(_Strict):
    duration: Literal["28d", "4w", "30d"]
    isRolling: Literal[True]  # noqa: N815  # OpenSLO's spelling


class _Threshold(_Strict):
    displayName: str = ""  # noqa: N815  # OpenSLO's spelling
    op: Literal["lte"] | None = None
    value: float | None = None
    target: float
    timeSliceTarget: Literal[1] | None = None  # noqa: N815  # OpenSLO's spelling
    timeSliceWindow: Literal["1m"] | None = None  # noqa: N815  # OpenSLO's spelling


class _Spec(_Strict):
    description: str = Field("", max_length=1050)
    service: str
    indicatorRef: Indicator  # noqa: N815  # OpenSLO's spelling
    timeWindow: tuple[_TimeWindow] = (_TimeWindow(duration="30d", isRolling=True),)  # noqa: N815  # OpenSLO's spelling
    budgetingMethod: Literal["Occurrences", "Timeslices"]  # noqa: N815  # OpenSLO's spelling
    objectives: tuple[_Threshold]


class _Slo(_Strict):
    apiVersion: Literal["openslo/v1"]  # noqa: N815  # OpenSLO's spelling
    kind: Literal["SLO"]
    metadata: _Metadata
    spec: _Spec


class _Problem(NamedTuple):
    path: FieldPath
    said: str


class _Refused(Exception):
    def __init__(self, path: FieldPath, said: str) -> None:
        super().__init__(said)
        self.problem = _Problem(path, said)


def load_objectives(path: Path | None) -> Objectives:
    """Read the objectives of a file.

    Args:
        path: The file; ``None`` for the default objectives.

    Raises:
        ConfigurationError: The file can't be read, or something in it is wrong; one line for each, with the file,
            the line, the field, and how to mend it.
    """
    if path is None:
        return DEFAULT_OBJECTIVES
    documents = _read(path)
    if not documents:
        raise ConfigurationError(f"{path} holds no objective. Add one, or do without the file for the default ones.")
    found: list[Objective] = []
    problems: list[str] = []
    names: dict[str, int] = {}
    for node, content in documents:
        line = node.start_mark.line + 1
        try:
            objective = _objective(content)
        except _Refused as refused:
            problems.append(_described(path, node, refused.problem))
        except ValidationError as error:
            problems += [_described(path, node, problem) for problem in _problems(error)]
        else:
            found.append(objective)
            first = names.setdefault(objective.name, line)
            if first != line:
                said = f"line {first} has an objective of this name already. Give it another one"
                problems.append(_described(path, node, _Problem(("metadata", "name"), said)))
    if problems:
        raise ConfigurationError("\n".join(problems))
    return Objectives(items=tuple(found))


def _read(path: Path) -> list[tuple[yaml.Node, Any]]:
    """The documents of a file that hold anything, with where they stand."""
    try:
        return list(_documents(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} can't be read: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigurationError(f"{where}: no YAML: {getattr(error, 'problem', None) or error}. Mend it.") from error


def _documents(text: str) -> Iterator[tuple[yaml.Node, Any]]:
    loader = yaml.SafeLoader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            content = loader.construct_document(node)
            if node is not None and content is not None:
                yield node, content
    finally:
        loader.dispose()


def _objective(content: Any) -> Objective:
    slo = _Slo.model_validate(content)
    indicator = slo.spec.indicatorRef
    threshold = slo.spec.objectives[0]
    _check_method(slo.spec, threshold)
    annotations = _annotations(slo.metadata.annotations, indicator)
    if (threshold.op is None) is not (threshold.value is None):
        raise _Refused(("spec", "objectives", 0), "op and value belong together. Give both: op: lte, value: <seconds>")
    try:
        return Objective(
            name=slo.metadata.name,
            service=slo.spec.service,
            indicator=indicator,
            target=threshold.target,
            bound=threshold.value,
            days=_DAYS[slo.spec.timeWindow[0].duration],
            subject=annotations.get(indicator.subject, ""),
            job=annotations.get("job", ""),
            bad=tuple(each.strip() for each in annotations.get("bad", ",".join(FAILED)).split(",")),
        )
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        at = _PATHS.get(str(detail["loc"][0]), ()) if detail["loc"] else ("spec", "objectives", 0, "value")
        raise _Refused(at, detail["msg"].removeprefix("Value error, ")) from error


def _check_method(spec: _Spec, threshold: _Threshold) -> None:
    by_time = spec.indicatorRef is Indicator.AUDIT_LAG
    wanted = "Timeslices" if by_time else "Occurrences"
    if spec.budgetingMethod != wanted:
        said = f"{spec.indicatorRef} is budgeted by {wanted}. Write budgetingMethod: {wanted}"
        raise _Refused(("spec", "budgetingMethod"), said)
    for field, value in (("timeSliceTarget", 1), ("timeSliceWindow", "1m")):
        given = getattr(threshold, field) is not None
        if given is not by_time:
            mend = f"Add {field}: {value}" if by_time else "Remove it"
            said = f"{field} is {'needed for' if by_time else 'only for'} budgetingMethod: Timeslices. {mend}"
            raise _Refused(("spec", "objectives", 0, *((field,) if given else ())), said)


def _annotations(given: dict[str, str], indicator: Indicator) -> dict[str, str]:
    """The annotations that are ours, without the prefix."""
    ours = {key.removeprefix(PREFIX): value for key, value in given.items() if key.startswith(PREFIX)}
    known = {"job", indicator.subject} | ({"bad"} if indicator is Indicator.AVAILABILITY else set())
    for name, value in ours.items():
        at = ("metadata", "annotations", PREFIX + name)
        if name not in known:
            listed = ", ".join(PREFIX + each for each in sorted(known))
            raise _Refused(at, f"no annotation for an objective of {indicator}. It takes {listed}")
        if not value:
            raise _Refused(at, "it is empty. Give it a value, or remove it")
    return ours


def _problems(error: ValidationError) -> Iterator[_Problem]:
    for detail in error.errors(include_url=False):
        mend = _MENDS.get(detail["type"], "")
        yield _Problem(detail["loc"], f"{detail['msg'].rstrip('.')}{'. ' + mend if mend else ''}")


def _described(path: Path, document: yaml.Node, problem: _Problem) -> str:
    field = ".".join(str(part) for part in problem.path) or "document"
    return f"{path}:{_line(document, problem.path)}: {field}: {problem.said}."


def _line(node: yaml.Node, path: FieldPath) -> int:
    """The line of what a path leads to, or of the last part of the way that is there."""
    line: int = node.start_mark.line + 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            pairs = [(key, value) for key, value in node.value if key.value == part]
            if not pairs:
                break
            line, node = pairs[-1][0].start_mark.line + 1, pairs[-1][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line
