"""Recipes: read, checked, and what is said of them."""

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from crosslmm.errors import UsageError
from crosslmm.training.recipe import demo_settings, load_recipe, shipped_recipes
from crosslmm.training.records import Records, Turn
from tests.support.lessons import lesson
from tests.support.training_samples import parsed


class TestRecipes:
    @pytest.mark.parametrize("size", ["2b", "7b"])
    def test_the_shipped_ones_are_the_papers(self, size: str) -> None:
        align, tune = load_recipe(f"align-{size}"), load_recipe(f"tune-{size}")
        assert (align.stage, align.learning_rate, align.frames, align.batch_size) == (
            "align", 1e-3, 32, 512,
        )  # fmt: skip
        assert (tune.stage, tune.learning_rate, tune.vision_learning_rate, tune.batch_size) == (
            "tune", 1e-5, 2e-6, 128,
        )  # fmt: skip
        assert (tune.min_frames, tune.max_frames) == (64, 512)
        assert align.tokens_per_frame == tune.tokens_per_frame == 9
        assert align.epochs == tune.epochs == 1
        assert align.accumulation(8) * 8 * align.device_batch_size == 512

    def test_changes_on_top(self) -> None:
        recipe = load_recipe(
            "tune-2b", ["learning_rate=2e-4", "lora.rank=8", "fps=null", "frames=8"]
        )
        assert recipe.learning_rate == 2e-4
        assert recipe.lora is not None
        assert recipe.lora.rank == 8
        assert (recipe.fps, recipe.frames) == (None, 8)

    def test_frames_replace_the_rate_and_the_other_way_round(self) -> None:
        recipe = load_recipe("tune-2b", ["frames=8"])
        assert recipe.frames == 8
        assert (recipe.fps, recipe.min_frames, recipe.max_frames) == (None, None, None)
        recipe = load_recipe("align-2b", ["fps=2"])
        assert (recipe.frames, recipe.fps) == (None, 2)
        with pytest.raises(UsageError, match="frames or fps, not both"):
            load_recipe("tune-2b", ["frames=8", "fps=2"])

    @pytest.mark.parametrize(
        ("change", "fault"),
        [
            ("learnin_rate=1", "unknown option 'learnin_rate'; did you mean learning_rate?"),
            ("lora.rnk=1", "lora: unknown option 'rnk'; did you mean rank?"),
            ("zzz=1", "unknown option 'zzz'; there are batch_size, "),
            ("stage=both", "^tune-2b: stage is one of align, tune, distill, not 'both'"),
            ("batch_size=1.5", "batch_size is a whole number, not 1.5"),
            ("gradient_checkpointing=1", "true or false"),
            ("learning_rate=fast", "is a number, not 'fast'"),
            ("learning_rate=.nan", "is a number, not nan"),
            ("steps=.inf", "is a whole number, not inf"),
            ("lora=yes", "lora is a mapping"),
            ("learning_rate=0", "above 0"),
            ("steps=0", "steps is above 0"),
            ("max_length=-1", "max_length is above 0"),
            ("workers=-1", "from 0 up"),
            ("tokens_per_frame=0", "tokens_per_frame is above 0"),
            ("gate_learning_rate=-1", "gate_learning_rate is 0 or more"),
            ("vision_learning_rate=-1", "vision_learning_rate is 0 or more"),
            ("weight_decay=-0.1", "weight_decay is 0 or more"),
            ("max_grad_norm=-1", "max_grad_norm is 0 or more"),
            ("lora.rank=0", "lora.rank is above 0"),
            ("lora.alpha=-2", "lora.alpha is above 0"),
            ("lora.dropout=1", "lora.dropout is a share"),
            ("warmup=1", "below 1"),
            ("seed=-1", r"`seed` is a whole number from 0 to 2\^32 - 1, not -1"),
            ("seed=4294967296", "not 4294967296"),
            ("stage", "key=value"),
        ],
    )
    def test_what_is_refused(self, change: str, fault: str) -> None:
        with pytest.raises(UsageError, match=fault):
            load_recipe("tune-2b", [change])

    @pytest.mark.parametrize(
        ("recipe", "changes", "fault"),
        [
            ("align-2b", ["min_frames=50"], "bound `fps`, not `frames`"),
            ("align-2b", ["vision_learning_rate=1e-6"], "is for the tune stage"),
            (
                "align-2b",
                ["frames=", "max_frames=8"],
                "bound `fps`, which the recipe does not give",
            ),
            ("tune-2b", ["max_frames=8"], "min_frames 64 is above max_frames 8"),
            ("tune-2b", ["steps=5", "epochs=2"], "epochs or steps, not both"),
        ],
    )
    def test_what_would_have_no_effect_is_refused(
        self, recipe: str, changes: list[str], fault: str
    ) -> None:
        with pytest.raises(UsageError, match=fault):
            load_recipe(recipe, changes)

    def test_epochs_take_the_place_of_steps(self, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_text("{stage: tune, learning_rate: 1e-4, steps: 5}")
        recipe = load_recipe(tmp_path / "mine.yaml", ["epochs=2"])
        assert (recipe.steps, recipe.epochs) == (None, 2)

    def test_the_demo_has_no_other_seeds(self) -> None:
        with pytest.raises(UsageError, match="`seed` is a whole number from 0"):
            demo_settings(["seed=-1"])

    def test_unknown_recipe_and_uneven_batch(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"align-2b.*tune-7b"):
            load_recipe("tune-3b")
        with pytest.raises(UsageError, match="no multiple of 1 on each of 3 devices"):
            load_recipe("tune-2b").accumulation(3)
        with pytest.raises(
            UsageError, match=r"`lora` adapts .*, which the align stage does not train"
        ):
            load_recipe("align-2b", ["lora.rank=8"])
        (tmp_path / "mine.yaml").write_text("stage: tune")
        with pytest.raises(UsageError, match="learning_rate is missing"):
            load_recipe(tmp_path / "mine.yaml")
        assert {"align-2b", "align-7b", "tune-2b", "tune-7b"} <= set(shipped_recipes())


class TestGuide:
    """What `docs/training.md` shows is understood."""

    GUIDE = (Path(__file__).parents[2] / "docs" / "training.md").read_text("utf-8")

    def _block(self, language: str, start: str) -> str:
        blocks = re.findall(rf"^```{language}\n(.*?)^```$", self.GUIDE, re.MULTILINE | re.DOTALL)
        return next(block for block in blocks if block.startswith(start))

    def test_its_recipe_and_its_commands(self, tmp_path: Path) -> None:
        for name in ("mine.yaml", "german.yaml"):
            (tmp_path / name).write_text(self._block("yaml", f"# {name}"))
        commands = re.findall(
            r"^(?:crosslmm|[^`\n]* -m crosslmm_cli) train (.+)$", self.GUIDE, re.MULTILINE
        )
        assert len(commands) == 6
        for command in commands:
            name, *options = shlex.split(command)
            changes = [value for key, value in pairwise(options) if key == "--set"]
            recipe = load_recipe(tmp_path / name if name.endswith(".yaml") else name, changes)
            assert recipe.accumulation(1) >= 1

    def test_its_record_and_its_mix(self, tmp_path: Path) -> None:
        sample = parsed(**json.loads(self._block("json", "{")))
        assert sample.turns[0] == Turn("user", "What is she holding?", shows=True)
        mix = self._block("yaml", "datasets")
        for entry in re.findall(r"json_path: (\S+)", mix):
            for path in [
                entry.replace("{academic,youtube}", name) for name in ("academic", "youtube")
            ]:
                (tmp_path / path).parent.mkdir(exist_ok=True)
                record = json.dumps(lesson("v.mp4", ("who?", "me")))
                (tmp_path / path).write_text(record if path.endswith("l") else f"[{record}]")
        (tmp_path / "mix.yaml").write_text(mix)
        media = [sample.media[0] for sample in Records(tmp_path / "mix.yaml")]
        assert media == [tmp_path / "v.mp4", *[Path("/data/llava_video/v.mp4")] * 2]
