"""``e2i-serving dashboards``: the Grafana dashboards, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from e2i_serving.cli.slo import write_files


def dashboards(
    output: Annotated[Path, typer.Option("--output", help="The folder to write to.", file_okay=False)] = Path(
        "dashboards"
    ),
) -> None:
    """Write the Grafana dashboards as JSON, and print the names of the files.

    Import them in Grafana, or put them where it looks for provisioned dashboards. Each asks for its Prometheus
    data source.

    \b
    Examples:
      e2i-serving dashboards
      e2i-serving dashboards --output /var/lib/grafana/dashboards
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.slo.dashboards import dashboard_files  # noqa: PLC0415  # keeps --help fast

    write_files(output, dashboard_files())
