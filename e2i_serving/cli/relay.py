"""``e2i-serving relay``: the relay in the foreground, as a sidecar for instance."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from e2i_serving.cli.printing import print_error


def relay(
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="The data directory. Unset: as the settings say.", show_default=False),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Deliver what is there, then exit.")] = False,
) -> None:
    """Run the relay of a data directory until it is told to stop.

    It brings what the workers journaled to the audit store. Where no service has started yet, it waits for one, and
    when one starts with other settings it begins anew with those. Exits with 1 when another relay does it already.

    \b
    Examples:
      e2i-serving relay
      e2i-serving relay --data-dir /var/lib/e2i --once
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.runtime.places import settings_beside  # noqa: PLC0415  # keeps --help fast
    from e2i_serving.runtime.relay_process import (  # noqa: PLC0415  # imports what only a relay needs
        KeptSettings,
        begin_anew,
        run_relay,
        start_logs,
    )

    _, folder = settings_beside(data_dir, may_be_missing=True)
    kept = None if once else KeptSettings(folder)
    settings, _ = settings_beside(folder, may_be_missing=True)
    start_logs(settings)
    if not run_relay(settings, folder, once=once, kept=kept):
        print_error(f"Another relay runs for {folder}.")
        raise typer.Exit(1)
    if kept is not None and kept.are_others:
        begin_anew()
