"""The loop of `crosslmm chat`: what is typed, answered as it is generated, and the commands in it."""

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from crosslmm.errors import CrossLMMError, UsageError
from crosslmm.evidence import check_evidence_path
from crosslmm.files import atomic_write
from crosslmm.options import GenerationKeywords
from crosslmm_cli.answering import write_answer
from crosslmm_cli.evidence import save_evidence
from crosslmm_cli.interrupt import defer_first_interrupt, requested
from crosslmm_cli.output import Output, one_line

HELP = {
    "/frames": "Show the times of the frames.",
    "/evidence FILE": "Write what the last answer was read from (.html, .png or .json).",
    "/open FILE": "Talk about another video.",
    "/save FILE": "Save the dialogue as Markdown (.md) or JSON (.json).",
    "/undo": "Drop the last question and its answer.",
    "/help": "Show these commands.",
    "/exit": "Leave; so does Ctrl-D.",
}
_TAKES_FILE = {usage.split()[0]: "FILE" in usage for usage in HELP}


class Dialogue:
    """A dialogue about videos, and later about others. `open_videos`: from paths to a session.
    `typed`: by a person, so that Ctrl-C stops an answer and not the dialogue. `messages`: of earlier
    turns about the first videos. `remember`: called after each answer with the videos and the turns."""

    def __init__(
        self,
        output: Output,
        open_videos: Callable[[Sequence[str]], Any],
        videos: Sequence[str],
        generation: GenerationKeywords,
        *,
        typed: bool,
        messages: Sequence[Any] = (),
        remember: Callable[[Sequence[str], Sequence[Any]], None] = lambda videos, messages: None,
    ) -> None:
        self._output = output
        self._open_videos = open_videos
        self._videos = videos
        self._generation = generation
        self._typed = typed
        self._earlier = messages
        self._remember = remember
        self._session: Any = None
        self._chat: Any = None
        self._answer: Any = None  # the last one

    def run(self, lines: Iterator[str]) -> int:
        """Answer line after line; returns the exit code, 1 where one had no answer. Raises what opening
        the video raises."""
        self._open(self._videos, self._earlier)
        if self._typed:
            self._output.notice("/help lists commands; Ctrl-D leaves")
        failed = False
        for line in lines:
            line = line.strip()
            if line == "/exit":
                break
            if not line:
                continue
            try:
                if line.startswith("/"):
                    self._command(line)
                else:
                    self._ask(line)
            except (CrossLMMError, OSError) as error:
                self._output.error(str(error))
                failed = True
        return int(failed)

    def _open(self, videos: Sequence[str], messages: Sequence[Any] = ()) -> None:
        session = self._open_videos(videos)
        self._videos, self._session, self._chat = videos, session, session.chat(messages)
        self._answer = None

    def _open_another(self, video: str) -> None:
        """The dialogue about the old video goes on where this fails or is stopped."""

        def stop() -> None:
            raise KeyboardInterrupt

        if not self._typed:
            self._open([video])
            return
        try:
            with defer_first_interrupt(stop):
                self._open([video])
        except KeyboardInterrupt:
            if requested():
                raise
            self._output.finish_progress()
            self._output.notice(f"stopped; still about {', '.join(self._videos)}", always=True)

    def _ask(self, question: str) -> None:
        output, stop = self._output, threading.Event()
        response = self._chat.stream(question, **self._generation)
        with defer_first_interrupt(stop.set) if self._typed else nullcontext():
            finished = write_answer(output, response, stop=stop)
        if finished:
            self._answer = response.answer
            self._remember(self._videos, self._chat.messages)
        else:
            output.notice("stopped; the question is not part of the dialogue", always=True)

    def _command(self, line: str) -> None:
        name, _, file = line.partition(" ")
        file = _unquoted(file.strip())
        if name not in _TAKES_FILE:
            meant = get_close_matches(name, _TAKES_FILE, n=1)
            hint = f"did you mean {meant[0]}? " if meant else ""
            raise UsageError(f"{name}: no such command; {hint}/help lists them")
        if bool(file) is not _TAKES_FILE[name]:
            raise UsageError(f"{name} takes {'nothing more' if file else 'a file'}")
        if name == "/open":
            self._open_another(os.path.expanduser(file))
        elif name == "/evidence":
            self._save_evidence(Path(os.path.expanduser(file)))
        elif name == "/save":
            self._save(Path(os.path.expanduser(file)))
        elif name == "/frames":
            session = self._session
            self._output.notice(session.summary, always=True)
            times = "  ".join(f"{frame.time:.2f}" for frame in session.frames)
            self._output.notice(f"seconds: {times}", always=True)
        elif name == "/undo":
            question = self._chat.undo()
            said = "nothing to undo" if question is None else f"dropped: {question}"
            self._answer = None
            self._output.notice(said, always=True)
        else:
            for usage, what in HELP.items():
                self._output.notice(f"{usage:<14}  {what}", always=True)

    def _save_evidence(self, path: Path) -> None:
        check_evidence_path(path, self._videos)
        _check_new(path)
        if self._answer is None:
            raise UsageError("there is no answer yet that evidence could be shown for")
        save_evidence(self._output, self._session, self._answer, path, always=True)

    def _save(self, path: Path) -> None:
        if path.suffix not in (".md", ".json"):
            raise UsageError(f"{path}: give a file that ends in .md or .json")
        _check_new(path)
        record = {"video": ", ".join(self._videos), **self._chat.as_dict()}
        if path.suffix == ".json":
            text = json.dumps(record, ensure_ascii=False, indent=2) + "\n"
        else:
            text = _markdown(record)
        try:
            # A name of a file that is not UTF-8 is escaped, as JSON does.
            atomic_write(path, text.encode("utf-8", "backslashreplace"))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"{path}: cannot be written ({reason})") from None
        self._output.notice(f"saved to {path}", always=True)


def _check_new(path: Path) -> None:
    if os.path.lexists(path):
        raise UsageError(f"{path}: is there already; give another name")


def _unquoted(name: str) -> str:
    """A name with spaces may stand in quotation marks, and need not."""
    if len(name) > 1 and name[0] == name[-1] and name[0] in "'\"":
        return name[1:-1]
    return name


def _markdown(record: dict[str, Any]) -> str:
    parts = [f"# {one_line(record['video'])}"]
    for message in record["messages"]:
        text = message["content"]
        parts.append("> " + text.replace("\n", "\n> ") if message["role"] == "user" else text)
    return "\n\n".join(parts) + "\n"
