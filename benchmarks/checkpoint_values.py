"""Values that no checkpoint has, one at a time, in its smaller files: answered, or refused in words?

    python -m benchmarks.checkpoint_values

Every value in a file, and others that it may hold, is replaced by each of `VALUES`; the checkpoint, of
LLaVA-OneVision's form or of CrossLMM's own, is then loaded and asked about a clip, greedily and by
chance.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.checkpoints import random_checkpoint
from benchmarks.record import Record, say, table

VALUES: tuple[Any, ...] = (
    *("x", "\ud800", -1, 0, 1.5, 10**7, 10**30, float("inf"), None, True),
    *([], {}, ["x"], [[1]], [10**30], {"a": 1}),
)
# What a file may hold besides what the checkpoint's does.
OTHERS = {
    "generation_config.json": (
        *("temperature", "top_h", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff"),
        *("eta_cutoff", "do_sample", "repetition_penalty", "no_repeat_ngram_size", "max_length"),
        *("suppress_tokens", "begin_suppress_tokens", "num_beams", "stop_strings"),
        *("eos_token_id", "bos_token_id", "pad_token_id", "cache_implementation"),
    ),
    "tokenizer_config.json": (
        *("chat_template", "bos_token", "eos_token", "pad_token", "extra_special_tokens"),
        *("added_tokens_decoder", "truncation_side", "split_special_tokens", "auto_map"),
        *("tokenizer_class", "clean_up_tokenization_spaces", "additional_special_tokens"),
    ),
    "processor_config.json": ("auto_map", "chat_template", "processor_class", "video_processor"),
    "preprocessor_config.json": ("auto_map", "do_resize", "do_normalize", "rescale_factor"),
    "chat_template.json": ("chat_template",),
}
SLOW = 5.0  # seconds for a checkpoint


def main() -> None:
    options = _options()
    rows = []
    with tempfile.TemporaryDirectory(prefix="crosslmm-benchmark-") as temporary:
        clip = Path(temporary) / "clip.mp4"
        _write_clip(clip)
        for form, folder in write_forms(Path(temporary)).items():
            for name in OTHERS:
                if (folder / name).exists():
                    rows.append({"form": form, "file": name, **try_file(folder, name, clip)})
                    say(f"{rows[-1]}")
    path = Record("checkpoint_values", {"values": len(VALUES)}, rows).write(options.out)
    print(table(rows))
    say(f"wrote {path}")


def write_forms(folder: Path) -> dict[str, Path]:
    """The same small model in both forms."""
    from crosslmm.checkpoints.loading import load_processor, save_checkpoint
    from crosslmm.inference.assistant import load

    given = random_checkpoint("tiny", folder / "llava")
    assistant = load(given, device="cpu", dtype="float32")
    save_checkpoint(folder / "crosslmm", assistant.model, load_processor(given))
    return {"LLaVA-OneVision": given, "CrossLMM": folder / "crosslmm"}


def try_file(folder: Path, name: str, clip: Path, *, most: int | None = None) -> dict[str, Any]:
    """Counts of what became of the checkpoint with each change to a file; at most so many changes."""
    counts: Counter[str] = Counter()
    slowest = 0.0
    good = (folder / name).read_text("utf-8")
    try:
        for number, (where, value, changed) in enumerate(_changes(json.loads(good), OTHERS[name])):
            if most is not None and number >= most:
                break
            (folder / name).write_text(json.dumps(changed), "utf-8")
            began = time.perf_counter()
            outcome = _outcome(folder, clip)
            seconds = time.perf_counter() - began
            slowest = max(slowest, seconds)
            counts[outcome] += 1
            counts["over_limit"] += seconds > SLOW
            if outcome == "crashed" or seconds > SLOW:
                say(f"{name}: {where} = {value!r:.40}: {outcome}, {seconds:.1f} s")
    finally:
        (folder / name).write_text(good, "utf-8")
    total = counts["answered"] + counts["refused"] + counts["crashed"]
    names = ("answered", "refused", "over_limit", "crashed")
    return {
        "checkpoints": total,
        **{key: counts[key] for key in names},
        "slowest_s": round(slowest, 1),
    }


def _changes(
    data: dict[str, Any], others: tuple[str, ...]
) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Where, the new value there, and the whole file with it."""
    paths = [*_paths(data), *((name,) for name in others if name not in data)]
    for path in paths:
        for value in VALUES:
            changed = json.loads(json.dumps(data))
            table = changed
            for name in path[:-1]:
                table = table[name]
            table[path[-1]] = value
            yield ".".join(path), value, changed


def _paths(data: dict[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in data.items():
        yield (*before, name)
        if isinstance(value, dict) and len(before) < 2:
            yield from _paths(value, (*before, name))


def _outcome(folder: Path, clip: Path) -> str:
    from crosslmm.errors import CrossLMMError
    from crosslmm.inference.assistant import load

    try:
        assistant = load(folder, device="cpu", dtype="float32")
        for temperature in (0.0, 1.0):
            assistant.ask(clip, "hi", frames=1, max_new_tokens=2, temperature=temperature)
    except CrossLMMError:
        return "refused"
    except Exception as error:
        say(f"{type(error).__name__}: {str(error)[:200]!r}")
        return "crashed"
    return "answered"


def _write_clip(path: Path) -> None:
    import numpy as np

    from crosslmm.video.writing import write_frames

    write_frames(path, [np.full((32, 32, 3), 40 * number, np.uint8) for number in range(4)], fps=5)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
