"""The last dialogue, kept so that `ask --continue` and `chat --continue` go on with it, in a file of the
user alone."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosslmm.checkpoints.settings import home
from crosslmm.errors import UsageError, first_line
from crosslmm.files import atomic_file, open_regular, parse_json
from crosslmm.inference.downloads import is_address
from crosslmm.inference.named_file import NamedFile
from crosslmm.limits import MAX_TEXT_BYTES
from crosslmm.options import Sampling
from crosslmm_cli.amounts import counted
from crosslmm_cli.commands import Command
from crosslmm_cli.flags import flags_of
from crosslmm_cli.output import Output, one_line

if TYPE_CHECKING:
    from crosslmm.processing_crosslmm import Message

# How the video was opened: what is given again takes the place of what belongs together with it.
_TOGETHER = (
    {"frames", "fps", "fit", "frames_at"},
    {"start", "end"},
    {"tokens_per_frame", "merge", "keep"},
)
# What chooses frames in place of those that were named.
_CHOOSING = _TOGETHER[0] | _TOGETHER[1] | {"sampler"}
_KEPT = {"frames", "fps", "tokens_per_frame", "merge", "keep"} | {
    *("max_frames", "sampler", "static_threshold", "start", "end", "reader", "seek"),
    *("max_pixels", "file_timeout"),
    *("model", "quantize", "feature_bits", "device", "dtype", "system"),
}
# In a command's context: options as written, the dialogue, and what was added of it.
_GIVEN, _LAST, _SHOWN = "crosslmm.given", "crosslmm.last", "crosslmm.shown"
_STDIN = "-"


@dataclass(frozen=True)
class LastDialogue:
    """- video: its absolute path, its address, or - for stdin; others: of those that the questions are
      about, too; kept: by address, the file that it was downloaded to, where that stayed.
    - options: by parameter, as they were written; at: what `--frames-at` named.
    - messages: the turns.
    """

    video: str
    options: dict[str, str]
    messages: list["Message"]
    at: list[float | str] | None = None
    others: Sequence[str] = ()
    kept: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls) -> "LastDialogue":
        """Raises UsageError where there is none, and of a video that nobody has any more."""
        path = _file()
        try:
            with open_regular(path, os.O_RDONLY, own=True) as file:
                data = file.read(MAX_TEXT_BYTES + 1)
            dialogue = cls(**parse_json(data))
            dialogue._check()
        except FileNotFoundError:
            raise UsageError(
                "--continue: there is no dialogue yet; start one with crosslmm ask VIDEO QUESTION"
            ) from None
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}; delete it") from None
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise UsageError(f"{path}: not a dialogue ({first_line(error)}); delete it") from None
        if _STDIN in dialogue.videos:
            raise UsageError(
                "--continue: the last dialogue is about a video from stdin, which was not kept; give "
                "the path of a file"
            )
        return dialogue

    @property
    def videos(self) -> list[str]:
        return [self.video, *self.others]

    def _check(self) -> None:
        roles = ("user", "assistant") * (len(self.messages) // 2)
        texts = [*self.options, *self.options.values(), *self.videos]
        texts += [*self.kept, *self.kept.values()]
        texts += [message["content"] for message in self.messages]
        if not all(isinstance(text, str) for text in texts) or not set(self.options) <= _KEPT:
            raise ValueError("unknown options")
        if roles != tuple(message["role"] for message in self.messages):
            raise ValueError("unknown turns")
        for message in self.messages:
            message["content"].encode()  # half a surrogate pair is no text for a tokenizer
        # Another name might be taken for a flag.
        for video in self.videos:
            if not (os.path.isabs(video) or is_address(video) or video == _STDIN):
                raise ValueError("unknown video")
        if not isinstance(self.at, list | None) or not isinstance(self.others, list | tuple):
            raise TypeError("unknown frames or videos")
        if not all(isinstance(frame, str | int | float) for frame in self.at or ()):
            raise ValueError("unknown frames")

    def write(self) -> None:
        """A folder that cannot be written to is no reason to fail an answer."""
        record = asdict(self)
        while len(data := json.dumps(record).encode()) > MAX_TEXT_BYTES and record["messages"]:
            del record["messages"][:2]
        path = _file()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path, mode=0o600, sync=False) as file:
                file.write(data)
        except OSError:
            pass


class DialogueCommand(Command):
    """A command about a video, which `--continue` opens as it was opened last."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = self._written(ctx, args)
        # Help, and a shell that completes a line, need no dialogue.
        if "continued" in given and "help" not in given and not ctx.resilient_parsing:
            last = LastDialogue.read()
            first = next(iter(given.get("videos") or ()), given.get("video"))
            # With --question every argument is a video.
            is_video = "videos" in given or "question" in given or os.path.isfile(first or "")
            if first is not None and is_video:
                raise UsageError(
                    f"--continue goes on with {', '.join(last.videos)}; leave out either --continue or "
                    f"{first}"
                )
            dropped = {name for names in _TOGETHER if names & given.keys() for name in names}
            flags = flags_of(self)
            missing = [name for name in last.options if name not in given.keys() | dropped]
            kept = [f"{flags[name]}={last.options[name]}" for name in missing]
            ctx.meta[_SHOWN] = kept
            ctx.meta[_LAST] = replace(last, at=None if _CHOOSING & given.keys() else last.at)
            others = last.others if "videos" in given else ()  # `ask` adds them itself
            args = [*kept, last.video, *others, *args]
            given = self._written(ctx, args)
        options = {name: str(value) for name, value in given.items() if name in _KEPT}
        if os.path.exists(options.get("model", "")):
            options["model"] = os.path.abspath(options["model"])
        ctx.meta[_GIVEN] = options
        return super().parse_args(ctx, args)

    def _written(self, ctx: Any, args: list[str]) -> dict[str, Any]:
        """The options by parameter, before anything is made of them. Raises what parsing raises."""
        return dict(self.make_parser(ctx).parse_args(list(args))[0])


def continued(ctx: Any, output: Output) -> LastDialogue | None:
    """The dialogue that `--continue` goes on with, after saying which and how; None without it."""
    last: LastDialogue | None = ctx.meta.get(_LAST)
    if last is not None:
        asked = len(last.messages) // 2
        questions = counted(asked, "question")
        shown = [f"going on after {questions} with", *last.videos, *ctx.meta[_SHOWN]]
        output.notice(one_line(" ".join(shown)))
    return last


def remember(
    ctx: Any,
    videos: Sequence[str | os.PathLike[str]],
    messages: Sequence["Message"],
    sampling: Sampling,
) -> None:
    """Keep a dialogue about videos that were opened with the options of this command, which came to this
    `sampling`."""
    options, at = dict(ctx.meta[_GIVEN]), sampling.at
    if sampling.frames is not None:  # as many as fitted into memory, too
        options["frames"] = str(sampling.frames)
    if at is not None:
        options = {name: value for name, value in options.items() if name not in _CHOOSING}
    given = [each for each in videos if isinstance(each, NamedFile)]
    video, *others = [
        each.name if isinstance(each, NamedFile) else os.path.abspath(each) for each in videos
    ]
    kept = {each.name: each.path for each in given if each.stays}
    LastDialogue(video, options, [*messages], None if at is None else [*at], others, kept).write()


def _file() -> Path:
    return home() / "last_dialogue.json"
