"""The examples of the documentation run: Python blocks, commands, settings, objectives, requests."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer.main
import yaml
from documented import ROOT, Block, Command, blocks, commands
from forking import Programs
from typer.testing import CliRunner

from e2i_serving.cli import app, following
from e2i_serving.settings import load_settings
from e2i_serving.slo import load_objectives

# What is not run, each with why.
NOT_RUN = {
    "audit verify --url": "names a reader's server",
    "audit query --url": "needs the backup that the command before makes with another program",
    "dashboards --output /": "writes to the system",
    "slo status": "needs a Prometheus or a running service",
    "stats --url": "needs a running service",
    "audit show demo": "make demo's own test asks it",
    "new": "tests/integration/test_templates.py runs it with what follows",
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

import pandas
from sklearn.datasets import load_breast_cancer

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
customers = pandas.DataFrame(rows[:4], columns=load_breast_cancer().feature_names)
customers.insert(0, "customer_id", range(4))
customers.to_parquet("customers.parquet")
for name in ("truths.csv", "claims.csv"):
    Path(name).write_text("request_id,item,value\\nfirst,0,benign\\n")
"""


COMMAND = "from e2i_serving.cli import main; main()"


class Interrupted:
    """A clock whose reader presses Ctrl-C as soon as it waits."""

    time_ns = staticmethod(time.time_ns)

    @staticmethod
    def sleep(seconds: float) -> None:
        raise KeyboardInterrupt


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
        named = named.replace('model="fraud"', 'model="breast_cancer"')
        return re.sub(r"^service:\w+$", "service:BreastCancer", re.sub("^churn$", "breast_cancer", named))


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Iterator[Programs]:
    """Runs programs in the environment of the examples, but for a data directory."""
    home = tmp_path_factory.mktemp("bentoml")
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with Programs({**os.environ, "BENTOML_HOME": str(home), "PYTHONPATH": python_path}) as running:
        yield running


@pytest.fixture(scope="module")
def world(tmp_path_factory, programs) -> World:
    """The world that the documentation speaks of."""
    base = tmp_path_factory.mktemp("docs")
    folder = base / "service"
    shutil.copytree(ROOT / "examples" / "breast_cancer", folder)
    (base / "observe.py").write_text(WORLD)
    for example, options in (("breast_cancer", ["--held-out", folder / "rows.json"]), ("diabetes", []), ("uplift", [])):
        trained = programs.run(ROOT / "examples" / example / "train.py", *options, folder=base)
        assert trained.returncode == 0, trained.output
    observed = programs.run(base / "observe.py", base / "data", folder=folder)
    assert observed.returncode == 0, observed.output
    environment = {"BENTOML_HOME": programs.environment["BENTOML_HOME"], "E2I_SERVING_DATA_DIR": str(base / "data")}
    return World(folder, environment, observed.output.strip().splitlines()[-1])


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_block_runs(block: Block, programs, world, tmp_path):
    """Each Python block is a program that ends well; its tests, if it has any, pass."""
    path = tmp_path / "test_block.py"
    path.write_text(world.told(block.body))
    command = [path]
    if "def test_" in block.body:
        options = ["-q", "--import-mode=importlib", "-o", "pythonpath=.", "-p", "no:cacheprovider"]
        command = ["-m", "pytest", *options, "--rootdir", tmp_path, path]
    done = programs.run(*command, folder=world.folder, **world.environment)
    assert done.returncode == 0, done.output[-4000:]


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
def test_command_runs(command: Command, programs, world, monkeypatch, tmp_path):
    """Each command that needs nothing but a trail, a service and what the page says before does what it says."""
    for name in ("BENTOML_HOME", "E2I_SERVING_DATA_DIR"):
        monkeypatch.setenv(name, world.environment[name])
    monkeypatch.chdir(world.folder)
    if "--follow" in command.words:
        monkeypatch.setattr(following, "time", Interrupted)
    if command.words[1:3] == ("audit", "purge"):
        monkeypatch.setenv("E2I_SERVING_RETENTION", '{"standard": "400d"}')
    if command.words[1:3] == ("keys", "list"):
        monkeypatch.setenv("E2I_SERVING_ENCRYPTION_KEY_FILE", str(tmp_path / "keys"))
        assert CliRunner().invoke(app, ["keys", "new"]).exit_code == 0
    words = [world.told(word) for word in command.words[1:]]
    if any(word.startswith("service:") for word in words) or words == ["doctor"]:  # imports a service
        (tmp_path / "command.py").write_text(COMMAND)
        ended = programs.run(tmp_path / "command.py", *words, folder=world.folder, **world.environment)
        assert ended.returncode == 0, ended.output
    else:
        done = CliRunner().invoke(app, words, input="y\n")
        assert done.exit_code == 0, done.output


@pytest.mark.parametrize("prefix", NOT_RUN)
def test_exception_is_still_needed(prefix: str):
    """An exception that no example needs any more is taken out."""
    shown = [" ".join(command.words[1:]) for command in COMMANDS if command.page != "docs/commands.md"]
    assert any(each.startswith(prefix) for each in shown), f"No page shows e2i-serving {prefix} now."


def test_the_first_prediction_takes_ten_commands():
    """From a clone to an audited prediction of one's own model: ten commands are typed, and the README lists them."""
    section = (ROOT / "README.md").read_text().partition("## The first audited prediction of your own model\n")[2]
    typed = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("$ ")]
    assert 5 < len(typed) <= 10
    assert not [line for line in typed if "&&" in line or ";" in line], "one command a line"


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
