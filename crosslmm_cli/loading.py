"""Choosing and loading the model, the same for every command that runs one."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from crosslmm.checkpoints import catalog
from crosslmm.checkpoints.frame_settings import read_frame_settings
from crosslmm.errors import CheckpointError, UnfamiliarFootage, UsageError, VideoError
from crosslmm.inference.feature_cache import FeatureCache
from crosslmm.inference.named_file import NamedFile
from crosslmm.merging import check_tokens_per_frame
from crosslmm.options import Sampling, check_device, check_feature_bits
from crosslmm_cli import options
from crosslmm_cli.merging import recommend_for
from crosslmm_cli.output import Output, one_line

if TYPE_CHECKING:
    from crosslmm.video import FrameStream
_LIMITS = (
    "the built-in demo model knows synthetic shape clips only and cannot describe real footage; "
    "`crosslmm setup` downloads a model that can"
)


def load_assistant(
    output: Output,
    *,
    model: str | None,
    device: str | None,
    dtype: options.Dtype,
    quantize: options.Quantization,
    feature_bits: int | None = None,
    tokens_per_frame: int | None = None,
    merge: str | None = None,
    keep: str | int | None = None,
    frames: int | None = None,
    announce: bool = True,
    streams: "Sequence[FrameStream | None]" = (),
    questions: Iterable[str] = (),
    cache: FeatureCache | None = None,
) -> Any:
    """The chosen model, found before the heavy imports begin and loaded with its notices shown.

    `announce`: say so where nobody chose the built-in one. `streams`: of the videos to be asked about,
    which are opened, and an error in one raised, before the weights are read. `questions`: that will
    be asked, and are checked as early.
    """
    # With `merge` it need not be a square.
    square = None if merge else tokens_per_frame
    check_feature_bits(feature_bits)
    choice = check_model(model, device=device, tokens_per_frame=square)
    output.progress("load", 0, 0)
    from crosslmm.inference.assistant import load  # torch, which takes seconds

    for stream in streams:
        if stream is not None:
            stream.open()

    chosen = model_options(
        device=device, dtype=dtype, quantize=quantize, tokens_per_frame=tokens_per_frame
    )
    assistant = load(
        choice.name,
        merge=merge,
        keep=keep,
        frames=frames,
        feature_bits=feature_bits,
        questions=questions,
        cache=cache or False,
        on_notice=output.notice,
        **chosen,
    )
    output.progress("load", 1, 1)
    if announce and choice.origin == "built-in":
        output.notice(f"no model is chosen: {_LIMITS}")
    return assistant


def open_session(
    output: Output,
    assistant: Any,
    videos: Sequence[str | NamedFile],
    sampling: Sampling,
    *,
    origin: catalog.Origin,
    zoom: bool = False,
    system: str | None = None,
    streams: "Sequence[FrameStream | None]" = (),
    questions: Sequence[str] = (),
) -> Any:
    """The videos decoded, encoded and prefilled, with what there is to say of them.

    zoom: they are skimmed, to look again at what each question points to. The rest is as in
    `Assistant.open_videos`. Raises VideoError for footage that the built-in model cannot know where
    nobody chose it.
    """
    common: Any = {
        "allow_unfamiliar": origin != "built-in",
        "system": system,
        "on_progress": output.progress,
        "questions": questions,
    }
    try:
        if zoom:
            session = assistant.open_zoomed(videos, sampling, **common)
        else:
            session = assistant.open_videos(videos, sampling, streams=streams, **common)
    except UnfamiliarFootage:
        names = [video.name if isinstance(video, NamedFile) else video for video in videos]
        raise VideoError(demo_refusal(", ".join(names))) from None
    output.finish_progress()
    if origin == "built-in":  # of footage that it knows
        output.notice("answered by the built-in demo model, which knows synthetic shape clips only")
    source = ", from the cache" if session.from_cache else ""
    if len(videos) == 1:
        output.notice(f"{session.summary}{source}")
    else:
        for number, part in enumerate(session.videos, start=1):
            skimmed = "skimmed " if zoom else ""
            name = one_line(part.label or part.name)
            source = ", from the cache" if part.from_cache else ""
            output.notice(f"video {number}, {name}: {skimmed}{part.summary}{source}")
    if session.reused:
        output.notice(session.reused)
    if session.merged:
        output.notice(session.merged)
    if session.packed:
        output.notice(session.packed)
    recommend_for(output, assistant.name, session)
    for warning in session.warnings:
        output.notice(f"warning: {warning}")
    return session


def check_model(
    model: str | None, *, device: str | None, tokens_per_frame: int | None
) -> catalog.Choice:
    """The chosen model, on disk and with options it can have; without torch, so at once."""
    if device is not None:
        check_device(device)
    if tokens_per_frame is not None:
        check_tokens_per_frame(tokens_per_frame, error=UsageError)
    choice = catalog.default_model(model)
    folder = catalog.resolve_model(choice.name).folder
    config = catalog.read_config(folder)
    if tokens_per_frame is not None:
        trained = catalog.default_tokens(folder)
        check_tokens_per_frame(
            tokens_per_frame, _patches(config), trained=trained, error=UsageError
        )
    return choice


@contextmanager
def decode_ahead(
    videos: Sequence[str | NamedFile],
    sampling: Sampling,
    model: str | None,
    cache: FeatureCache | None,
) -> Iterator["list[FrameStream | None]"]:
    """The frames of `videos` as the model takes them, decoding while torch is imported and the model is
    loaded; none where only the loaded model knows how it takes them, and None for those that are in the
    cache."""
    from crosslmm.video.frame_folder import is_frame_folder
    from crosslmm.video.stream import FrameStream  # NumPy and FFmpeg, which help does not need

    folder = catalog.resolve_model(catalog.default_model(model).name).folder
    try:
        settings = read_frame_settings(folder)
    except (CheckpointError, OSError, ValueError):
        yield []
        return
    shares = sampling.or_frames(settings.default_frames).shares(len(videos))
    with ExitStack() as opened:
        streams: list[FrameStream | None] = []
        paths = [os.fspath(video) for video in videos]
        for video, share in zip(paths, shares, strict=True):
            kept = cache is not None and cache.may_hold(video, share)
            if kept or is_frame_folder(video):
                streams.append(None)
                continue
            stream = FrameStream(video, share, size=settings.size, resample=settings.resample)
            streams.append(opened.enter_context(stream))
            stream.start()
        yield streams


def open_cache(*, no_cache: bool, cache_size: str | None) -> FeatureCache | None:
    """The cache of encoded videos as the flags want it. Raises UsageError."""
    if no_cache:
        if cache_size is not None:
            raise UsageError("--cache-size and --no-cache exclude each other: give one of them")
        return None
    if cache_size is None:
        return FeatureCache()
    return FeatureCache(size=options.memory_size("--cache-size", cache_size))


def _patches(config: Mapping[str, Any]) -> int | None:
    """Patches per frame by a checkpoint's configuration, where it says so."""
    vision = config.get("vision_config")
    if not isinstance(vision, dict):
        return None
    image, patch = vision.get("image_size"), vision.get("patch_size")
    if not (isinstance(image, int) and isinstance(patch, int) and patch > 0):
        return None
    return (image // patch) ** 2


def model_options(
    *,
    device: str | None,
    dtype: options.Dtype,
    quantize: options.Quantization,
    tokens_per_frame: int | None,
) -> dict[str, Any]:
    """The flags about the model as `crosslmm.load` takes them."""
    return {
        "device": device,
        "dtype": None if dtype == "auto" else dtype,
        "quantization": quantize,
        "tokens_per_frame": tokens_per_frame,
    }


def demo_refusal(subject: str) -> str:
    """Why the built-in model is not used for `subject` where nobody chose it, and what to do."""
    return f"{subject}: {_LIMITS}, --model demo uses the built-in one all the same"
