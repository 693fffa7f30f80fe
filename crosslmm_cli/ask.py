"""`crosslmm ask`: questions about a video, answered as they are generated."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from crosslmm.checkpoints import catalog
from crosslmm.errors import UsageError
from crosslmm.evidence import check_evidence_path
from crosslmm.limits import FILE_TIMEOUT, MAX_PIXELS
from crosslmm.options import (
    MAX_NEW_TOKENS,
    Sampling,
    check_zoom,
)
from crosslmm_cli import last_dialogue, options
from crosslmm_cli.answering import show_looked_again, write_answer
from crosslmm_cli.evidence import save_evidence
from crosslmm_cli.frame_list import read_frame_list
from crosslmm_cli.inputs import check_video, read_generation, read_questions, split_arguments
from crosslmm_cli.loading import decode_ahead, load_assistant, open_cache, open_session
from crosslmm_cli.merging import NONE, choose_merging
from crosslmm_cli.output import Output
from crosslmm_cli.video_sources import VideoSources

COMMAND = last_dialogue.DialogueCommand
MAX: Literal["max"] = "max"


def frames_or_max(given: str) -> int | Literal["max"]:
    if given.strip() == MAX:
        return MAX
    try:
        count = int(given)
    except ValueError:
        raise typer.BadParameter(f"{given!r} is not a whole number, nor max") from None
    if count < 1:
        raise typer.BadParameter("must be at least 1")
    return count


def ask(
    ctx: typer.Context,
    video: Annotated[
        str, typer.Argument(metavar="VIDEO", help="A video or an image; - reads it from stdin.")
    ],
    questions: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="QUESTION",
            help="One or more; - reads one from stdin. With --question, more videos.",
        ),
    ] = None,
    model: options.ModelOption = None,
    continued: options.ContinueOption = False,
    frames: Annotated[
        Any,
        typer.Option(
            "--frames",
            "-n",
            parser=frames_or_max,
            metavar="N|max",
            help="Number of frames, evenly spaced in time; max: as many as fit.",
        ),
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option(
            "--fit",
            metavar="SIZE",
            help="Use as many frames as fit in this much memory, weights included: 8GB.",
        ),
    ] = None,
    fps: options.FpsOption = None,
    max_frames: options.MaxFramesOption = None,
    frames_at: options.FramesAtOption = None,
    sampler: options.SamplerOption = "uniform",
    static_threshold: options.StaticThresholdOption = 0.0,
    start: options.StartOption = None,
    end: options.EndOption = None,
    reader: options.ReaderOption = "auto",
    seek: options.SeekOption = "auto",
    max_pixels: options.MaxPixelsOption = MAX_PIXELS,
    file_timeout: options.FileTimeoutOption = FILE_TIMEOUT,
    tokens_per_frame: options.TokensPerFrameOption = None,
    merge: options.MergeOption = None,
    keep: options.KeepOption = None,
    quantize: options.QuantizeOption = "auto",
    feature_bits: options.FeatureBitsOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = "auto",
    question: Annotated[
        list[str] | None,
        typer.Option(
            "--question",
            "-Q",
            metavar="TEXT",
            help="A question, repeatable: all arguments are then videos that it is about.",
        ),
    ] = None,
    max_new_tokens: options.MaxNewTokensOption = MAX_NEW_TOKENS,
    temperature: options.TemperatureOption = 0.0,
    top_p: options.TopPOption = None,
    seed: options.SeedOption = None,
    stop: options.StopOption = None,
    system: options.SystemOption = None,
    schema: options.SchemaOption = None,
    no_cache: options.NoCacheOption = False,
    cache_size: options.CacheSizeOption = None,
    allow_network: options.AllowNetworkOption = False,
    evidence: Annotated[
        Path | None,
        typer.Option(
            "--evidence",
            metavar="FILE",
            help="Write the moments and places that the answer was read from (.html, .png or .json).",
        ),
    ] = None,
    zoom: Annotated[
        bool,
        typer.Option(
            "--zoom",
            help="Skim four times the frames at one token each, and answer from where the question "
            "points to; no more tokens in all.",
        ),
    ] = False,
    when: Annotated[
        bool,
        typer.Option(
            "--when",
            help="After the answer, print the seconds in which what it is about is seen.",
        ),
    ] = False,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    no_progress: options.NoProgressOption = False,
) -> None:
    """Ask questions about a video or an image.

    The answer is streamed to stdout; progress and notices go to stderr. The video is decoded and
    encoded once for all questions, and kept for later ones in a cache on disk. With --continue the
    last video is asked on, and what was said before is part of the question. With --question several
    videos are asked about together; they share --frames.
    """
    output = Output(as_json=as_json, quiet=quiet, progress=not no_progress)
    generation = read_generation(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop=stop,
        schema=schema,
    )
    last = last_dialogue.continued(ctx, output)
    videos, questions = split_arguments(video, questions or [], question or [])
    videos += last.others if last else ()
    at = read_frame_list(frames_at, videos, questions) or (last.at if last else None)
    questions = read_questions(questions)
    if evidence is not None:
        check_evidence_path(evidence, videos)
        if len(questions) > 1:
            raise UsageError("--evidence takes one question: its file is about one answer")
    if fit is not None and (frames is not None or fps is not None):
        raise UsageError("--fit finds the number of frames: it excludes --frames and --fps")
    if zoom and when:
        raise UsageError(
            "--when and --zoom exclude each other: spans need frames all over the video"
        )
    if zoom and continued:
        raise UsageError(
            "--zoom looks again for each question, and --continue goes on with one look"
        )
    if zoom and (fit is not None or frames == MAX):
        raise UsageError("--zoom stays within the tokens of --frames: give a number")
    if zoom and (merge not in (None, NONE) or keep is not None):
        raise UsageError("--zoom and --merge exclude each other: a skim has one token per frame")
    merging = choose_merging(
        output, model, tokens_per_frame=tokens_per_frame, merge=NONE if zoom else merge, keep=keep
    )
    fills_memory = fit is not None or frames == MAX
    memory = options.memory_size("--fit", fit) if fit is not None else None
    sampling = Sampling(
        frames=None if frames == MAX else frames,
        fps=fps,
        max_frames=max_frames,
        at=at,
        sampler=sampler,
        static_threshold=static_threshold,
        start=start,
        end=end,
        reader=reader,
        seek=seek,
        file_timeout=file_timeout,
        max_pixels=max_pixels,
    )
    if zoom:
        check_zoom(sampling)
    cache = open_cache(no_cache=no_cache, cache_size=cache_size)
    sampling.shares(len(videos))  # raises where they do not divide
    sources = ctx.with_resource(
        VideoSources(
            output,
            sampling,
            allow_network=allow_network,
            cache=cache,
            kept=last.kept if last else None,
        )
    )
    files = sources.resolve(videos, stdin=True)
    for file in files:
        check_video(file, sampling, questions)

    # How many frames these take, the loaded model says.
    ahead: AbstractContextManager[Any] = nullcontext([])
    if not fills_memory and not zoom:
        ahead = decode_ahead(files, sampling, model, cache)
    with ahead as streams:
        assistant = load_assistant(
            output,
            model=model,
            device=device,
            dtype=dtype,
            quantize=quantize,
            feature_bits=feature_bits,
            **merging,
            frames=sampling.most_frames,
            announce=False,
            streams=streams,
            questions=questions,
            cache=cache,
        )
        if fills_memory:
            sampling = replace(sampling, frames=assistant.most_frames(memory))
        origin = catalog.default_model(model).origin
        session = open_session(
            output,
            assistant,
            files,
            sampling,
            origin=origin,
            zoom=zoom,
            system=system,
            streams=streams,
            questions=questions,
        )

    chat = None if last is None else session.chat(last.messages)
    for number, asked in enumerate(questions):
        if len(questions) > 1 and output.on_terminal and not as_json:
            output.notice(f"{chr(10) if number else ''}> {asked}")
        response = (chat or session).stream(asked, **generation)
        find = session.evidence if when else None
        write_answer(output, response, find_evidence=find)
        if zoom:
            show_looked_again(output, response.answer)
        turn: Any = [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": response.answer.text},
        ]
        read = sampling
        if zoom and len(files) == 1:
            read = sampling.naming([f"#{frame.index}" for frame in response.answer.frames])
        last_dialogue.remember(ctx, files, chat.messages if chat else turn, read)
        if evidence is not None:
            save_evidence(output, session, response.answer, evidence)
