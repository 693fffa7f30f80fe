"""What commands read besides options: questions, lists of paths, a prompt; `-` is stdin."""

import codecs
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from crosslmm.errors import UsageError, VideoError
from crosslmm.files import parse_json, read_regular, read_text
from crosslmm.inference.named_file import NamedFile
from crosslmm.inference.schema import grammar_of
from crosslmm.limits import MAX_LIST_BYTES, MAX_TEXT_BYTES
from crosslmm.options import GenerationKeywords, Sampling, check_generation
from crosslmm.video.file import VideoFile
from crosslmm.video.frame_folder import check_frame_folder, frame_files, is_frame_folder


def check_video(video: str | NamedFile, sampling: Sampling, questions: Sequence[str] = ()) -> None:
    """Raise `VideoError` for what is no video or image, before the model is loaded.

    questions: about it, of which one may be the video that was meant.
    """
    path = os.fspath(video)
    if not os.path.lexists(path) and any(map(os.path.isfile, questions)):
        raise VideoError(f"{path}: no such file; the video comes before the questions")
    if is_frame_folder(path):
        if sampling.fps is None:
            raise VideoError(
                f"{path}: this is a folder; give a video file in it, or, where it holds the frames of "
                "one, `fps`, the rate at which they were taken"
            )
        check_frame_folder(path, sampling)
        frame_files(path)
        return
    from crosslmm.video.probe import check_file  # NumPy and FFmpeg, which help does not need

    try:
        check_file(path, deadline=sampling.deadline, max_pixels=sampling.max_pixels)
    except VideoError as error:
        if not isinstance(video, NamedFile):
            raise
        raise video.renamed(error) from error


def split_arguments(
    first: str, rest: Sequence[str], asked: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The videos and the questions of a command line: a video and the questions about it, or, where
    questions are `asked` by an option, videos alone. Raises UsageError for a video in place of a
    question."""
    videos, questions = ([first, *rest], [*asked]) if asked else ([first], [*rest])
    if "-" in videos and "-" in questions:
        raise UsageError("-: stdin holds the video or the question, not both")
    if asked:
        return videos, questions
    if not rest:
        raise UsageError("Missing argument 'QUESTION': give it after the video, or with --question")
    from crosslmm.captioning.sources import is_video_name

    for each in rest:
        is_name = len(each.split()) == 1 and is_video_name(each)
        if os.path.lexists(first) and (is_name or os.path.isfile(each)):
            raise UsageError(
                f"{each}: a file name in the place of a question; to ask about several videos, give the "
                "question with --question"
            )
    return videos, questions


def read_questions(questions: list[str]) -> list[str]:
    """The questions as text, `-` replaced by what stdin holds."""
    if questions.count("-") > 1:
        raise UsageError("-: stdin holds one question only")
    read = [_read_stdin_text() if question == "-" else question for question in questions]
    # Bytes that are not UTF-8, perhaps a file name: the tokenizer takes text only.
    texts = [text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for text in read]
    stripped = [text.strip() for text in texts]
    if not all(stripped):
        raise UsageError("a question is empty")
    return stripped


def read_paths(paths: list[str], from_file: str | None) -> list[str]:
    """The paths given, each list replaced by the paths it holds.

    A path that does not exist is kept, to be reported as a failure while the others are captioned.
    Raises VideoError where no path exists, and for an address.
    """
    if paths.count("-") + (from_file == "-") > 1:
        raise UsageError("-: stdin holds one list only")
    if not paths and from_file is None:
        raise UsageError("give files or folders to caption, or a list of them with --from FILE")
    found: list[str] = []
    for path in paths:
        if path == "-":
            found += _split_list(_read_stdin_list())
        else:
            if "://" in path and not os.path.lexists(path):
                VideoFile(path).open()  # whose error says that it is an address
            found.append(path)
    lists = "-" in paths or from_file is not None
    if not lists and not any(map(os.path.lexists, paths)):
        raise VideoError(f"{', '.join(paths)}: no such file or folder")
    if from_file is not None:
        if from_file == "-":
            data = _read_stdin_list()
        else:
            try:
                data = read_regular(Path(from_file), longest=MAX_LIST_BYTES)
            except OSError as error:
                raise UsageError(f"{from_file}: {error.strerror}") from None
            except ValueError as error:
                raise UsageError(f"{from_file}: {error}") from None
        found += _split_list(data)
    return found


def read_stdin_lines() -> Iterator[str]:
    """The lines of stdin, without their ends, as they come."""
    with _stdin_text() as stdin:
        while line := stdin.readline(MAX_TEXT_BYTES + 1):
            check_length(len(line), MAX_TEXT_BYTES, "a line of stdin")
            yield line.rstrip("\n")


def read_prompt(prompt: str | None, file: Path | None) -> str | None:
    """The prompt given as text or in a file; None where neither is."""
    if prompt is not None and file is not None:
        raise UsageError("--prompt and --prompt-file exclude each other: give one of them")
    if file is None:
        return prompt
    try:
        return read_text(file, longest=MAX_TEXT_BYTES).strip()
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{file}: the prompt is {error}") from None


def read_generation(
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float | None,
    seed: int | None,
    stop: list[str] | None,
    schema: Path | None,
) -> GenerationKeywords:
    """How an answer is generated, as the options of a command have it. Raises UsageError."""
    stops = stop or ()
    check_generation(max_new_tokens, temperature, seed, top_p, stops)
    return GenerationKeywords(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop=stops,
        schema=read_schema(schema),
    )


def read_schema(file: Path | None) -> dict[str, Any] | None:
    """The JSON Schema in a file; None where there is no file. Raises UsageError."""
    if file is None:
        return None
    try:
        schema = parse_json(read_text(file, longest=MAX_TEXT_BYTES).encode())
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{file}: not JSON ({error})") from None
    try:
        grammar_of(schema)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from None
    return dict(schema)


@contextmanager
def _stdin_text() -> Iterator[TextIO]:
    """stdin; inside, UsageError for what is no text in the locale's encoding."""
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="strict")  # in the C locale Python lets such bytes pass
    try:
        yield sys.stdin
    except UnicodeDecodeError as error:
        raise UsageError(f"stdin is not {error.encoding} text") from None


def _read_stdin_text() -> str:
    with _stdin_text() as stdin:
        text = stdin.read(MAX_TEXT_BYTES + 1)
    check_length(len(text), MAX_TEXT_BYTES)
    return text


def _read_stdin_list() -> bytes:
    data = sys.stdin.buffer.read(MAX_LIST_BYTES + 1)
    check_length(len(data), MAX_LIST_BYTES)
    return data


def check_length(length: int, most: int, what: str = "-: stdin") -> None:
    """Raises UsageError for more than is read of it."""
    if length > most:
        raise UsageError(f"{what} holds over {most >> 20} MiB, the most that is read of it")


def _split_list(data: bytes) -> list[str]:
    """Paths one per line, or separated by NUL as `find -print0` writes them."""
    data = data.removeprefix(codecs.BOM_UTF8)
    names = data.split(b"\0") if b"\0" in data else data.splitlines()
    return [os.fsdecode(name) for name in names if name.strip()]
