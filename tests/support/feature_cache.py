"""A cache of encoded videos, and who asks it."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from crosslmm.inference.answer import Answer
from crosslmm.inference.assistant import Assistant
from crosslmm.inference.cached_video import CachedVideo
from crosslmm.inference.feature_cache import FeatureCache
from crosslmm.merging import TokenBudget
from crosslmm.options import Sampling

FRAMES = Sampling(frames=3)


EXPECTED: dict[tuple[str, bytes, str], str] = {}


class Home:
    """A cache, and an assistant that opens it again for every question, as another process would."""

    def __init__(self, assistant: Assistant, folder: Path) -> None:
        self.assistant, self.folder, self.notices = assistant, folder, list[str]()
        self.locks = ExitStack()
        self.features = folder / "features"
        assistant.on_notice = self.notices.append

    def cache(self) -> FeatureCache:
        return FeatureCache(self.folder, least_seconds=0)

    def ask(self, video: Path, *, cached: bool = True, **options: Any) -> Answer:
        self.notices.clear()
        self.assistant.runtime.cache = self.cache() if cached else None
        options = {"frames": 3, "max_new_tokens": 4} | options
        return self.assistant.ask(video, "what?", **options)

    def check(self, video: Path, *, from_cache: bool, **options: Any) -> None:
        """The answer is the one without a cache, and comes from where it should."""
        answer = self.ask(video, **options)
        assert answer.text == self.expected(video, **options)
        assert answer.from_cache == from_cache

    def expected(self, video: Path, **options: Any) -> str:
        """The answer without a cache."""
        runtime = self.assistant.runtime
        model = runtime.checkpoint_state + runtime.settings["dtype"]
        key = (model, video.read_bytes(), repr(options))
        if key not in EXPECTED:
            EXPECTED[key] = self.ask(video, cached=False, **options).text
        return EXPECTED[key]

    def entries(self) -> list[Path]:
        return sorted(self.features.glob("*.safetensors"))

    def kept(self, video: Path) -> CachedVideo:
        assert self.assistant.runtime.cache is None
        return CachedVideo(self.assistant.runtime, self.cache(), video, FRAMES, TokenBudget(4))


MERGED = {"merge": "folder", "keep": "50%"}
