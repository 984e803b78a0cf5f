"""The examples of the documentation run: Python blocks, commands, settings, objectives, requests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer.main
import yaml
from documented import ROOT, Block, Command, blocks, commands
from typer.testing import CliRunner

from e2i_serving.cli import app
from e2i_serving.settings import load_settings
from e2i_serving.slo import load_objectives

# What is not run, each with why.
NOT_RUN = {
    "audit purge": "deletes what other examples ask for",
    "audit erase": "deletes what other examples ask for",
    "audit hold": "names a person whom the example's trail has not",
    "audit verify": "needs a checkpoint, which the relay of a running service writes",
    "audit query --url": "needs the backup that the command before makes with another program",
    "dashboards --output /": "writes to the system",
    "slo status": "needs a Prometheus or a running service",
    "stats --url": "needs a running service",
    "keys": "writes to the system",
    "outcomes import": "needs its reader's file",
    "audit show demo": "make demo's own test asks it",
    "new": "tests/integration/test_templates.py runs it with what follows",
    "doctor": "tests/integration/test_templates.py runs it in a project",
    "audit upgrade": "names a reader's server",
}
STANDS_FOR_PREDICTION = "0192f7b0-5c1e-7d4a-9f1e-2b7c6c1e8a11"
PYTHON = blocks("python", "py")
COMMANDS = [command for command in commands() if command.words[0] == "e2i-serving"]
RUN = [
    command
    for command in COMMANDS
    if command.page != "docs/commands.md" and not " ".join(command.words[1:]).startswith(tuple(NOT_RUN))
]

WORLD = """
import json
import sys
from pathlib import Path

sys.path.insert(0, ".")
from e2i_serving import record_outcome
from e2i_serving.testing import ServiceHarness
from service import BreastCancer

rows = json.loads(Path("rows.json").read_text())["instances"]
with ServiceHarness(BreastCancer, observability={"data_dir": sys.argv[1]}) as service:
    for number, request_id in enumerate(("order-17", "first", "4711")):
        body = {"instances": rows[:2], "entities": [{"patient": "patient-007"}, {"patient": f"patient-{number}"}]}
        reply = service.predict(headers={"x-request-id": request_id}, **body)
        assert reply.status == 200
    assert service.predict(instances=[[1.0]]).status == 400
    service.trail().close()
    record_outcome(reply.record.prediction_id, data_dir=sys.argv[1], item=0, value=True)
    service.trail().close()
    print(reply.record.prediction_id)
"""


class World(NamedTuple):
    """A folder with the example service, its model saved and a few predictions on record.

    Attributes:
        folder: The service's folder.
        environment: The environment in which examples run.
        prediction_id: A prediction that is on record.
    """

    folder: Path
    environment: dict[str, str]
    prediction_id: str

    def told(self, text: str) -> str:
        """An example with this world's names in the place of its own."""
        data_dir = self.environment["E2I_SERVING_DATA_DIR"]
        named = text.replace(STANDS_FOR_PREDICTION, self.prediction_id).replace("/var/lib/e2i", data_dir)
        return named.replace('model="fraud"', 'model="breast_cancer"')


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    """The world that the documentation speaks of."""
    base = tmp_path_factory.mktemp("docs")
    folder = base / "service"
    shutil.copytree(ROOT / "examples" / "breast_cancer", folder)
    (base / "observe.py").write_text(WORLD)
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "BENTOML_HOME": str(base / "bentoml"), "PYTHONPATH": python_path}
    for example, options in (("breast_cancer", ["--held-out", folder / "rows.json"]), ("diabetes", []), ("uplift", [])):
        train = [sys.executable, ROOT / "examples" / example / "train.py", *options]
        subprocess.run(train, env=environment, check=True, timeout=120, capture_output=True)
    observe = [sys.executable, base / "observe.py", base / "data"]
    done = subprocess.run(observe, cwd=folder, env=environment, check=True, timeout=120, capture_output=True, text=True)
    environment["E2I_SERVING_DATA_DIR"] = str(base / "data")
    return World(folder, environment, done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_block_runs(block: Block, world, tmp_path):
    """Each Python block is a program that ends well; its tests, if it has any, pass."""
    path = tmp_path / "test_block.py"
    path.write_text(world.told(block.body))
    command = [sys.executable, path]
    if "def test_" in block.body:
        options = ["-q", "--import-mode=importlib", "-o", "pythonpath=.", "-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", *options, "--rootdir", tmp_path, path]
    done = subprocess.run(
        command, cwd=world.folder, env=world.environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_command_is_one(command: Command):
    """Each command of this package has the subcommands, arguments and options that it is shown with."""
    group: Any = typer.main.get_command(app)
    words = [word for word in command.words[1:] if word not in {"--help", "-h"}]
    context = group.make_context("e2i-serving", words) if words else None
    while context is not None and hasattr(group, "commands"):
        left = [*getattr(context, "_protected_args", ()), *context.args]  # as click's releases have it
        name, group, rest = group.resolve_command(context, left)
        if hasattr(group, "commands") or len(words) == len(command.words) - 1:
            context = group.make_context(name, rest, parent=context)
        else:  # asked for its help, so that what it needs may be missing
            break


@pytest.mark.parametrize("command", RUN, ids=str)
def test_command_runs(command: Command, world, monkeypatch):
    """Each command that needs nothing but a trail does what it says."""
    for name in ("BENTOML_HOME", "E2I_SERVING_DATA_DIR"):
        monkeypatch.setenv(name, world.environment[name])
    monkeypatch.chdir(world.folder)
    done = CliRunner().invoke(app, [world.told(word) for word in command.words[1:]])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("prefix", NOT_RUN)
def test_exception_is_still_needed(prefix: str):
    """An exception that no example needs any more is taken out."""
    shown = [" ".join(command.words[1:]) for command in COMMANDS if command.page != "docs/commands.md"]
    assert any(each.startswith(prefix) for each in shown), f"No page shows e2i-serving {prefix} now."


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_block_is_taken(block: Block, tmp_path):
    """Settings are settings, objectives are objectives, and a bento's description is one."""
    content = list(yaml.safe_load_all(block.body))
    if "apiVersion" in content[0]:
        (tmp_path / "slo.yaml").write_text(block.body)
        assert load_objectives(tmp_path / "slo.yaml")
    elif "service" in content[0]:
        assert {"service", "include", "python"} >= set(content[0])
    else:
        (tmp_path / "observability.yaml").write_text(block.body)
        assert load_settings(config_dir=tmp_path).settings


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_block_is_json(block: Block):
    """Each JSON block can be parsed."""
    assert json.loads(block.body)
