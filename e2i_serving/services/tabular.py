"""Files of rows that are scored: CSV, JSON lines and Parquet."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec

from e2i_serving.exceptions import ConfigurationError

FORMATS: Final = (".csv", ".jsonl", ".parquet")

Table = list[dict[str, Any]]


def refuse_format(path: Path) -> None:
    """Refuse a file that can't be read or written.

    Raises:
        ConfigurationError: Its name ends otherwise, or pyarrow is missing for Parquet.
    """
    if path.suffix not in FORMATS:
        raise ConfigurationError(f"{path} is of no known format. Its name must end in {', '.join(FORMATS)}.")
    if path.suffix == ".parquet":
        _parquet()


def read_chunks(path: Path, size: int, texts: Collection[str] = ()) -> Iterator[Table]:
    """The rows of a file.

    Args:
        path: The file.
        size: Most rows a chunk.
        texts: Columns of CSV that are text, whatever they read as. In the other formats values have types.

    Raises:
        ConfigurationError: It is not of the format that its name says.
    """
    try:
        if path.suffix == ".parquet":
            for batch in _parquet().ParquetFile(path).iter_batches(batch_size=size):
                yield batch.to_pylist()
            return
        with path.open(encoding="utf-8", newline="") as file:
            rows: Iterator[dict[str, Any]] = (
                map(partial(_typed, texts), csv.DictReader(file))
                if path.suffix == ".csv"
                else map(msgspec.json.decode, file)
            )
            while chunk := list(islice(rows, size)):
                yield chunk
    except (OSError, ValueError, msgspec.DecodeError) as error:
        raise ConfigurationError(f"{path} can't be read: {error}") from error


def write_table(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows to a file, whole or not at all.

    Args:
        path: The file; replaced when it is there.
        rows: The rows, which all have the same columns.
    """
    draft = path.with_name(f".{path.name}")
    if path.suffix == ".parquet":
        _write_parquet(draft, rows)
    else:
        with draft.open("w", encoding="utf-8", newline="") as file:
            if path.suffix == ".jsonl":
                file.writelines(f"{msgspec.json.encode(row).decode()}\n" for row in rows)
            else:
                _write_csv(file, rows)
    draft.replace(path)


def _write_parquet(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    import pyarrow as pa  # noqa: PLC0415  # of an extra

    source = iter(rows)
    writer: Any = None
    while chunk := list(islice(source, 10_000)):
        table = pa.Table.from_pylist(chunk, schema=writer.schema if writer is not None else None)
        if writer is None:
            writer = _parquet().ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is None:
        writer = _parquet().ParquetWriter(path, pa.schema([]))
    writer.close()


def _write_csv(file: Any, rows: Iterable[dict[str, Any]]) -> None:
    writer: csv.DictWriter[str] | None = None
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow(
            {
                name: msgspec.json.encode(value).decode() if isinstance(value, list | dict) else value
                for name, value in row.items()
            }
        )


def _typed(texts: Collection[str], row: dict[str, Any]) -> dict[str, Any]:
    return {name: (value or None) if name in texts else _number(value) for name, value in row.items()}


def _number(text: Any) -> Any:
    """A cell as a number where it is one; ``None`` for an empty cell, or NaN, as which some write a missing value."""
    if not text:
        return None
    try:
        number = float(text)
    except (TypeError, ValueError):
        return text
    if math.isnan(number):
        return None
    # Python reads 1_000 and inf, which is not what a file means by them, or not a number that JSON has.
    return number if math.isfinite(number) and "_" not in text else text


def _parquet() -> Any:
    try:
        import pyarrow.parquet as pq  # noqa: PLC0415  # of an extra
    except ImportError as error:
        raise ConfigurationError("Parquet files need pyarrow. Install e2i-serving[parquet].") from error
    return pq
