"""A text that comes in pieces, wrapped between words at the edge of a terminal."""

from collections.abc import Callable

from rich.cells import cell_len, get_character_cell_size

_TAB = 8
_MOST_HELD = 1000  # characters of a word, which may be such that take no room


class WordWrap:
    """Give it pieces by `feed`, then `finish`; both return what can be shown by then.

    A word is held until its end is known. One that is longer than a line passes as it is, and wide
    characters, which have no spaces between them, may each begin a line: as terminals do. `width`: the
    terminal's columns, which may change meanwhile.
    """

    def __init__(self, width: Callable[[], int]) -> None:
        self._width = width
        self._column = 0
        self._space = ""
        self._word = ""
        self._passing = False  # in a word that is longer than a line

    def feed(self, piece: str) -> str:
        return "".join(map(self._take, piece))

    def finish(self) -> str:
        return self._end_word() + self._take_space()

    def _take(self, character: str) -> str:
        if character == "\n":
            shown = self.finish() + "\n"
            self._column = 0
            return shown
        if character in " \t":
            shown = self._end_word()
            column = self._column + len(self._space)
            self._space += " " if character == " " else " " * (_TAB - column % _TAB)
            return shown
        if get_character_cell_size(character) > 1:
            before = self._end_word()
            self._word = character
            return before + self._place()
        self._word += character
        if self._passing or len(self._word) > _MOST_HELD or cell_len(self._word) > self._width():
            self._passing = True
            return self._place()
        return ""

    def _end_word(self) -> str:
        shown = self._place()
        self._passing = False
        return shown

    def _take_space(self) -> str:
        """The spaces before a line's end, as far as they fit."""
        space = self._space[: max(self._width() - self._column, 0)]
        self._column += len(space)
        self._space = ""
        return space

    def _place(self) -> str:
        word, self._word = self._word, ""
        if not word:
            return ""
        width, length = self._width(), cell_len(word)
        if not self._passing and self._column + len(self._space) + length > width:
            self._space, self._column = "", length
            return f"\n{word}"
        shown = self._take_space() + word
        # A line that is full leaves the cursor behind its last column.
        self._column = (self._column + length - 1) % width + 1 if length else self._column
        return shown
