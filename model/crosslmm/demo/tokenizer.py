"""The demo's tokenizer: words for what it talks about, single bytes for everything else.

A time such as `12.34s,` is always the same three tokens, so that the times of a time line stand at
even distances; single capitals and numbers never swallow the space before them, so that a glyph or a
time is the same token in a question, in the time line and in an answer.
"""

from collections.abc import Iterator

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from crosslmm.prompts.time_line import llava_video_time_line
from crosslmm.synthetic import phrasing
from crosslmm.synthetic.phrasing import DO, DOES, QUESTIONS, YES_NO
from crosslmm.synthetic.vocabulary import COLOUR_NAMES, GLYPHS, SHAPES, SIZES

SPECIAL_TOKENS = ("<pad>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
VOCABULARY_SIZE = 1152
_PIECES = "|".join(
    [
        r"\.\d\d(?=s|\s|$)",  # hundredths of a second
        r"(?<=\d)s,",
        r"\d{1,2}",
        r"[A-Z](?![a-z])",
        r" ?[A-Za-z][a-z]*(?:'[a-z]+)?",
        r"[^\sA-Za-z\d]",
        r"\s",
    ]
)


def demo_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the project's own wording; the same tokens in every run."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",  # noqa: S106  a token of text
        eos_token="<|im_end|>",  # noqa: S106  a token of text
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
        extra_special_tokens={"image_token": "<image>", "video_token": "<video>"},
    )


def _corpus() -> Iterator[str]:
    """Every word the demo's questions and answers have, and every time up to 99.99 seconds."""
    slots = dict.fromkeys(("thing", "event", "happen", "things", "a_thing"), "the object")
    slots |= {"value": "red", "number": "3"}
    wordings = [w.format(**slots) for ws in (*QUESTIONS.values(), *YES_NO.values()) for w in ws]
    words = [*COLOUR_NAMES, *SHAPES, *(f"{shape}s" for shape in SHAPES), "crosses", *SIZES,
             *DOES.values(), *DO.values(), phrasing.NOTHING, "marked", "objects", "an", "changes",
             "appears", "appear", "disappears", "disappear", "turns", "turn", "meets", "meet",
             "passes", "pass", "before", "then", "yes", "no", "leftmost", "rightmost", "highest",
             "lowest", "at the start", "at the end", "the object that", "the scene change",
             "system", "user", "assistant", "true or not", "there are"]  # fmt: skip
    for _ in range(3):
        yield from (f"{wording[0].upper()}{wording[1:]}" for wording in wordings)
        for word in words:
            # After a space, at the very beginning, and with a capital.
            yield from (f"a {word}", word, f"{word[0].upper()}{word[1:]}")
        yield from phrasing.CHOICE_ENDINGS
    yield from ("user\n", "assistant\n", "system\n")
    yield from GLYPHS
    for start in range(0, 100, 16):
        seconds = np.arange(start, start + 16) + np.arange(start, start + 16) / 100
        for times in (seconds, seconds[::-1], seconds + 0.5):
            yield llava_video_time_line((times % 100).tolist(), float(start))
    for hundredths in range(100):
        yield from [f"at {hundredths % 60}.{hundredths:02d} seconds"] * 3
