"""The numbers of tokens per frame of a student, step by step."""

import pytest
import torch

from crosslmm.errors import UsageError
from crosslmm.training.token_schedule import TokenSchedule, student_counts, usual_count

CPU = torch.device("cpu")
FULL = 16  # tokens per frame of the teacher: patches of 49 pixels by 6, pooled to half the grid


class TestSchedule:
    def test_it_goes_down_step_by_step_and_ends_with_the_teacher(self) -> None:
        counts = student_counts(None, 196)
        assert counts == (49, 25, 16, 9, 4, 1)
        schedule = TokenSchedule(counts, steps=900, progressive=2 / 3, seed=0)
        draws = [schedule.at(step) for step in range(900)]
        assert {draw.student for draw in draws[:100]} == {49}
        assert {draw.teacher for draw in draws[:100]} == {None}
        assert {draw.student for draw in draws[500:600]} == {9, 4, 1}
        assert {(draw.student, draw.teacher) for draw in draws[500:600]} == {
            (9, 16),
            (4, 9),
            (1, 4),
        }
        assert {draw.student for draw in draws[600:]} == set(counts)
        assert {draw.teacher for draw in draws[600:]} == {None}
        assert draws == [schedule.at(step) for step in range(900)]

    def test_without_progression_the_teacher_is_always_asked(self) -> None:
        schedule = TokenSchedule((9, 4), steps=50, progressive=0.0, seed=0)
        assert {schedule.at(step).teacher for step in range(50)} == {None}

    def test_the_counts_are_fewer_than_the_teachers(self) -> None:
        assert student_counts([1, 9, 9], 36) == (9, 1)
        assert usual_count((49, 25), None) == 25
        with pytest.raises(UsageError, match="below 36"):
            student_counts([36], 36)
        with pytest.raises(UsageError, match="default_tokens 4 is not one of"):
            usual_count((9, 1), 4)
