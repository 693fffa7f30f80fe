"""Strict loading, quantized loading, and models assembled from their parts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

import crosslmm
from crosslmm.checkpoints.assembly import assemble
from crosslmm.checkpoints.loading import load_config, load_model, save_checkpoint
from crosslmm.checkpoints.quantization import check_quantized, resolve_quantization
from tests.support.tiny import text_config, tiny_checkpoint, tiny_tokenizer, vision_config

CPU = torch.device("cpu")
TEXT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def rewrite(folder: Path, change: dict[str, torch.Tensor | None]) -> None:
    """Weights replaced, added, or (None) taken away."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name, tensor in change.items():
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    save_file(tensors, file, metadata={"format": "pt"})


GATE = "model.cross_attention_layers.1.t2v.gate"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({GATE: None}, f"it lacks weight {GATE}"),
        ({"model.extra.weight": torch.zeros(3)}, "it has unknown weight model.extra.weight"),
        ({GATE: torch.zeros(2)}, f"it has mis-shaped weight {GATE}"),
    ],
    ids=["missing", "unexpected", "mis-shaped"],
)
def test_weights_that_do_not_match_are_refused_by_name(
    tmp_path: Path, change: dict[str, torch.Tensor | None], message: str
) -> None:
    rewrite(tiny_checkpoint(tmp_path / "model"), change)
    with pytest.raises(crosslmm.CheckpointError) as refusal:
        crosslmm.load(tmp_path / "model")
    assert message in str(refusal.value)
    assert str(refusal.value).count("\n") <= 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("tokens_per_frame", 5), ("v2v_scope", "clip"), ("cross_attention_interval", "four")],
)
def test_an_invalid_configuration_is_one_clear_line(
    tmp_path: Path, field: str, value: object
) -> None:
    path = tiny_checkpoint(tmp_path / "model") / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(crosslmm.CheckpointError, match=r"config\.json is not valid") as refusal:
        crosslmm.load(tmp_path / "model")
    assert str(refusal.value).count("\n") <= 1


@pytest.mark.parametrize("stored", ["per_layer", "shared"])
def test_shared_keys_and_values_of_another_configuration_are_refused(
    tmp_path: Path, stored: str
) -> None:
    path = tiny_checkpoint(tmp_path / "model", cross_kv=stored) / "config.json"
    other = {"per_layer": "shared", "shared": "per_layer"}[stored]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"cross_kv": other}))
    with pytest.raises(
        crosslmm.CheckpointError, match=r"it lacks weights .*_proj\.weight"
    ) as refusal:
        crosslmm.load(tmp_path / "model")
    assert str(refusal.value).count("\n") <= 1


def test_a_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(crosslmm.CheckpointError, match="tokenizer or processor"):
        crosslmm.load(folder)


def test_saving_is_all_or_nothing(tmp_path: Path, checkpoint: Path) -> None:
    assistant = crosslmm.load(checkpoint, dtype="float32")

    class Broken:
        def save_pretrained(self, folder: Path) -> None:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path / "out", assistant.model, Broken())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("kind", "name"), [("4bit", "Linear4bit"), ("8bit", "Linear8bitLt")])
def test_only_the_decoders_linear_layers_are_quantized(
    tmp_path: Path, kind: str, name: str
) -> None:
    # Weights of the usual size: with large ones a tiny random model is chaotic under any noise.
    checkpoint = tiny_checkpoint(tmp_path, text=text_config(initializer_range=0.02))
    assistant = crosslmm.load(checkpoint, device="cpu", dtype="bfloat16", quantization=kind)
    model = assistant.model
    quantized = [path for path, module in model.named_modules() if type(module).__name__ == name]
    assert len(quantized) == 4 * 7
    assert all(path.startswith("model.language_model.layers.") for path in quantized)
    kept = model.model.cross_attention_layers["1"].t2v.k_proj
    assert type(kept) is nn.Linear
    assert kept.weight.dtype == torch.bfloat16
    assert assistant.settings["quantization"] == kind
    with pytest.raises(crosslmm.CheckpointError, match="missed or overran"):
        check_quantized(model, "none")
    frames = np.random.default_rng(0).integers(0, 256, (2, 30, 30, 3), np.uint8)
    inputs = assistant.processor(text=assistant.processor.prompt("Why?"), videos=frames)
    plain = crosslmm.load(checkpoint, device="cpu", dtype="bfloat16", quantization="none").model
    inputs["pixel_values_videos"] = inputs["pixel_values_videos"].bfloat16()
    with torch.no_grad():
        exact, rounded = plain(**inputs).logits.float(), model(**inputs).logits.float()
    # A quantized model is the same model with noise, not another one.
    likeness = nn.functional.cosine_similarity(exact.flatten(), rounded.flatten(), dim=0)
    assert 0.9 < likeness < 0.99999


def test_automatic_quantization_is_for_large_models_on_a_gpu() -> None:
    gpu = torch.device("cuda")
    assert resolve_quantization("auto", gpu, 2_000_000_000) == "4bit"
    assert resolve_quantization("auto", gpu, 900_000_000) == "none"
    assert resolve_quantization("auto", CPU, 7_000_000_000) == "none"
    with pytest.raises(crosslmm.UsageError, match="3bit"):
        resolve_quantization("3bit", CPU, 1)


def write_siglip(folder: Path, *, whole: bool) -> None:
    torch.manual_seed(5)
    vision = vision_config(vision_use_head=True)
    vision.pop("model_type")
    if whole:
        text = {
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 2, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2,
        }  # fmt: skip
        SiglipModel(SiglipConfig(vision_config=vision, text_config=text)).save_pretrained(folder)
    else:
        SiglipVisionModel(SiglipVisionConfig(**vision)).save_pretrained(folder)


def write_language(folder: Path, kind: str, *, tied: bool) -> nn.Module:
    torch.manual_seed(6)
    # As Qwen2.5 has it: more embeddings than tokens, so that a new token finds room.
    settings = text_config(kind, tie_word_embeddings=tied, vocab_size=280)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings))
    model.save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEXT_TEMPLATE
    if kind == "llama":
        tokenizer.pad_token = None  # as those of Llama and Mistral
    tokenizer.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    ("kind", "tied", "whole"),
    [
        ("qwen2", True, True),
        ("qwen2", False, False),
        ("qwen3", True, False),
        ("llama", False, True),
    ],
)
def test_assembled_from_local_parts(tmp_path: Path, kind: str, tied: bool, whole: bool) -> None:
    write_siglip(tmp_path / "vision", whole=whole)
    language = write_language(tmp_path / "language", kind, tied=tied).eval()
    out = assemble(
        vision=tmp_path / "vision",
        language=tmp_path / "language",
        out=tmp_path / "out" / "model",
        cross_attention_interval=2,
        v2v_scope="frame",
        cross_kv="per_layer" if tied else "shared",
    )
    model = load_model(out, device=CPU, dtype=torch.float32)
    assert model.config.vision.num_hidden_layers == 1, "the last of two encoder layers is dropped"
    assert model.config.v2v_scope == "frame"
    assert model.config.cross_kv == ("per_layer" if tied else "shared")
    if not tied:
        assert model.model.cross_attention_kv.v_proj.weight.std() > 0
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, language(input_ids=ids).logits)
    first = model.model.vision_tower.encoder.layers[0].mlp.fc1.weight
    assert first.std() > 0
    assert all(layer.v2v.gate == 0 for layer in model.model.cross_attention_layers.values())
    processor = crosslmm.load(out).processor
    mask = processor(text=["a", "b c"])["attention_mask"]
    assert mask.tolist() == [[0, 0, 1], [1, 1, 1]]
    prompt = processor.prompt("Why?", times=[0.5], duration=1.0)
    assert prompt.startswith(
        "<|im_start|>user\n<video>\nThe video lasts for 1.00 seconds, and 1 fr"
    )
    assert prompt.endswith("Why?<|im_end|>\n<|im_start|>assistant\n")


def test_assembling_is_repeatable_and_overwrites_nothing(tmp_path: Path) -> None:
    write_siglip(tmp_path / "vision", whole=False)
    write_language(tmp_path / "language", "qwen2", tied=True)
    parts = {"vision": tmp_path / "vision", "language": tmp_path / "language"}
    first, second = (assemble(**parts, out=tmp_path / name, seed=3) for name in ("a", "b"))
    weights = [load_file(folder / "model.safetensors") for folder in (first, second)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    with pytest.raises(crosslmm.UsageError, match="not empty"):
        assemble(**parts, out=first)


def test_assembling_from_the_wrong_parts_is_refused(tmp_path: Path) -> None:
    write_siglip(tmp_path / "vision", whole=False)
    write_language(tmp_path / "language", "qwen2", tied=True)
    with pytest.raises(crosslmm.CheckpointError, match="a SigLIP vision encoder is needed"):
        assemble(vision=tmp_path / "language", language=tmp_path / "language", out=tmp_path / "x")
    with pytest.raises(crosslmm.CheckpointError, match="a language model is needed"):
        assemble(vision=tmp_path / "vision", language=tmp_path / "vision", out=tmp_path / "x")
    settings = text_config("granite", embedding_multiplier=12.0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings)).save_pretrained(
        tmp_path / "granite"
    )
    with pytest.raises(crosslmm.CheckpointError, match="a granite; a language model is needed"):
        assemble(vision=tmp_path / "vision", language=tmp_path / "granite", out=tmp_path / "x")
    parts = {"vision": tmp_path / "vision", "language": tmp_path / "language"}
    with pytest.raises(crosslmm.UsageError, match="`tokens_per_frame` 10 is not a perfect square"):
        assemble(**parts, out=tmp_path / "x", tokens_per_frame=10)
    with pytest.raises(crosslmm.UsageError, match="cross_attention_interval=40 is not between"):
        assemble(**parts, out=tmp_path / "x", cross_attention_interval=40)
    assert not (tmp_path / "x").exists()


def test_a_part_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    """Before memory is taken for it, and whatever it says of itself."""
    write_siglip(tmp_path / "vision", whole=False)
    write_language(tmp_path / "language", "qwen2", tied=True)
    path = tmp_path / "language" / "config.json"
    config = json.loads(path.read_text())
    parts = {"vision": tmp_path / "vision", "language": tmp_path / "language"}
    claims = [
        (
            {"num_hidden_layers": 900, "layer_types": None},
            "describes [0-9,]+ weights, and [0-9,]+ are",
        ),
        ({"hidden_size": "wide"}, "its config.json is not valid"),
        ({"hidden_size": 32}, "cannot be loaded"),
    ]
    for changes, words in claims:
        path.write_text(json.dumps(config | changes))
        with pytest.raises(crosslmm.CheckpointError, match=words):
            assemble(**parts, out=tmp_path / "x")
    path.write_text(json.dumps(config))
    tokenizer = tmp_path / "language" / "tokenizer.json"
    tokenizer.write_text(
        tokenizer.read_text().replace('"decoder":', '"decoder": {"Regex": "a"}, "old":')
    )
    with pytest.raises(crosslmm.CheckpointError, match="its decoder has a regular expression"):
        assemble(**parts, out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_model_around_another_kind_of_decoder_is_refused(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["model_type"] = "granite"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(crosslmm.CheckpointError, match="its language model is a granite"):
        load_config(folder)
