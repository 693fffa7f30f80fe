"""PEFT's soft prompts on a CrossLMM that watches a video."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from tests.model.test_model import one_video
from tests.support.tiny import tiny_model


@pytest.mark.filterwarnings("ignore:Position ids are not supported")
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", [peft.PrefixTuningConfig, peft.PromptTuningConfig])
def test_soft_prompts_train_generate_and_are_loaded_again(kind: Any, tmp_path: Path) -> None:
    inputs = one_video()
    tuned = peft.get_peft_model(tiny_model(), kind(task_type="CAUSAL_LM", num_virtual_tokens=3))
    tuned.train()
    tuned(**inputs, labels=inputs["input_ids"]).loss.backward()
    gradients = {name: p.grad for name, p in tuned.named_parameters() if p.requires_grad}
    assert gradients
    assert all(gradient is not None and gradient.any() for gradient in gradients.values())
    tuned.eval().save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(tiny_model(), str(tmp_path)).eval()
    with torch.no_grad():
        expected = tuned(**inputs).logits
        torch.testing.assert_close(again(**inputs).logits, expected)
        assert not torch.allclose(expected[:, -1], tiny_model()(**inputs).logits[:, -1])
        answer = again.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert answer.shape[1] == inputs["input_ids"].shape[1] + 4
    assert answer[0, -4] == expected[0, -1].argmax(), "as the forward pass has it, prefix and video"
