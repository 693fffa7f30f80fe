"""`crosslmm chat`: a dialogue about a video."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from crosslmm.checkpoints import catalog, settings
from crosslmm.limits import FILE_TIMEOUT, MAX_PIXELS
from crosslmm.options import MAX_NEW_TOKENS, Sampling
from crosslmm_cli import last_dialogue, options
from crosslmm_cli.dialogue import HELP, Dialogue
from crosslmm_cli.inputs import check_video, read_generation
from crosslmm_cli.line_editor import is_typed, read_lines
from crosslmm_cli.loading import decode_ahead, load_assistant, open_cache, open_session
from crosslmm_cli.merging import choose_merging
from crosslmm_cli.output import Output
from crosslmm_cli.video_sources import VideoSources

COMMAND = last_dialogue.DialogueCommand


def chat(
    ctx: typer.Context,
    videos: Annotated[
        list[str], typer.Argument(metavar="VIDEO", help="A video or an image, or several.")
    ],
    model: options.ModelOption = None,
    continued: options.ContinueOption = False,
    frames: options.FramesOption = None,
    fps: options.FpsOption = None,
    max_frames: options.MaxFramesOption = None,
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
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    no_progress: options.NoProgressOption = False,
) -> None:
    """Talk about a video or an image, or about several.

    Each question sees those before; /help lists commands. In a terminal Alt+Enter begins a new line,
    and Ctrl-C stops an answer. Questions can also be piped in, one per line.
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
        static_threshold=static_threshold,
        start=start,
        end=end,
        reader=reader,
        seek=seek,
        file_timeout=file_timeout,
        max_pixels=max_pixels,
    )
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
    files = {tuple(videos): sources.resolve(videos)}
    for file in files[tuple(videos)]:
        check_video(file, sampling)
    origin = catalog.default_model(model).origin
    with decode_ahead(files[tuple(videos)], sampling, model, cache) as first:
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
            streams=first,
            cache=cache,
        )

        def open_videos(paths: Sequence[str]) -> Any:
            named = tuple(paths)
            streams = first if paths == videos else ()
            opened = files[named] = files.get(named) or sources.resolve(paths)
            return open_session(
                output,
                assistant,
                opened,
                sampling,
                origin=origin,
                system=system,
                streams=streams,
            )

        def remember(paths: Sequence[str], messages: Sequence[Any]) -> None:
            last_dialogue.remember(ctx, files[tuple(paths)], messages, sampling)

        lines = read_lines(HELP, history=settings.home() / "chat_history")
        dialogue = Dialogue(
            output,
            open_videos,
            videos,
            generation,
            typed=is_typed(),
            messages=last.messages if last else (),
            remember=remember,
        )
        failed = dialogue.run(lines)
    if failed and not is_typed():
        raise typer.Exit(failed)
