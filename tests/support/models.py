"""Folders that look like checkpoints, without a model in them."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.support.fake_hub import COMMIT


def write_model(folder: Path, *, kind: str = "crosslmm", shards: int = 1) -> Path:
    """A folder that looks like a checkpoint: a few weights and gates in safetensors."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    tensors = {
        "model.vision_tower.embeddings.weight": np.ones((3, 4), np.float16),
        "model.multi_modal_projector.linear_1.weight": np.ones((4, 5), np.float32),
        "model.language_model.embed_tokens.weight": np.ones((10, 5), np.float32),
        "lm_head.weight": np.ones((10, 5), np.float32),
        "model.cross_attention_layers.3.v2v.gate": np.array([0.5], np.float32),
        "model.cross_attention_layers.3.t2v.gate": np.array([0.0], np.float16),
        "model.cross_attention_layers.3.v2v.q_proj.weight": np.ones((2, 5), np.float32),
    }
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    names = list(tensors)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        members = names[shard::shards]
        save_file({name: tensors[name] for name in members}, folder / file)
        weight_map |= dict.fromkeys(members, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def write_cached(hub: Path, name: str, *, kind: str = "crosslmm") -> Path:
    """A model as the Hugging Face cache keeps it."""
    repository = hub / f"models--{name.replace('/', '--')}"
    snapshot = write_model(repository / "snapshots" / COMMIT, kind=kind)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return snapshot
