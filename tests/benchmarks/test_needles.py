"""The table of the needle benchmark, of answers that are known."""

from benchmarks.needles import Asked, summarize


def test_rows_by_length_and_method() -> None:
    asked = [
        Asked("uniform", 32, "glyph", True, True, 144, True, 2.0),
        Asked("uniform", 32, "when", False, True, 144, False, 0.5),
        Asked("zoom", 32, "glyph", True, False, 136, True, 4.0),
        Asked("zoom", 128, "glyph", True, True, 130, True, 5.0),
    ]
    first, second, third = summarize(asked)
    assert (first["method"], first["frames of the clip"], first["questions"]) == ("uniform", 32, 2)
    assert first["right"].startswith("50.0% (")
    assert (first["without when"], first["needle in a frame"]) == ("100.0%", "100.0%")
    assert (first["first question, s"], first["next, s"]) == (2.0, 0.5)
    assert (second["tokens"], second["needle in a frame"], second["next, s"]) == (136, "0.0%", None)
    assert (third["method"], third["frames of the clip"]) == ("zoom", 128)
