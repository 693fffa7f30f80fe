"""LoRA adapters in PEFT's format: loaded with their base, and refused where they do not fit it."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

import crosslmm
from crosslmm.captioning.engines.local import start as start_engine
from crosslmm.captioning.options import CaptionOptions, RunOptions
from crosslmm.checkpoints import catalog, loading
from crosslmm.checkpoints.adapters import read_adapter
from crosslmm.errors import CheckpointError, ModelError, UsageError
from tests.conftest import Finished
from tests.model.test_model import one_video
from tests.support.tiny import tiny_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
Run = Callable[..., Finished]


def make_adapter(folder: Path, base: Path, **options: Any) -> tuple[Path, torch.Tensor]:
    """A random LoRA adapter that also has a cross-attention layer of its own, and PEFT's logits."""
    model = loading.load_model(base, device=torch.device("cpu"), dtype=torch.float32)
    config = peft.LoraConfig(
        r=3,
        target_modules=r"model\.language_model\..*\.[qv]_proj",
        modules_to_save=["model.cross_attention_layers.1"],
        **options,
    )
    tuned = peft.get_peft_model(model, config).eval()
    torch.manual_seed(1)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    tuned.save_pretrained(folder)
    with torch.no_grad():
        return folder, tuned(**one_video()).logits


@pytest.fixture(scope="module")
def made(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    return make_adapter(tmp_path_factory.mktemp("adapters") / "adapter", checkpoint)


@pytest.fixture
def adapter(made: tuple[Path, torch.Tensor], tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(made[0], tmp_path / "adapter"))


def change(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def test_an_adapter_is_merged_into_its_base(
    made: tuple[Path, torch.Tensor], checkpoint: Path
) -> None:
    adapter, expected = made
    assistant = crosslmm.load(adapter, device="cpu", dtype="float32")
    plain = crosslmm.load(checkpoint, device="cpu", dtype="float32")
    assert assistant.model.state_dict().keys() == plain.model.state_dict().keys()
    with torch.no_grad():
        torch.testing.assert_close(assistant.model(**one_video()).logits, expected)
        assert not torch.allclose(plain.model(**one_video()).logits, expected, atol=1e-2)


def test_merged_weights_have_the_precision_asked_for(made: tuple[Path, torch.Tensor]) -> None:
    model = crosslmm.load(made[0], device="cpu", dtype="bfloat16").model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_beside_quantized_weights_an_adapter_stays_one(
    made: tuple[Path, torch.Tensor], checkpoint: Path
) -> None:
    options: dict[str, Any] = {"device": "cpu", "dtype": "float32", "quantization": "8bit"}
    adapted, plain = crosslmm.load(made[0], **options), crosslmm.load(checkpoint, **options)
    names = {name for name, _ in adapted.model.named_parameters()}
    assert any(".lora_A." in name for name in names)
    with torch.no_grad():
        logits, expected = adapted.model(**one_video()).logits, made[1]
        distance = (logits - expected).norm()
        assert distance < 0.2 * (plain.model(**one_video()).logits - expected).norm()


def test_the_command_line_takes_an_adapter(run: Run, adapter: Path, clip: Path) -> None:
    options = ("-m", adapter, "--frames", 3, "--max-new-tokens", 2, "--device", "cpu")
    done = run("ask", clip, "what?", *options)
    assert done.code == 0
    assert done.err.startswith("3 of 30 frames, one per 1 s\n")
    assert "warning" not in done.err
    shown = run("models", "show", adapter)
    assert shown.code == 0
    assert "adapter" in shown.out
    assert "rank" in shown.out
    cost = run("profile", "-m", adapter, "-n", 8)
    assert cost.code == 0
    assert "4 tokens per frame" in " ".join(cost.out.split())


def test_profile_counts_the_gates_that_an_adapter_opens(run: Run, tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "closed", gates=False)
    adapter, _ = make_adapter(tmp_path / "adapter", base)
    closed, opened = (run("profile", "-m", path, "-n", 8).out for path in (base, adapter))
    none = re.compile("V2V attention +0 +-")
    assert none.search(closed)
    assert not none.search(opened)


def test_it_is_listed_used_and_removed_as_a_model(
    run: Run, home: Path, adapter: Path, checkpoint: Path
) -> None:
    shutil.copytree(adapter, home / "models" / "tuned")
    assert run("models", "use", "tuned").code == 0
    found = {model.name: model for model in catalog.stored_models()}
    assert (found["tuned"].kind, found["tuned"].problem) == ("adapter", None)
    assert found["tuned"].default
    assert crosslmm.load(device="cpu").adapter == home / "models" / "tuned"
    change(home / "models" / "tuned", base_model_name_or_path="org/gone")
    found = {model.name: model for model in catalog.stored_models()}
    assert "models pull org/gone" in str(found["tuned"].problem)
    assert run("models", "rm", "tuned", "--yes").code == 0
    assert not (home / "models" / "tuned").exists()


def test_an_adapter_that_is_no_number_gives_no_answer(adapter: Path, clip: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    next(weight for name, weight in weights.items() if "lora_B" in name)[0] = torch.nan
    save_file(weights, path)
    with pytest.raises(ModelError, match="NaN or infinity"):
        crosslmm.load(adapter, device="cpu").ask(clip, "what?", frames=1, max_new_tokens=2)


def test_captions_of_an_adapter_are_not_those_of_its_base(
    made: tuple[Path, torch.Tensor], checkpoint: Path
) -> None:
    def fingerprint(model: Any) -> str:
        return start_engine(
            model,
            {} if not isinstance(model, str) else {"device": "cpu"},
            options=CaptionOptions(),
            run_options=RunOptions(),
            workers=None,
            on_notice=None,
        ).fingerprint

    named = fingerprint(str(made[0]))
    assert named == fingerprint(crosslmm.load(made[0], device="cpu"))
    assert named != fingerprint(str(checkpoint))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_model_name_or_path": "org/gone"}, "crosslmm models pull org/gone"),
        ({"base_model_name_or_path": "/nowhere"}, "base is not usable: /nowhere: no such model"),
        ({"base_model_name_or_path": None}, "does not name its base"),
        ({"peft_type": "IA3"}, "its peft_type is 'IA3'"),
        ({"megatron_config": {}, "megatron_core": "antigravity"}, "has a megatron_config"),
        ({"layer_replication": [[0, 4], [0, 4]]}, "has a layer_replication"),
        ({"trainable_token_indices": [1] * 10**5}, "has a trainable_token_indices"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"r": 10**9}, "the rank is 1000000000"),
        ({"rank_pattern": {"q_proj": 10**9}}, "the rank is 1000000000"),
        ({"target_modules": ["q_proj", "k_proj", "v_proj"]}, "it lacks weights, "),
        ({"target_modules": r"model\.language_model\..*\.q_proj"}, "it has unknown weights, "),
        ({"target_modules": ["nothing"]}, "does not fit its base"),
        ({"target_modules": r"(([a-z_0-9]+)+\.?)+!"}, "its target_modules is a pattern that may"),
        ({"target_modules": r"a*a*a*a*b"}, "its target_modules is a pattern that may"),
        ({"target_modules": "(.|.)" * 50 + "!"}, "its target_modules is a pattern that may"),
        ({"target_modules": "("}, "its target_modules is a pattern that may"),
        ({"target_modules": ["a." * 600]}, "its target_modules is no list of names"),
        ({"target_modules": ["a"] * 20_000}, "its target_modules has over 10,000 entries"),
        ({"layers_to_transform": [1] * 20_000}, "its layers_to_transform has over 10,000 entries"),
        ({"target_modules": ["a"], "note": "a" * 2**20}, "longer than 1,048,576 bytes"),
        ({"modules_to_save": ["model"]}, "its modules_to_save have "),
        ({"modules_to_save": ["layers", "0", "mlp", "up_proj"]}, "its modules_to_save have "),
        ({"modules_to_save": "model"}, "its modules_to_save is no list of names"),
        ({"modules_to_save": [["model"]]}, "its modules_to_save is no list of names"),
        ({"modules_to_save": {"model": {}}}, "its modules_to_save is no list of names"),
        ({"exclude_modules": ["(a+)+!"]}, "its exclude_modules is no list of names"),
        ({"rank_pattern": {"(a+)+!": 3}}, "its rank_pattern is no table"),
        ({"alpha_pattern": 5}, "its alpha_pattern is no table"),
        ({"r": [1]}, "the rank is [1]"),
        ({"base_model_name_or_path": "~nosuchuser/x"}, "base is not usable"),
        ({"base_model_name_or_path": "~a\0b/x"}, "does not name its base"),
        ({"modules_to_save": None}, "it has unknown weights, "),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_refused(adapter: Path, changes: dict[str, Any], words: str) -> None:
    change(adapter, **changes)
    with pytest.raises(CheckpointError) as caught:
        crosslmm.load(adapter, device="cpu")
    assert words in str(caught.value)


QUICK = (
    *(r".*\.(q_proj|v_proj)$", r"^(model\.(a|b))$", "q_proj|k_proj", "all-linear", r"(?:a|b)\.\d+"),
    r"model\.layers\.\d+\.(self_attn|mlp)\.[a-z_]+_proj",
)
SLOW = (
    *("(a|a)" * 40, "(a|ab)x", "(?=.*)x", "(a.*|b)", "((a|b)c|(a|d)c)", r"[(]a|a)", "((a|b))*"),
    *(r"(.*\.)(.*\.).*", r"(?P<a>x)(?P=a)", r"(\w|\w)x", r"\(a|a\)"),
)


@pytest.mark.parametrize("pattern", [*QUICK, *SLOW])
def test_patterns_that_cannot_take_long_are_let_through(adapter: Path, pattern: str) -> None:
    change(adapter, target_modules=pattern)
    if pattern in QUICK:
        assert read_adapter(adapter).config["target_modules"] == pattern
    else:
        with pytest.raises(CheckpointError, match="a pattern that may take very long"):
            read_adapter(adapter)


def test_weights_that_an_adapter_only_claims_take_no_memory(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank that one weight has, for modules that have none."""
    weights = load_file(adapter / "adapter_model.safetensors")
    weights["base_model.model.zz.lora_A.weight"] = torch.zeros(1024, 1)
    save_file(weights, adapter / "adapter_model.safetensors")
    change(adapter, r=1024, rank_pattern={})
    made = []
    original = torch.nn.Linear.__init__

    def init(self: Any, *sizes: Any, **options: Any) -> None:
        original(self, *sizes, **options)
        if 1024 in sizes:
            made.append(self.weight.device.type)

    monkeypatch.setattr(torch.nn.Linear, "__init__", init)
    with pytest.raises(CheckpointError, match="it has unknown weights"):
        crosslmm.load(adapter, device="cpu")
    assert set(made) == {"meta"}


def test_a_rank_of_no_weight_is_refused_before_memory_is_allocated(adapter: Path) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    weights["base_model.model.zz.lora_A.weight"] = torch.empty(10**9, 0)
    save_file(weights, adapter / "adapter_model.safetensors")
    change(adapter, r=10**9)
    with pytest.raises(CheckpointError, match="the rank is 1000000000"):
        crosslmm.load(adapter, device="cpu")


def test_pickled_weights_are_refused(adapter: Path) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    (adapter / "adapter_model.safetensors").unlink()
    torch.save(weights, adapter / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"without adapter_model\.safetensors"):
        crosslmm.load(adapter, device="cpu")


def test_weights_of_another_shape_are_refused(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if "lora_B" in name)
    save_file({**weights, name: weights[name][:-1].clone()}, path)
    with pytest.raises(CheckpointError, match="it has mis-shaped weights"):
        crosslmm.load(adapter, device="cpu")


def test_an_adapter_of_an_adapter_and_training_from_one_are_refused(
    adapter: Path, tmp_path: Path
) -> None:
    second = Path(shutil.copytree(adapter, tmp_path / "second"))
    change(second, base_model_name_or_path=str(adapter))
    with pytest.raises(CheckpointError, match="what is needed here is a complete model"):
        crosslmm.load(second, device="cpu")
    with pytest.raises(CheckpointError, match="what is needed here is a complete model"):
        catalog.resolve(adapter)


def test_without_peft_the_error_says_what_to_install(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError, match=r"an adapter needs peft: pip install 'crosslmm\[train\]'"):
        crosslmm.load(adapter, device="cpu")
