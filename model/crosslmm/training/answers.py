"""A teacher's answers about videos without labels: asked once for each video, and kept.

Each process of a run appends its share to a file of its own, a line as soon as it is there, so that an
interrupted run asks for nothing twice. A video that cannot be read has a line too: it is a sample that
is skipped, as in the other stages.
"""

import json
import os
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from crosslmm.captioning.sources import explain_linked, find, looks_like_video
from crosslmm.errors import UsageError, VideoError
from crosslmm.files import atomic_write, open_regular, parse_json, read_lines
from crosslmm.inference.batch import BatchAnswer, answer_batch
from crosslmm.inference.runtime import Runtime
from crosslmm.training.dataset import Skipped, VideoDataset
from crosslmm.training.processes import count_workers, join_processes
from crosslmm.training.records import Form, Sample, Turn, form_of
from crosslmm.training.trainer import append_lines
from crosslmm.video import Frames

_TOGETHER = 16  # batches between which processes wait for each other, so that none is given up


@dataclass(frozen=True)
class AnswerProgress:
    """How many of the teacher's answers are there, over all processes; once all are, how many of them
    were `cut` at the most tokens that an answer may have."""

    done: int
    total: int
    cut: int = 0


@dataclass(frozen=True)
class VideoPrompt:
    """What is asked about a video. `answer` or, where there is none, the `problem`; neither before the
    teacher was asked. A `cut` answer breaks off."""

    video: Path
    prompt: str
    answer: str | None = None
    problem: str | None = None
    cut: bool = False

    @property
    def key(self) -> tuple[str, str]:
        return str(self.video), self.prompt


class AnsweredVideos:
    """Samples from the videos at `path`, a file or a folder, each with some of the prompts.

    `notes` are for the user. Raises UsageError where there is no video. Which prompts a video gets
    follows from its name and `seed`.
    """

    def __init__(
        self, path: str | Path, prompts: Sequence[str], *, per_video: int, seed: int
    ) -> None:
        if not Path(path).exists():
            raise UsageError(f"{path}: no such file or folder")
        linked: list[str] = []
        search = find([path], on_linked=linked.append)
        found = [source for source in search if looks_like_video(source.path)]
        self.notes = (explain_linked(linked),) if linked else ()
        if not found:
            raise UsageError("; ".join([f"{path}: holds no video", *self.notes]))
        self.items: list[VideoPrompt] = []
        for source in found:
            # The same each time, and no secret.
            chance = random.Random(f"{seed} {source.relative}")  # noqa: S311  no secret
            for prompt in chance.sample(prompts, min(per_video, len(prompts))):
                self.items.append(VideoPrompt(Path(source.path), prompt))
        self.forms: set[Form] = {form_of(_turns(self.items[0]))}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample | Skipped:
        item = self.items[index]
        origin = f"{item.video}, {item.prompt!r}"
        if item.problem is not None:
            return Skipped(origin, item.problem)
        return Sample(_turns(item), (item.video,), origin)

    def take(self, answers: dict[tuple[str, str], VideoPrompt]) -> None:
        """Take over what is known of their items."""
        self.items = [answers.get(item.key, item) for item in self.items]

    def unanswered(self) -> list[VideoPrompt]:
        return [item for item in self.items if item.answer is None and item.problem is None]


def _turns(item: VideoPrompt) -> tuple[Turn, Turn]:
    answer = Turn("assistant", item.answer or "", cut=item.cut)
    return Turn("user", item.prompt, shows=True), answer


class _Clips(Dataset[tuple[VideoPrompt, Frames | str]]):
    """The frames of each item, or why there are none."""

    def __init__(self, items: Sequence[VideoPrompt], dataset: VideoDataset) -> None:
        self.items = items
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[VideoPrompt, Frames | str]:
        item = self.items[index]
        try:
            (clip,) = self.dataset.sample_media(Sample((), (item.video,), ""))
        except VideoError as error:
            return item, str(error)
        return item, clip


def answer_videos(
    samples: Sequence[AnsweredVideos],
    *,
    dataset: VideoDataset,
    runtime: Runtime,
    max_new_tokens: int,
    folder: Path,
    report: Callable[[AnswerProgress], None] | None = None,
) -> None:
    """Ask the teacher in `runtime` for the answers that are not in `folder` yet, and complete `samples`.
    What was a problem in an earlier session may be none by now.

    dataset: samples the frames. Called on every process; each asks for its share. Raises VideoError
    when there are more problems than the recipe allows.
    """
    state = join_processes()
    _complete(samples, {key: item for key, item in _known(folder).items() if item.problem is None})
    total = sum(map(len, samples))
    todo = list(dict.fromkeys(item for part in samples for item in part.unanswered()))
    state.wait_for_everyone()  # all have read, so that files can be written
    size = dataset.recipe.device_batch_size
    mine = todo[state.process_index :: state.num_processes]
    batches = iter(
        DataLoader(
            _Clips(mine, dataset),
            batch_size=size,
            num_workers=count_workers(dataset.recipe.workers) if mine else 0,
            collate_fn=list,
        )
    )
    path = folder / f"answers-{state.process_index}.jsonl"
    if mine:
        # Without problems, and without a line that a kill cut off.
        known = [item for item in read_answers(path).values() if item.problem is None]
        atomic_write(path, "".join(f"{json.dumps(_entry(item))}\n" for item in known).encode())
    problems: list[str] = []
    shares = range(0, -(-len(todo) // state.num_processes), size)
    for number in range(len(shares)):
        if number % _TOGETHER == 0:
            state.wait_for_everyone()
        batch: list[tuple[VideoPrompt, Frames | str]] = next(batches, [])
        answered = _ask(runtime, batch, max_new_tokens)
        append_lines(path, map(_entry, answered))
        problems += [_explain(item) for item in answered if item.problem]
        if len(problems) > dataset.recipe.max_skipped * total:
            raise VideoError(
                f"{len(problems)} of {total} prompts have no answer, more than max_skipped "
                f"{dataset.recipe.max_skipped:g} allows; the first: {problems[0]}"
            )
        if report is not None and state.is_main_process:
            done = min((number + 1) * size * state.num_processes, len(todo))
            report(AnswerProgress(total - len(todo) + done, total))
    state.wait_for_everyone()
    _complete(samples, _known(folder))
    if report is not None and state.is_main_process:
        report(
            AnswerProgress(total, total, sum(item.cut for part in samples for item in part.items))
        )
    if any(part.unanswered() for part in samples):
        raise UsageError(
            f"{folder}: the answers that other processes asked for are not here; `out` must be a folder "
            "that all of them share"
        )


def _ask(
    runtime: Runtime, batch: Sequence[tuple[VideoPrompt, Frames | str]], max_new_tokens: int
) -> list[VideoPrompt]:
    unread = [replace(item, problem=clip) for item, clip in batch if isinstance(clip, str)]
    shown = [(item, clip) for item, clip in batch if not isinstance(clip, str)]
    if not shown:
        return unread
    try:
        answers = answer_batch(
            runtime,
            [clip for _, clip in shown],
            [item.prompt for item, _ in shown],
            max_new_tokens=max_new_tokens,
        ).answers
    except UsageError as error:  # a video that does not fit into the model's context
        if len(shown) == 1:
            return [*unread, replace(shown[0][0], problem=str(error))]
        return unread + [item for pair in shown for item in _ask(runtime, [pair], max_new_tokens)]
    return unread + [
        _answered(item, answer) for (item, _), answer in zip(shown, answers, strict=True)
    ]


def _explain(item: VideoPrompt) -> str:
    video, problem = str(item.video), str(item.problem)
    return problem if problem.startswith(video) else f"{video}: {problem}"


def _answered(item: VideoPrompt, answer: BatchAnswer) -> VideoPrompt:
    if answer.problem is not None:
        return replace(item, problem=str(answer.problem))
    if not answer.text:
        return replace(item, problem="the teacher gave no answer")
    return replace(item, answer=answer.text, cut=answer.finish == "length")


def _known(folder: Path) -> dict[tuple[str, str], VideoPrompt]:
    """What all processes of all sessions have asked so far; an answer counts more than a problem that
    another process had before."""
    known: dict[tuple[str, str], VideoPrompt] = {}
    for path in sorted(folder.glob("answers-*.jsonl")):
        for key, item in read_answers(path).items():
            if item.problem is None or key not in known:
                known[key] = item
    return known


def _complete(samples: Sequence[AnsweredVideos], known: dict[tuple[str, str], VideoPrompt]) -> None:
    for part in samples:
        part.take(known)


def _entry(item: VideoPrompt) -> dict[str, Any]:
    entry = {"video": str(item.video), "prompt": item.prompt}
    if item.problem is not None:
        return {**entry, "problem": item.problem}
    return {**entry, "answer": item.answer, **({"cut": True} if item.cut else {})}


def read_answers(path: Path) -> dict[tuple[str, str], VideoPrompt]:
    """The items of a file of answers, by `VideoPrompt.key`; an incomplete line is ignored."""
    items = {}
    with suppress(FileNotFoundError), open_regular(path, os.O_RDONLY) as file:
        for line in read_lines(file):
            try:
                entry = parse_json(line)
                values = [entry.get(name) for name in ("prompt", "answer", "problem")]
                if not all(isinstance(value, str | None) for value in values):
                    continue
                (values[1] or "").encode()  # UnicodeEncodeError, a ValueError, for what is no text
                item = VideoPrompt(Path(entry["video"]), *values)
                item = replace(item, cut=entry.get("cut") is True)
            except (AttributeError, LookupError, TypeError, ValueError):
                continue
            items[item.key] = item
    return items
