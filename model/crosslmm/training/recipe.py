"""A recipe: every choice of a training run that is not a path, in one YAML file.

The batch size is that of a step over all devices; accumulation is computed from it. A recipe with
an unknown option is refused, because a misspelt learning rate is a lost week.
"""

import json
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, fields, is_dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from crosslmm.errors import UsageError
from crosslmm.files import read_text
from crosslmm.limits import MAX_TEXT_BYTES
from crosslmm.merging import MERGERS, check_merging
from crosslmm.options import ResolvedQuantization
from crosslmm.training.yaml_text import parse_yaml

Stage = Literal["align", "tune", "distill"]
Precision = Literal["auto", "bf16", "fp32"]
Schedule = Literal["cosine", "linear", "constant_with_warmup"]


@dataclass(frozen=True, kw_only=True)
class LoraOptions:
    """Low-rank adapters on the language model's linear layers, over weights of so many bits."""

    rank: int = 64
    alpha: float = 128.0
    dropout: float = 0.05
    quantization: ResolvedQuantization = "none"

    def __post_init__(self) -> None:
        for name in ("rank", "alpha"):
            if getattr(self, name) <= 0:
                raise UsageError(f"lora.{name} is above 0, not {getattr(self, name)!r}")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"lora.dropout is a share from 0 to below 1, not {self.dropout!r}")


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """How a student with fewer tokens per frame learns from its teacher (stage `distill`).

    - `tokens`: the student's tokens per frame, one of which is drawn for each step; None for all of
      49, 25, 16, 9, 4 and 1 that are fewer than the teacher's.
    - `default_tokens`: of the new checkpoint when no number is given, and of evaluation; None for the
      largest up to 9.
    - `merge`: the method of `merging.MERGERS` that makes the student's tokens of the teacher's; None
      pools the patches to smaller squares. The new checkpoint has the teacher's tokens then, until it
      is asked with the same method and number.
    - `progressive`: the share of the run in which the drawn numbers go down step by step, each taught by
      the student itself at the next larger one; 0 draws from all of them and asks the teacher always.
    - `temperature`: of the distributions whose divergence is the loss.
    - `divergence_weight`, `hidden_weight`, `answer_weight`: of the KL divergence from the teacher's
      distribution at each token of its answer; of the cosine distance of the last hidden states of
      merged tokens; of the cross-entropy of the answer's words.
    - `prompts_per_video`: how many of the prompts the teacher answers about each video, in up to
      `answer_tokens` tokens.
    - `quantization`: of the frozen weights, which teacher and student share.
    """

    tokens: tuple[int, ...] | None = None
    default_tokens: int | None = None
    merge: str | None = None
    progressive: float = 2 / 3
    temperature: float = 1.0
    divergence_weight: float = 1.0
    hidden_weight: float = 0.1
    answer_weight: float = 0.0
    prompts_per_video: int = 2
    answer_tokens: int = 128
    quantization: ResolvedQuantization = "none"

    def __post_init__(self) -> None:
        for name in ("temperature", "prompts_per_video", "answer_tokens"):
            if getattr(self, name) <= 0:
                raise UsageError(f"distill.{name} is above 0, not {getattr(self, name)!r}")
        weights = (self.divergence_weight, self.hidden_weight, self.answer_weight)
        if min(weights) < 0 or not any(weights):
            raise UsageError("the weights of distill are 0 or more, and one of them is above 0")
        check_merging(merge=self.merge, methods=MERGERS, error=UsageError)
        if not 0 <= self.progressive <= 1:
            raise UsageError(
                f"distill.progressive is a share from 0 to 1, not {self.progressive!r}"
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is trained, on how much of each video, how fast and for how long.

    - `frames`, or `fps` within `min_frames` and `max_frames`: as at inference; with neither, the
      checkpoint's own default.
    - `tokens_per_frame`: None for the checkpoint's own; in `distill` the teacher's.
    - `batch_size`: samples per step over all devices; `device_batch_size` at a time on each.
    - `vision_learning_rate` (without `lora`), `gate_learning_rate`: None for `learning_rate`.
    - `epochs`: passes over the data; `steps`, where given, takes their place.
    - `schedule`, `warmup`: how the learning rate falls, after the share of all steps in which it rises.
    - `weight_decay`: of matrices only. `max_grad_norm`: the longest gradient of a step; 0 for any.
    - `precision`: of the arithmetic; auto is bf16 where the device computes in it, else fp32, which
      holds the frozen weights in float32, too.
    - `gradient_checkpointing`: activations are computed twice, which takes less memory.
    - `lora`, `distill`: see `LoraOptions` and `DistillOptions`.
    - `max_length`: a sample of more tokens is skipped and reported; None for no limit.
    - `max_skipped`: the share of the data that may be unreadable or too long before training stops.
    - `workers`: processes on each device that read videos, as many as there are cores at most.
    - `seed`: of the order, and of what is drawn.
    - `log_every`, `save_every`, `evaluate_every`: steps between entries of the log, checkpoints (of
      which the last `keep_checkpoints` are kept) and evaluations.
    """

    stage: Stage
    learning_rate: float
    vision_learning_rate: float | None = None
    gate_learning_rate: float | None = None
    frames: int | None = None
    fps: float | None = None
    min_frames: int | None = None
    max_frames: int | None = None
    tokens_per_frame: int | None = None
    max_length: int | None = None
    batch_size: int = 128
    device_batch_size: int = 1
    epochs: float = 1.0
    steps: int | None = None
    schedule: Schedule = "cosine"
    warmup: float = 0.03
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    precision: Precision = "auto"
    gradient_checkpointing: bool = True
    lora: LoraOptions | None = None
    distill: DistillOptions | None = None
    max_skipped: float = 0.05
    workers: int = 4
    seed: int = 0
    log_every: int = 10
    save_every: int = 500
    keep_checkpoints: int = 2
    evaluate_every: int = 500

    def __post_init__(self) -> None:
        if self.frames is not None and self.fps is not None:
            raise UsageError("a recipe has frames or fps, not both")
        if self.frames is not None and (self.min_frames or self.max_frames):
            raise UsageError("`min_frames` and `max_frames` bound `fps`, not `frames`")
        if self.fps is None and (self.min_frames or self.max_frames):
            raise UsageError(
                "`min_frames` and `max_frames` bound `fps`, which the recipe does not give"
            )
        if (self.min_frames or 0) > (self.max_frames or math.inf):
            raise UsageError(f"min_frames {self.min_frames} is above max_frames {self.max_frames}")
        if self.vision_learning_rate is not None and self.stage != "tune":
            raise UsageError(
                "`vision_learning_rate` is for the tune stage; others freeze the encoder"
            )
        if self.lora is not None and self.stage == "align":
            raise UsageError(
                "`lora` adapts the language model, which the align stage does not train"
            )
        if (self.distill is not None) != (self.stage == "distill"):
            raise UsageError(
                "the options of `distill` are those of the distill stage, which needs them"
            )
        if self.distill and self.lora and self.lora.quantization != "none":
            raise UsageError(
                "give `lora.quantization` as `distill.quantization` in the distill stage"
            )
        for name in ("learning_rate", "batch_size", "device_batch_size", "epochs", "log_every",
                     "save_every", "keep_checkpoints", "evaluate_every", "steps", "frames", "fps",
                     "min_frames", "max_frames", "max_length", "tokens_per_frame"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UsageError(f"{name} is above 0 in a recipe, not {value!r}")
        for name in ("vision_learning_rate", "gate_learning_rate", "weight_decay", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UsageError(f"{name} is 0 or more in a recipe, not {value!r}")
        if self.workers < 0:
            raise UsageError(f"workers is a whole number from 0 up, not {self.workers!r}")
        _check_seed(self.seed)
        if not 0 <= self.max_skipped <= 1:
            raise UsageError(f"max_skipped is a share from 0 to 1, not {self.max_skipped!r}")
        if not 0 <= self.warmup < 1:  # the library takes 1 for a number of steps
            raise UsageError(f"warmup is a share from 0 to below 1, not {self.warmup!r}")

    @property
    def quantization(self) -> ResolvedQuantization:
        """Of the frozen weights."""
        options = self.distill or self.lora
        return options.quantization if options else "none"

    def accumulation(self, devices: int) -> int:
        """Batches per step on each of so many devices. Raises UsageError for a broken number."""
        together = self.device_batch_size * devices
        if self.batch_size % together:
            raise UsageError(
                f"batch_size {self.batch_size} is no multiple of {self.device_batch_size} on each "
                f"of {devices} devices; change `batch_size` or `device_batch_size`"
            )
        return self.batch_size // together

    def to_yaml(self) -> str:
        return str(yaml.safe_dump(json.loads(json.dumps(asdict(self))), sort_keys=False))


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """The options of `crosslmm train demo`: its seed, and a short trial run."""

    seed: int = 0
    short: bool = False

    def __post_init__(self) -> None:
        _check_seed(self.seed)


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:  # NumPy's takes no other
        raise UsageError(f"`seed` is a whole number from 0 to 2^32 - 1, not {seed!r}")


def demo_settings(overrides: Sequence[str]) -> DemoSettings:
    """From `key=value`. Raises UsageError."""
    values: dict[str, Any] = {}
    for override in overrides:
        _override(values, override)
    settings = _build(DemoSettings, values, "demo")
    assert isinstance(settings, DemoSettings)
    return settings


def shipped_recipes() -> list[str]:
    """The names of the recipes in the package."""
    folder = resources.files(__package__) / "recipes"
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a YAML file, or a shipped one by its name, with `key=value` overrides on top.

    A key inside `lora` is written `lora.rank=16`; the value is read as YAML. Raises UsageError.
    """
    path = Path(name)
    if path.is_file():
        try:
            text = read_text(path, longest=MAX_TEXT_BYTES)
        except ValueError as error:
            raise UsageError(f"{name}: {error}") from None
    elif str(name) in shipped_recipes():
        text = (resources.files(__package__) / "recipes" / f"{name}.yaml").read_text("utf-8")
    else:
        raise UsageError(
            f"{name}: neither a file nor a shipped recipe; there are {', '.join(shipped_recipes())}"
        )
    values = _parse_yaml(text, str(name))
    if not isinstance(values, dict):
        raise UsageError(f"{name}: a recipe is a YAML mapping of options")
    given = {override.partition("=")[0].strip() for override in overrides}
    if {"epochs", "steps"} <= given:
        raise UsageError("`overrides` take epochs or steps, not both")
    for key in given:
        for replaced in set(_REPLACES.get(key, ())) - given:
            values.pop(replaced, None)
    for override in overrides:
        _override(values, override)
    recipe = _build(Recipe, values, str(name))
    assert isinstance(recipe, Recipe)
    return recipe


# What an override takes the place of: frames are given by number or by rate, a run's length either way.
_REPLACES = {
    "frames": ("fps", "min_frames", "max_frames"),
    "fps": ("frames",),
    "epochs": ("steps",),
}


def _override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        raise UsageError(f"`overrides` {override}: give it as key=value")
    *parents, last = key.strip().split(".")
    for parent in parents:
        if not isinstance(values.get(parent), dict):
            values[parent] = {}
        values = values[parent]
    values[last] = _parse_yaml(text, f"`overrides` {override}")


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise UsageError(f"{where}: not YAML: {error}") from error


def _build(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    known = {option.name: option for option in fields(kind)}
    unknown = [str(key) for key in values if key not in known]
    if unknown:
        close = get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(known))}"
        raise UsageError(f"{where}: unknown option {unknown[0]!r}; {hint}")
    absent = [name for name, option in known.items() if _required(option) and name not in values]
    if absent:
        raise UsageError(f"{where}: {absent[0]} is missing")
    hints = get_type_hints(kind)
    return kind(**{key: _coerce(value, hints[key], key, where) for key, value in values.items()})


def _required(option: "Field[Any]") -> bool:
    return option.default is MISSING and option.default_factory is MISSING


def _coerce(value: Any, hint: Any, key: str, where: str) -> Any:
    """The value as the option's type; YAML reads 1e-4 as text, so numbers may come as text."""
    if get_origin(hint) in (Union, types.UnionType):
        if value is None:
            return None
        (hint,) = (kind for kind in get_args(hint) if kind is not type(None))
    if is_dataclass(hint):
        if not isinstance(value, dict):
            raise UsageError(f"{where}: {key} is a mapping of options, not {value!r}")
        return _build(hint, value, f"{where}: {key}")
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise UsageError(f"{where}: {key} is a list such as [9, 4], not {value!r}")
        return tuple(_coerce(item, get_args(hint)[0], key, where) for item in value)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            choices = ", ".join(map(str, get_args(hint)))
            raise UsageError(f"{where}: {key} is one of {choices}, not {value!r}")
        return value
    if hint in (bool, str) and isinstance(value, hint):
        return value
    if hint in (int, float) and not isinstance(value, bool):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = None
        if number is not None and math.isfinite(number) and hint(number) == number:
            return hint(number)
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a name"}[hint]
    raise UsageError(f"{where}: {key} is {words}, not {value!r}")
