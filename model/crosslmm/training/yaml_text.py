"""YAML that somebody else may have written: read in time and memory in keeping with its length.

A list may be named and then stand for itself many times, in lists that do so in turn: a few lines make
billions of entries, once they are compared, merged or shown. Numbers may take minutes to read.
"""

from typing import Any

import yaml

# Each counted wherever it is referred to; no text of a megabyte holds as many without that.
_MOST_VALUES = 1 << 20
_LONGEST_NUMBER = 100  # characters
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def parse_yaml(text: str) -> Any:
    """What a text holds, of plain types. Raises ValueError with a reason."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _count(node, {}) > _MOST_VALUES:
            raise ValueError(f"it holds over {_MOST_VALUES:,} values")
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    finally:
        loader.dispose()


def _count(node: yaml.Node, known: dict[yaml.Node, int | None]) -> int:
    """The values in a node. Raises ValueError for one that holds itself, and for a very long number."""
    if node in known:
        count = known[node]
        if count is None:
            raise ValueError("a value in it holds itself")
        return count
    known[node] = None
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        inner = [each for pair in node.value for each in pair]
    elif isinstance(node, yaml.SequenceNode):
        inner = node.value
    elif node.tag in _NUMBERS and len(node.value) > _LONGEST_NUMBER:
        raise ValueError(f"a number in it has {len(node.value):,} characters")
    known[node] = 1 + sum(_count(each, known) for each in inner)
    return known[node] or 0
