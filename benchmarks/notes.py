"""Whether notes of parts pay: the needle test by describing each part of a clip, then answering from it.

    python -m benchmarks.notes --clips 8 --seed 48151623

The built-in model, greedy. A clip is cut into equal parts, since it has no cuts of its own; each part is
opened by itself with half of `--frames`, so that no more than that is ever held. `notes` answers from
the descriptions as text, without a video. The bounds say what a better second step could reach: the
answer is in the notes, or one of the parts answers right when it is asked itself.
"""

import argparse
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import Record, say, table
from crosslmm.evaluation.mergers import wilson_interval
from crosslmm.evaluation.scoring import is_right
from crosslmm.evaluation.tasks.questions import read_questions
from crosslmm.inference.generation import GenerationOptions, decode_answer
from crosslmm.synthetic import write_needles

_LONGEST = 256  # tokens of an answer


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    right: dict[str, list[bool]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="crosslmm-benchmark-") as scratch:
        path = write_needles(
            Path(scratch), clips=options.clips, seed=options.seed, lengths=(options.length,)
        )
        for method, is_good in _measure(Path(scratch), read_questions(path), options):
            right[method].append(is_good)
    rows = []
    for method, marks in right.items():
        low, high = wilson_interval(sum(marks), len(marks))
        share = f"{sum(marks) / len(marks):.1%} ({low:.1%} to {high:.1%})"
        rows.append({"method": method, "questions": len(marks), "right": share})
    names = ("clips", "seed", "length", "frames", "parts")
    settings = {name: getattr(options, name) for name in names}
    print(table(rows))
    record = Record(f"notes_{options.seed}", settings, rows)
    say(f"wrote {record.write(options.out)}")


def _measure(
    folder: Path, rows: list[Any], options: argparse.Namespace
) -> Iterator[tuple[str, bool]]:
    import crosslmm

    assistant = crosslmm.load("demo", device="cpu", dtype="float32")
    videos = list(dict.fromkeys(row["video"] for row in rows))
    for number, name in enumerate(videos):
        video = folder / name
        uniform = assistant.open_video(video, frames=options.frames)
        zoom = assistant.open_zoomed(video, frames=options.frames)
        length = uniform.source.duration / options.parts
        parts = [
            assistant.open_video(
                video, frames=options.frames // 2, start=part * length, end=(part + 1) * length
            )
            for part in range(options.parts)
        ]
        described = [
            part.ask("Describe the video.", max_new_tokens=_LONGEST).text for part in parts
        ]
        notes = "\n".join(f"Part {part + 1}: {text}" for part, text in enumerate(described))
        for row in (row for row in rows if row["video"] == name):
            question = row["question"]
            yield "uniform", is_right(row, uniform.ask(question, max_new_tokens=_LONGEST).text)
            yield "zoom", is_right(row, zoom.ask(question, max_new_tokens=_LONGEST).text)
            yield "notes", is_right(row, _answer_text(assistant, f"{notes}\n{question}"))
            said = [part.ask(question, max_new_tokens=_LONGEST).text for part in parts]
            most, _ = Counter(said).most_common(1)[0]
            yield "what most parts say", is_right(row, most)
            yield "bound: any part is right", any(is_right(row, text) for text in said)
            if row["type"] != "when":
                found = str(row["answer"]).lower() in notes.lower()
                yield "bound: the answer is in the notes (without when)", found
        say(f"{number + 1} of {len(videos)} clips")


def _answer_text(assistant: Any, text: str) -> str:
    """Of a prompt without a video."""
    processor, model = assistant.processor, assistant.model
    prompt = processor.prompt(text, text_only=True)
    ids = processor.encode_prompts([prompt], [0])["input_ids"]
    with torch.inference_mode():
        generated = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=GenerationOptions(_LONGEST).config(model),
        )
    return decode_answer(processor.tokenizer, generated[0, ids.shape[1] :].tolist()).strip()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--seed", type=int, default=48151623)
    parser.add_argument("--length", type=int, default=128, help="of a clip, in frames")
    parser.add_argument("--frames", type=int, default=16, help="of the uniform pass")
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
