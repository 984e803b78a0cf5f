"""The files that Prometheus reads rules from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import yaml

from e2i_serving.slo.alerts import alert_groups
from e2i_serving.slo.indicators import KEPT_APART
from e2i_serving.slo.objectives import Objectives
from e2i_serving.slo.rules import RUNBOOKS, objective_groups

_HEAD: Final = "# Made by `e2i-serving slo generate`. Edits are lost the next time.\n"


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as a block, and repeats what is the same instead of pointing at it."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # the signature is PyYAML's
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def rule_files(objectives: Objectives, *, keep: Sequence[str] = KEPT_APART, runbooks: str = RUNBOOKS) -> dict[str, str]:
    """The text of each rule file by its name.

    Args:
        objectives: What is promised.
        keep: Labels that have budgets of their own beside the model, view or destination.
        runbooks: Address of the page of runbooks.
    """
    contents = {
        "objectives.yaml": objective_groups(objectives, keep=keep, runbooks=runbooks),
        "alerts.yaml": alert_groups(keep=keep, runbooks=runbooks),
    }
    return {
        name: _HEAD + yaml.dump({"groups": groups}, Dumper=_Dumper, sort_keys=False, width=10_000, allow_unicode=True)
        for name, groups in contents.items()
    }
