"""How much is kept, and by several processes at once."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import crosslmm
from crosslmm.errors import UsageError
from crosslmm.files import HeldFolder
from crosslmm.inference.feature_cache import FeatureCache
from tests.support.feature_cache import Home


def fill(cache: FeatureCache, name: int, size: int, used: float) -> str:
    digits = f"{name:032x}"
    entry = f"1.{digits}-{digits}-{digits}.safetensors"
    cache.write_entry(entry, size, lambda file: file.write(bytes(size)) and None)
    os.utime(cache.folder / entry, (used, used))
    return entry


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, size=1000)
    names = [fill(cache, number, 300, 1000 + number) for number in range(3)]
    (cache.folder / "notes.txt").write_text("not ours")
    (cache.folder / ".crosslmm-0123456789abcdef.new").write_text("of a killed writer")
    file = cache.open_entry(names[0])
    assert file is not None
    file.close()
    names.append(fill(cache, 3, 300, 5000))
    assert [entry.name for entry in cache.entries()] == [names[0], names[3], names[2]]
    with pytest.raises(OSError, match="more than the"):
        fill(cache, 4, 1001, 0)
    assert len(cache.entries()) == 3
    assert len(cache.clear()) == 3
    assert sorted(path.name for path in cache.folder.iterdir()) == ["lock", "notes.txt"]
    assert FeatureCache(tmp_path / "none").clear() == []
    assert not (tmp_path / "none").exists()
    with pytest.raises(UsageError, match="cache_size"):
        FeatureCache(tmp_path, size=0)


WRITER = """
import sys, pathlib
from crosslmm.inference.feature_cache import FeatureCache, sampling_key
cache = FeatureCache(sys.argv[1], size=100_000)
source, name = pathlib.Path(sys.argv[2]), sys.argv[3]
data = source.read_bytes()
cache.write_entry(name, len(data), lambda file: None if file.write(data) else None)
print("ready", flush=True)
while True:
    cache.write_entry(name, len(data), lambda file: [file.write(data[:9000]), file.write(data[9000:])])
    for number in range(3):
        other = name[:10] + f"{number:022x}"[:22] + name[32:]
        if other != name:
            cache.write_entry(other, len(data), lambda file: None if file.write(data) else None)
"""


def test_two_processes_fill_the_cache_while_a_third_reads_it(
    home: Home, video: Path, tmp_path: Path
) -> None:
    expected = home.ask(video)
    home.assistant.runtime.cache = None
    [entry] = home.entries()
    source = Path(shutil.copy(entry, tmp_path / "good"))
    command = [sys.executable, "-c", WRITER, str(home.folder), str(source), entry.name]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        read = 0
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            found = home.kept(video).read()
            if found is not None:  # else the others had just removed it to make room
                read += 1
                assert found.frames == expected.frames
        assert read
        assert all(writer.poll() is None for writer in writers), "a writer failed"
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    assert home.ask(video).text == expected.text
    with HeldFolder(home.features) as held:
        assert sum((home.features / name).stat().st_size for name in held.names()) < 200_000


def test_two_questions_at_once_make_one_entry(home: Home, checkpoint: Path, video: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    expected = home.expected(video)
    assistants = [
        crosslmm.load(checkpoint, device="cpu", dtype="float32", cache=home.cache())
        for _ in range(2)
    ]
    with ThreadPoolExecutor(2) as pool:
        asked = [
            pool.submit(each.ask, video, "what?", frames=3, max_new_tokens=4) for each in assistants
        ]
        assert [each.result().text for each in asked] == [expected, expected]
    assert len(home.entries()) == 1
    home.check(video, from_cache=True)
