"""`crosslmm chat`: a dialogue about a video."""

from typing import Annotated, Any

import typer

from crosslmm.checkpoints import catalog, settings
from crosslmm.limits import FILE_TIMEOUT, MAX_PIXELS
from crosslmm.options import MAX_NEW_TOKENS, GenerationKeywords, Sampling, check_generation
from crosslmm_cli import last_dialogue, options
from crosslmm_cli.dialogue import HELP, Dialogue
from crosslmm_cli.inputs import check_video
from crosslmm_cli.line_editor import is_typed, read_lines
from crosslmm_cli.loading import decode_ahead, load_assistant, open_cache, open_session
from crosslmm_cli.merging import choose_merging
from crosslmm_cli.output import Output

COMMAND = last_dialogue.DialogueCommand


def chat(
    ctx: typer.Context,
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="A video or an image.")],
    model: options.ModelOption = None,
    continued: options.ContinueOption = False,
    frames: options.FramesOption = None,
    fps: options.FpsOption = None,
    max_frames: options.MaxFramesOption = None,
    sampler: options.SamplerOption = "uniform",
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
    max_new_tokens: options.MaxNewTokensOption = MAX_NEW_TOKENS,
    temperature: options.TemperatureOption = 0.0,
    seed: options.SeedOption = None,
    no_cache: options.NoCacheOption = False,
    cache_size: options.CacheSizeOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    no_progress: options.NoProgressOption = False,
) -> None:
    """Talk about a video or an image.

    Each question sees those before; /help lists commands. In a terminal Alt+Enter begins a new line,
    and Ctrl-C stops an answer. Questions can also be piped in, one per line.
    """
    output = Output(as_json=as_json, quiet=quiet, progress=not no_progress)
    generation = GenerationKeywords(
        max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
    )
    check_generation(**generation)
    merging = choose_merging(
        output, model, tokens_per_frame=tokens_per_frame, merge=merge, keep=keep
    )
    last = last_dialogue.continued(ctx, output)
    sampling = Sampling(
        frames=frames,
        fps=fps,
        max_frames=max_frames,
        at=last.at if last else None,
        sampler=sampler,
        start=start,
        end=end,
        reader=reader,
        seek=seek,
        file_timeout=file_timeout,
        max_pixels=max_pixels,
    )
    cache = open_cache(no_cache=no_cache, cache_size=cache_size)
    check_video(video, sampling)
    origin = catalog.default_model(model).origin
    with decode_ahead(video, sampling, model, cache) as first:
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
            stream=first,
            cache=cache,
        )

        def open_video(path: str) -> Any:
            return open_session(
                output,
                assistant,
                path,
                sampling,
                origin=origin,
                stream=first if path == video else None,
            )

        lines = read_lines(HELP, history=settings.home() / "chat_history")
        dialogue = Dialogue(
            output,
            open_video,
            video,
            generation,
            typed=is_typed(),
            messages=last.messages if last else (),
            remember=lambda path, messages: last_dialogue.remember(ctx, path, messages, sampling),
        )
        failed = dialogue.run(lines)
    if failed and not is_typed():
        raise typer.Exit(failed)
