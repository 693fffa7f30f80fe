"""Damage to a file, as chance and malice do it: the same for the same random state."""

import random
from collections.abc import Callable

# What a field of 1, 2, 4 or 8 bytes is set to: ends of the ranges, and sizes far too large.
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**62, 2**63 - 1, 2**64 - 1)
HEADER = 1024
# Matroska's elements of a length that follows: file, segment, tracks, track, cluster, block, index.
ELEMENTS = (
    *(b"\x1aE\xdf\xa3", b"\x18S\x80g", b"\x16T\xaek", b"\xae", b"\x1fC\xb6u", b"\xa3"),
    b"\x1cS\xbbk",
)


def mutate(
    data: bytes, size: tuple[int, int], chance: random.Random, donor: bytes
) -> tuple[bytes, str]:
    """The data with one to three kinds of damage, and their names.

    size: (width, height) that the file gives somewhere; donor: another file, for parts of it.
    """
    names = chance.choices(list(KINDS), k=chance.choice((1, 1, 2, 3)))
    damaged = bytearray(data)
    for name in names:
        if name == "frame size":
            _inflate_frame(damaged, size, chance)
        elif name == "part of another file":
            _graft(damaged, donor, chance)
        else:
            KINDS[name](damaged, chance)
    return bytes(damaged), ", ".join(names)


def _flip(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 8, 64, 512))):
        if data:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _flip_header(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 2, 8, 32))):
        if data:
            data[chance.randrange(min(HEADER, len(data)))] ^= 1 << chance.randrange(8)


def _truncate(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data) + 1) :]


def _zero(data: bytearray, chance: random.Random) -> None:
    start, end = _range(data, chance)
    data[start:end] = bytes(end - start)


def _noise(data: bytearray, chance: random.Random) -> None:
    start, end = _range(data, chance)
    data[start:end] = chance.randbytes(end - start)


def _remove(data: bytearray, chance: random.Random) -> None:
    start, end = _range(data, chance)
    del data[start:end]


def _repeat(data: bytearray, chance: random.Random) -> None:
    """Insert a part of the file elsewhere in it, up to a hundred times."""
    start, end = _range(data, chance)
    at = chance.randrange(len(data) + 1)
    part = bytes(data[start:end])
    data[at:at] = part * min(chance.choice((1, 1, 10, 100)), 1 + (1 << 20) // (len(part) + 1))


def _field(data: bytearray, chance: random.Random) -> None:
    """Set numbers in the first bytes, or in the last, where an index may be."""
    for _ in range(chance.choice((1, 2, 4))):
        at = chance.randrange(min(HEADER, len(data)) + 1)
        if chance.random() < 0.3:
            at = max(0, len(data) - at)
        _set(data, at, chance.choice((1, 2, 4, 8)), chance.choice(EXTREMES), chance)


def _inflate(data: bytearray, chance: random.Random) -> None:
    """Set the size of boxes and chunks: the number before or after a name of four letters, or after
    the id of a Matroska element."""
    places = [
        at + side
        for at in range(4, len(data) - 8)
        if data[at : at + 4].isalnum() and data[at : at + 4].isascii()
        for side in (-4, 4, 8, 12)
    ]
    places = places[: 4 * 64]  # in the media itself any four bytes may look like a name
    for name in ELEMENTS:
        at = data.find(name, 0, 64 * HEADER)
        if at >= 0 and len(name) > 1 and data[:4] == ELEMENTS[0]:
            places.append(-at - len(name))
    for place in chance.sample(places, min(len(places), chance.choice((1, 2, 4)))):
        if place < 0:  # eight bytes of a length in Matroska's own form
            length = chance.choice((0, 1, 2**24, 2**31, 2**55, 2**56 - 1))
            data[-place : 8 - place] = (length | 1 << 56).to_bytes(8, "big")
        else:
            _set(data, place, 4, chance.choice(EXTREMES), chance)


def _inflate_frame(data: bytearray, size: tuple[int, int], chance: random.Random) -> None:
    """Where the file gives the width or the height, another."""
    forms = [
        side.to_bytes(width, order)
        for side in size
        for width in (2, 4)
        for order in ("big", "little")
    ]
    for form in chance.sample(forms, 4):
        at = data.find(form, 0, 64 * HEADER)
        if at >= 0:
            side = chance.choice((0, 1, 4096, 8192, 16_384, 20_000, 32_768, 65_535))
            field = side.to_bytes(len(form), "big")
            data[at : at + len(form)] = field if form[-1] else field[::-1]


def _graft(data: bytearray, donor: bytes, chance: random.Random) -> None:
    start, end = _range(bytearray(donor), chance)
    at = chance.randrange(len(data) + 1)
    data[at : at + chance.choice((0, end - start))] = donor[start:end]


def _range(data: bytearray, chance: random.Random) -> tuple[int, int]:
    length = min(len(data), chance.choice((4, 64, 1024, max(1, len(data) // 4))))
    start = chance.randrange(len(data) - length + 1)
    return start, start + length


def _set(data: bytearray, at: int, width: int, value: int, chance: random.Random) -> None:
    order = chance.choice(("big", "little"))
    field = (value & (256**width - 1)).to_bytes(width, order)
    data[at : at + width] = field[: max(0, len(data) - at)]


KINDS: dict[str, Callable[..., None]] = {
    "bits": _flip,
    "bits of the header": _flip_header,
    "cut off": _truncate,
    "zeros": _zero,
    "noise": _noise,
    "part removed": _remove,
    "part repeated": _repeat,
    "header fields": _field,
    "sizes": _inflate,
    "frame size": _inflate_frame,
    "part of another file": _graft,
}
