"""What a synthetic clip can contain, and how it is named in questions and answers.

The glyphs leave out look-alikes (0/O, 1/I, 5/S, 6/G, 8/B, 2/Z …): a question about one has an exact
answer only if the glyph can be read at 96 pixels after video compression.
"""

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.87, 0.15, 0.15),
    "orange": (0.97, 0.54, 0.10),
    "yellow": (0.97, 0.90, 0.16),
    "green": (0.16, 0.66, 0.26),
    "cyan": (0.18, 0.82, 0.88),
    "blue": (0.17, 0.30, 0.90),
    "purple": (0.58, 0.18, 0.74),
}
SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross")
SIZES: dict[str, float] = {"small": 0.105, "large": 0.16}  # radius in units of the shorter side
GLYPHS = "23479ACEFHKLPTUXY"
MOTIONS = (
    "still",
    "left",
    "right",
    "up",
    "down",
    "diagonally",
    "in a circle",
    "growing",
    "shrinking",
    "blinking",
)

COLOUR_NAMES = tuple(COLOURS)
DARK_INK = frozenset({"orange", "yellow", "green", "cyan"})
"""Colours on which the glyph is printed in black; on the others it is white."""
