"""Names of models and settings that somebody else chose: nothing outside is written or removed, and
what is wrong is said in words."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Finished
from tests.support.models import write_model

Run = Callable[..., Finished]  # the fixture `run`
NAMES = (
    *(
        "../victim",
        "..",
        ".",
        "",
        "/etc/passwd",
        "good/../../victim",
        "org/name@../../../home/victim",
    ),
    *(
        "x" * 5000,
        "org/" + "x" * 5000,
        "org/name@" + "x" * 5000,
        "~nobody-has-this-name",
        "~root/x",
    ),
    *("a\x1b[31mb", "a\nb/c", "a\0b", "\udcff", "é/ü", "org--x/name", "models--org--name"),
)


@pytest.mark.parametrize("command", [("use",), ("show",), ("pull",), ("rm", "--yes")])
def test_names(
    run: Run,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
) -> None:
    victim = write_model(home / "victim")
    (home / "models").mkdir()
    (home / "models" / "good").symlink_to(victim)
    snapshots = tmp_path / "hub" / "models--org--name" / "snapshots"
    snapshots.mkdir(parents=True)
    (snapshots.parent / "refs").mkdir()
    (snapshots.parent / "refs" / "main").write_text("../../../home/victim")
    monkeypatch.chdir(tmp_path / "hub")
    for name in NAMES:
        done = run("models", *command, name)
        assert done.code in (1, 2), name
        assert "internal error" not in done.err, name
        assert "\x1b" not in done.err
        assert done.out == ""
    assert len(list(victim.iterdir())) == 2
    assert not (home / "settings.json").exists()


def test_removing_links_removes_links(run: Run, home: Path, tmp_path: Path) -> None:
    victim = write_model(tmp_path / "victim")
    (home / "models").mkdir(parents=True)
    (home / "models" / "good").symlink_to(victim)
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "models--org--name").symlink_to(victim)
    assert run("models", "rm", "--yes", "good").code == 0
    assert run("models", "rm", "--yes", "org/name").code == 0
    assert len(list(victim.iterdir())) == 2
    assert not list((home / "models").iterdir()) + list((tmp_path / "hub").iterdir())


@pytest.mark.parametrize(
    "content",
    [
        *("[]", "{", "null", "[" * 100_000, '{"default": 5}', '{"default": "\\u0000"}'),
        *('{"merging": 5}', '{"merging": {"demo": {"merge": ["a"]}}}', '{"default": "\\ud800"}'),
    ],
)
def test_settings(run: Run, home: Path, content: str) -> None:
    home.mkdir()
    (home / "settings.json").write_text(content)
    for arguments in (("ask", "nosuch.mp4", "what?"), ("models", "use", "nosuch")):
        done = run(*arguments)
        assert done.code in (1, 2)
        assert "internal error" not in done.err
    assert (home / "settings.json").read_text() == content


def test_settings_that_are_a_link_are_read_and_not_written(
    run: Run, home: Path, tmp_path: Path
) -> None:
    (home / "models").mkdir(parents=True)
    (tmp_path / "settings").write_text('{"default": "demo"}')
    (home / "settings.json").symlink_to(tmp_path / "settings")
    done = run("models", "use", "--reset")
    assert done.code == 2
    assert "a link, and links are not followed" in done.err
    assert (tmp_path / "settings").read_text() == '{"default": "demo"}'
