"""`crosslmm ask`: questions about a video, answered as they are generated."""

from typing import Annotated, Any

import typer

from crosslmm.checkpoints import catalog
from crosslmm.errors import UnfamiliarFootage, VideoError
from crosslmm.limits import FILE_TIMEOUT, MAX_PIXELS
from crosslmm.options import Sampling
from crosslmm_cli import options
from crosslmm_cli.inputs import check_video, read_questions
from crosslmm_cli.loading import decode_ahead, demo_refusal, load_assistant
from crosslmm_cli.output import Output


def ask(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="A video or an image.")],
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
    max_pixels: options.MaxPixelsOption = MAX_PIXELS,
    file_timeout: options.FileTimeoutOption = FILE_TIMEOUT,
    tokens_per_frame: options.TokensPerFrameOption = None,
    quantize: options.QuantizeOption = "auto",
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = "auto",
    max_new_tokens: options.MaxNewTokensOption = None,
    temperature: options.TemperatureOption = 0.0,
    seed: options.SeedOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    no_progress: options.NoProgressOption = False,
) -> None:
    """Ask questions about a video or an image.

    The answer is streamed to stdout; progress and notices go to stderr. The video is decoded and
    encoded once for all questions.
    """
    output = Output(as_json=as_json, quiet=quiet, progress=not no_progress)
    questions = read_questions(questions)
    sampling = Sampling(
        frames=frames,
        fps=fps,
        max_frames=max_frames,
        start=start,
        end=end,
        reader=reader,
        seek=seek,
        file_timeout=file_timeout,
        max_pixels=max_pixels,
    )
    check_video(video, sampling, questions)

    with decode_ahead(video, sampling, model) as stream:
        assistant = load_assistant(
            output,
            model=model,
            device=device,
            dtype=dtype,
            quantize=quantize,
            tokens_per_frame=tokens_per_frame,
            frames=sampling.most_frames,
            announce=False,
            stream=stream,
        )
        origin = catalog.default_model(model).origin
        try:
            session = assistant.open_video(
                video,
                sampling,
                allow_unfamiliar=origin != "built-in",
                on_progress=output.progress,
                stream=stream,
                questions=questions,
            )
        except UnfamiliarFootage:
            raise VideoError(demo_refusal(video)) from None
    output.finish_progress()
    if origin == "built-in":  # of footage that it knows
        output.notice("answered by the built-in demo model, which knows synthetic shape clips only")
    output.notice(session.summary)
    for warning in session.warnings:
        output.notice(f"warning: {warning}")

    generation: dict[str, Any] = {"temperature": temperature, "seed": seed}
    if max_new_tokens is not None:
        generation["max_new_tokens"] = max_new_tokens
    for number, question in enumerate(questions):
        if len(questions) > 1 and output.on_terminal and not as_json:
            output.notice(f"{chr(10) if number else ''}> {question}")
        stream = session.stream(question, **generation)
        for piece in stream:
            if not as_json:
                output.text(piece, end="")
        if as_json:
            output.record(stream.answer.as_dict())
        else:
            output.text("")
