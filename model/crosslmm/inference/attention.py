"""Attention that fused kernels never give out: the rows of a few tokens, computed beside the pass.

Hooks of one pass in one thread see what each attention reads; the pass itself is left as it is.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from crosslmm.gated_attention import GatedCrossAttention
from crosslmm.limits import SLICE_BYTES
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration

# Called with the layer, the first of the rows and their weights, (heads, rows, S), which sum to 1.
See = Callable[[int, int, torch.Tensor], None]


def weigh_rows(
    query: torch.Tensor, key: torch.Tensor, scaling: float, mask: torch.Tensor | None = None
) -> Iterator[tuple[int, torch.Tensor]]:
    """Softmax of attention, in parts of as many rows as fit into `SLICE_BYTES`.

    query: (heads, Q, head_dim); key: (kv_heads, S, head_dim); mask: boolean or added, broadcast to
    (heads, Q, S). Yields the first row of a part and (heads, rows, S) in float32.
    """
    heads, rows = query.shape[:2]
    kv_heads, length = key.shape[:2]
    step = max(1, SLICE_BYTES // (4 * heads * length))
    grouped = query.reshape(kv_heads, -1, *query.shape[1:])  # (kv_heads, groups, Q, head_dim)
    for first in range(0, rows, step):
        part = grouped[:, :, first : first + step].flatten(1, 2)
        scores = (part @ key.transpose(1, 2)).float() * scaling
        scores = scores.view(heads, -1, length)
        if mask is not None:
            own = mask[..., first : first + step, :] if mask.shape[-2] > 1 else mask
            added = own.dtype != torch.bool
            scores = scores + own if added else scores.masked_fill(~own, -torch.inf)
        yield first, scores.softmax(dim=-1)


@contextmanager
def observe_self_attention(
    model: CrossLMMForConditionalGeneration, see: See, *, share: int = 1
) -> Iterator[None]:
    """Inside, `see` what the layers of the language model attend to in this thread: all of them, or the
    last third where `share` is 3."""
    layers = model.model.language_model.layers
    first = len(layers) - max(1, len(layers) // share)
    with _FusedCalls(see) as calls, ExitStack() as hooks:
        for number in range(first, len(layers)):
            for handle in calls.watch(number, layers[number].self_attn):
                hooks.callback(handle.remove)
        yield


@contextmanager
def observe_text_to_visual(model: CrossLMMForConditionalGeneration, see: See) -> Iterator[None]:
    """Inside, `see` what each open T2V attends to in this thread, over all features of a video."""
    thread = threading.get_ident()

    def look(number: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
            if threading.get_ident() == thread:
                assert isinstance(module, GatedCrossAttention)
                for first, weights in weigh_rows(*_of_t2v(module, args, kwargs)):
                    see(number, first, weights)

        return hook

    with ExitStack() as hooks:
        for number, layer in enumerate(model.model.dual_layers):
            handle = layer.t2v.register_forward_pre_hook(look(number), with_kwargs=True)
            hooks.callback(handle.remove)
        yield


def _of_t2v(
    module: GatedCrossAttention, args: Any, kwargs: Mapping[str, Any]
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Queries, keys and scaling of a call for one row."""
    query = module.q_proj(args[0][0]).unflatten(-1, (-1, module.head_dim)).transpose(0, 1)
    projected = kwargs.get("projected")
    if projected is not None:
        return query, projected[0][0], module.scaling
    return query, module.project_keys(args[1][:1])[0], module.scaling


class _FusedCalls(TorchFunctionMode):
    """Sees calls of the fused kernel while a watched module runs, whatever made its queries.

    A mode is of one thread. An eager attention makes no such calls, and gives its weights out.
    """

    def __init__(self, see: See) -> None:
        super().__init__()
        self._see = see
        self._number: int | None = None
        self._rows = 0
        self._seen = False

    def watch(self, number: int, module: nn.Module) -> list[Any]:
        thread = threading.get_ident()

        def before(module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
            if threading.get_ident() == thread:
                states = args[0] if args else kwargs["hidden_states"]  # (1, rows, H)
                self._number, self._rows, self._seen = number, states.shape[1], False

        def after(module: nn.Module, args: Any, output: Any) -> None:
            if threading.get_ident() != thread:
                return
            self._number = None
            if not self._seen and isinstance(output, tuple) and output[1] is not None:
                self._see(number, 0, output[1][0].float())

        return [
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(after),
        ]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.scaled_dot_product_attention and self._number is not None:
            self._seen = True
            self._look(self._number, *args, **kwargs)
        return func(*args, **kwargs)

    def _look(
        self,
        number: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> None:
        rows, length = self._rows, key.shape[2]
        mask = None if attn_mask is None else attn_mask[0]
        if query.shape[2] > rows:  # a single row, of the heads that share a key
            query = query.reshape(1, -1, rows, query.shape[-1])
        if is_causal:
            mask = torch.ones(rows, length, dtype=torch.bool, device=query.device).tril()
        scaling = query.shape[-1] ** -0.5 if scale is None else scale
        for first, weights in weigh_rows(query[0], key[0], scaling, mask):
            self._see(number, first, weights)
