"""`crosslmm profile`: its numbers, its forms, and that it needs neither weights nor torch."""

import csv
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from crosslmm.checkpoints.catalog import demo_folder
from crosslmm.cost import RECIPES, memory_needed
from crosslmm.cost.budget import frames_at, most_frames, parse_size
from crosslmm.cost.profile import compare, find_shape, profile, reshape
from crosslmm.cost.published import FIGURE_4, compare_with_paper, count_like_paper
from crosslmm.cost.settings import Settings
from crosslmm.cost.tables import comparison_text, fits_text, paper_text, text
from crosslmm.errors import CheckpointError, UsageError
from crosslmm.merging import TokenBudget

MACS = {
    "vision",
    "projector",
    "merging",
    "language_linear",
    "self_attention",
    "shared_projection",
    "v2v_projection",
    "v2v_attention",
    "t2v_projection",
    "t2v_attention",
    "head",
    "prefill_total",
    "per_token",
}


LLAVA = "llava-hf/llava-onevision-qwen2-7b-ov-hf"


BUDGET = {"tokens_per_frame", "merge", "keep"}


MEMORY = {"weights", "features", "kv_cache", "cross_cache", "activations", "total"}


def test_json_is_the_documented_one(run) -> None:
    done = run(
        "profile", "--model", "crosslmm-7b", "--frames", "32,256", "--tokens-per-frame", "1,9",
        "--compare", "llava-onevision-7b", "--json",
    )  # fmt: skip
    assert done.code == 0
    record = json.loads(done.out)
    assert set(record) == {"model", "settings", "rows", "compare"}
    assert set(record["compare"]) == {"model", "settings", "rows"}
    assert [(row["tokens_per_frame"], row["frames"]) for row in record["rows"]] == [
        (1, 32), (1, 256), (9, 32), (9, 256),
    ]  # fmt: skip
    for row in record["rows"] + record["compare"]["rows"]:
        assert set(row) == {"frames", *BUDGET, "tokens", "macs", "memory"}
        assert set(row["tokens"]) == {"original", "visual", "text"}
        assert set(row["macs"]) == MACS
        assert set(row["memory"]) == MEMORY
        parts = MACS - {"prefill_total", "per_token"}
        assert row["macs"]["prefill_total"] == sum(row["macs"][part] for part in parts)
        assert row["memory"]["total"] == sum(row["memory"][part] for part in MEMORY - {"total"})
        assert all(isinstance(number, int) for number in row["macs"].values())
    assert record["rows"][-1]["tokens"] == {"original": 186624, "visual": 2304, "text": 64}


def test_needs_no_torch_and_answers_at_once() -> None:
    """Well under two seconds of work: `time` would also measure the machine's other load."""
    code = (
        "import sys, time\n"
        "from crosslmm_cli.main import execute\n"
        "assert execute(['profile', '--model', 'crosslmm-2b', '--frames', '256']) == 0\n"
        "assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules), 'heavy imports'\n"
        "assert time.process_time() < 2, time.process_time()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "256" in done.stdout


def test_papers_cost_model_fits_figure_4() -> None:
    rows = compare_with_paper(profile("crosslmm-7b")).rows
    assert [row.frames for row in rows] == [32, 64, 128, 256]
    for row in rows:
        assert abs(row.deviation) < 0.005
        assert abs(row.linear_deviation) < 0.02
    # The published baseline at 256 frames was cut at its context of 32,768 tokens.
    peer = RECIPES["llava-onevision-7b"]
    cut, whole = (count_like_paper(peer, frames=256, cut=cut).total for cut in (True, False))
    published = FIGURE_4["llava-onevision-7b"][256].macs
    assert -0.09 < cut / published - 1 < -0.05
    assert whole > 1.3 * published
    for row in compare_with_paper(profile("llava-onevision-7b")).rows:
        assert -0.09 < row.deviation < -0.05


def test_paper_is_compared_with_nothing_else() -> None:
    with pytest.raises(UsageError, match="figure 4 is of 7B models"):
        compare_with_paper(profile("crosslmm-2b"))
    with pytest.raises(UsageError, match="profile one of these"):
        compare_with_paper(profile("crosslmm-7b", frames=[48]))
    with pytest.raises(UsageError, match="profile one of these"):
        compare_with_paper(profile("crosslmm-7b", budgets=[TokenBudget(16)]))


@pytest.mark.parametrize("other", ["llava-onevision-7b", "unmerged", "paper"])
def test_text_fits_a_terminal(run, other: str) -> None:
    done = run("profile", "-m", "crosslmm-7b", "--compare", other, "--fits", "24GB")
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= 80
    most = most_frames(RECIPES["crosslmm-7b"], parse_size("24GB"), settings=Settings())
    assert f"{most:,} frames at 9 tokens per frame fit in 24.0 GB" in done.out


def test_mergings_are_profiled(run) -> None:
    asked = ["profile", "-m", LLAVA, "-n", "64,256"]
    asked += ["--merge", "folder,random", "--keep", "10%,500"]
    done = run(*asked, "--fits", "24GB", "--compare", "llava-onevision-7b")
    assert done.code == 0
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "196 tokens per frame merged (folder 10%, random 10%, folder" in " ".join(lines[:2])
    heading = lines.index("Frames, folder 10%                 64        256     share")
    assert lines[heading + 3].split() == ["visual", "1,255", "5,018"]
    record = json.loads(run(*asked, "--fits", "24GB", "--json").out)
    rows = record["rows"]
    assert [(row["merge"], row["keep"], row["tokens"]["visual"]) for row in rows[::2]] == [
        ("folder", "10%", 1255), ("random", "10%", 1255), ("folder", 500, 501), ("random", 500, 501),
    ]  # fmt: skip
    assert rows[0]["macs"]["merging"] > 0 == rows[2]["macs"]["merging"]
    # However many frames, 500 tokens are 500; but `folder` compares all that go into one of them.
    fitting = record["fits"]["frames"]
    assert fitting["random 500 in all"] == 1_000_000 > fitting["folder 500 in all"]
    assert fitting["folder 500 in all"] > fitting["folder 10%"] > 1000


def test_merging_has_the_budget_of_a_run(run) -> None:
    asked = ("profile", "-m", LLAVA, "--merge", "area")
    done = run(*asked, "--keep", "10%")
    assert done.code == 2
    assert "--merge area keeps a square number of tokens of each frame" in done.err
    assert run(*asked, "--tokens-per-frame", "9").code == 0
    done = run("profile", "-m", LLAVA, "--merge", "folder")
    assert "--merge needs --keep" in done.err
    done = run("profile", "-m", "llava-onevision-7b", "--merge", "folder", "--keep", "10%")
    assert "always takes 196 tokens per frame" in done.err


def test_merging_at_equal_compute(run) -> None:
    done = run(
        "profile", "-m", LLAVA, "--merge", "folder", "--keep", "10%,25%", "--budget", "100TFLOP"
    )
    assert done.out.splitlines()[1].split() == ["tokens", "frames", "visual", "tokens"]
    more, fewer = (line.split() for line in done.out.splitlines()[2:])
    assert more[:2] == ["folder", "10%"]
    assert int(more[2]) > int(fewer[2])
    shape = find_shape(LLAVA)
    budget = TokenBudget(196, "folder", "10%")
    assert int(more[2]) == frames_at(shape, 50e12, budget=budget, settings=Settings())


def test_column_adds_up() -> None:
    """The rows of a stage are in one unit, so a reader may add them."""
    lines = text(profile("crosslmm-7b", frames=[256])).splitlines()
    start = lines.index("Prefill, TMACs") + 1
    figures = [line[26:37].strip() for line in lines[start : start + 10]]
    numbers = [float(figure.replace("<", "")) for figure in figures]
    assert sum(numbers[:-1]) == pytest.approx(numbers[-1], abs=0.05)


def test_many_frame_counts_wrap() -> None:
    shown = text(
        profile("crosslmm-2b", frames=range(8, 80, 8), budgets=[TokenBudget(4), TokenBudget(9)])
    )
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.count("Prefill, TMACs") == 6
    assert shown.count("Frames, 4 tokens each") == 3


def test_a_multiple_has_two_figures() -> None:
    small, large = profile("crosslmm-2b", frames=[8]), profile("crosslmm-7b", frames=[8])
    ratio = small.rows[0].token.total / large.rows[0].token.total
    line = comparison_text(small, large).splitlines()[-2]
    assert line.split()[-1] == f"{ratio:#.2g}x"
    tiny = profile("demo", frames=[8])
    ratio = large.rows[0].prefill.total / tiny.rows[0].prefill.total
    line = comparison_text(large, tiny).splitlines()[-3]
    assert line.split()[-1] == f"{ratio:,.0f}x", "no exponent"


def test_csv(run) -> None:
    done = run("profile", "-m", "crosslmm-2b", "--csv", "--compare", "unmerged", "-n", "8,16")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert [row["model"] for row in rows] == ["crosslmm-2b"] * 2 + ["crosslmm-2b, unmerged"] * 2
    first = profile("crosslmm-2b", frames=[8, 16]).rows[0]
    assert int(rows[0]["macs_prefill_total"]) == first.prefill.total
    assert int(rows[0]["memory_total"]) == first.memory.total


@pytest.mark.parametrize("also", [["--fits", "24GB"], ["--measure"], ["--compare", "paper"]])
def test_csv_leaves_nothing_out_silently(run, also: list[str]) -> None:
    done = run("profile", "-m", "crosslmm-7b", "--csv", *also)
    assert done.code == 2
    assert "--csv" in done.err


def test_a_config_without_weights_is_enough(run, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((demo_folder() / "config.json").read_text())
    assert run("profile", "-m", tmp_path, "-n", "8").code == 0


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_plot(run, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"bars.{ending}"
    done = run("profile", "-m", "crosslmm-2b", "--compare", "unmerged", "--plot", path)
    assert done.code == 0
    assert list(tmp_path.iterdir()) == [path]
    if ending == "svg":
        assert "</svg>" in path.read_text()
    else:
        from PIL import Image

        with Image.open(path) as picture:
            assert picture.width > 800
            colours = picture.convert("RGB").getcolors(maxcolors=2**20)
            assert sum(count > 500 for count, _ in colours) > 6  # white, and a bar per stage


def test_unmerged_is_the_model_without_its_savings() -> None:
    first = profile("crosslmm-2b", frames=[64])
    other = compare(first, "unmerged")
    row = other.rows[0]
    assert row.tokens.visual == row.tokens.features == 64 * 729
    assert row.prefill.v2v_projection == row.prefill.t2v_attention == row.memory.cross_cache == 0
    assert row.prefill.total > 10 * first.rows[0].prefill.total
    *_, prefill, token, memory = comparison_text(first, other).splitlines()
    ratio = first.rows[0].prefill.total / row.prefill.total
    assert prefill.split() == ["prefill", f"{ratio:#.2g}x"]
    assert [line.split()[-1][-1] for line in (token, memory)] == ["x", "x"]


def test_options_change_the_shape() -> None:
    shape = find_shape("crosslmm-2b")
    assert reshape(shape, interval=7).cross_layers == 4
    whole = profile("x", shape=shape, frames=[64]).rows[0]
    own = profile("x", shape=reshape(shape, v2v_scope="frame"), frames=[64]).rows[0]
    assert whole.prefill.v2v_attention == 64 * own.prefill.v2v_attention
    member = profile("x", shape=reshape(shape, v2v_scope="member"), frames=[64])
    assert whole.prefill.v2v_attention == 64 * 9 * member.rows[0].prefill.v2v_attention
    assert "reading the patches they stand for after" in " ".join(text(member).split())
    projected = profile("x", shape=reshape(shape, t2v_cache="projected"), frames=[64]).rows[0]
    assert projected.memory.cross_cache > 0 == whole.memory.cross_cache
    assert projected.token.total < whole.token.total
    shared = profile("x", shape=reshape(shape, cross_kv="shared"), frames=[64])
    assert shared.rows[0].memory.features * 1152 == whole.memory.features * 512
    assert "shared keys and values" in text(shared)
    assert "shared keys" not in text(member)
    assert shared.as_dict()["settings"]["cross_kv"] == "shared"
    with pytest.raises(UsageError, match="`t2v_cache` features"):
        reshape(shape, cross_kv="shared", t2v_cache="projected")


@pytest.mark.parametrize("quantization", ["none", "4bit"])
def test_the_most_frames_that_fit(quantization) -> None:
    shape, budget = RECIPES["crosslmm-7b"], parse_size("24GB")
    settings = Settings(quantization=quantization)
    frames = most_frames(shape, budget, settings=settings)

    def needed(count: int) -> int:
        return memory_needed(shape, frames=count, quantization=quantization).total

    assert needed(frames) <= budget < needed(frames + 1)
    assert most_frames(shape, parse_size("6GB"), settings=settings) == 0
    said = fits_text(profile("crosslmm-7b", settings=settings), parse_size("6GB"))
    assert said == "not even one frame fits in 6.0 GB"


def test_frames_beyond_the_context_are_noticed(run) -> None:
    done = run("profile", "-m", "crosslmm-2b", "-n", "4000", "--fits", "200GB")
    assert "past its context of 32,768 tokens" in done.err
    assert "the context of the language model ends at 3,633" in " ".join(done.out.split())


@pytest.mark.parametrize(
    ("given", "size"),
    [("24GB", 24e9), ("16GiB", 16 * 2**30), ("800 mb", 8e8), ("1.5T", 1.5e12), ("1000", 1000)],
)
def test_sizes(given: str, size: float) -> None:
    assert parse_size(given) == size


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-n", "0"], 2, "frames 0: give numbers from 1"),
        (["-n", "many"], 2, "'many' is not a list of whole numbers"),
        (["--tokens-per-frame", "8"], 2, "8 is not a perfect square from 1 to 729"),
        (["--fits", "lots"], 2, "lots: not a size"),
        (["--fits", "9" * 400 + "GB"], 2, "larger than any memory"),
        (["--budget", "9" * 400 + "TFLOP"], 2, "must be above 0 and below 10^30"),
        (["--text-tokens", "9" * 400], 2, "--text-tokens must be at least 0"),
        (["--batch", "9" * 400], 2, "and all of them below 2^63"),
        (["--fits", "24"], 2, "--fits 24: needs a unit; did you mean 24GB?"),
        (["--json", "--csv"], 2, "--json and --csv exclude each other"),
        (["--plot", "bars.gif"], 2, "needs a file ending in .png, .svg, .pdf"),
        (["--plot", "nowhere/bars.png"], 2, "there is no folder"),
        (["--measure", "--interval", "2"], 2, "it excludes --interval, --cross-kv"),
        (["-m", "crosslmm-9b"], 1, "recipes need no weights: crosslmm-2b"),
        (["-m", "some/model"], 1, "HF_HUB_OFFLINE"),
        (["-m", "llava-onevision-7b", "--tokens-per-frame", "9"], 2, "always takes 196 tokens"),
        (["--compare", "paper"], 2, "the paper's figure 4 is of 7B models"),
        (["-m", "crosslmm-7b", "--compare", "paper", "--batch", "4"], 2, "of one video"),
        (["--tokens-per-frame", "0"], 2, "0 is not a perfect square from 1 to 729"),
        (
            ["--tokens-per-frame", "0", "--fits", "24GB"],
            2,
            "0 is not a perfect square from 1 to 729",
        ),
    ],
)
def test_refusals(run, home, arguments: list[str], code: int, message: str) -> None:
    if "-m" not in arguments:
        arguments = ["-m", "crosslmm-2b", *arguments]
    done = run("profile", *arguments)
    assert (done.code, done.out) == (code, "")
    assert message in done.err


def test_folder_is_read_with_its_gates(tmp_path: Path) -> None:
    from tests.support.tiny import tiny_checkpoint

    opened = find_shape(str(tiny_checkpoint(tmp_path / "open")))
    closed = find_shape(str(tiny_checkpoint(tmp_path / "closed", gates=False)))
    assert (opened.open_v2v, opened.open_t2v) == (2, 2)
    assert closed == replace(opened, open_v2v=0, open_t2v=0)
    notes = profile(str(tmp_path / "closed"), frames=[8]).notes
    assert "cross-attention closed" in text(profile("closed", shape=closed, frames=[8]))
    only_text = replace(closed, open_t2v=2)
    assert "text tokens reading the whole video after every 2nd layer" in " ".join(
        text(profile("t", shape=only_text, frames=[8])).split()
    )
    assert notes == [f"{tmp_path / 'closed'}: all gates are closed; a closed branch costs nothing"]
    for still_open, words in ((1, "1 of 4 gates is closed"), (0, "2 of 4 gates are closed")):
        shape = replace(opened, open_v2v=2, open_t2v=still_open)
        (note,) = replace(profile(str(tmp_path / "open"), frames=[8]), shape=shape).notes
        assert f": {words}; a closed branch" in note


def test_a_folder_of_a_recipes_name_is_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support.tiny import tiny_checkpoint

    monkeypatch.chdir(tmp_path)
    tiny_checkpoint(tmp_path / "crosslmm-2b")
    assert find_shape("crosslmm-2b") == find_shape(str(tmp_path / "crosslmm-2b"))
    assert find_shape("crosslmm-7b") == RECIPES["crosslmm-7b"]


def test_configuration_that_cannot_be_counted(tmp_path: Path) -> None:
    from tests.support.tiny import tiny_checkpoint

    folder = tiny_checkpoint(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["model_type"] = "mamba"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="'mamba': its cost cannot be counted"):
        find_shape(str(folder))


def test_paper_text_shows_the_deviation() -> None:
    first = profile("crosslmm-7b")
    shown = paper_text(first, compare_with_paper(first))
    assert "-0.07%" in shown
    assert "102.42" in shown
