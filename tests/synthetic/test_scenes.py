"""Scenes, their frames and files, and what is asked about them."""

import itertools
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from crosslmm.synthetic.clips import frames_of, plan_clip, write_video
from crosslmm.synthetic.frames import render_clips
from crosslmm.synthetic.images import random_images
from crosslmm.synthetic.rendering import Sprites, paint
from crosslmm.synthetic.scenes import FRAMES_NEEDED, SyntheticClip, make_clip
from crosslmm.synthetic.seeds import derive_seed
from crosslmm.synthetic.vocabulary import COLOURS, GLYPHS, MOTIONS, SHAPES

MIDDLES = (np.arange(FRAMES_NEEDED) + 0.5) / FRAMES_NEEDED


@pytest.fixture(scope="module")
def clips() -> list[SyntheticClip]:
    lengths = np.geomspace(2, 60, 60)
    return [make_clip("eval", 3, i, duration=float(d)) for i, d in enumerate(lengths)]


def test_a_clip_is_a_function_of_its_seed(clips: list[SyntheticClip]) -> None:
    assert make_clip("eval", 3, 0, duration=clips[0].duration) == clips[0]
    assert make_clip("eval", 4, 0, duration=clips[0].duration) != clips[0]


def test_training_and_evaluation_never_draw_the_same_seed() -> None:
    train = {derive_seed("train", "clip", seed, i) for seed in range(50) for i in range(50)}
    held = {derive_seed("eval", "clip", seed, i) for seed in range(50) for i in range(50)}
    assert len(train) == len(held) == 2500
    assert not train & held


def test_the_clips_cover_what_can_be_in_them(clips: list[SyntheticClip]) -> None:
    things = [thing for clip in clips for thing in clip.things]
    assert {len(clip.things) for clip in clips} == {1, 2, 3, 4, 5}
    assert {thing.motion for thing in things} == set(MOTIONS)
    assert {thing.shape for thing in things} == set(SHAPES)
    assert {thing.colour for thing in things} == set(COLOURS)
    kinds = {event.kind for clip in clips for event in clip.events}
    assert kinds == {"appears", "disappears", "turns", "meets", "passes", "cut"}
    assert any(len(clip.cuts) == 2 for clip in clips)


def test_things_stay_in_the_frame_and_are_told_apart(clips: list[SyntheticClip]) -> None:
    times = np.linspace(0, 1, 200, endpoint=False)
    for clip in clips:
        centres = clip.centres(times)
        assert centres.min() > 0.1
        assert centres.max() < 0.9
        looks = [(t.colour, t.shape) for t in clip.things]
        looks += [(t.turns_to, t.shape) for t in clip.things if t.turns_to]
        assert len(set(looks)) == len(looks)
        glyphs = [t.glyph for t in clip.things if t.glyph]
        assert len(set(glyphs)) == len(glyphs)


def test_eight_frames_tell_events_apart(clips: list[SyntheticClip]) -> None:
    for clip in clips:
        frames = [int(np.searchsorted(MIDDLES, event.time)) for event in clip.events]
        assert all(later > sooner for sooner, later in itertools.pairwise(frames))
        assert all(2 <= frame <= FRAMES_NEEDED - 2 for frame in frames)


def test_who_meets_touches_and_who_passes_goes_by(clips: list[SyntheticClip]) -> None:
    met = [(clip, event) for clip in clips for event in clip.events if event.kind == "meets"]
    passed = [(clip, event) for clip in clips for event in clip.events if event.kind == "passes"]
    assert met
    assert passed
    for clip, event in met:
        times = np.asarray([event.time - 0.1, event.time, 1.0])
        centres = clip.centres(times)[:, [event.subject, event.other]]
        reach = clip.radii(times)[:, [event.subject, event.other]].sum(1)
        gaps = np.linalg.norm(centres[:, 0] - centres[:, 1], axis=-1) / reach
        assert gaps[0] > 1.05
        assert gaps[1:] == pytest.approx([0.97, 0.97])
    for clip, event in passed:
        sides = clip.centres(np.asarray([event.time - 0.05, event.time + 0.05]))[..., 0]
        ahead = sides[:, event.subject] - sides[:, event.other]
        assert ahead[0] * ahead[1] < 0


def test_every_shape_and_glyph_is_drawn_and_differs() -> None:
    def drawn(shape: int, glyph: int) -> torch.Tensor:
        one = torch.ones(1, 1)
        sprite = Sprites(
            x=one * 0.5, y=one * 0.5, radius=one * 0.2, shape=(one * shape).long(),
            glyph=(one * glyph).long(), colour=torch.ones(1, 1, 3), ink=one * 0,
            visible=one.bool(),
        )  # fmt: skip
        return paint(torch.zeros(1, 96, 96, 3), sprite, torch.ones(1))[0][0, ..., 0]

    bare = [drawn(shape, -1) for shape in range(len(SHAPES))]
    marked = [drawn(0, glyph) for glyph in range(len(GLYPHS))]
    for images in (bare, marked):
        for index, image in enumerate(images):
            assert 0.03 < float(image.mean()) < 0.2
            for other in images[:index]:
                assert float((image - other).abs().sum()) > 12


def test_a_batch_is_its_clips_one_by_one(clips: list[SyntheticClip]) -> None:
    together = render_clips(clips[:6], [MIDDLES] * 6, (48, 64))
    for clip, frames in zip(clips[:6], together, strict=True):
        alone = render_clips([clip], [MIDDLES], (48, 64))[0]
        torch.testing.assert_close(frames, alone, atol=1e-5, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_renderer_is_the_same_on_a_gpu() -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (4, 3)
    fields = {
        "x": torch.rand(shape, generator=generator),
        "y": torch.rand(shape, generator=generator),
        "radius": 0.1 + 0.1 * torch.rand(shape, generator=generator),
        "shape": torch.randint(len(SHAPES), shape, generator=generator),
        "glyph": torch.randint(len(GLYPHS), shape, generator=generator),
        "colour": torch.rand(*shape, 3, generator=generator),
        "ink": torch.zeros(shape),
        "visible": torch.ones(shape, dtype=torch.bool),
    }
    canvas, aspect = torch.full((4, 96, 96, 3), 0.3), torch.ones(4)
    there = Sprites(**{name: field.cuda() for name, field in fields.items()})
    painted, _ = paint(canvas.cuda(), there, aspect.cuda())
    expected, _ = paint(canvas, Sprites(**fields), aspect)
    torch.testing.assert_close(painted.cpu(), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize(("size", "fps"), [((96, 96), 12.0), ((160, 120), 25.0)])
def test_a_file_shows_what_the_renderer_drew(
    tmp_path: Path, size: tuple[int, int], fps: float
) -> None:
    clip = plan_clip("eval", 5, 2, seconds=(2.0, 2.0), aspect=size[0] / size[1])
    path = tmp_path / "clip.mp4"
    write_video(clip, path, size=size, fps=fps)
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
    count = round(2.0 * fps)
    assert len(decoded) == count
    assert [float(frame.time) for frame in decoded] == pytest.approx(
        [i / fps for i in range(count)], abs=1e-3
    )
    pixels = np.stack([frame.to_ndarray(format="rgb24") for frame in decoded])
    drawn = render_clips([clip], [np.arange(count) / count], (size[1], size[0]))[0].numpy() * 255
    difference = np.abs(pixels - drawn)
    assert difference.mean() < 4  # grain and compression
    # An object in another place would be far off: hold against the frames in reverse, too.
    moving = np.abs(drawn - drawn[::-1]).max() > 50
    assert not moving or difference.mean() < np.abs(pixels - drawn[::-1]).mean() / 1.3


def test_images_know_what_covers_each_patch() -> None:
    generator = torch.Generator().manual_seed(0)
    frames, truth = random_images(16, image_size=96, patch_size=8, generator=generator)
    assert frames.shape == (16, 3, 96, 96)
    assert truth.colour.shape == (16, 144)
    assert bool(((truth.colour > 0) == truth.covered).all())
    # The mean colour of fully covered red patches is red.
    red = list(COLOURS).index("red") + 1
    patches = frames.unfold(2, 8, 8).unfold(3, 8, 8).mean((-1, -2)).flatten(2).transpose(1, 2)
    mean = patches[truth.colour == red].mean(0)
    assert mean[0] > mean[1] + 0.3
    assert mean[0] > mean[2] + 0.3


def test_frames_have_the_grain_of_a_camera_and_repeat() -> None:
    clip = make_clip("eval", 0, 0, duration=2.0)
    once, again = ([*frames_of(clip, size=(64, 64), fps=4)] for _ in range(2))
    assert len(once) == 8
    assert all((a == b).all() for a, b in zip(once, again, strict=True))
