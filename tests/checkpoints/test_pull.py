"""Models downloaded from a Hub on this machine."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from crosslmm.checkpoints import catalog
from tests.support.fake_hub import fake_hub
from tests.support.models import write_model


class TestPull:
    """The real downloader against a Hub on this machine, in a process of its own: the address is
    read once, at import."""

    @pytest.fixture
    def published(self, tmp_path: Path) -> Path:
        folder = write_model(tmp_path / "published")
        save_file({"w": np.zeros(300_000, np.float32)}, folder / "model.safetensors")
        (folder / "pytorch_model.bin").write_bytes(b"pickle")
        (folder / "modeling_remote.py").write_text("raise SystemExit")
        (folder / "chat_template.jinja").write_text("{{ x }}")
        return folder

    def pull(self, hub: Path, address: str, name: str, **environment: str) -> tuple[int, str, str]:
        return self.run(hub, address, "models", "pull", name, **environment)

    def run(
        self, hub: Path, address: str, *arguments: str, **environment: str
    ) -> tuple[int, str, str]:
        finished = subprocess.run(
            [sys.executable, "-m", "crosslmm_cli", *arguments],
            env={
                **os.environ,
                "HF_ENDPOINT": address,
                "HF_HUB_CACHE": str(hub),
                "HF_HUB_OFFLINE": "0",
                "HF_HUB_DOWNLOAD_TIMEOUT": "5",
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
        return finished.returncode, finished.stdout, finished.stderr

    def test_download(self, home: Path, tmp_path: Path, published: Path) -> None:
        hub = tmp_path / "hub"
        with fake_hub({"org/model": published}) as address:
            code, out, err = self.pull(hub, address, "org/model")
        assert (code, "models use org/model" in err) == (0, True), err
        folder = Path(out.strip())
        assert folder == catalog.resolve("org/model")
        assert {path.name for path in folder.iterdir()} == {
            "config.json",
            "model.safetensors",
            "chat_template.jinja",
        }
        weights = (folder / "model.safetensors").read_bytes()
        assert weights == (published / "model.safetensors").read_bytes()

    def test_goes_on_where_it_broke_off(self, home: Path, tmp_path: Path, published: Path) -> None:
        hub = tmp_path / "hub"
        with fake_hub({"org/model": published}, break_after=500_000) as address:
            code, out, err = self.pull(hub, address, "org/model")
            if code:  # the downloader itself may already have tried again
                assert len(err.splitlines()) <= 3
                code, out, err = self.pull(hub, address, "org/model")
        assert code == 0, err
        weights = (Path(out.strip()) / "model.safetensors").read_bytes()
        assert weights == (published / "model.safetensors").read_bytes()

    def test_refusals(self, home: Path, tmp_path: Path, published: Path) -> None:
        hub = tmp_path / "hub"
        pickled = write_model(tmp_path / "pickled")
        (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
        with fake_hub({"org/pickled": pickled}, gated=("org/gated",)) as address:
            answers = {
                name: self.pull(hub, address, name)
                for name in ("org/absent", "org/gated", "org/pickled", "no-hub-id")
            }
        answers["offline"] = self.pull(hub, address, "org/model", HF_HUB_OFFLINE="1")
        answers["no network"] = self.pull(hub, "http://127.0.0.1:9", "org/model")
        for name, (expected, words) in {
            "org/absent": (1, "no such model on the Hub"),
            "org/gated": (1, "terms accepted"),
            "org/pickled": (1, "no safetensors weights"),
            "no-hub-id": (2, "not a Hub id"),
            "offline": (1, "HF_HUB_OFFLINE is set"),
            "no network": (1, "cannot be reached"),
        }.items():
            code, out, err = answers[name]
            assert (code, out) == (expected, "")
            assert words in err, name
            assert "Traceback" not in err
            assert len(err.splitlines()) <= 3, err
        assert err.endswith("\ntry again when the network is back\n")  # nothing was downloaded

    def test_a_profile_of_what_has_no_config_or_no_network(
        self, home: Path, tmp_path: Path, published: Path
    ) -> None:
        hub, profile = tmp_path / "hub", ("profile", "--model", "org/model")
        (published / "config.json").unlink()
        with fake_hub({"org/model": published}) as address:
            code, out, err = self.run(hub, address, *profile)
        message = "crosslmm: org/model: the repository has no config.json\n"
        assert (code, out, err) == (1, "", message)
        begun = time.monotonic()
        code, out, err = self.run(hub, "http://127.0.0.1:9", *profile)
        assert (code, out) == (1, "")
        assert "cannot be reached" in err
        assert time.monotonic() - begun < 10, "not tried again and again"

    def test_what_cannot_be_loaded_is_refused_before_its_weights_come(
        self, home: Path, tmp_path: Path
    ) -> None:
        configs = {
            "org/llava": ({"model_type": "llava"}, "supported are crosslmm and llava_onevision"),
            "org/decoder": (
                {"model_type": "llava_onevision", "text_config": {"model_type": "phi3"}},
                "its language model is a phi3, not one of qwen2",
            ),
            "org/encoder": (
                {"model_type": "crosslmm", "vision_config": {"model_type": "clip_vision_model"}},
                "its vision encoder is a clip_vision_model, not siglip_vision_model",
            ),
            "org/gptq": (
                {"model_type": "llava_onevision", "quantization_config": {"quant_method": "gptq"}},
                "stored quantized (gptq); supported are float32",
            ),
            "org/mlx": (
                {"model_type": "qwen2", "quantization": {"bits": 4}},
                "stored quantized (quantization); supported are float32",
            ),
        }
        folders = {name: write_model(tmp_path / name) for name in configs}
        for name, (config, _) in configs.items():
            (folders[name] / "config.json").write_text(json.dumps(config))
        for name in ("org/no-config", "org/adapter", "org/broken"):
            folders[name] = write_model(tmp_path / name)
            (folders[name] / "config.json").unlink()
        (folders["org/adapter"] / "adapter_config.json").write_text("{}")
        (folders["org/broken"] / "config.json").write_text("{")
        hub = tmp_path / "hub"
        with fake_hub(folders) as address:
            answers = {name: self.pull(hub, address, name) for name in folders}
        expected = {name: words for name, (_, words) in configs.items()}
        expected["org/no-config"] = "the repository has no config.json"
        expected["org/adapter"] = "org/adapter: an adapter, not a model"
        expected["org/broken"] = "crosslmm: org/broken/config.json: not readable as JSON"
        for name, words in expected.items():
            code, out, err = answers[name]
            assert (code, out) == (1, ""), name
            assert words in err, err
            assert "downloading" not in err
        assert list(hub.rglob("*.safetensors")) == []
        assert list(hub.rglob("config.json")) == []

    def test_weights_come_last(self, home: Path, tmp_path: Path, published: Path) -> None:
        (published / "z.json").write_text("{}")
        asked: list[str] = []
        with fake_hub({"org/model": published}, asked=asked) as address:
            code, _, err = self.pull(tmp_path / "hub", address, "org/model")
        assert code == 0, err
        weights = asked.index("model.safetensors")
        assert {"config.json", "z.json", "chat_template.jinja"} <= set(asked[:weights])
        assert set(asked[weights:]) == {"model.safetensors"}

    def test_what_is_no_crosslmm_is_said_before_it_comes(self, home: Path, tmp_path: Path) -> None:
        part = write_model(tmp_path / "part", kind="qwen2")
        with fake_hub({"org/part": part}) as address:
            code, out, err = self.pull(tmp_path / "hub", address, "org/part")
        assert code == 0
        assert (Path(out.strip()) / "model.safetensors").is_file()
        assert "model_type is 'qwen2', so it is no CrossLMM" in err
        assert "models init" in err

    def test_too_little_space_is_found_out_first(
        self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from crosslmm.checkpoints import cache, hub

        class Usage:
            free = 1_000_000_000

        monkeypatch.setattr(cache.shutil, "disk_usage", lambda place: Usage)
        hub._check_space("org/model", 700_000_000)
        with pytest.raises(hub.DownloadError, match=r"2\.0 GB to download, 1\.0 GB free"):
            hub._check_space("org/model", 2_000_000_000)
