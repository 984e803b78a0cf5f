"""The command ``e2i-serving``: its parts put together, and how it says what went wrong."""

from __future__ import annotations

import sqlite3
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import e2i_serving
from e2i_serving.cli.audit import audit_app
from e2i_serving.cli.books import books
from e2i_serving.cli.dashboards import dashboards
from e2i_serving.cli.dead_letters import dead_letters_app
from e2i_serving.cli.doctor import doctor
from e2i_serving.cli.evidence import erase, purge, verify
from e2i_serving.cli.holds import holds_app
from e2i_serving.cli.keys import keys_app
from e2i_serving.cli.new import new, update
from e2i_serving.cli.outcomes import outcomes_app
from e2i_serving.cli.printing import print_error
from e2i_serving.cli.relay import relay
from e2i_serving.cli.replay import replay
from e2i_serving.cli.score import score
from e2i_serving.cli.settings import settings
from e2i_serving.cli.slo import slo_app
from e2i_serving.cli.stats import stats
from e2i_serving.exceptions import E2IServingError


class Commands(TyperGroup):
    """Commands whose expected errors, and those of disks and databases, are one line and not a traceback."""

    def invoke(self, ctx: Any) -> Any:  # typer's click is another package in newer releases
        """Run a command; what could not be done exits with 2."""
        try:
            return super().invoke(ctx)
        except E2IServingError as error:
            said = str(error)
        except BrokenPipeError:
            raise  # whoever read what was printed has seen enough
        except OSError as error:
            where = f"{error.filename}: " if error.filename is not None else ""
            said = (
                f"{where}{error.strerror or str(error) or type(error).__name__}. Correct that, or name another place."
            )
        except Exception as error:
            if not _is_of_a_database(error):
                raise
            reason = getattr(error, "orig", None) or error  # without the statement
            said = f"A database can't be used: {reason}. Is it the right one, and may you read and write it?"
        print_error(said)
        raise typer.Exit(2)


def _is_of_a_database(error: Exception) -> bool:
    sqlalchemy = sys.modules.get("sqlalchemy.exc")  # not imported for this
    return isinstance(error, sqlite3.Error) or (
        sqlalchemy is not None and isinstance(error, sqlalchemy.SQLAlchemyError)
    )


app = typer.Typer(
    name="e2i-serving",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,  # help reads the same in a terminal, a pipe and the documentation
    pretty_exceptions_enable=False,  # its tracebacks show local variables, and so people's data
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(e2i_serving.__version__)
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Look into what BentoML services predicted, and run what keeps it.

    \b
    Examples:
      e2i-serving new classification credit-risk
      e2i-serving audit query --model credit --outcome error --since 1h
      e2i-serving audit show 0192f7b0-5c1e-7d4a-9f1e-2b7c6c1e8a11
      e2i-serving audit books
      e2i-serving settings
    """  # noqa: D301  # \b is click's mark for lines that stay as they are


audit_app.command()(books)
audit_app.add_typer(dead_letters_app, name="dead-letters")
audit_app.command()(replay)
audit_app.command()(verify)
audit_app.command()(erase)
audit_app.command()(purge)
audit_app.add_typer(holds_app, name="hold")
app.add_typer(audit_app, name="audit")
app.add_typer(keys_app, name="keys")
app.add_typer(outcomes_app, name="outcomes")
app.add_typer(slo_app, name="slo")
app.command()(new)
app.command()(update)
app.command()(dashboards)
app.command()(settings)
app.command()(relay)
app.command()(doctor)
app.command()(stats)
app.command()(score)

EXIT_CODES = "Exit codes: 0, done; 1, the answer is no; 2, it could not be done, and one line says what to do."


def _end_help_with_exit_codes(group: typer.Typer) -> None:
    for command in group.registered_commands:
        command.epilog = EXIT_CODES
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            _end_help_with_exit_codes(inner.typer_instance)


_end_help_with_exit_codes(app)


def main() -> None:
    """Run the command line."""
    app()
