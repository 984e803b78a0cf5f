"""``e2i-serving audit dead-letters``: what a destination refused for good, and what to do about it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from e2i_serving.cli.books import DataDir
from e2i_serving.cli.printing import TableOrJson, iso_time, print_error, print_json_lines, show, table, text
from e2i_serving.cli.progress import progress
from e2i_serving.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from e2i_serving.relay import DeadLetter
    from e2i_serving.settings import Settings
    from e2i_serving.typing import Cipher

dead_letters_app = typer.Typer(
    name="dead-letters",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="See what a destination refused for good, and have it delivered again or discarded.",
)

Numbers = Annotated[
    list[int] | None, typer.Option("--id", help="The letter's id. May be repeated.", show_default=False)
]
Everything = Annotated[bool, typer.Option("--all", help="All of them.")]


@dead_letters_app.command("list")
def list_dead_letters(
    data_dir: DataDir = None,
    output: Annotated[
        TableOrJson, typer.Option("--format", help="json prints one object a letter.")
    ] = TableOrJson.TABLE,
) -> None:
    """List what destinations refused for good, the oldest first.

    Each with its prediction, which is empty where its key is not here, or it was erased.

    \b
    Examples:
      e2i-serving audit dead-letters list
      e2i-serving audit dead-letters list --data-dir /var/lib/e2i --format json
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.journal import FrameKind  # noqa: PLC0415  # keeps --help fast
    from e2i_serving.relay import Ledger  # noqa: PLC0415  # likewise
    from e2i_serving.runtime.places import used_beside  # noqa: PLC0415  # likewise

    settings, folder = used_beside(data_dir)
    letters: list[DeadLetter] = []
    sizes: list[int] = []
    ids: list[tuple[str, str]] = []
    cipher: Cipher | None = None
    with closing(Ledger(folder, read_only=True)) as ledger:
        for letter in ledger.dead_letters.each():
            cipher = cipher or (_cipher(settings) if letter.key_id else None)
            ids.append(letter.ids(cipher))
            sizes.append(len(letter.payload))
            letters.append(letter.without_payload())
    if output is TableOrJson.JSON:
        print_json_lines(
            {
                "id": letter.id,
                "destination": letter.destination,
                "life": letter.life,
                "sequence": letter.sequence,
                "kind": FrameKind(letter.kind).name.lower(),
                "prediction_id": prediction_id,
                "request_id": request_id,
                "reason": letter.reason,
                "message": letter.message,
                "time": iso_time(letter.time_ns),
                "bytes": size,
                "requested": letter.requested,
            }
            for letter, size, (prediction_id, request_id) in zip(letters, sizes, ids, strict=True)
        )
        return
    rows = table("ID", "DESTINATION", "TIME", "KIND", "PREDICTION", "LIFE", "SEQUENCE", "BYTES", "RETRY", "MESSAGE")
    for letter, size, (prediction_id, _) in zip(letters, sizes, ids, strict=True):
        kind = FrameKind(letter.kind).name.lower()
        place = (letter.life, letter.sequence, size, "asked for" if letter.requested else "")
        cells = (letter.id, letter.destination, iso_time(letter.time_ns), kind, prediction_id, *place, letter.message)
        rows.add_row(*map(text, cells))
    show(rows)


@dead_letters_app.command("retry")
def retry_dead_letters(
    *,
    data_dir: DataDir = None,
    number: Numbers = None,
    everything: Everything = False,
) -> None:
    """Have dead letters delivered again, once what was wrong at the destination is mended.

    A relay that runs takes them up within seconds; when none runs, this command delivers them itself. Exits with 1
    when one was refused again.

    \b
    Examples:
      e2i-serving audit dead-letters retry --id 7
      e2i-serving audit dead-letters retry --all
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.relay import Ledger, RelayLock  # noqa: PLC0415  # keeps --help fast
    from e2i_serving.runtime.places import used_beside  # noqa: PLC0415  # likewise
    from e2i_serving.runtime.relay_process import run_relay  # noqa: PLC0415  # likewise

    settings, folder = used_beside(data_dir)
    with closing(Ledger(folder)) as ledger:
        asked = _asked(ledger.dead_letters.numbers(), number, everything=everything)
        ledger.dead_letters.request(sorted(asked))
        with progress("Delivering", counted=False):
            is_delivered = RelayLock(folder).holder() is None and run_relay(settings, folder, once=True)
        if not is_delivered:
            show(text(f"{len(asked)} asked for. The relay that runs delivers them within seconds."))
            return
        refused = asked & set(ledger.dead_letters.numbers())
    show(text(f"{len(asked) - len(refused)} delivered."))
    if refused:
        print_error(f"Refused again: {', '.join(map(str, sorted(refused)))}. Their messages say why.")
        raise typer.Exit(1)


@dead_letters_app.command("discard")
def discard_dead_letters(
    *,
    data_dir: DataDir = None,
    number: Numbers = None,
    everything: Everything = False,
) -> None:
    """Give dead letters up for good; the books count them as dropped, with the reason discarded.

    \b
    Examples:
      e2i-serving audit dead-letters discard --id 7
      e2i-serving audit dead-letters discard --all
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.relay import Ledger  # noqa: PLC0415  # keeps --help fast
    from e2i_serving.runtime.places import used_beside  # noqa: PLC0415  # likewise

    with closing(Ledger(used_beside(data_dir)[1])) as ledger:
        asked = _asked(ledger.dead_letters.numbers(), number, everything=everything)
        show(text(f"{ledger.dead_letters.discard(sorted(asked))} discarded."))


def _asked(known: Sequence[int], wanted: Sequence[int] | None, *, everything: bool) -> set[int]:
    if bool(wanted) == everything:
        raise ConfigurationError("Say which: --id, once or more, or --all.")
    if unknown := sorted(set(wanted or ()) - set(known)):
        raise ConfigurationError(f"There is no dead letter {', '.join(map(str, unknown))}.")
    return set(wanted or known)


def _cipher(settings: Settings) -> Cipher | None:
    from e2i_serving.encryption import cipher_of  # noqa: PLC0415  # keeps --help fast

    try:
        return cipher_of(settings)
    except (ConfigurationError, ImportError):
        return None  # all else of a letter can be told without the key
