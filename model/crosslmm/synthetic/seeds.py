"""Where randomness comes from: every seed is derived for a purpose.

Training and evaluation draw from different domains, and the domain's name is hashed together with
the seed: no choice of seeds lets an evaluation clip be a training clip.
"""

import hashlib
from typing import Literal

Domain = Literal["train", "eval"]


def derive_seed(domain: Domain, *parts: str | int) -> int:
    """A 63-bit seed for `parts` (a purpose, a user's seed, an index …) in one domain."""
    words = "/".join([domain, *map(str, parts)])
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") >> 1
