"""`crosslmm models` in this process: listed, shown, chosen, assembled and deleted."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Finished

Run = Callable[..., Finished]  # the fixture `run`


class TestModels:
    def test_use_list_show_rm(
        self, run: Run, checkpoint: Path, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (home / "models").mkdir(parents=True)
        (home / "models" / "pet").symlink_to(checkpoint)
        assert run("models", "use", "pet").code == 0
        rows = [line.split() for line in run("models", "list").out.splitlines()]
        assert rows[0] == ["ON", "DISK", "KIND", "SIZE"]
        assert ["*", "pet", "crosslmm"] in [row[:3] for row in rows]
        records = map(json.loads, run("models", "list", "--json").out.splitlines())
        (pet,) = [record for record in records if record["name"] == "pet"]
        assert pet["default"]
        assert pet["kind"] == "crosslmm"

        shown = run("models", "show", "pet").out
        assert "V2V" in shown
        assert "+0.4621  open" in shown
        described = json.loads(run("models", "show", "pet", "--json").out)
        assert described["parameters"] == sum(part["parameters"] for part in described["parts"])

        monkeypatch.setattr("sys.stdin", __import__("io").StringIO("n\n"))
        assert "nothing was deleted" in run("models", "rm", "pet").err
        assert (home / "models" / "pet").exists()
        assert run("models", "rm", "pet", "--yes").code == 0
        assert not (home / "models" / "pet").exists()
        assert (checkpoint / "config.json").exists()

    def test_a_default_that_is_gone_is_reported(
        self, run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CROSSLMM_MODEL", "org/gone")
        shown = run("models", "list").err
        assert "the default model org/gone (set by CROSSLMM_MODEL) is not on disk" in shown
        assert not any(line.startswith("*") for line in shown.splitlines())

    def test_parameters_agree_with_the_loaded_model(self, run: Run, checkpoint: Path) -> None:
        from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration

        described = json.loads(run("models", "show", checkpoint, "--json").out)
        model = CrossLMMForConditionalGeneration.from_pretrained(checkpoint)
        assert described["parameters"] == sum(weight.numel() for weight in model.parameters())
        assert {part["name"] for part in described["parts"]} == {
            "vision encoder",
            "projector",
            "V2V cross-attention",
            "T2V cross-attention",
            "cross-attention norms",
            "language model",
        }

    def test_settings_of_the_processor_that_are_damaged_are_named(
        self, run: Run, checkpoint: Path, clip: Path, tmp_path: Path
    ) -> None:
        broken = Path(shutil.copytree(checkpoint, tmp_path / "broken"))
        (broken / "processor_config.json").write_text('{"tokens_per')
        finished = run("ask", clip, "q", "--model", broken, "--tokens-per-frame", 9)
        assert finished.code == 1
        assert "its tokenizer or processor files cannot be read" in finished.err

    def test_the_default_is_used_without_a_notice(
        self, run: Run, checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CROSSLMM_MODEL", str(checkpoint))
        finished = run("ask", clip, "q", "--max-new-tokens", 1)
        assert finished.code == 0
        assert "demo" not in finished.err

    def test_init(self, run: Run, home: Path, tmp_path: Path) -> None:
        from tests.checkpoints.test_loading import write_language, write_siglip

        write_siglip(tmp_path / "vision", whole=False)
        write_language(tmp_path / "language", "qwen2", tied=True)
        parts = ("--vision", tmp_path / "vision", "--language", tmp_path / "language")
        out = tmp_path / "new"
        finished = run(
            "models", "init", *parts, "--out", out, "--interval", 2, "--v2v-scope", "frame",
            "--cross-kv", "shared",
        )  # fmt: skip
        assert (finished.code, finished.out) == (0, f"{out}\n")
        assert "untrained" in finished.err
        shown = run("models", "show", out).out
        assert "closed" in shown
        assert "cross-attention keys and values  shared" in shown
        assert "open" not in shown
        again = run("models", "init", *parts, "--out", out)
        assert again.code == 2
        assert "not empty" in again.err

    def test_init_names_the_part_that_is_missing(
        self, run: Run, home: Path, tmp_path: Path
    ) -> None:
        finished = run("models", "init", "crosslmm-2b", "--out", tmp_path / "new")
        assert finished.code == 1
        assert finished.err == (
            "crosslmm: google/siglip2-so400m-patch14-384: not on this machine, neither as a folder "
            "nor downloaded\n--pull downloads the parts\n"
        )
        assert not (tmp_path / "new").exists()
