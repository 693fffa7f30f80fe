"""Run a function in a new process, so that nothing another run left behind counts as its memory."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_all_start_methods, get_context
from typing import ParamSpec, TypeVar

# Imported once, in the process that the others are forked from; it runs no model itself.
PRELOADED = [
    "crosslmm.inference.assistant",
    "transformers.models.llava_onevision.modeling_llava_onevision",
]

P = ParamSpec("P")
R = TypeVar("R")


def fresh(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What `function` returns, called in a process that is started for it and then ends.

    Raises BrokenProcessPool where that process dies, as it does when memory runs out.
    """
    method = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
    context = get_context(method)
    context.set_forkserver_preload(PRELOADED)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *args, **kwargs).result()
