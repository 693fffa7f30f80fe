"""The cost of a model over several numbers of frames, as rows; against another model or a budget.

A model is named as everywhere, and also by recipe (`crosslmm-7b`) or peer (`llava-onevision-7b`).
Only its configuration is read, and of its weights the gates: a closed one costs nothing.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from crosslmm.checkpoints import catalog
from crosslmm.checkpoints.adapters import is_adapter, read_adapter_header
from crosslmm.checkpoints.cache import is_hub_id, split_revision
from crosslmm.checkpoints.headers import IncompleteCheckpoint, read_gates, read_headers
from crosslmm.cost.arithmetic import Macs, PromptTokens, count_tokens, prefill_macs, token_macs
from crosslmm.cost.budget import frames_in_context
from crosslmm.cost.memory import (
    Memory,
    WeightPart,
    memory_needed,
    weight_parts,
)
from crosslmm.cost.settings import MOST_FRAMES, Settings
from crosslmm.cost.shape import PUBLISHED, RECIPES, ModelShape
from crosslmm.errors import CheckpointError, UsageError
from crosslmm.merging import TokenBudget, check_count
from crosslmm.options import CrossKV, T2VCache, V2VScope

FRAMES = (32, 64, 128, 256)


@dataclass(frozen=True)
class Row:
    """One number of frames with one budget of visual tokens."""

    frames: int
    budget: TokenBudget
    tokens: PromptTokens
    prefill: Macs
    token: Macs
    memory: Memory

    def as_dict(self) -> dict[str, Any]:
        tokens = self.tokens
        return {
            "frames": self.frames,
            **self.budget.settings,
            "tokens": {
                "original": tokens.features,
                "visual": tokens.visual,
                "text": tokens.text,
            },
            "macs": asdict(self.prefill)
            | {"prefill_total": self.prefill.total, "per_token": self.token.total},
            "memory": asdict(self.memory) | {"total": self.memory.total},
        }


@dataclass(frozen=True)
class Profile:
    """A model's cost, row by row; `as_dict` is the JSON form, MACs and bytes as plain numbers."""

    model: str
    shape: ModelShape
    settings: Settings
    rows: tuple[Row, ...]

    @property
    def parts(self) -> tuple[WeightPart, ...]:
        return weight_parts(
            self.shape, dtype=self.settings.dtype, quantization=self.settings.quantization
        )

    def frames_in_context(self, budget: TokenBudget) -> int:
        """The most frames whose prompt stays within the language model's context."""
        return frames_in_context(self.shape, budget, self.settings.text_tokens)

    @property
    def notes(self) -> list[str]:
        """What a reader of the rows should know."""
        shape, notes = self.shape, []
        gates = 2 * shape.cross_layers
        opened = shape.open_v2v + shape.open_t2v
        if opened < gates:
            closed = "all gates" if not opened else f"{gates - opened} of {gates} gates"
            verb = "is" if gates - opened == 1 and opened else "are"
            notes.append(f"{self.model}: {closed} {verb} closed; a closed branch costs nothing")
        context = shape.language.context
        past = [row for row in self.rows if row.tokens.prompt > context]
        if past:
            first = min(past, key=lambda row: row.tokens.prompt)
            notes.append(
                f"{self.model}: {first.frames} frames at {first.budget} make a prompt of "
                f"{first.tokens.prompt:,}, past its context of {context:,} tokens"
            )
        return notes

    def as_dict(self) -> dict[str, Any]:
        shape, settings = self.shape, self.settings
        return {
            "model": self.model,
            "settings": {
                **asdict(settings),
                "dtype": settings.dtype or shape.dtype,
                "interval": shape.interval,
                "cross_kv": shape.cross_kv,
                "v2v_scope": shape.v2v_scope,
                "t2v_cache": shape.t2v_cache,
                "t2v_frames": shape.t2v_frames,
                "open_v2v": shape.open_v2v,
                "open_t2v": shape.open_t2v,
                "context": shape.language.context,
                "weights": {part.name: _part(part) for part in self.parts},
            },
            "rows": [row.as_dict() for row in self.rows],
        }


def profile(
    model: str,
    *,
    shape: ModelShape | None = None,
    frames: Sequence[int] = FRAMES,
    budgets: Sequence[TokenBudget] = (),
    settings: Settings | None = None,
) -> Profile:
    """The cost of `model` for every number of frames and budget of visual tokens (its own if none).

    `shape` is the model's where it is at hand, or changed. Raises UsageError, CheckpointError.
    """
    shape = shape or find_shape(model)
    settings = settings or Settings()
    if not all(1 <= count <= MOST_FRAMES for count in frames) or not frames:
        raise UsageError(f"`frames` {_listed(frames)}: give numbers from 1 to {MOST_FRAMES:,}")
    numbers = (settings.text_tokens + 1, settings.batch, settings.frames_per_chunk)
    if not all(1 <= number < 2**63 for number in numbers):
        raise UsageError(
            "`text_tokens` must be at least 0, `batch` and `frames_per_chunk` at least 1, and all of "
            "them below 2^63"
        )
    own = TokenBudget(shape.tokens_per_frame)
    if not shape.chunked and any(budget != own for budget in budgets):
        raise UsageError(
            f"{model} is the model as transformers runs it, which always takes {own}, not "
            f"{', '.join(map(str, budgets))}"
        )
    for budget in budgets:
        for count in frames:
            check_count(budget, count, error=UsageError)
    rows = [_row(shape, count, budget, settings) for budget in budgets or [own] for count in frames]
    return Profile(model, shape, settings, tuple(rows))


def compare(first: Profile, other: str) -> Profile:
    """Another model, or the same one `unmerged`, over the frames and settings of `first`."""
    frames = sorted({row.frames for row in first.rows})
    if other == "unmerged":
        shape, name = first.shape.unmerged(), f"{first.model}, unmerged"
        return profile(name, shape=shape, frames=frames, settings=first.settings)
    return profile(other, frames=frames, settings=first.settings)


def find_shape(model: str) -> ModelShape:
    """The shape of a recipe, a model on disk, a published one, or a Hub id, whose config is fetched."""
    try:
        folder = catalog.find(model)
    except CheckpointError as error:
        if model in RECIPES:
            return RECIPES[model]
        if model in PUBLISHED:
            return PUBLISHED[model]
        if Path(model).exists() or not is_hub_id(split_revision(model)[0]):
            known = ", ".join(RECIPES)
            raise CheckpointError(f"{error}\nrecipes need no weights: {known}") from None
        from crosslmm.checkpoints.hub import fetch_config

        return ModelShape.from_config(catalog.read_config(fetch_config(model).parent, name=model))
    if is_adapter(folder):
        return _adapted_shape(folder)
    config = catalog.read_config(folder)
    tokens = catalog.default_tokens(folder)
    shape = ModelShape.from_config({**config, "tokens_per_frame": tokens} if tokens else config)
    return _with_gates(shape, folder)


def reshape(
    shape: ModelShape,
    *,
    interval: int | None = None,
    cross_kv: CrossKV | None = None,
    v2v_scope: V2VScope | None = None,
    t2v_cache: T2VCache | None = None,
) -> ModelShape:
    """The shape with the given settings instead of the model's own. Raises UsageError where they exclude
    each other."""
    if interval is not None:
        shape = shape.with_interval(interval)
    shape = replace(
        shape,
        cross_kv=cross_kv or shape.cross_kv,
        v2v_scope=v2v_scope or shape.v2v_scope,
        t2v_cache=t2v_cache or shape.t2v_cache,
    )
    if shape.shares_kv and shape.t2v_cache == "projected":
        raise UsageError(
            "`t2v_cache` projected keeps keys and values of each layer, and with `cross_kv` shared all "
            "layers have the same: give `t2v_cache` features"
        )
    return shape


def _row(shape: ModelShape, frames: int, budget: TokenBudget, settings: Settings) -> Row:
    options: dict[str, Any] = {
        "frames": frames,
        "budget": budget,
        "text_tokens": settings.text_tokens,
    }
    return Row(
        frames=frames,
        budget=budget,
        tokens=count_tokens(shape, **options),
        prefill=prefill_macs(shape, **options, batch=settings.batch),
        token=token_macs(shape, **options, batch=settings.batch),
        memory=memory_needed(shape, frames=frames, budget=budget, **asdict(settings)),
    )


def _with_gates(shape: ModelShape, folder: Path) -> ModelShape:
    """The shape with the branches counted whose gate in the folder's weights is not zero."""
    if not shape.open_v2v + shape.open_t2v or not any(folder.glob("*.safetensors")):
        return shape  # it has none, or only the config was fetched, by an earlier profile
    try:
        gates = read_gates(read_headers(folder))
    except IncompleteCheckpoint:
        return shape  # its weights are still to come, and the cost follows from its config
    return shape.with_gates(gates) if gates else shape


def _adapted_shape(adapter: Path) -> ModelShape:
    """The shape of its base: an adapter is merged into that, and may open gates."""
    base = catalog.resolve_model(adapter).folder
    shape = ModelShape.from_config(catalog.read_config(base))
    gates = read_gates({**read_headers(base), **read_adapter_header(adapter)})
    return shape.with_gates(gates) if gates else shape


def _part(part: WeightPart) -> dict[str, Any]:
    return {"parameters": part.parameters, "bytes": part.bytes, "precision": part.precision}


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers) or "(none)"
