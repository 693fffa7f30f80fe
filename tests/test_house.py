"""The house stays in order: rooms import downwards only, names mean one thing, nobody reaches into
another module's private names, and the library speaks of parameters, not of flags.

Each rule is also shown to fail on a small package that breaks it.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import crosslmm
import crosslmm_cli
from tests.support.house import Module, circle, graph, modules, room_graph

LIBRARY = Path(crosslmm.__file__).parent
CLI = Path(crosslmm_cli.__file__).parent

# From the ground up: a room imports only rooms of lines above its own.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("attention_kernels", "errors", "auto", "frame_choice", "host", "limits", "norm", "precision"),
    ("options", "packed_features"),
    ("gated_attention",),
    ("files", "finite_values", "device", "subtitles", "versions"),
    ("fingerprint", "merging", "video"),
    ("configuration_crosslmm",),
    ("cache", "evidence", "prompts", "ragged_tokens", "vision"),
    ("visual_tokens", "window_merging"),
    ("v2v_scopes",),
    ("cross_attention", "positions", "token_mass"),
    ("visual_encoding",),
    ("modeling_crosslmm", "processing_crosslmm"),
    ("checkpoints",),
    ("cost",),
    ("inference",),
    ("synthetic",),
    ("evaluation", "captioning"),
    ("training",),
    ("demo",),
    ("doctor",),
)
MOST_LINES = 400
FLAGS_OF_PIP = {"--force-reinstall"}

# Private names of other libraries that have no public counterpart, with what they are for.
BORROWED = {
    "_attn_implementation": "transformers: the attention that a configuration chose",
    "_exit": "os: leave a process without its clean-up",
    "_init_weights": "transformers: initialise the modules that a checkpoint does not hold",
    "_is_mkldnn_bf16_supported": "torch: whether the CPU computes in bfloat16",
    "_version": "torch: how often a tensor was written to",
}


def misdirected(root: Path, floors: tuple[tuple[str, ...], ...]) -> list[str]:
    height = {name: number for number, names in enumerate(floors) for name in names}
    return [
        f"{room} imports {other}"
        for room, others in room_graph(root).items()
        for other in sorted(others)
        if room not in height or other not in height or height[other] >= height[room]
    ]


def repeated_classes(root: Path) -> list[str]:
    names = Counter(name for module in modules(root).values() for name in module.public_classes)
    return sorted(name for name, count in names.items() if count > 1)


def private_reaches(root: Path) -> list[str]:
    return _found(root, lambda module: module.private_uses() - set(BORROWED))


def flags_in_texts(root: Path) -> list[str]:
    return _found(root, lambda module: module.flags() - FLAGS_OF_PIP)


def long_modules(root: Path) -> list[str]:
    return [name for name, module in modules(root).items() if module.lines > MOST_LINES]


def _found(root: Path, look: Callable[[Module], set[str]]) -> list[str]:
    return [
        f"{name}: {what}" for name, module in modules(root).items() for what in sorted(look(module))
    ]


def test_rooms_import_downwards_only() -> None:
    assert misdirected(LIBRARY, FLOORS) == []


def test_every_room_has_its_floor() -> None:
    listed = {name for names in FLOORS for name in names}
    assert set(room_graph(LIBRARY)) == listed


@pytest.mark.parametrize("root", [LIBRARY, CLI], ids=["library", "cli"])
def test_no_modules_import_each_other_in_a_circle(root: Path) -> None:
    edges = graph(root)
    # The package's own names are imported when asked for; no module of it asks.
    assert [name for name, imported in edges.items() if "" in imported and root == LIBRARY] == []
    assert circle(edges) == []


def test_a_public_class_has_one_meaning() -> None:
    assert repeated_classes(LIBRARY) == []


@pytest.mark.parametrize("root", [LIBRARY, CLI], ids=["library", "cli"])
def test_private_names_stay_in_their_module(root: Path) -> None:
    assert private_reaches(root) == []


def test_the_library_speaks_of_parameters_not_of_flags() -> None:
    assert flags_in_texts(LIBRARY) == []


@pytest.mark.parametrize("root", [LIBRARY, CLI], ids=["library", "cli"])
def test_no_module_is_too_long(root: Path) -> None:
    assert long_modules(root) == []


BROKEN = {
    "upwards": {"low.py": "from house.high import f\n", "high.py": "def f(): ...\n"},
    "circle": {
        "low.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house import high\n",
        "high.py": "def f():\n    import house.low\n",
    },
    "classes": {"low.py": "class Plan: ...\n", "high.py": "class Plan: ...\n"},
    "imported": {"low.py": "_limit = 1\n", "high.py": "from house.low import _limit\n"},
    "attribute": {
        "low.py": "class A:\n    def __init__(self):\n        self._cache = 1\n",
        "high.py": "def f(a):\n    return a._cache\n",
    },
    "flag": {"low.py": "TEXT = 'give --max-frames'\n", "high.py": ""},
    "long": {"low.py": "\n" * (MOST_LINES + 1), "high.py": ""},
}


@pytest.mark.parametrize(
    ("broken", "rule", "found"),
    [
        ("upwards", lambda root: misdirected(root, (("low",), ("high",))), ["low imports high"]),
        ("circle", lambda root: circle(graph(root)), ["high", "low", "high"]),
        ("classes", repeated_classes, ["Plan"]),
        ("imported", private_reaches, ["high: _limit"]),
        ("attribute", private_reaches, ["high: _cache"]),
        ("flag", flags_in_texts, ["low: --max-frames"]),
        ("long", long_modules, ["low"]),
    ],
)
def test_each_rule_notices_when_it_is_broken(
    tmp_path: Path, broken: str, rule: Callable[[Path], list[str]], found: list[str]
) -> None:
    root = tmp_path / "house"
    root.mkdir()
    (root / "__init__.py").touch()
    for name, text in BROKEN[broken].items():
        (root / name).write_text(text, "utf-8")
    assert rule(root) == found
