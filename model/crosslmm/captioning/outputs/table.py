"""Captions as one Parquet file, made from the manifest at the end of a run."""

import os
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from crosslmm.captioning.manifest import Manifest
from crosslmm.captioning.outputs import CaptionOutput, output_file, unknown_file
from crosslmm.captioning.results import Record
from crosslmm.captioning.sources import Source
from crosslmm.errors import UsageError
from crosslmm.files import Root, atomic_file

_ROWS = 1000  # of a row group


class TableOutput(CaptionOutput):
    """A row for each video, with columns of the types that the JSON lines have."""

    def begin(self, sources: Sequence[Source], manifest: Manifest, *, overwrite: bool) -> None:
        super().begin(sources, manifest, overwrite=overwrite)
        if not (overwrite or manifest.entries) and os.path.lexists(self.name):
            raise unknown_file(Path(self.name))

    def finish(self, manifest: Manifest) -> None:
        # The next run would refuse an empty table, of which there is no record.
        if manifest.entries:
            _write_parquet(Path(self.name), manifest.records(), self._root)


def make_output(format: str, out: Path | None, part: str, sources: Sequence[Source]) -> TableOutput:
    path = output_file(format, out, part)
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "writing Parquet needs pyarrow, which is not installed: pip install 'crosslmm[parquet]'"
        ) from error
    return TableOutput(path, path.with_name(f".{path.name}.manifest.jsonl"))


def _write_parquet(path: Path, records: Iterable[Record], root: Root) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    schema = _schema(pa)
    iterator = iter(records)
    with (
        atomic_file(path, root=root) as file,
        parquet.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        while rows := list(islice(map(_valid, iterator), _ROWS)):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _valid(value: Any) -> Any:
    """The same with what is not valid text escaped, as in some file names."""
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
    settings = {
        "model": text,
        "dtype": text,
        "quantization": text,
        "tokens_per_frame": text,
        "prompt": text,
        "max_new_tokens": count,
        "segments": number,
        "scenes": pa.bool_(),
        "frames": count,
        "fps": number,
        "max_frames": count,
        "seek": text,
    }
    versions = dict.fromkeys(("crosslmm", "python", "torch", "transformers", "av"), text)
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
            "settings": pa.struct(settings),
            "content": text,
            "same_as": text,
            "warnings": pa.list_(text),
            "versions": pa.struct(versions),
        }
    )
