"""Models and inputs whose cost is counted in several tests."""

import json
from typing import Any

from crosslmm.cost import (
    ModelShape,
)
from tests.support.tiny import text_config, vision_config

MIDDLE = {
    "vision": vision_config(
        hidden_size=96, intermediate_size=200, num_hidden_layers=3, image_size=98, patch_size=14
    ),
    "text": text_config(
        hidden_size=128, intermediate_size=384, num_hidden_layers=8, num_key_value_heads=1
    ),
    "cross_attention_interval": 3,
    "tokens_per_frame": 9,
}


def shape_of(model: Any) -> ModelShape:
    return ModelShape.from_config(json.loads(model.config.to_json_string()))
