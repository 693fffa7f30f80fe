"""Distillation without labels: a student with fewer tokens per frame learns to say what its teacher,
the same weights at their full number of tokens, says about any video.

The teacher first answers generic prompts (`answers.py`). Then the student's cross-attention is trained
until the next token of each answer has the distribution that the teacher gives it.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from crosslmm.checkpoints import catalog, loading
from crosslmm.checkpoints.headers import part_of
from crosslmm.checkpoints.quantization import keep_gradients
from crosslmm.configuration_crosslmm import CrossLMMConfig
from crosslmm.cost.distillation import distill_memory
from crosslmm.cost.shape import ModelShape
from crosslmm.errors import UsageError
from crosslmm.files import gigabytes
from crosslmm.fingerprint import settings_hash
from crosslmm.inference.runtime import Runtime
from crosslmm.merging import check_tokens_per_frame
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.training import lora
from crosslmm.training.answers import AnsweredVideos, AnswerProgress, answer_videos
from crosslmm.training.checkpoints import check_loaded
from crosslmm.training.dataset import VideoDataset
from crosslmm.training.distillation_loss import Predictions, distillation_terms
from crosslmm.training.generic_prompts import GENERIC_PROMPTS, read_prompts
from crosslmm.training.method import ADAPTER, MODEL, Prepared
from crosslmm.training.recipe import DistillOptions, Recipe
from crosslmm.training.stages import freeze, trainable_parts
from crosslmm.training.student import (
    Encoded,
    Rows,
    Student,
    encode_once,
    make_teacher,
    read_video,
    share_weights,
)
from crosslmm.training.token_schedule import (
    TokenDraw,
    TokenSchedule,
    student_counts,
    usual_count,
)
from crosslmm.training.trainer import CrossLMMTrainer


class Distillation:
    """Stage `distill`. teacher: a checkpoint, which may be the model itself; prompts: a file, None for
    the generic ones; report: called while the teacher answers."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        teacher: str | Path,
        prompts: str | Path | None = None,
        report: Callable[[AnswerProgress], None] | None = None,
    ) -> None:
        assert recipe.distill is not None
        self.recipe = recipe
        self.options = recipe.distill
        self._teacher_folder = catalog.resolve(teacher).resolve()
        self._prompts = GENERIC_PROMPTS if prompts is None else read_prompts(prompts)
        self._report = report
        self._teacher: CrossLMMForConditionalGeneration | None = None
        self._counts: tuple[int, ...] = ()
        self._full = 0
        self._prompted = 0
        self._notes: list[str] = []

    def identity(self) -> dict[str, Any]:
        prompts = settings_hash({"prompts": self._prompts})
        return {"teacher": str(self._teacher_folder), "prompts": prompts}

    def read_samples(self, data: str | Path, *, held_out: bool) -> AnsweredVideos:
        per_video = self.options.prompts_per_video
        samples = AnsweredVideos(data, self._prompts, per_video=per_video, seed=self.recipe.seed)
        self._notes += samples.notes
        self._prompted += len(samples)
        return samples

    def prepare(self, source: Path, device: torch.device) -> Prepared:
        recipe, options = self.recipe, self.options
        config = loading.load_config(source)
        self._check_teacher(config)
        self._full = recipe.tokens_per_frame or config.tokens_per_frame
        check_tokens_per_frame(self._full, config.patches_per_frame, error=UsageError)
        self._counts = student_counts(options.tokens, self._full)
        usual = usual_count(self._counts, options.default_tokens)
        dtype = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
        # Of float16 the step would make bfloat16 each time that it reads a weight.
        half = torch.bfloat16 if dtype == torch.float16 else dtype
        load: dict[str, Any] = {
            "device": device,
            "dtype": torch.float32 if recipe.precision == "fp32" else half,
            "quantization": options.quantization,
        }
        model = loading.load_model(source, config=config, **load)
        if self._teacher_folder == source.resolve():
            self._teacher = make_teacher(model)
        else:
            self._teacher = loading.load_model(self._teacher_folder, **load)
            share_weights(self._teacher, model)
        self._teacher.requires_grad_(False)
        for either in (self._teacher, model):
            keep_gradients(either)
        freeze(model, recipe.stage)
        network: Any = model
        if recipe.lora is not None:
            network = lora.add_adapters(model, recipe.lora, recipe.stage)
        how = f"{usual} by default" if options.merge is None else f"merged by `{options.merge}`"
        notes = (
            f"teacher: {self._full} tokens per frame; student: {_listed(self._counts)}, {how}",
            self._memory_note(config, load["dtype"]),
            f"before the first step the teacher answers all {self._prompted:,} prompts",
            *self._notes,
        )
        return Prepared(Student(network), model, config, dtype, notes)

    def _check_teacher(self, config: CrossLMMConfig) -> None:
        """UsageError where a student of this configuration would not read what its teacher reads."""
        theirs = loading.load_config(self._teacher_folder)
        for name in ("merge_mode", "projector_order", "video_newline", "vision_layers"):
            own, other = getattr(config, name), getattr(theirs, name)
            if own != other:
                raise UsageError(
                    f"`model` has {name} {own} and `teacher` {other}; it is to be the same"
                )
        own, other = config.tokens_per_frame, theirs.tokens_per_frame
        if own != other and self.recipe.tokens_per_frame is None:
            raise UsageError(
                f"`model` has {own} tokens per frame and `teacher` {other}; the recipe's "
                f"tokens_per_frame says how many the teacher reads, such as {other}"
            )

    def _memory_note(self, config: CrossLMMConfig, dtype: torch.dtype) -> str:
        """An estimate for a device, of videos with the most frames that the recipe names; dtype: of the
        frozen weights."""
        recipe = self.recipe
        shape = ModelShape.from_config(json.loads(config.to_json_string()))
        if self._teacher is not None and not self._teacher.model.reads_features:
            shape = replace(shape, open_v2v=0, open_t2v=0)
        frames = recipe.frames or recipe.max_frames or config.default_frames
        memory = distill_memory(
            replace(shape, tokens_per_frame=self._full),
            frames=frames,
            student_tokens=self._counts[0],
            answer_tokens=self.options.answer_tokens,
            batch=recipe.device_batch_size,
            dtype=str(dtype).removeprefix("torch."),
            quantization=self.options.quantization,
            checkpointing=recipe.gradient_checkpointing,
        )
        step = memory.total - memory.frozen - memory.trained
        return (
            f"estimated memory per device: {gigabytes(memory.total)} with {frames} frames "
            f"({gigabytes(memory.frozen)} frozen weights, {gigabytes(memory.trained)} trained ones with "
            f"their optimizer, {gigabytes(step)} for a step)"
        )

    def begin(self, *, datasets: list[VideoDataset], folder: Path) -> None:
        assert self._teacher is not None
        processor = datasets[0].processor
        processor.tokens_per_frame = self._full
        answer_videos(
            [part.samples for part in datasets],  # type: ignore[misc]
            dataset=datasets[0],
            runtime=Runtime(self._teacher, processor),
            max_new_tokens=self.options.answer_tokens,
            folder=folder,
            report=self._report,
        )

    def make_trainer(self, **arguments: Any) -> "DistillTrainer":
        assert self._teacher is not None
        return DistillTrainer(
            teacher=self._teacher, counts=self._counts, full=self._full, **arguments
        )

    def export(
        self, trainer: CrossLMMTrainer, source: Path, folder: Path, prepared: Prepared
    ) -> None:
        """The frozen weights come from the checkpoint itself, whatever precision they were read in. It
        keeps the number of tokens that it was trained with, since positions refer to it."""
        if not trainer.args.should_save:
            return
        student = trainer.network
        processor = trainer.processor
        processor.tokens_per_frame = self._full
        if self.options.merge is None:  # merging starts from all tokens
            processor.tokens_per_frame = usual_count(self._counts, self.options.default_tokens)
        adapter = None
        if self.recipe.lora is not None:
            adapter = folder / ADAPTER
            lora.save_adapter(student.network, adapter)
        model = loading.load_model(
            source, device=torch.device("cpu"), dtype=prepared.dtype, adapter=adapter
        )
        if adapter is None:
            # A checkpoint without cross-attention gets another one each time it is loaded.
            weights = {
                name: weight.to("cpu", prepared.dtype)
                for name, weight in student.base.named_parameters()
                if part_of(name) in trainable_parts("distill")
            }
            check_loaded(model, (), model.load_state_dict(weights, strict=False).unexpected_keys)
        loading.save_checkpoint(folder / MODEL, model, processor)


class DistillTrainer(CrossLMMTrainer):
    """The trainer of the other stages under the loss of distillation; `model` is a `Student`.

    counts: the student's tokens per frame; full: the teacher's.
    """

    model_accepts_loss_kwargs: bool

    def __init__(
        self,
        *,
        teacher: CrossLMMForConditionalGeneration,
        counts: tuple[int, ...],
        full: int,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.model_accepts_loss_kwargs = True  # the loss is divided by the tokens of the whole step
        assert self.recipe.distill is not None
        self.options: DistillOptions = self.recipe.distill
        self.teacher = teacher
        teacher.to(self.args.device)  # type: ignore[arg-type]
        self._counts, self._full = counts, full
        self._terms: dict[str, list[torch.Tensor]] = {}

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        draw = self._draw(training=model.training)
        teacher_count = draw.teacher or self._full
        mask = inputs["video_frame_mask"].bool()
        videos = encode_once(
            self.teacher.model, inputs["pixel_values_videos"], mask, {draw.student, teacher_count},
            full=self._full, merge=self.options.merge,
        )  # fmt: skip
        full_rows = Rows.of(
            inputs["input_ids"], inputs["attention_mask"], inputs["labels"],
            video_token=self.network.config.video_token_id, merged=videos.frames * self._full,
        )  # fmt: skip
        rows = full_rows.keep(videos.frames * draw.student)
        target = self._teach(videos, full_rows.keep(videos.frames * teacher_count), draw)
        states = model(rows, videos.visual(draw.student))
        own = Predictions(
            self.network.base.lm_head, rows.answers(states), rows.visual(states), rows.weights()
        )
        terms = distillation_terms(own, target, rows.answer_tokens, self.options.temperature)
        count = len(rows.answer_tokens)
        options = self.options
        loss = (
            options.divergence_weight * terms["divergence"]
            + options.answer_weight * terms["answer"]
            + options.hidden_weight * terms["hidden"]
        )
        if num_items_in_batch is not None:
            loss = loss / num_items_in_batch * self.accelerator.num_processes
        if model.training and count:
            for name, value in terms.items():
                self._terms.setdefault(name, []).append(value.detach().float() / count)
        return (loss, {}) if return_outputs else loss

    def _draw(self, *, training: bool) -> TokenDraw:
        if not training:
            return TokenDraw(usual_count(self._counts, self.options.default_tokens), None)
        schedule = TokenSchedule(
            self._counts,
            steps=self.state.max_steps,
            progressive=self.options.progressive,
            seed=self.recipe.seed,
        )
        return schedule.at(self.state.global_step)

    @torch.no_grad()
    def _teach(self, videos: Encoded, rows: Rows, draw: TokenDraw) -> Predictions:
        """The teacher's, or, where it reads fewer tokens, the student's own, without dropout."""
        count, student = draw.teacher or self._full, self.network
        given = (rows, videos.visual(count))
        if draw.teacher is None:
            known = read_video(self.teacher.model, *given)
        else:
            student.eval()
            with self.accelerator.autocast():  # as in its own step: what it trains is in float32
                known = read_video(student.base.model, *given)
            student.train()
        merged = videos.means(rows.visual(known), count, draw.student)
        return Predictions(self.teacher.lm_head, rows.answers(known), merged)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        means = {n: round(float(torch.stack(v).mean()), 6) for n, v in self._terms.items()}
        self._terms = {}
        super().log({**logs, **means}, start_time)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Frozen weights are not in a checkpoint."""
        trained = {name for name, weight in self.network.named_parameters() if weight.requires_grad}
        missing = trained & set(load_result.missing_keys)
        check_loaded(self.network, missing, load_result.unexpected_keys)


def _listed(counts: tuple[int, ...]) -> str:
    return ", ".join(map(str, counts))
