"""``e2i-serving settings``: every setting, its value, and where that came from."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from e2i_serving.cli.printing import as_json, print_json_lines, show, table, text
from e2i_serving.stores.urls import masked_url

if TYPE_CHECKING:
    from e2i_serving.settings import ResolvedSettings

_MARKDOWN_HEAD: Final = """\
# Settings

Each setting is taken from the first of: an argument (`@e2i_serving.service(observability={...})`), its environment
variable, `observability.yaml` beside the service file, its default. `e2i-serving settings` shows what holds here and
where it came from; `e2i-serving settings --format markdown` writes this page.

| Setting | Variable | Takes | Default | What it does |
|---|---|---|---|---|"""


class SettingsFormat(StrEnum):
    """How settings are printed."""

    TABLE = "table"
    JSON = "json"
    MARKDOWN = "markdown"


def settings(
    output: Annotated[
        SettingsFormat,
        typer.Option("--format", help="markdown prints the reference: defaults, not this machine's values."),
    ] = SettingsFormat.TABLE,
) -> None:
    """List every setting: its value here, where that came from, its variable, and what it does.

    Passwords in URLs are not shown.

    \b
    Examples:
      e2i-serving settings
      e2i-serving settings --format json
      e2i-serving settings --format markdown > docs/settings.md
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.settings import load_settings  # noqa: PLC0415  # keeps --help fast

    if output is SettingsFormat.MARKDOWN:
        typer.echo("\n".join([_MARKDOWN_HEAD, *_reference()]))
        return
    resolved = load_settings()
    described = list(_described(resolved))
    if output is SettingsFormat.JSON:
        print_json_lines(described)
        return
    rows = table("SETTING", "VALUE", "ORIGIN", "VARIABLE", "WHAT IT DOES")
    for row in described:
        style = "" if row["origin"] == "default" else "bold"
        cells = (row["name"], as_json(row["value"]), row["origin"], row["variable"], row["doc"])
        rows.add_row(*(text(cell, style) for cell in cells))
    show(rows)
    if resolved.config_file:
        show(text(f"File: {resolved.config_file}"))


def _described(resolved: ResolvedSettings) -> Iterator[dict[str, Any]]:
    values = resolved.settings.model_dump(mode="json")
    for name, field in type(resolved.settings).model_fields.items():
        value = values[name]
        yield {
            "name": name,
            "value": masked_url(value) if isinstance(value, str) else value,
            "origin": resolved.origins[name].value,
            "variable": _variable(name),
            "doc": field.description,
        }


def _reference() -> Iterator[str]:
    from e2i_serving.settings import Settings  # noqa: PLC0415  # keeps --help fast

    schema = Settings.model_json_schema()["properties"]
    defaults = Settings().model_dump(mode="json")
    for name, field in Settings.model_fields.items():
        default = defaults[name]
        shown = "" if default in (None, "", []) else f"`{default if isinstance(default, str) else as_json(default)}`"
        cells = (f"`{name}`", f"`{_variable(name)}`", _takes(schema[name]), shown, field.description or "")
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _variable(name: str) -> str:
    from e2i_serving.settings.loading import PREFIX  # noqa: PLC0415  # keeps --help fast

    return PREFIX + name.upper()


def _takes(schema: dict[str, Any]) -> str:
    """A setting's type and bounds in words, from its JSON schema."""
    if "enum" in schema:
        return " or ".join(f"`{choice}`" for choice in schema["enum"])
    kinds = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
    kind = {"string": "text", "array": "list", "boolean": "`true` or `false`"}.get(kinds[0]["type"], kinds[0]["type"])
    if kinds[0].get("format") == "path":
        kind = "path"
    low, high = schema.get("minimum"), schema.get("maximum")
    return f"{kind}, {low:,} to {high:,}" if low is not None and high is not None else kind
