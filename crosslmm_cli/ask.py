"""`crosslmm ask`: questions about a video, answered as they are written."""

import sys
from typing import Annotated, Any

import typer

from crosslmm.errors import UsageError
from crosslmm.options import Sampling
from crosslmm.video.source import regular_file
from crosslmm_cli import options
from crosslmm_cli.loading import load_assistant
from crosslmm_cli.output import Output


def ask(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="A video or a picture.")],
    questions: Annotated[
        list[str],
        typer.Argument(metavar="QUESTION", help="One or more; - reads one from stdin."),
    ],
    model: options.ModelOption = None,
    frames: options.FramesOption = None,
    fps: options.FpsOption = None,
    max_frames: options.MaxFramesOption = None,
    start: options.StartOption = None,
    end: options.EndOption = None,
    reader: options.ReaderOption = "auto",
    seek: options.SeekOption = "auto",
    tokens_per_frame: options.TokensPerFrameOption = None,
    quantize: options.QuantizeOption = "auto",
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = "auto",
    max_new_tokens: options.MaxNewTokensOption = None,
    temperature: options.TemperatureOption = 0.0,
    seed: options.SeedOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Ask questions about a video or a picture.

    The answer is streamed to stdout; what was used, and how far it is, is said on stderr.
    Several questions after one video share its reading and encoding.
    """
    output = Output(as_json=as_json, quiet=quiet)
    questions = _read_questions(questions)
    if frames is not None and fps is not None:
        raise UsageError("--frames and --fps exclude each other; give one of them")
    sampling = Sampling(
        frames=frames,
        fps=fps,
        max_frames=max_frames,
        start=start,
        end=end,
        reader=reader,
        seek=seek,
    )
    regular_file(video)

    assistant = load_assistant(
        output,
        model=model,
        device=device,
        dtype=dtype,
        quantize=quantize,
        tokens_per_frame=tokens_per_frame,
        frames=sampling.most_frames,
    )
    watched = assistant.open_video(video, sampling, on_progress=output.progress)
    output.finish_progress()
    output.notice(watched.summary)
    for warning in watched.warnings:
        output.notice(f"warning: {warning}")

    generation: dict[str, Any] = {"temperature": temperature, "seed": seed}
    if max_new_tokens is not None:
        generation["max_new_tokens"] = max_new_tokens
    for number, question in enumerate(questions):
        if len(questions) > 1 and output.on_terminal and not as_json:
            output.notice(f"{chr(10) if number else ''}> {question}")
        stream = watched.stream(question, **generation)
        for piece in stream:
            if not as_json:
                output.text(piece, end="")
        if as_json:
            output.record(stream.answer.as_dict())
        else:
            output.text("")


def _read_questions(questions: list[str]) -> list[str]:
    if questions.count("-") > 1:
        raise UsageError("-: stdin holds one question only")
    try:
        read = [sys.stdin.read() if question == "-" else question for question in questions]
    except UnicodeDecodeError as error:
        raise UsageError(f"-: stdin is not text in {error.encoding}") from None
    # Bytes that are no UTF-8, a file's name perhaps: the tokenizer takes text only.
    texts = [text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for text in read]
    stripped = [text.strip() for text in texts]
    if not all(stripped):
        raise UsageError("a question is empty")
    return stripped
