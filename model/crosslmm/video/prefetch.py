"""Running a producer ahead of its consumer, in a thread, so that decoding overlaps encoding.

The consumer is the one that must not hang, so the deadline is kept on its side: a producer without a
heartbeat for that long is cancelled, and its process, if it has one, is killed. A thread stuck
inside a library cannot be killed; it is a daemon, and ends when the library returns.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from crosslmm.video.worker import STOPPED

Item = TypeVar("Item")

# Seconds between polls of a waiting side: the longest that Ctrl-C or closing can take.
_POLL_INTERVAL = 0.05


class Cancelled(BaseException):
    """Raised inside a producer whose consumer has gone; no `Exception`, so nothing eats it."""


class Stalled(Exception):
    """The producer made no progress within the deadline."""


class Heartbeat:
    """The producer's side: call it at each step. It notes progress, or ends a producer that is
    cancelled, or that has worked for longer than `allowed` seconds in all, with OverTime. Of a time
    between two steps at most `deadline` seconds are counted.

    `on_cancel` is called once, from the consumer's thread, when the producer is cancelled; a
    producer with a process of its own kills it there.
    """

    def __init__(self, *, allowed: float = float("inf"), deadline: float = float("inf")) -> None:
        self.last = time.monotonic()
        self.allowed, self.deadline = allowed, deadline
        self.worked = 0.0
        self.began: float | None = None
        self.cancelled = threading.Event()
        self.on_cancel: Callable[[], None] | None = None

    def __call__(self) -> None:
        if self.began is not None:
            self.pause()
            self.start()
        self.last = time.monotonic()
        if self.cancelled.is_set():
            raise Cancelled
        if self.began is not None and self.seconds > self.allowed:
            raise OverTime

    @property
    def seconds(self) -> float:
        """Time spent inside the producer, without the time spent waiting for the consumer."""
        began = self.began
        if began is None:
            return self.worked
        # What is silent for longer is ended, unless the whole process was stopped.
        return self.worked + min(time.monotonic() - began, self.deadline)

    def start(self) -> None:
        """The producer works from here on."""
        self.began = time.monotonic()

    def pause(self) -> None:
        """The producer waits from here on."""
        self.worked, self.began = self.seconds, None


class OverTime(Exception):
    """The producer has worked for as long as it may."""


class _End:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Prefetch(Generic[Item]):
    """Iterates `produce(heartbeat)` in a thread, at most `depth` items ahead.

    `take` gives the next item, raises what the producer raised, `StopIteration` at the end, or
    `Stalled` after `deadline` seconds of waiting without a heartbeat. `allowed` and `seconds` are as
    in `Heartbeat`.
    """

    def __init__(
        self,
        produce: Callable[[Heartbeat], Iterator[Item]],
        *,
        depth: int,
        deadline: float,
        allowed: float = float("inf"),
    ) -> None:
        self.heartbeat = Heartbeat(allowed=allowed, deadline=deadline)
        self.deadline = deadline
        self._stalled = False
        self._items: queue.Queue[Item | _End] = queue.Queue(maxsize=depth)
        self._thread = threading.Thread(
            target=_run,
            args=(produce, self.heartbeat, self._items),
            name="crosslmm-video",
            daemon=True,
        )

    def start(self) -> None:
        """Start the producer."""
        self._thread.start()

    @property
    def seconds(self) -> float:
        return self.heartbeat.seconds

    def take(self) -> Item:
        waiting_since = polled = time.monotonic()
        while True:
            try:
                item = self._items.get(timeout=_POLL_INTERVAL)
                break
            except queue.Empty:
                now = time.monotonic()
                if now - polled > STOPPED:
                    waiting_since = now
                polled = now
                if now - max(waiting_since, self.heartbeat.last) > self.deadline:
                    self._stalled = True
                    self.close()
                    raise Stalled from None
        if isinstance(item, _End):
            self.close()
            if item.error is not None:
                raise item.error
            raise StopIteration
        return item

    def close(self, wait: float = 5.0) -> None:
        """End the producer, and wait that many seconds for its end unless it is stuck."""
        if not self.heartbeat.cancelled.is_set():
            self.heartbeat.cancelled.set()
            if self.heartbeat.on_cancel is not None:
                self.heartbeat.on_cancel()
        if not self._stalled and self._thread.ident is not None:
            self._thread.join(wait)

    def __del__(self) -> None:
        if hasattr(self, "_thread"):
            self.close(wait=0.0)


def _run(
    produce: Callable[[Heartbeat], Iterator[Item]],
    heartbeat: Heartbeat,
    items: "queue.Queue[Item | _End]",
) -> None:
    """The thread: holds no reference to its `Prefetch`, so that a forgotten one is collected."""
    error: BaseException | None = None
    try:
        producing = produce(heartbeat)
        try:
            while True:
                heartbeat.start()
                try:
                    item = next(producing)
                except StopIteration:
                    break
                finally:
                    heartbeat.pause()
                _put(items, item, heartbeat)
        finally:
            close = getattr(producing, "close", None)
            if close is not None:
                close()
    except Cancelled:
        return
    except BaseException as caught:  # travels to the consumer, which raises it
        error = caught
    try:
        _put(items, _End(error), heartbeat)
    except Cancelled:
        return


def _put(items: "queue.Queue[Item | _End]", item: Item | _End, heartbeat: Heartbeat) -> None:
    while True:
        heartbeat()
        try:
            return items.put(item, timeout=_POLL_INTERVAL)
        except queue.Full:
            continue
