"""Training data in LLaVA's JSON convention: files, mixes of files, and what one record means.

Everything is read and checked before training starts, since a fault in the data should not end a
run in its third day. Records of a JSONL file stay on disk; only the offset of each line is kept.
"""

import math
import os
import random
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from crosslmm.errors import UsageError
from crosslmm.files import LONGEST_LINE, open_readable, parse_json, read_json, read_lines, read_text
from crosslmm.limits import MAX_TEXT_BYTES
from crosslmm.training.yaml_text import parse_yaml

Role = Literal["system", "user", "assistant"]

PLACEHOLDER = re.compile("<(?:image|video)>")
_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_STRATEGY = re.compile(r"(first|end|random):(\d+(?:\.\d+)?)(%?)")
_LONGEST_FILE = 16 << 30  # bytes; of a list, which is held in memory
_MOST_FILES = 10_000  # that a pattern may name
_BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Turn:
    """One message; `shows` where the video or the images come before its text, `cut` where its text
    breaks off, so that its end is not learned."""

    role: Role
    text: str
    shows: bool = False
    cut: bool = False


Form = tuple[tuple[Role, bool], ...]


def form_of(turns: Sequence[Turn]) -> Form:
    """Of each turn its role, and whether it shows the video."""
    return tuple((turn.role, turn.shows) for turn in turns)


@dataclass(frozen=True)
class Sample:
    """A conversation about one video, several images taken as the frames of one, or text alone.

    `start` and `end` are seconds of the video. `origin` is the position of the record, for messages.
    """

    turns: tuple[Turn, ...]
    media: tuple[Path, ...]
    origin: str
    start: float | None = None
    end: float | None = None


class _File(Protocol):
    path: Path

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...

    def __iter__(self) -> Iterator[Any]: ...


class _JsonFile:
    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._records = read_json(path, longest=_LONGEST_FILE)
        except ValueError as error:
            hint = "; JSON lines are named .jsonl" if "Extra data" in str(error) else ""
            raise UsageError(f"{path}: not JSON: {error}{hint}") from error
        if not isinstance(self._records, list):
            raise UsageError(f"{path}: training data is a JSON list of records, or JSON lines")

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Any:
        return self._records[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._records)


class _JsonLines:
    def __init__(self, path: Path) -> None:
        self.path = path
        offsets: list[int] = []
        offset = 0
        with open_readable(path) as stream:
            for line in read_lines(stream):
                if len(line) > LONGEST_LINE:
                    raise UsageError(
                        f"{path}, record {len(offsets) + 1}: longer than {LONGEST_LINE:,} bytes"
                    )
                if line.strip():
                    offsets.append(offset)
                offset += len(line)
        self._offsets = np.asarray(offsets, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Any:
        with open_readable(self.path) as stream:
            stream.seek(int(self._offsets[index]))
            return self._parse(index, stream.readline(LONGEST_LINE))

    def __iter__(self) -> Iterator[Any]:
        with open_readable(self.path) as stream:
            for index, line in enumerate(line for line in read_lines(stream) if line.strip()):
                yield self._parse(index, line)

    def _parse(self, index: int, line: bytes) -> Any:
        try:
            return parse_json(line)
        except ValueError as error:
            raise UsageError(f"{self.path}, record {index + 1}: not JSON: {error}") from error


@dataclass(frozen=True)
class _Source:
    file: _File
    chosen: np.ndarray
    folder: Path


class Records(Sequence[Sample]):
    """The samples of a data file or of a mix.

    path: a `.json` list, a `.jsonl` file, a `.yaml` mix of them, or a pattern `part_{a,b}.json`.
    folder: where relative media paths begin; by default beside the file that names them. A mix's
    entry may have another, `media_folder`. seed: of the `random` sampling strategies.
    Raises UsageError with the position of the first invalid record.

    - forms: every form that a conversation here has: its turns' roles, and which shows the video.
    """

    def __init__(
        self, path: str | Path, *, folder: str | Path | None = None, seed: int = 0
    ) -> None:
        self._sources = list(_sources(str(path), None if folder is None else Path(folder), seed))
        self._ends = np.cumsum([len(source.chosen) for source in self._sources])
        if not len(self):
            raise UsageError(f"{path}: holds no training data")
        self.forms: set[Form] = set()
        for source in self._sources:
            wanted = set(source.chosen.tolist())
            for index, record in enumerate(source.file):
                if index in wanted:
                    sample = parse_record(record, source.folder, _origin(source.file, index))
                    self.forms.add(form_of(sample.turns))

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._sources else 0

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        position = int(np.searchsorted(self._ends, index, side="right"))
        source = self._sources[position]
        chosen = int(source.chosen[index - int(self._ends[position])])  # counted from the end
        return parse_record(source.file[chosen], source.folder, _origin(source.file, chosen))


def parse_record(record: Any, folder: Path, origin: str) -> Sample:
    """One record as a sample. Raises UsageError with its origin where it cannot be trained on."""

    def refuse(reason: str) -> UsageError:
        return UsageError(f"{origin}: {reason}")

    if not isinstance(record, Mapping):
        raise refuse("a record is a JSON object")
    media = _media(record, refuse)
    turns = _turns(record, refuse)
    showing = [index for index, turn in enumerate(turns) if turn.shows]
    asked = [text for role, text in _raw_turns(record, refuse) if role == "user"]
    placeholders = sum(len(PLACEHOLDER.findall(text)) for text in asked)
    if not media and showing:
        raise refuse("has a placeholder but names no video and no image")
    if len(showing) > 1 or (media and placeholders not in (0, 1, len(media))):
        raise refuse(
            f"has {placeholders} placeholders for {len(media)} video; it takes exactly one"
        )
    if media and not showing:
        first = next(index for index, turn in enumerate(turns) if turn.role == "user")
        turns[first] = Turn("user", turns[first].text, shows=True)
    start, end = (_seconds(record, key, refuse) for key in ("start", "end"))
    if end is not None and end <= (start or 0.0):
        raise refuse(f"ends at {end:g} seconds and starts at {start or 0.0:g}")
    return Sample(
        turns=tuple(turns),
        media=tuple(folder / name for name in media),
        origin=origin,
        start=start,
        end=end,
    )


def _turns(record: Mapping[str, Any], refuse: Any) -> list[Turn]:
    """A system turn or none, then user and assistant in turn, an assistant's last."""
    turns: list[Turn] = []
    for role, text in _raw_turns(record, refuse):
        if role == "assistant" and all(turn.role == "system" for turn in turns):
            continue  # LLaVA drops an answer that comes before any question
        if role == "system" and turns:
            raise refuse("has a system turn that is not the first")
        if turns and turns[-1].role == role:
            raise refuse(f"has two {role} turns in a row")
        shows = role == "user" and bool(PLACEHOLDER.search(text))
        turns.append(
            Turn(role, PLACEHOLDER.sub("", text).strip() if shows else text.strip(), shows)
        )
    while turns and turns[-1].role == "user":
        turns.pop()
    if not turns or turns[-1].role != "assistant":
        raise refuse("has no answer to learn from")
    if any(turn.role == "assistant" and not turn.text for turn in turns):
        raise refuse("has an empty answer")
    return turns


def _raw_turns(record: Mapping[str, Any], refuse: Any) -> Iterator[tuple[Role, str]]:
    turns = next(
        (record[k] for k in ("conversations", "conversation", "messages") if k in record), None
    )
    if not isinstance(turns, list) or not turns:
        raise refuse("has no conversations")
    for turn in turns:
        speaker = turn.get("from", turn.get("role")) if isinstance(turn, Mapping) else None
        text = turn.get("value", turn.get("content")) if isinstance(turn, Mapping) else None
        if not isinstance(speaker, str) or speaker not in _ROLES:
            raise refuse(f"has a turn from {speaker!r:.40}; they are from human or gpt")
        if not isinstance(text, str):
            raise refuse("has a turn whose value is not text")
        yield _ROLES[speaker], text


def _media(record: Mapping[str, Any], refuse: Any) -> list[str]:
    named = [(key, record[key]) for key in ("video", "image") if record.get(key) is not None]
    if len(named) > 1:
        raise refuse("names both a video and an image; a sample has one of them")
    if not named:
        return []
    key, value = named[0]
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise refuse(f"{key} is not a path")
    if key == "video" and len(names) > 1:
        raise refuse(f"names {len(names)} videos; a sample has one")
    return names


def _seconds(record: Mapping[str, Any], key: str, refuse: Any) -> float | None:
    value = record.get(key)
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if (
        not is_number or not 0 <= value <= sys.float_info.max
    ):  # JSON has whole numbers of any length
        raise refuse(f"{key} is in seconds, not {value!r:.40}")
    return float(value)


def _sources(path: str, folder: Path | None, seed: int) -> Iterator[_Source]:
    opened: dict[Path, _File] = {}
    if Path(path).suffix not in (".yaml", ".yml"):
        for file in _files(path, opened):
            yield _Source(file, np.arange(len(file)), folder or file.path.parent)
        return
    mix = Path(path)
    if not mix.is_file():
        raise UsageError(f"{mix}: no such file")
    try:
        content = parse_yaml(read_text(mix, longest=MAX_TEXT_BYTES))
        entries = content["datasets"] or []
        for entry in entries:
            paths = entry.get("json_path", ""), entry.get("media_folder") or ""
            if not all(isinstance(value, str) for value in (*paths, *entry)):
                raise TypeError("no text")
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise UsageError(
            f"{mix}: a mix of data is YAML in UTF-8, a list `datasets:` of mappings, each with the "
            "path of a file as json_path"
        ) from error
    for number, entry in enumerate(entries):
        unknown = set(entry) - {"json_path", "sampling_strategy", "media_folder"}
        if unknown or "json_path" not in entry:
            fault = f"unknown {sorted(unknown)[0]!r}" if unknown else "json_path is missing"
            raise UsageError(
                f"{mix}, data set {number + 1}: {fault}; "
                "there are json_path, sampling_strategy, media_folder"
            )
        entry_folder = entry.get("media_folder")
        for file in _files(str(mix.parent / entry["json_path"]), opened):
            strategy = str(entry.get("sampling_strategy", "all"))
            # A sample that is the same each time, and no secret.
            chance = random.Random(f"{seed} {number} {file.path.name}")  # noqa: S311  no secret
            try:
                chosen = choose(len(file), strategy, chance)
            except UsageError as error:
                raise UsageError(f"{mix}, data set {number + 1}: {error}") from None
            beside = folder or file.path.parent
            media = mix.parent / entry_folder if entry_folder else beside
            yield _Source(file, np.asarray(chosen, dtype=np.int64), media)


def choose(count: int, strategy: str, generator: random.Random) -> list[int]:
    """The records that a strategy chooses of `count`: all, or first:N, end:N, random:N, N or N%."""
    if strategy == "all":
        return list(range(count))
    match = _STRATEGY.fullmatch(strategy)
    if match is None:
        raise UsageError(
            f"sampling_strategy {strategy!r}: give all, first:N, end:N or random:N, N or N%"
        )
    kind, number, percent = match[1], float(match[2]), match[3]
    wanted = math.ceil(min(count, count * number / 100)) if percent else int(min(count, number))
    if kind == "first":
        return list(range(wanted))
    if kind == "end":
        return list(range(count - wanted, count))
    return sorted(generator.sample(range(count), wanted))


def _files(pattern: str, opened: dict[Path, _File]) -> Iterator[_File]:
    """The files of a path, `{a,b}` in it spelt out; those in `opened`, to which others are added, are
    not read again."""
    parts = _BRACES.split(pattern)
    choices = [
        [piece.strip() for piece in part.split(",")] if index % 2 else [part]
        for index, part in enumerate(parts)
    ]
    if (files := math.prod(map(len, choices))) > _MOST_FILES:
        raise UsageError(f"{pattern:.80}: names {files:,} files; give at most {_MOST_FILES:,}")
    for pieces in product(*choices):
        path = Path("".join(pieces))
        if not os.path.isfile(path):  # False too where the name is too long
            what = "a folder, not a file of records" if os.path.isdir(path) else "no such file"
            raise UsageError(f"{path!s:.200}: {what}")
        if path in opened:
            pass
        elif path.suffix == ".json":
            opened[path] = _JsonFile(path)
        elif path.suffix == ".jsonl":
            opened[path] = _JsonLines(path)
        else:
            raise UsageError(f"{path}: training data is .json, .jsonl, or a .yaml mix of them")
        yield opened[path]


def _origin(file: _File, index: int) -> str:
    return f"{file.path}, record {index + 1}"
