"""``e2i-serving keys``: the keys that encrypt what lies on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from e2i_serving.cli.printing import TableOrJson, print_json_lines, show, table, text
from e2i_serving.cli.progress import progress

keys_app = typer.Typer(
    name="keys",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Make, list and change the keys that encrypt journals, dead letters and payload files.",
)

File = Annotated[
    Path | None,
    typer.Option("--file", help="The key file. Unset: encryption_key_file of the settings.", show_default=False),
]


@keys_app.command("new")
def new_key(file: File = None) -> None:
    """Make a key and put it first in the key file, which is made when it is not there.

    The older keys stay, to read what they encrypted. Workers and relays encrypt with the new key once they are
    started again. Keep a copy of the file: without its key, nothing that is encrypted can be read.

    \b
    Examples:
      e2i-serving keys new --file /etc/e2i/keys
      e2i-serving keys new
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.encryption import add_key  # noqa: PLC0415  # keeps --help fast

    path = _key_file(file)
    key = add_key(path)
    show(text(f"Key {key.number} is now the first in {path}."))


@keys_app.command("list")
def list_keys(
    file: File = None,
    output: Annotated[TableOrJson, typer.Option("--format", help="How to print them.")] = TableOrJson.TABLE,
) -> None:
    """List the keys of the key file by number, the one that encrypts first. The keys themselves are never shown.

    \b
    Examples:
      e2i-serving keys list --file /etc/e2i/keys
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.encryption import read_keys  # noqa: PLC0415  # keeps --help fast

    keys = read_keys(_key_file(file))
    rows = [{"number": key.number, "made": key.made, "encrypts": place == 0} for place, key in enumerate(keys)]
    if output is TableOrJson.JSON:
        print_json_lines(rows)
        return
    listed = table("NUMBER", "MADE", "USE")
    for row in rows:
        listed.add_row(text(row["number"]), text(row["made"]), text("encrypts" if row["encrypts"] else "reads"))
    show(listed)


@keys_app.command("reencrypt")
def reencrypt_files(
    file: File = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir", help="The service's data directory. Unset: as the settings say.", show_default=False
        ),
    ] = None,
) -> None:
    """Encrypt payload files and dead letters again with the first key, so that older ones can be taken out.

    Journal segments are not changed: they go once they are delivered.

    \b
    Examples:
      e2i-serving keys reencrypt --data-dir /var/lib/e2i
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.encryption import FileCipher  # noqa: PLC0415  # keeps --help fast
    from e2i_serving.runtime.places import settings_beside  # noqa: PLC0415  # likewise
    from e2i_serving.runtime.reencryption import reencrypt  # noqa: PLC0415  # likewise

    settings, folder = settings_beside(data_dir)
    cipher = FileCipher(_key_file(file or settings.encryption_key_file))
    with progress("Encrypting") as meter:
        done = reencrypt(folder, cipher, progress=meter.advance)
    show(
        text(
            f"Encrypted again with key {cipher.key_id}: {done.payload_files} payload files, "
            f"{done.dead_letters} dead letters."
        )
    )


def _key_file(file: Path | None) -> Path:
    from e2i_serving.exceptions import ConfigurationError  # noqa: PLC0415  # keeps --help fast
    from e2i_serving.settings import load_settings  # noqa: PLC0415  # likewise

    path = file or load_settings().settings.encryption_key_file
    if path is None:
        raise ConfigurationError("No key file is named: give --file, or set encryption_key_file.")
    return path.expanduser().absolute()
