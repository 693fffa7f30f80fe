"""Captions as one Parquet file, made of the manifest and put in place whole."""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from crosslmm.captioning.results import Record
from crosslmm.errors import UsageError
from crosslmm.files import atomic_file

_ROWS = 1000  # of a row group


def write_parquet(path: Path, records: Iterable[Record]) -> None:
    """One row per record; `settings` and `versions` are JSON in text, since their keys vary."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = _schema(pa)
    iterator = iter(records)
    with (
        atomic_file(path) as file,
        parquet.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        while rows := list(islice(_rows(iterator), _ROWS)):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def require_pyarrow() -> None:
    """UsageError where Parquet cannot be written here."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "writing Parquet needs pyarrow, which is not installed: pip install 'crosslmm[parquet]'"
        ) from error


def _rows(records: Iterator[Record]) -> Iterator[Record]:
    for record in records:
        texts = {name: json.dumps(record[name]) for name in ("settings", "versions")}
        yield _valid(record | texts)


def _valid(value: Any) -> Any:
    """The same without what is no valid text, as in some file names."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, list):
        return [_valid(item) for item in value]
    if isinstance(value, dict):
        return {name: _valid(item) for name, item in value.items()}
    return value


def _schema(pa: Any) -> Any:
    text, number, count = pa.string(), pa.float64(), pa.int64()
    frame = pa.struct({"index": count, "time": number})
    segment = pa.struct(
        {
            "start": number,
            "end": number,
            "caption": text,
            "finish": text,
            "tokens": count,
            "frames": pa.list_(frame),
        }
    )
    timing = pa.struct({"decode": number, "encode": number, "generate": number})
    return pa.schema(
        {
            "path": text,
            "caption": text,
            "error": text,
            "duration": number,
            "segments": pa.list_(segment),
            "model": text,
            "prompt": text,
            "timing": timing,
            "settings_hash": text,
            "settings": text,
            "content": text,
            "same_as": text,
            "warnings": pa.list_(text),
            "versions": text,
        }
    )
