"""Videos as they are written on a command line: paths, addresses to download, and `-` for stdin."""

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from crosslmm.errors import UsageError
from crosslmm.inference.downloads import download, is_address, label_of
from crosslmm.inference.feature_cache import FeatureCache
from crosslmm.inference.named_file import NamedFile, copy_file
from crosslmm.options import Sampling
from crosslmm_cli.output import Output


class VideoSources:
    """Makes files of them, which are there until this block ends."""

    def __init__(
        self,
        output: Output,
        sampling: Sampling,
        *,
        allow_network: bool,
        cache: FeatureCache | None,
        kept: Mapping[str, str] | None = None,
    ) -> None:
        """kept: files of addresses that were downloaded earlier, used where they are still there."""
        self._output, self._sampling = output, sampling
        self._allow_network, self._cache, self._kept = allow_network, cache, kept or {}
        self._opened = ExitStack()

    def __enter__(self) -> "VideoSources":
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def resolve(self, videos: Sequence[str], *, stdin: bool = False) -> list[str | NamedFile]:
        """stdin: whether `-` is one of them. Raises UsageError, VideoError."""
        if stdin and videos.count("-") > 1:
            raise UsageError("-: stdin holds one video only")
        return [
            self._download(video)
            if is_address(video)
            else self._read_stdin()
            if stdin and video == "-"
            else video
            for video in videos
        ]

    def _download(self, url: str) -> NamedFile:
        if (path := self._kept.get(url)) is not None and os.path.isfile(path):
            return NamedFile(path, url, label_of(url), stays=True)
        downloaded = self._opened.enter_context(
            download(
                url,
                self._sampling,
                allow_network=self._allow_network,
                cache=self._cache,
                on_progress=self._output.progress,
                on_notice=self._output.notice,
            )
        )
        self._output.finish_progress()
        return downloaded

    def _read_stdin(self) -> NamedFile:
        if sys.stdin.isatty():
            raise UsageError("-: reads a video from stdin, which is a terminal")
        folder = self._opened.enter_context(tempfile.TemporaryDirectory(prefix="crosslmm-"))
        path = Path(folder) / "video"
        with path.open("xb") as file:
            copy_file(sys.stdin.buffer, file, "stdin", self._sampling)
        return NamedFile(str(path), "-")
