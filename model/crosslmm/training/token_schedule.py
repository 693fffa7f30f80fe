"""How many tokens per frame a step of distillation gives the student, and how many its teacher reads.

Drawing the number lets one checkpoint serve every number (matryoshka representations). At first it
goes down step by step, each number taught by the next larger one: a gap that is small is learned
better than the whole of it at once (progressive consistency distillation, arXiv 2510.00515).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from crosslmm.errors import UsageError
from crosslmm.merging import grid_side

LADDER = (49, 25, 16, 9, 4, 1)
_WINDOW = 3  # of the numbers drawn from while they go down, so that the last ones are not forgotten
_USUAL = 9


@dataclass(frozen=True)
class TokenDraw:
    """Tokens per frame of student and teacher in one step. `teacher` is None for the teacher's own
    number; for a smaller one the student itself is the teacher."""

    student: int
    teacher: int | None


class TokenSchedule:
    """The draws of a run of so many steps, each a function of its number and the seed alone.

    counts: the student's tokens per frame, descending; progressive: see `DistillOptions`.
    """

    def __init__(self, counts: Sequence[int], *, steps: int, progressive: float, seed: int) -> None:
        self.counts = tuple(counts)
        self.steps = steps
        self.progressive = progressive
        self.seed = seed

    def at(self, step: int) -> TokenDraw:
        """step: from 0."""
        chance = random.Random(f"{self.seed} tokens {step}")  # noqa: S311  repeatable, no secret
        descending = self.progressive * self.steps
        if step >= descending:
            return TokenDraw(chance.choice(self.counts), None)
        reached = int(step / descending * len(self.counts))
        index = chance.randrange(max(reached - _WINDOW + 1, 0), reached + 1)
        return TokenDraw(self.counts[index], self.counts[index - 1] if index else None)


def student_counts(tokens: Sequence[int] | None, full: int) -> tuple[int, ...]:
    """The student's tokens per frame, descending; `full` are the teacher's. Raises UsageError."""
    if tokens is None:
        tokens = [count for count in LADDER if count < full]
    wrong = [count for count in tokens if grid_side(count) is None or count >= full]
    if wrong or not tokens:
        raise UsageError(
            f"distill.tokens are perfect squares below {full}, the teacher's tokens per frame"
            + (f", not {wrong[0]}" if wrong else "; there is none")
        )
    return tuple(sorted(set(tokens), reverse=True))


def usual_count(counts: Sequence[int], wanted: int | None) -> int:
    """Which of the student's numbers its checkpoint uses by default. Raises UsageError."""
    if wanted is None:
        return max((count for count in counts if count <= _USUAL), default=min(counts))
    if wanted not in counts:
        raise UsageError(
            f"distill.default_tokens {wanted} is not one of distill.tokens, "
            f"{', '.join(map(str, counts))}"
        )
    return wanted
