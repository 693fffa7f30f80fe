"""Teacher and student: one set of frozen weights, and what each reads of a video."""

from pathlib import Path
from typing import Any

import pytest
import torch

from crosslmm.checkpoints.loading import load_model
from crosslmm.training.student import Rows, encode_once, make_teacher, read_video, share_weights

CPU = torch.device("cpu")
FULL = 16  # tokens per frame of the teacher: patches of 49 pixels by 6, pooled to half the grid


class TestTeacher:
    def _model(self, llava: Path, **options: Any) -> Any:
        return load_model(llava, device=CPU, dtype=torch.float32, **options)

    @pytest.mark.parametrize("quantization", ["none", "4bit"])
    def test_the_frozen_weights_are_in_memory_once(self, llava: Path, quantization: Any) -> None:
        model = self._model(llava, quantization=quantization)
        teacher = make_teacher(model)
        own = dict(model.named_parameters())
        apart = {n for n, p in teacher.named_parameters() if p.data_ptr() != own[n].data_ptr()}
        assert apart == {"model.feature_norm.weight"}
        assert not len(teacher.model.cross_attention_layers)

    @pytest.mark.parametrize("quantization", ["none", "4bit"])
    def test_another_checkpoint_shares_what_is_the_same(
        self, llava: Path, quantization: Any
    ) -> None:
        model, teacher = (self._model(llava, quantization=quantization) for _ in range(2))
        with torch.no_grad():
            teacher.model.multi_modal_projector.linear_1.weight += 1
        share_weights(teacher, model)
        own = dict(model.named_parameters())
        apart = {n for n, p in teacher.named_parameters() if p.data_ptr() != own[n].data_ptr()}
        assert apart == {"model.multi_modal_projector.linear_1.weight", "model.feature_norm.weight"}

    def test_a_teacher_with_open_gates_keeps_its_cross_attention(self, llava: Path) -> None:
        model = self._model(llava)
        with torch.no_grad():
            model.model.cross_attention_layers["7"].t2v.gate.fill_(0.5)
        teacher = make_teacher(model)
        with torch.no_grad():
            model.model.cross_attention_layers["7"].t2v.gate.fill_(0.0)
        assert float(teacher.model.cross_attention_layers["7"].t2v.gate.detach()) == 0.5

    def test_it_reads_what_the_checkpoint_reads(self, llava: Path) -> None:
        model = self._model(llava)
        teacher = make_teacher(model)
        ids, pixels, mask, labels = _batch()
        frames = mask.sum(dim=1)
        videos = encode_once(teacher.model, pixels, mask, {FULL, 4}, full=FULL)
        rows = Rows.of(ids, (ids != 0).long(), labels, video_token=4, merged=frames * FULL)
        with torch.no_grad():
            states = read_video(teacher.model, rows, videos.visual(FULL))
            expected = model.model(
                input_ids=ids, attention_mask=(ids != 0).long(), pixel_values_videos=pixels,
                video_frame_mask=mask,
            ).last_hidden_state  # fmt: skip
        real = ids != 0
        torch.testing.assert_close(states[real], expected[real])

    def test_a_merged_student_reads_what_the_checkpoint_reads_with_the_same_merging(
        self, llava: Path
    ) -> None:
        model = self._model(llava)
        ids, pixels, mask, labels = _batch()
        frames = mask.sum(dim=1)
        videos = encode_once(model.model, pixels, mask, {FULL, 3}, full=FULL, merge="folder")
        rows = Rows.of(ids, (ids != 0).long(), labels, video_token=4, merged=frames * FULL)
        fewer = rows.keep(frames * 3)
        with torch.no_grad():
            states = read_video(model.model, fewer, videos.visual(3))
            expected = model.model(
                input_ids=fewer.input_ids, attention_mask=fewer.attention_mask,
                pixel_values_videos=pixels, video_frame_mask=mask, merge="folder",
            ).last_hidden_state  # fmt: skip
        real = fewer.attention_mask.bool()
        torch.testing.assert_close(states[real], expected[real])
        assert len(fewer.visual(states)) == 9

    @pytest.mark.parametrize("merge", [None, "folder"])
    def test_a_merged_token_is_to_be_the_mean_of_those_it_stands_for(
        self, llava: Path, merge: str | None
    ) -> None:
        """The middle step, as of a student that teaches itself, changes nothing where it is a mean of
        as many tokens each."""
        _, pixels, mask, _ = _batch()
        videos = encode_once(self._model(llava).model, pixels, mask, {FULL, 4, 1}, full=FULL,
                             merge=merge)  # fmt: skip
        states = torch.randn(3 * FULL, 5)
        one = videos.means(states, FULL, 1)
        torch.testing.assert_close(one, states.view(3, FULL, 5).mean(dim=1))
        four = videos.means(states, FULL, 4)
        assert four.shape == (3 * 4, 5)
        again = videos.means(four, 4, 1)
        torch.testing.assert_close(again, one)

    def test_fewer_tokens_keep_the_answers(self) -> None:
        ids, _, mask, labels = _batch()
        frames = mask.sum(dim=1)
        rows = Rows.of(ids, (ids != 0).long(), labels, video_token=4, merged=frames * FULL)
        fewer = rows.keep(frames * 4)
        for one, other in zip(rows.input_ids, fewer.input_ids, strict=True):
            assert (
                one[(one != 4) & (one != 0)].tolist() == other[(other != 4) & (other != 0)].tolist()
            )
        assert (fewer.input_ids == 4).sum(dim=1).tolist() == [2 * 4 + 1, 1 * 4 + 1]
        assert fewer.is_merged.sum(dim=1).tolist() == [8, 4]
        assert fewer.answer_tokens.tolist() == rows.answer_tokens.tolist() == [30, 31, 32]


def _batch() -> tuple[torch.Tensor, ...]:
    """Two rows, of two frames and of one, each with a newline's placeholder; answers 30, 31 and 32."""
    rows = [[5, *[4] * (2 * FULL + 1), 20, 30, 31], [6, *[4] * (FULL + 1), 21, 22, 32]]
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    labels = torch.where((ids >= 30) & (ids < 40), ids, -100)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 2, 3, 49, 49, generator=generator)
    return ids, pixels, torch.tensor([[True, True], [True, False]]), labels
