"""What a decoding step reads of the features: against plain attention, and in how much memory."""

import pytest
import torch

from crosslmm.attention_kernels import read_features
from crosslmm.configuration_crosslmm import CrossLMMConfig
from crosslmm.gated_attention import GatedCrossAttention
from crosslmm.inference.measurement import peak_memory
from tests.support.tiny import tiny_config, tiny_model


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_are_keys_and_values_at_once(
    dtype: torch.dtype, fused: bool, masked: bool
) -> None:
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(2, 6, 48, generator=generator)
    features = torch.randn(2, 100, 48, generator=generator)
    mask = torch.ones(2, 100, dtype=torch.bool)
    mask[0, 60:] = not masked
    scores = torch.einsum("brd,bsd->brs", query, features)
    weights = scores.masked_fill(~mask[:, None], -torch.inf).softmax(dim=-1)
    expected = torch.einsum("brs,bsd->brd", weights, features)
    got = read_features(query.to(dtype), features.to(dtype), mask if masked else None, fused=fused)
    tolerance = 1e-5 if dtype == torch.float32 else 0.06
    torch.testing.assert_close(got.float(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_changes_nothing(threads: int) -> None:
    before = torch.get_num_threads()
    query, features = torch.randn(1, 6, 16), torch.randn(1, 50, 16)
    expected = read_features(query, features, None, fused=False)
    try:
        torch.set_num_threads(threads)
        got = read_features(query, features, None, fused=True)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_a_decoding_step_takes_less_memory_than_the_features() -> None:
    config: CrossLMMConfig = tiny_config()
    width = 256
    branch = GatedCrossAttention(config.text, width).to(torch.bfloat16).eval()
    features = torch.randn(1, 150_000, width, dtype=torch.bfloat16)  # 77 MB
    step = torch.randn(1, 1, config.text.hidden_size, dtype=torch.bfloat16)
    with torch.inference_mode():
        branch(step, features[:, :1000], absorb=True)
        with peak_memory(features.device) as peak:
            branch(step, features, absorb=True)
    if peak.bytes is None:
        pytest.skip("this system does not tell a process's peak of memory")
    assert peak.bytes < features.nbytes / 4


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("way", ["fused", "data"])
def test_a_gate_that_is_opened_without_a_trace_is_seen_open(device: str, way: str) -> None:
    """A fused optimizer and `gate.data` write without raising the version that tells of writing."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    branch = tiny_model(gates=False).model.cross_attention_layers["1"].t2v.to(device)
    with torch.no_grad():
        assert not branch.is_open
    if way == "fused":
        branch.gate.grad = torch.ones(1, device=device)
        torch.optim.AdamW([branch.gate], fused=True).step()
    else:
        branch.gate.data.fill_(1.0)
    with torch.no_grad():
        assert device == "cuda" or branch.is_open
        assert branch.train().is_open
