"""What a tiny model is given: prompts with their placeholders, and videos of noise."""

import torch

VIDEO = 4  # the placeholder's id


def prompt(frames: int, question: list[int], tokens: int = 4) -> list[int]:
    return [5, 6] + [VIDEO] * (frames * tokens) + question


def one_video(frames: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.tensor([prompt(frames, [20, 30, 40, 50])])
    pixels = torch.randn(1, frames, 3, 30, 30, generator=generator)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": pixels,
    }
