"""Several videos as one: visual tokens laid out one after another, frames that name their video."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from crosslmm.errors import UsageError
from crosslmm.inference.answer import FrameOfVideo
from crosslmm.inference.encoding import EncodedVideo
from crosslmm.merging import TokenBudget
from crosslmm.modeling_crosslmm import VisualTokens
from crosslmm.options import share
from crosslmm.ragged_tokens import RaggedTokens
from crosslmm.vision import FrameBuffer


def share_budget(budget: TokenBudget, videos: int) -> list[TokenBudget]:
    """That of each video: of a number of tokens for all, an equal part. Raises UsageError where that is
    none."""
    if not isinstance(budget.keep, int):
        return [budget] * videos
    if budget.keep < videos:
        raise UsageError(
            f"`keep` is for all videos together: {budget.keep} tokens are too few for {videos} videos"
        )
    return [replace(budget, keep=each) for each in share(budget.keep, videos)]


class VideoJoiner:
    """Takes videos that are encoded one by one, and makes one of them that shows them all.

    Features are copied as they come, so that no two copies of all of them are ever held.
    """

    def __init__(self, frames: int) -> None:
        """frames: of all videos, at most."""
        self._features = FrameBuffer(frames)
        self._has_features = False
        self._videos: list[EncodedVideo] = []  # without features

    @torch.inference_mode()
    def add(self, encoded: EncodedVideo) -> None:
        """encoded: with the one part that it is."""
        visual, (part,) = encoded.visual, encoded.parts
        if visual.features is not None:
            self._has_features = True
            self._features.add(visual.features[0])
        frames = tuple(FrameOfVideo(each.index, each.time, part.name) for each in encoded.frames)
        visual = replace(visual, features=None)
        self._videos.append(replace(encoded, visual=visual, frames=frames))

    @torch.inference_mode()
    def finish(self) -> EncodedVideo:
        videos = self._videos
        features = self._features.joined()[None] if self._has_features else None
        parts = [part for video in videos for part in video.parts]
        return EncodedVideo(
            visual=_join([video.visual for video in videos], features),
            frames=tuple(frame for video in videos for frame in video.frames),
            encoded=sum(video.encoded for video in videos),
            source=videos[0].source,
            warnings=tuple(
                f"{part.name}: {warning}"
                for part, video in zip(parts, videos, strict=True)
                for warning in video.warnings
            ),
            decode_seconds=sum(video.decode_seconds for video in videos),
            encode_seconds=sum(video.encode_seconds for video in videos),
            from_cache=all(video.from_cache for video in videos),
            parts=tuple(parts),
        )


def _join(
    videos: Sequence[VisualTokens | RaggedTokens], features: torch.Tensor | None
) -> VisualTokens | RaggedTokens:
    ragged = [video for video in videos if isinstance(video, RaggedTokens)]
    if ragged:
        return join_ragged(ragged, features)
    embeds = [video.embeds for video in videos if isinstance(video, VisualTokens)]
    return VisualTokens(torch.cat(embeds, dim=1), features)


def join_ragged(videos: Sequence[RaggedTokens], features: torch.Tensor | None) -> RaggedTokens:
    place, member = [], []
    places = tokens = 0  # of the videos so far
    for video in videos:
        assert video.member is not None
        place.append(video.place + places)
        member.append(video.member + tokens)
        places, tokens = places + len(video.member), tokens + video.longest
    return RaggedTokens(
        torch.cat([video.tokens for video in videos]),
        (tokens,),
        torch.cat([video.mass for video in videos]),
        torch.cat(place),
        (sum(video.frames[0] for video in videos),),
        videos[0].pooled,
        features,
        member=torch.cat(member),
    )
