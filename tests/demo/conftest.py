"""The demo at a fraction of its size."""

import numpy as np
import pytest
import torch

from crosslmm.demo.model import demo_config, demo_processor
from crosslmm.demo.packing import MARK
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.processing_crosslmm import CrossLMMProcessor
from crosslmm.synthetic.asker import ask_about
from crosslmm.synthetic.questions import Question
from crosslmm.synthetic.scenes import make_clip
from tests.support.tiny import open_gates

TIMES = [0.25, 0.75, 1.25]


@pytest.fixture(scope="module")
def processor() -> CrossLMMProcessor:
    return demo_processor()


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    clip = make_clip("train", 0, 1, duration=1.5)
    rng = np.random.default_rng(0)
    return ask_about(clip, rng, count=12, frame_times=TIMES, frame_period=0.1)


@pytest.fixture
def model(processor: CrossLMMProcessor) -> CrossLMMForConditionalGeneration:
    """The demo's parts at a fraction of its size."""
    torch.manual_seed(0)
    config = demo_config(processor)
    config.vision_config.num_hidden_layers = 1
    config.text_config.num_hidden_layers = 4
    config.text_config.layer_types = config.text_config.layer_types[:4]
    config.text_config.initializer_range = 0.1
    model = CrossLMMForConditionalGeneration(config).eval()
    open_gates(model)
    return model


def shown_prompt(processor: CrossLMMProcessor) -> str:
    """The prompt that shows the frames of TIMES, up to where the turns begin."""
    prompt = processor.prompt(MARK, times=TIMES, duration=1.5)
    return processor.expand(prompt, len(TIMES))
