"""Models on disk: found, described, refused, downloaded and removed, without torch."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from crosslmm.checkpoints import cache, catalog
from crosslmm.checkpoints.headers import read_header, read_headers
from crosslmm.checkpoints.inspection import inspect
from crosslmm.errors import CheckpointError, UsageError
from tests.support.fake_hub import COMMIT
from tests.support.models import write_cached, write_model


class TestDefault:
    def test_order(self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = write_model(tmp_path / "chosen")
        assert catalog.default_model() == catalog.Choice("demo", "built-in")
        catalog.use(str(folder))
        assert catalog.default_model() == catalog.Choice(str(folder), "setting")
        monkeypatch.setenv("CROSSLMM_MODEL", "org/from-environment")
        assert catalog.default_model() == catalog.Choice("org/from-environment", "environment")
        assert catalog.default_model("given") == catalog.Choice("given", "option")

    def test_a_relative_folder_is_remembered_by_its_whole_path(
        self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = write_model(tmp_path / "models" / "mine")
        monkeypatch.chdir(tmp_path / "models")
        catalog.use("mine")
        monkeypatch.chdir(tmp_path)
        assert catalog.resolve(catalog.default_model().name) == folder

    def test_what_cannot_be_loaded_cannot_be_chosen(self, home: Path, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="no such model"):
            catalog.use("nothing-here")
        assert catalog.default_model().origin == "built-in"

    def test_damaged_settings_are_named(self, home: Path) -> None:
        home.mkdir()
        (home / "settings.json").write_text("{half")
        with pytest.raises(UsageError, match=r"settings\.json: not readable"):
            catalog.default_model()


class TestLocate:
    def test_folder_named_folder_and_hub_id(self, home: Path, tmp_path: Path) -> None:
        folder = write_model(tmp_path / "a-folder")
        named = write_model(home / "models" / "pet")
        cached = write_cached(tmp_path / "hub", "org/model", kind="llava_onevision")
        assert catalog.resolve(folder) == catalog.resolve(str(folder)) == folder
        assert catalog.resolve("pet") == named
        assert catalog.resolve("org/model") == cached
        assert catalog.resolve(f"org/model@{COMMIT}") == cached

    def test_sharded(self, tmp_path: Path) -> None:
        folder = write_model(tmp_path / "sharded", shards=3)
        assert catalog.resolve(folder) == folder
        assert len(read_headers(folder)) == 7

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("org/absent", "crosslmm models pull org/absent"),
            ("org/model@v9", "not on this machine"),
            ("./nowhere", "no such model"),
            ("/no/such/folder", "no such model"),
            ("/", "no config.json"),
            pytest.param("x" * 5000, "no such model", id="long"),
        ],
    )
    def test_absent(self, home: Path, tmp_path: Path, name: str, words: str) -> None:
        write_cached(tmp_path / "hub", "org/model")
        with pytest.raises(CheckpointError) as caught:
            catalog.resolve(name)
        assert words in str(caught.value)
        assert len(str(caught.value).splitlines()) <= 2

    def test_faulty_folders(self, home: Path, tmp_path: Path) -> None:
        def faulty(name: str) -> Path:
            return write_model(tmp_path / name)

        empty = tmp_path / "empty"
        empty.mkdir()
        other = write_model(tmp_path / "other", kind="bert")
        not_json = faulty("not-json")
        (not_json / "config.json").write_text("nonsense")
        quantized = faulty("quantized")
        quantization = {"quantization_config": {"quant_method": "awq"}}
        (quantized / "config.json").write_text(
            json.dumps({"model_type": "crosslmm", **quantization})
        )
        no_weights = faulty("no-weights")
        (no_weights / "model.safetensors").unlink()
        pickled = faulty("pickled")
        (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
        truncated = faulty("truncated")
        os.truncate(truncated / "model.safetensors", 900)
        nonsense = faulty("nonsense")
        (nonsense / "model.safetensors").write_bytes(b"\xff" * 500)
        lost_shard = write_model(tmp_path / "lost-shard", shards=3)
        (lost_shard / "model-00002-of-00003.safetensors").unlink()
        lost_index = write_model(tmp_path / "lost-index", shards=3)
        (lost_index / "model.safetensors.index.json").unlink()
        escaping = write_model(tmp_path / "escaping", shards=2)
        (escaping / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"w": "../outside.safetensors"}})
        )
        for path, words in {
            empty: "no config.json",
            empty / "file": "no such model",
            other: "model_type is 'bert', not crosslmm or llava_onevision",
            not_json: "not readable as JSON",
            quantized: "its weights are stored quantized (awq)",
            no_weights: "no weights",
            pickled: "only pickled weights (pytorch_model.bin)",
            truncated: "half-downloaded: 900 of",
            nonsense: "not a readable safetensors file",
            lost_shard: "1 of 3 weight files are missing (model-00002-of-00003.safetensors)",
            lost_index: "shards without their model.safetensors.index.json",
            escaping: "names a file outside its folder",
            other / "config.json": "a file; give the checkpoint's folder",
        }.items():
            with pytest.raises(CheckpointError) as caught:
                catalog.resolve(str(path))
            assert words in str(caught.value)
            assert len(str(caught.value).splitlines()) <= 2

    def test_any_kind_may_be_asked_for(self, tmp_path: Path) -> None:
        folder = write_model(tmp_path / "encoder", kind="siglip_vision_model")
        assert catalog.resolve(folder, kinds=None) == folder

    def test_half_downloaded_from_the_hub_says_how_to_go_on(
        self, home: Path, tmp_path: Path
    ) -> None:
        snapshot = write_cached(tmp_path / "hub", "org/half")
        (snapshot / "model.safetensors").unlink()
        with pytest.raises(CheckpointError, match="models pull org/half` resumes"):
            catalog.resolve("org/half")
        refs = snapshot.parents[1] / "refs"
        (refs / "main").rename(refs / "v1")
        with pytest.raises(CheckpointError, match="models pull org/half@v1` resumes"):
            catalog.resolve("org/half@v1")

    def test_a_download_is_resumed_only_where_files_are_missing(
        self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache = tmp_path / "no room"  # whatever words are in its path
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
        write_cached(cache, "org/other", kind="qwen2")
        with pytest.raises(CheckpointError, match="its model_type is 'qwen2'") as refusal:
            catalog.resolve("org/other")
        assert "models pull" not in str(refusal.value)


class TestList:
    def test_everything_on_disk(self, home: Path, tmp_path: Path) -> None:
        write_model(home / "models" / "pet")
        write_cached(tmp_path / "hub", "llava-hf/model", kind="llava_onevision")
        write_cached(tmp_path / "hub", "org/some-bert", kind="bert")
        outside = write_model(tmp_path / "outside")
        broken = write_model(home / "models" / "broken")
        os.truncate(broken / "model.safetensors", 900)
        catalog.use(str(outside))
        found = {model.name: model for model in catalog.stored_models() if model.name != "demo"}
        assert set(found) == {"pet", "broken", "llava-hf/model", str(outside)}
        assert found["pet"].kind == "crosslmm"
        assert found["pet"].source == "folder"
        assert found["pet"].size == sum(p.stat().st_size for p in found["pet"].path.iterdir())
        for name in ("pet", "llava-hf/model"):
            assert inspect(name).size == found[name].size
        assert found["llava-hf/model"].kind == "llava_onevision"
        assert found["llava-hf/model"].source == "hub"
        assert [name for name, model in found.items() if model.default] == [str(outside)]
        assert [name for name, model in found.items() if model.problem] == ["broken"]

    def test_links_count_once(self, home: Path, tmp_path: Path) -> None:
        snapshot = write_cached(tmp_path / "hub", "org/linked")
        blobs = snapshot.parents[1] / "blobs"
        blobs.mkdir()
        weights = snapshot / "model.safetensors"
        size = weights.stat().st_size
        weights.rename(blobs / "abc")
        weights.symlink_to(blobs / "abc")
        (model,) = [model for model in catalog.stored_models() if model.name == "org/linked"]
        assert size < model.size < size + 500
        assert model.problem is None

    def test_a_broken_link_to_weights_hides_nothing(self, home: Path, tmp_path: Path) -> None:
        broken = [
            write_model(home / "models" / "broken"),
            write_cached(tmp_path / "hub", "org/a-broken"),
        ]
        for folder in broken:
            (folder / "model.safetensors").unlink()
            (folder / "model.safetensors").symlink_to(tmp_path / "gone")
        other = write_cached(tmp_path / "hub", "org/another-name")
        (other / "model.safetensors").unlink()
        (other / "weights.safetensors").symlink_to(tmp_path / "gone")
        write_cached(tmp_path / "hub", "org/whole")
        found = {model.name: model for model in catalog.stored_models()}
        assert set(found) == {"demo", "broken", "org/a-broken", "org/another-name", "org/whole"}
        assert "half-downloaded" in str(found["broken"].problem)
        assert "half-downloaded" in str(found["org/a-broken"].problem)
        assert found["org/another-name"].problem
        assert found["org/whole"].problem is None

    def test_a_repository_that_cannot_be_read_is_a_row(
        self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_cached(tmp_path / "hub", "org/a-closed")
        write_cached(tmp_path / "hub", "org/whole")
        read = cache.read_text

        def refused(path: Path, **options: int) -> str:
            if "a-closed" in str(path):
                raise PermissionError(13, "Permission denied", str(path))
            return read(path, **options)

        monkeypatch.setattr(cache, "read_text", refused)
        found = {model.name: model.problem for model in catalog.stored_models()}
        assert "Permission denied" in str(found["org/a-closed"])
        assert found["org/whole"] is None

    def test_a_model_pulled_by_its_commit(self, home: Path, tmp_path: Path) -> None:
        snapshot = write_cached(tmp_path / "hub", "org/model")
        (snapshot.parents[1] / "refs" / "main").unlink()
        (model,) = [model for model in catalog.stored_models() if model.source == "hub"]
        assert model.name == f"org/model@{COMMIT}"
        assert catalog.resolve(model.name) == model.path

    @pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
    def test_the_default_by_any_of_its_names(
        self, home: Path, tmp_path: Path, revision: str
    ) -> None:
        write_cached(tmp_path / "hub", "org/model")
        catalog.use(f"org/model{revision}")
        assert [model.name for model in catalog.stored_models() if model.default] == ["org/model"]


class TestRemove:
    def test_named_folder(self, home: Path) -> None:
        folder = write_model(home / "models" / "pet")
        catalog.use("pet")
        catalog.remove(catalog.plan_removal("pet"))
        assert not folder.exists()
        assert list((home / "models").iterdir()) == []
        assert catalog.default_model().origin == "built-in"

    def test_named_folder_by_its_path(self, home: Path) -> None:
        folder = write_model(home / "models" / "pet")
        catalog.use("pet")
        catalog.remove(catalog.plan_removal(f"{folder}/"))
        assert not folder.exists()
        assert catalog.default_model().origin == "built-in"

    def test_a_link_goes_and_what_it_points_to_stays(self, home: Path, tmp_path: Path) -> None:
        target = write_model(tmp_path / "target")
        (home / "models").mkdir(parents=True)
        (home / "models" / "link").symlink_to(target)
        catalog.remove(catalog.plan_removal("link"))
        assert (target / "model.safetensors").exists()
        assert not (home / "models" / "link").exists()

    def test_hub(self, home: Path, tmp_path: Path) -> None:
        write_cached(tmp_path / "hub", "org/model")
        kept = write_cached(tmp_path / "hub", "org/kept")
        catalog.use("org/model")
        catalog.remove(catalog.plan_removal("org/model"))
        assert [path.name for path in (tmp_path / "hub").iterdir()] == ["models--org--kept"]
        assert kept.exists()
        assert catalog.default_model().origin == "built-in"

    def test_an_interrupted_download(self, home: Path, tmp_path: Path) -> None:
        blobs = tmp_path / "hub" / "models--org--model" / "blobs"
        blobs.mkdir(parents=True)
        (blobs / "weights.incomplete").touch()
        catalog.remove(catalog.plan_removal("org/model"))
        assert list((tmp_path / "hub").iterdir()) == []

    def test_all_revisions_go_together(self, home: Path, tmp_path: Path) -> None:
        snapshot = write_cached(tmp_path / "hub", "org/model")
        with pytest.raises(UsageError, match="give org/model"):
            catalog.plan_removal("org/model@main")
        refs = snapshot.parents[1] / "refs"
        (refs / "main").rename(refs / "v1")
        assert "org/model@v1" in [model.name for model in catalog.stored_models()]

    @pytest.mark.parametrize("name", ["demo", "outside", "../outside", "."])
    def test_nothing_else(
        self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        write_model(tmp_path / "outside")
        (home / "models").mkdir(parents=True)
        monkeypatch.chdir(tmp_path if not name.startswith("..") else home)
        with pytest.raises((UsageError, CheckpointError)):
            catalog.plan_removal(name)


def test_weights_that_go_meanwhile_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.safetensors: cannot be read"):
        read_header(tmp_path / "gone.safetensors")


def test_inspection(tmp_path: Path) -> None:
    found = inspect(write_model(tmp_path / "model", shards=2))
    assert {part.name: part.parameters for part in found.parts} == {
        "vision encoder": 12,
        "projector": 20,
        "V2V cross-attention": 11,
        "T2V cross-attention": 1,
        "language model": 100,
    }
    assert found.parameters == 144
    assert found.dtypes == ("float32", "float16")
    shut, half = found.gates[1], found.gates[0]
    assert (half.layer, half.branch, half.is_open) == (3, "v2v", True)
    assert half.value == pytest.approx(np.tanh(0.5))
    assert (shut.branch, shut.value, shut.is_open) == ("t2v", 0.0, False)


def test_bfloat16_gates(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file as save_torch

    folder = write_model(tmp_path / "model")
    name = "model.cross_attention_layers.0.v2v.gate"
    save_torch({name: torch.tensor([-1.5], dtype=torch.bfloat16)}, folder / "model.safetensors")
    (gate,) = inspect(folder).gates
    assert gate.value == pytest.approx(np.tanh(-1.5))
