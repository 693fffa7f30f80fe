"""TRL's supervised fine-tuning on the standard model and processor, with the collator it asks for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.tiny import tiny_model, tiny_processor

trl = pytest.importorskip("trl", reason="TRL is not a dependency; pip install trl")
datasets = pytest.importorskip("datasets", reason="TRL brings it")
VIDEO = 4

pytestmark = pytest.mark.filterwarnings("default")  # those of TRL's own


def test_sft_trains_on_videos(tmp_path: Path) -> None:
    processor, model = tiny_processor(), tiny_model()
    clips = np.random.default_rng(0).integers(0, 256, (4, 2, 30, 30, 3), np.uint8)

    def collate(examples: list[dict[str, Any]]) -> Any:
        texts = [processor.apply_chat_template(each["messages"]) for each in examples]
        batch = processor(text=texts, videos=[clips[each["clip"]] for each in examples])
        labels = batch["input_ids"].clone()
        labels[(batch["attention_mask"] == 0) | (labels == VIDEO)] = -100
        batch["labels"] = labels
        return batch

    def messages(answer: str) -> list[dict[str, Any]]:
        question = [{"type": "video"}, {"type": "text", "text": "What?"}]
        return [
            {"role": "user", "content": question},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ]

    rows = [{"messages": messages("ab"[index % 2]), "clip": index} for index in range(4)]
    # With a fingerprint of its own, which is otherwise a pickle of everything in reach.
    table = datasets.table.InMemoryTable.from_pylist(rows)
    dataset = datasets.Dataset(table, fingerprint="lessons")
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trainer = trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(
            output_dir=str(tmp_path),
            max_steps=3,
            per_device_train_batch_size=2,
            learning_rate=1e-3,
            activation_checkpointing=True,
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            report_to=[],
            use_cpu=True,
            bf16=False,
        ),
        train_dataset=dataset,
        data_collator=collate,
        processing_class=processor,
    )
    result = trainer.train()
    assert np.isfinite(result.training_loss)
    changed = {
        name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])
    }
    assert {"t2v", "v2v", "multi_modal_projector", "language_model"} <= {
        part for name in changed for part in name.split(".")
    }
