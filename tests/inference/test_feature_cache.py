"""Videos that were encoded earlier: used where they are what would be encoded again, and only there."""

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import crosslmm
from crosslmm.errors import UsageError
from crosslmm.files import HeldFolder
from crosslmm.inference import (
    cached_video,
    feature_cache,
    file_content,
    opening,
    own_folder,
    session,
)
from crosslmm.inference.answer import Answer
from crosslmm.inference.assistant import Assistant
from crosslmm.inference.cached_video import CachedVideo
from crosslmm.inference.encoding import EncodedVideo
from crosslmm.inference.feature_cache import FeatureCache, sampling_key
from crosslmm.merging import TokenBudget
from crosslmm.options import Sampling
from crosslmm.ragged_tokens import RaggedTokens
from tests.support.clips import write_clip
from tests.support.tiny import tiny_model, tiny_processor

FRAMES = Sampling(frames=3)
EXPECTED: dict[tuple[str, bytes, str], str] = {}


class Home:
    """A cache, and an assistant that opens it again for every question, as another process would."""

    def __init__(self, assistant: Assistant, folder: Path) -> None:
        self.assistant, self.folder, self.notices = assistant, folder, list[str]()
        self.locks = ExitStack()
        self.features = folder / "features"
        assistant.on_notice = self.notices.append

    def cache(self) -> FeatureCache:
        return FeatureCache(self.folder, least_seconds=0)

    def ask(self, video: Path, *, cached: bool = True, **options: Any) -> Answer:
        self.notices.clear()
        self.assistant.runtime.cache = self.cache() if cached else None
        options = {"frames": 3, "max_new_tokens": 4} | options
        return self.assistant.ask(video, "what?", **options)

    def check(self, video: Path, *, from_cache: bool, **options: Any) -> None:
        """The answer is the one without a cache, and comes from where it should."""
        answer = self.ask(video, **options)
        assert answer.text == self.expected(video, **options)
        assert answer.from_cache == from_cache

    def expected(self, video: Path, **options: Any) -> str:
        """The answer without a cache."""
        runtime = self.assistant.runtime
        model = runtime.checkpoint_state + runtime.settings["dtype"]
        key = (model, video.read_bytes(), repr(options))
        if key not in EXPECTED:
            EXPECTED[key] = self.ask(video, cached=False, **options).text
        return EXPECTED[key]

    def entries(self) -> list[Path]:
        return sorted(self.features.glob("*.safetensors"))

    def kept(self, video: Path) -> CachedVideo:
        assert self.assistant.runtime.cache is None
        return CachedVideo(self.assistant.runtime, self.cache(), video, FRAMES, TokenBudget(4))


@pytest.fixture(scope="module")
def loaded(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Assistant:
    cache = FeatureCache(tmp_path_factory.mktemp("unused"))
    return crosslmm.load(checkpoint, device="cpu", dtype="float32", cache=cache)


@pytest.fixture
def home(loaded: Assistant, tmp_path: Path) -> Iterator[Home]:
    home = Home(loaded, tmp_path / "cache")
    with home.locks:
        yield home
    loaded.runtime.cache = loaded.on_notice = None


@pytest.fixture
def video(clip: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(clip, tmp_path / "clip.mp4"))


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were hashed; every file counts as large and as unchanged for long."""
    files = []
    original = file_content.complete_hash

    def complete_hash(file: Any) -> str:
        files.append(Path(file.name).name if isinstance(file.name, str) else "a file")
        return original(file)

    monkeypatch.setattr(file_content, "complete_hash", complete_hash)
    monkeypatch.setattr(file_content, "_AT_ONCE", 0)
    monkeypatch.setattr(file_content, "_SETTLED", -1)
    return files


MERGED = {"merge": "folder", "keep": "50%"}


@pytest.mark.parametrize("options", [{}, MERGED], ids=["pooled", "merged"])
def test_another_process_neither_decodes_nor_encodes(
    home: Home, video: Path, options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = home.ask(video, **options)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("decoded or encoded again")

    monkeypatch.setattr(opening, "encode_video", never)
    monkeypatch.setattr(session, "prefill_video", never)
    second = home.ask(video, **options)
    assert (first.from_cache, second.from_cache) == (False, True)
    assert second.text == first.text
    assert (second.frames, second.prompt, second.tokens) == (
        first.frames,
        first.prompt,
        first.tokens,
    )
    assert second.settings == first.settings
    assert second.timing.decode == 0
    assert second.as_dict()["from_cache"] is True


def test_a_session_says_what_it_says_without_the_cache(home: Home, video: Path) -> None:
    home.ask(video)
    home.assistant.runtime.cache = home.cache()
    kept = home.assistant.open_video(video, frames=3)
    home.assistant.runtime.cache = None
    made = home.assistant.open_video(video, frames=3)
    assert (kept.from_cache, made.from_cache) == (True, False)
    assert (kept.source, kept.summary, kept.video) == (made.source, made.summary, made.video)


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"gates": False}, {"embeds", "prefix"}),
        ({"t2v_cache": "projected"}, {"embeds", "features"}),
        ({"v2v_scope": "frame"}, {"embeds", "features", "prefix"}),
        ({"cross_kv": "shared"}, {"embeds", "features", "prefix"}),
        ({"cross_kv": "shared", "feature_bits": 8}, {"embeds", "features", "prefix"}),
        ({"feature_bits": 8}, {"embeds", "features", "prefix"}),
    ],
    ids=["closed", "projected", "frame", "shared", "shared-8", "8"],
)
def test_a_kept_video_is_asked_as_any_other(
    tmp_path: Path, video: Path, changes: dict, kept: set[str]
) -> None:
    cache = FeatureCache(tmp_path / "cache", least_seconds=0)
    bits = changes.get("feature_bits")
    changes = {name: value for name, value in changes.items() if name != "feature_bits"}
    assistant = Assistant(tiny_model(**changes), tiny_processor())
    assistant.model.model.feature_bits = bits
    assistant.runtime.cache, assistant.runtime.checkpoint_state = cache, "made here"
    said = []
    for expected in (False, True):
        opened = assistant.open_video(video, frames=3)
        assert opened.from_cache is expected
        chat = opened.chat()
        turns = [chat.ask(question, max_new_tokens=3).text for question in ("what?", "and?")]
        together = opened.ask_all(["what?", "who is it?"], max_new_tokens=3)
        said.append((opened.ask("what?", max_new_tokens=3).text, turns, together))
    assert said[0] == said[1]
    [entry] = cache.folder.glob("*.safetensors")
    assert {name.partition(".")[0] for name in load_file(entry)} == kept


def test_weights_behind_closed_gates_are_of_no_account(tmp_path: Path, video: Path) -> None:
    """A checkpoint of LLaVA-OneVision has none: they are made, at random, when it is loaded."""
    kept = []
    for seed in range(2):
        model = tiny_model(gates=False)
        torch.manual_seed(seed)
        for layer in model.model.dual_layers:
            torch.nn.init.normal_(layer.t2v.o_proj.weight)
        assistant = Assistant(model, tiny_processor())
        runtime = assistant.runtime
        runtime.cache = FeatureCache(tmp_path / "cache", least_seconds=0)
        runtime.checkpoint_state = "made here"
        kept.append(assistant.open_video(video, frames=3).from_cache)
    assert kept == [False, True]


def test_a_quantized_model_finds_what_it_kept_in_its_next_process(
    checkpoint: Path, tmp_path: Path, video: Path
) -> None:
    """A forward pass may change how bitsandbytes lays the weights out."""
    cache = FeatureCache(tmp_path / "cache", least_seconds=0)
    from_cache = []
    for _ in range(2):
        assistant = crosslmm.load(
            checkpoint, device="cpu", dtype="bfloat16", quantization="4bit", cache=cache
        )
        answer = assistant.ask(video, "what?", frames=3, max_new_tokens=2)
        from_cache.append(answer.from_cache)
    assert from_cache == [False, True]


def test_another_chat_template_is_prefilled(
    home: Home, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.ask(video)
    processor = home.assistant.processor
    template = processor.chat_template.replace("<|im_start|>", "<|im_start|>!")
    monkeypatch.setattr(processor, "chat_template", template)
    answer = home.ask(video)
    assert (answer.from_cache, answer.text) == (True, home.ask(video, cached=False).text)
    assert "!" in answer.prompt


def test_nothing_is_kept_unasked(
    checkpoint: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSLMM_CACHE", str(tmp_path / "cache"))
    assistant = crosslmm.load(checkpoint, device="cpu", dtype="float32")
    assistant.ask(video, "what?", frames=2, max_new_tokens=2)
    assert assistant.runtime.cache is None
    assert not feature_cache.default_folder().exists()


def test_entries_are_private_and_of_the_ordinary_format(home: Home, video: Path) -> None:
    old = os.umask(0)
    try:
        home.ask(video)
    finally:
        os.umask(old)
    [entry] = home.entries()
    assert entry.stat().st_mode & 0o777 == 0o600
    assert home.features.stat().st_mode & 0o777 == 0o700
    tensors = load_file(entry)
    assert tensors["embeds"].shape == (1, 3, 4, 64)
    assert tensors["features"].shape == (1, 3, 25, 32)
    assert tensors["prefix.keys.3"].shape == (1, 2, tensors["prefix.ids"].shape[1], 16)
    [listed] = home.cache().entries()
    assert (listed.video, listed.frames) == ("clip.mp4", 3)
    assert listed.size == entry.stat().st_size


@pytest.mark.parametrize(
    "options",
    [{"frames": 4}, {"tokens_per_frame": 1}, MERGED],
    ids=lambda options: next(iter(options)),
)
def test_another_sampling_or_merging_is_encoded(home: Home, video: Path, options: dict) -> None:
    home.ask(video)
    home.check(video, from_cache=False, **options)
    home.check(video, from_cache=True, **options)


def test_a_sampling_is_another_one_by_every_field_but_how_long_it_may_take() -> None:
    changes = {
        "frames": 4,
        "fps": 2.0,
        "max_frames": 4,
        "start": 1.0,
        "end": 2.0,
        "at": [1.0],
        "sampler": "scene",
        "static_threshold": 2.0,
        "seek": "exact",
        "reader": "decord",
        "max_pixels": 10_000,
        "deadline": 1.0,
        "file_timeout": 1.0,
    }
    assert set(changes) == {field.name for field in fields(Sampling)}
    keys = {name: sampling_key(Sampling(**{name: value})) for name, value in changes.items()}
    assert keys["deadline"] == keys["file_timeout"] == sampling_key(Sampling())
    assert len(set(keys.values())) == len(keys) - 1


def test_another_precision_or_model_is_encoded(
    home: Home, video: Path, checkpoint: Path, tmp_path: Path
) -> None:
    home.ask(video)
    changed = tmp_path / "model"
    shutil.copytree(checkpoint, changed)
    weights = changed / "model.safetensors"
    homes = []
    for folder, dtype in ((checkpoint, "bfloat16"), (changed, "float32")):
        other = crosslmm.load(folder, device="cpu", dtype=dtype, cache=home.cache())
        homes.append(Home(other, home.folder))
        homes[-1].check(video, from_cache=False)
        homes[-1].check(video, from_cache=True)
    before = weights.stat()
    with weights.open("r+b") as file:  # a bit of a weight, the date kept
        file.seek(before.st_size - 5)
        byte = file.read(1)[0]
        file.seek(before.st_size - 5)
        file.write(bytes([byte ^ 1]))
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = Home(
        crosslmm.load(changed, device="cpu", dtype="float32", cache=home.cache()), home.folder
    )
    again.check(video, from_cache=False)


def test_weights_that_were_changed_in_memory_are_another_model(
    checkpoint: Path, video: Path, tmp_path: Path
) -> None:
    assistant = crosslmm.load(checkpoint, device="cpu", dtype="float32", cache=FeatureCache())
    home = Home(assistant, tmp_path / "cache")
    home.ask(video)
    with torch.no_grad():
        assistant.model.model.multi_modal_projector.linear_1.weight.mul_(1.5)
    changed = home.ask(video)
    assert (changed.from_cache, changed.text) == (False, home.ask(video, cached=False).text)


def test_a_changed_file_is_noticed_by_whatever_date_it_has(
    home: Home, tmp_path: Path, hashed: list[str]
) -> None:
    video, other = tmp_path / "clip.mp4", tmp_path / "other.mp4"
    write_clip(video, frames=12)
    write_clip(other, frames=12, first_number=500)
    size = max(path.stat().st_size for path in (video, other))
    for path in (video, other):
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    home.ask(video)
    home.check(video, from_cache=True)
    before = video.stat()
    with video.open("r+b") as file:
        file.write(other.read_bytes())
    os.utime(video, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = video.stat()
    for name in ("st_ino", "st_size", "st_mtime_ns"):
        assert getattr(before, name) == getattr(after, name)
    home.check(video, from_cache=False)
    os.replace(other, video)  # the same content in another file
    os.utime(video, ns=(before.st_atime_ns, before.st_mtime_ns))
    home.check(video, from_cache=True)


def test_a_large_file_is_hashed_once(home: Home, video: Path, hashed: list[str]) -> None:
    for _ in range(3):
        home.ask(video)
    assert len(hashed) == 1
    os.utime(video, (1, 1))
    home.check(video, from_cache=True)
    assert len(hashed) == 2, "touched: looked at again, and found to be the same"
    moved = video.rename(video.with_name("moved.mp4"))
    home.check(moved, from_cache=True)


def test_a_file_that_has_just_changed_is_hashed_each_time(
    home: Home, video: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_content, "_SETTLED", 3600 * 10**9)
    for expected in (False, True, True):
        assert home.ask(video).from_cache is expected
    assert len(hashed) == 3
    assert not list(home.features.glob("*.known"))


def test_a_file_that_changes_while_it_is_read_is_not_kept(
    home: Home, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = opening.encode_video

    def encode(*arguments: Any, **options: Any) -> EncodedVideo:
        encoded = original(*arguments, **options)
        with video.open("ab") as file:
            file.write(b"\0")
        return encoded

    monkeypatch.setattr(opening, "encode_video", encode)
    home.ask(video)
    assert home.entries() == []


def test_a_file_that_changes_before_it_is_opened_is_not_kept(home: Home, video: Path) -> None:
    cache = home.assistant.runtime.cache = home.cache()
    assert cache.may_hold(str(video), FRAMES) is False  # a stream is started now
    with video.open("ab") as file:
        file.write(b"\0")
    home.assistant.open_video(video, frames=3)
    assert home.entries() == []
    home.assistant.open_video(video, frames=3)
    assert len(home.entries()) == 1


def test_a_file_that_takes_longer_to_hash_than_to_encode_is_not_waited_for(
    home: Home, video: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = file_content.complete_hash

    def slow(file: Any) -> str:
        time.sleep(0.5)
        return original(file)

    monkeypatch.setattr(file_content, "complete_hash", slow)
    began = time.monotonic()
    content = home.cache().claim(str(video))
    assert content is not None
    assert content.wait(0.01) is None
    assert time.monotonic() - began < 0.5
    assert content.wait() is not None
    assert home.ask(video).from_cache is False
    assert len(home.entries()) == 1, "known by now"


def damage(entry: Path, kind: str) -> None:
    data = bytearray(entry.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    if kind == "truncated":
        del data[-100:]
    elif kind == "longer":
        data += b"\0"
    elif kind == "empty":
        data.clear()
    elif kind == "not a number":
        data[-4:] = b"\0\0\xc0\x7f"
    else:
        place = {"header": 60, "time": data.index(b"frames") + 15, "data": start + 41}[kind]
        data[place] ^= 1
    entry.write_bytes(data)


def test_a_damaged_entry_is_replaced(home: Home, video: Path) -> None:
    home.ask(video)
    [entry] = home.entries()
    good = entry.read_bytes()
    damage(entry, "truncated")
    home.check(video, from_cache=False)
    assert home.notices == []
    home.check(video, from_cache=True)
    home.assistant.runtime.cache = None
    for kind in ("truncated", "longer", "empty", "header", "time", "data", "not a number"):
        entry.write_bytes(good)
        damage(entry, kind)
        assert home.kept(video).read() is None, kind
        assert not entry.exists(), kind


def test_a_flipped_bit_is_noticed_wherever_it_is(home: Home, video: Path) -> None:
    home.ask(video)
    home.assistant.runtime.cache = None
    [entry] = home.entries()
    good = entry.read_bytes()
    assert home.kept(video).read() is not None
    for place in [*range(0, 400, 17), *range(400, len(good), 1999)]:
        data = bytearray(good)
        data[place] ^= 1 << place % 8
        entry.write_bytes(data)
        assert home.kept(video).read() is None, place
        assert not entry.exists(), place
    entry.write_bytes(good)
    entry.chmod(0o600)
    assert home.kept(video).read() is not None


def test_an_entry_under_another_name_is_refused(home: Home, video: Path) -> None:
    home.ask(video)
    home.ask(video, frames=4)
    first, second = home.entries()
    aside = first.rename(home.folder / "aside")
    second.rename(first)
    aside.rename(second)
    home.check(video, from_cache=False)


def test_what_is_not_a_number_is_neither_kept_nor_used(
    home: Home, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.ask(video)
    home.assistant.runtime.cache = None
    encoded = home.kept(video).read()
    assert encoded is not None
    with torch.inference_mode():
        encoded.visual.embeds[0, 1, 2, 3] = float("nan")  # type: ignore[union-attr]
    prefix = home.assistant.open_video(video, frames=3).prefix
    home.cache().clear()
    kept = home.kept(video)
    assert kept.read() is None
    encoded = replace(encoded, encode_seconds=1.0)
    kept.write(encoded, prefix, 1.0)
    assert home.entries() == []
    with monkeypatch.context() as patch:
        patch.setattr(cached_video, "is_finite", lambda tensor: True)
        kept.write(encoded, prefix, 1.0)
    assert len(home.entries()) == 1
    assert home.kept(video).read() is None


def test_merged_tokens_stand_for_every_token_once(home: Home, video: Path) -> None:
    """Whatever wrote an entry: a token at a place of no frame, or of a mass of its own, changes answers,
    and one that went into none ends in an error."""
    home.ask(video, **MERGED)
    home.assistant.runtime.cache = None

    def kept() -> CachedVideo:
        budget = TokenBudget(4, **MERGED)
        return CachedVideo(home.assistant.runtime, home.cache(), video, FRAMES, budget)

    encoded = kept().read()
    assert encoded is not None
    visual = encoded.visual
    assert isinstance(visual, RaggedTokens)
    assert visual.member is not None
    prefix = home.assistant.open_video(video, frames=3, **MERGED).prefix
    for changes in (
        {"place": visual.place + 10**6},
        {"place": visual.place.flip(0)},
        {"mass": visual.mass * 0},
        {"mass": -visual.mass},
        {"member": visual.member + 10**15},
        {"member": visual.member - 1},
    ):
        home.cache().clear()
        aside = kept()
        assert aside.read() is None
        changed = replace(encoded, visual=replace(visual, **changes), encode_seconds=1.0)
        aside.write(changed, prefix, 1.0)
        assert len(home.entries()) == 1
        assert kept().read() is None, changes
        assert home.entries() == []


def test_what_took_no_time_or_had_a_warning_is_not_kept(home: Home, video: Path) -> None:
    home.assistant.runtime.cache = FeatureCache(home.folder)
    home.assistant.ask(video, "what?", frames=2, max_new_tokens=2)
    assert home.entries() == []
    answer = home.ask(video, frames=None, at=["#2", "#2"])
    assert len(answer.warnings) == 1
    assert home.entries() == []


def nearly_full(home: Home, patch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=10**6)
    patch.setattr(shutil, "disk_usage", lambda path: usage)


def full(home: Home, patch: pytest.MonkeyPatch) -> None:
    original = cached_video._write

    def write(file: Any, *rest: Any) -> None:
        original(file, *rest)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patch.setattr(cached_video, "_write", write)


def a_file(home: Home, patch: pytest.MonkeyPatch) -> None:
    home.folder.mkdir()
    home.features.write_text("mine")


def a_link(home: Home, patch: pytest.MonkeyPatch) -> None:
    (home.folder / "elsewhere").mkdir(parents=True)
    home.features.symlink_to(home.folder / "elsewhere")


def open_to_others(home: Home, patch: pytest.MonkeyPatch) -> None:
    home.features.mkdir(parents=True)
    home.features.chmod(0o777)


def another_users(home: Home, patch: pytest.MonkeyPatch) -> None:
    home.features.mkdir(parents=True, mode=0o700)
    os.chown(home.features, 12345, -1)


def read_only(home: Home, patch: pytest.MonkeyPatch) -> None:
    home.features.mkdir(parents=True, mode=0o500)
    patch.setattr("crosslmm.files.os.access", lambda path, mode: not mode & os.W_OK)


def held_by_another(home: Home, patch: pytest.MonkeyPatch) -> None:
    from filelock import lock_descriptor

    home.features.mkdir(parents=True, mode=0o700)
    patch.setattr(own_folder, "_LOCK_SECONDS", 0.1)
    file = home.locks.enter_context((home.features / "lock").open("wb"))
    assert lock_descriptor(file.fileno(), blocking=False)


def planted_lock(home: Home, patch: pytest.MonkeyPatch) -> None:
    home.features.mkdir(parents=True, mode=0o700)
    (home.folder / "victim").write_text("mine")
    (home.features / "lock").symlink_to(home.folder / "victim")


@pytest.mark.parametrize(
    "trouble",
    [
        *(nearly_full, full, a_file, a_link, open_to_others, another_users, read_only),
        *(held_by_another, planted_lock),
    ],
    ids=lambda trouble: trouble.__name__,
)
def test_a_question_is_answered_where_nothing_can_be_kept(
    home: Home, video: Path, trouble: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trouble is another_users and os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    with monkeypatch.context() as patch:
        trouble(home, patch)
        answer = home.ask(video)
        [notice] = home.notices
        assert not answer.from_cache
        assert "could not be kept" in notice
    assert answer.text == home.expected(video)
    left = [path.name for path in home.folder.rglob("*") if path.suffix not in (".known", "")]
    assert left == []
    for mine in ("features", "victim"):
        if (home.folder / mine).is_file():
            assert (home.folder / mine).read_text() == "mine"


def test_links_among_the_entries_are_not_followed(home: Home, video: Path) -> None:
    home.ask(video)
    [entry] = home.entries()
    outside = entry.rename(home.folder / "outside")
    entry.symlink_to(outside)
    before = outside.read_bytes()
    home.check(video, from_cache=False)
    assert outside.read_bytes() == before
    entry.unlink()
    os.link(outside, entry)
    assert home.ask(video).from_cache is False, (
        "a file with a second name is not this cache's alone"
    )


def test_a_file_object_and_frames_in_memory(home: Home, video: Path) -> None:
    with video.open("rb") as file:
        assert home.ask(file).from_cache is False  # type: ignore[arg-type]
    assert home.ask(video).from_cache is True
    home.ask(crosslmm.sample(video, frames=3), frames=None)  # type: ignore[arg-type]
    assert len(home.entries()) == 1


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


def test_out_of_memory_leads_to_fewer_frames(
    home: Home, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.ask(video)
    original = cached_video._read

    def read(*arguments: Any) -> Any:
        tensors = original(*arguments)
        if tensors["embeds"].shape[1] > 1:
            raise torch.OutOfMemoryError("no")
        return tensors

    monkeypatch.setattr(cached_video, "_read", read)
    answer = home.ask(video)
    assert len(answer.frames) == 1
    assert home.notices == ["out of memory with 3 frames; trying with 1"]
