"""Numbers of things and of bytes, as a reader says them."""


def counted(number: int, thing: str) -> str:
    """1 video, 2,000 videos; for a thing whose plural is regular."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def size_text(size: float) -> str:
    """A number of bytes in a readable unit, such as 1.7 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
