"""The README is right: its commands parse and run, its snippets run, its tables and tree agree."""

import io
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from crosslmm_cli.commands import COMMANDS
from crosslmm_cli.main import build
from tests.conftest import Finished

Run = Callable[..., Finished]

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")

# Parsed and not run, each for a reason; one that is not in the README is an error.
NOT_RUN = {
    "setup": "needs the network; tests/cli/test_setup.py runs it with a fake Hub",
    "models pull": "needs the network; tests/checkpoints/test_pull.py pulls from a fake Hub",
    "models use llava-hf/": "needs what was pulled",
    "models init": "needs gigabytes of parts; tests/checkpoints/test_loading.py assembles tiny ones",
    "train align": "needs a model of 2 billion parameters; tests/training/test_run.py trains tiny ones",
    "train tune": "needs the first stage",
}

# What would take minutes is run smaller.
SMALLER = {"--clips 200": "--clips 1 --seconds 2-2 --questions 3"}


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every `crosslmm …` of the code blocks, without the name."""
    lines = "".join(blocks("bash") + blocks("console")).splitlines()
    parts = [part.strip() for line in lines for part in line.removeprefix("$ ").split("&&")]
    found = [part.removeprefix("crosslmm ") for part in parts if part.startswith("crosslmm ")]
    return list(dict.fromkeys(found))


def mentions() -> list[str]:
    """Every `crosslmm …` of the text."""
    text = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    return sorted(set(re.findall(r"`crosslmm ([^`]+)`", text)))


def is_not_run(command: str) -> bool:
    return any(command.startswith(prefix) for prefix in NOT_RUN)


def arguments_of(command: str) -> tuple[list[str], str | None, str | None]:
    """The arguments, and the files after `<` and `>`."""
    words, files = shlex.split(command, comments=True), {"<": None, ">": None}
    for sign in files:
        if sign in words:
            at = words.index(sign)
            files[sign] = words[at + 1]  # type: ignore[call-overload]
            del words[at : at + 2]
    return words, files["<"], files[">"]


@pytest.fixture(scope="module")
def terse(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of few words: every second token ends its answer."""
    folder = tmp_path_factory.mktemp("checkpoints") / "terse"
    shutil.copytree(checkpoint, folder)
    settings = json.loads((folder / "generation_config.json").read_text())
    settings["eos_token_id"] = list(range(0, 261, 2))
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def workplace(tmp_path: Path, clip: Path, terse: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the README's commands name, and a default model."""
    from PIL import Image

    shutil.copy(clip, tmp_path / "movie.mp4")
    Image.new("RGB", (64, 48), "orange").save(tmp_path / "image.jpg")
    (tmp_path / "clips").mkdir()
    shutil.copy(clip, tmp_path / "clips" / "one.mp4")
    (tmp_path / "question.txt").write_text("what is this?\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CROSSLMM_MODEL", str(terse))
    return tmp_path


def test_there_are_commands_and_every_exception_is_needed() -> None:
    assert len(commands()) >= 10
    for prefix in NOT_RUN:
        assert any(command.startswith(prefix) for command in commands()), f"{prefix}: not in README"


@pytest.mark.parametrize("command", [command for command in commands() if is_not_run(command)])
def test_commands_that_are_not_run_parse(command: str) -> None:
    rest, _, _ = arguments_of(command)
    group: Any = typer.main.get_command(build())
    context = group.make_context("crosslmm", list(rest))
    while hasattr(group, "resolve_command"):
        name, group, rest = group.resolve_command(context, list(rest))
        context = group.make_context(name, list(rest), parent=context)


@pytest.mark.parametrize("mention", mentions())
def test_what_the_text_names_exists(run: Run, mention: str) -> None:
    words = mention.split()
    path = [word for word in words if not word.startswith("-")]
    shown = run(*path, "--help")
    assert shown.code == 0, shown.err
    assert all(word in shown.out for word in words if word.startswith("-"))


def test_commands_run_one_after_another(
    run: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in commands():
        if is_not_run(command):
            continue
        for long, short in SMALLER.items():
            command = command.replace(long, short)
        arguments, read, write = arguments_of(command)
        if read:
            monkeypatch.setattr(
                "sys.stdin", io.TextIOWrapper(io.BytesIO((workplace / read).read_bytes()))
            )
        finished = run(*arguments)
        assert finished.code == 0, f"{command}: {finished.err}"
        assert write or finished.out or finished.err, command


@pytest.mark.parametrize("snippet", blocks("python"))
def test_snippets_run(workplace: Path, snippet: str) -> None:
    exec(compile(snippet, "README.md", "exec"), {})


def test_the_snippets_of_the_python_page_run_one_after_another(
    workplace: Path, terse: Path
) -> None:
    shutil.copytree(terse, workplace / "my-crosslmm")
    names: dict[str, Any] = {}
    for snippet in blocks("python", (ROOT / "docs" / "python.md").read_text("utf-8")):
        exec(compile(snippet, "python.md", "exec"), names)
    assert names["output"].shape[0] == 1
    [record] = map(json.loads, blocks("json", (ROOT / "docs" / "python.md").read_text("utf-8")))
    assert list(record) == list(names["answer"].as_dict())


def test_the_table_of_commands_is_that_of_the_program() -> None:
    rows = dict(re.findall(r"^\| `crosslmm (\w+)` \| (.+?) \|$", README, re.MULTILINE))
    listed: Any = typer.main.get_command(build())
    assert rows == {name: COMMANDS[name].help for name in listed.commands}


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_ci_takes_its_commands_from_here() -> None:
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    for name in ("install", "test"):
        assert f"readme_commands {name}" in script
        assert README.count(f"<!-- ci: {name} -->\n```bash\n") == 1


def tree() -> list[Path]:
    """The paths of the tree under "Where things are", two spaces of indentation per level."""
    section = README.split("## Where things are\n")[1].split("\n## ")[0]
    block = re.search(r"^```text\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert block is not None
    paths: list[Path] = []
    parents: list[Path] = [ROOT]
    for line in block[1].splitlines():
        match = re.fullmatch(r"((?:  )*)(\S+)  +(\S.*)", line)
        assert match is not None, line
        depth = len(match[1]) // 2
        assert len(match[3].split()) <= 7, f"{line}: a few words per file"
        paths.append(parents[depth] / match[2])
        parents[depth + 1 :] = [paths[-1]]
    return paths


def test_the_tree_is_that_of_the_repository() -> None:
    paths = tree()
    assert len(set(paths)) == len(paths)
    missing = [str(path.relative_to(ROOT)) for path in paths if not path.exists()]
    assert not missing
    library = ROOT / "model" / "crosslmm"
    rooms = {path.parent for path in library.rglob("__init__.py")} - {library}
    assert rooms <= set(paths), f"not in the tree: {rooms - set(paths)}"
    top = {path.parent for path in ROOT.glob("*/__init__.py")} | {library}
    assert top <= set(paths)


@pytest.mark.parametrize(
    "folder", ["merging/", "video/readers/", "evaluation/tasks/", "inference/"]
)
def test_where_to_add_things_names_folders_that_are_there(folder: str) -> None:
    assert f"`{folder}`" in README
    assert (ROOT / "model" / "crosslmm" / folder).is_dir()


def test_the_reasons_for_not_running_name_tests_that_are_there() -> None:
    for reason in NOT_RUN.values():
        for path in re.findall(r"tests/[\w/]+\.py", reason):
            assert (ROOT / path).exists(), path
