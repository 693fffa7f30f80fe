"""Evidence as JSON."""

import json

from crosslmm.evidence.maps import EvidenceMaps


def write_json(evidence: EvidenceMaps) -> bytes:
    """Each item of a list on a line of its own."""
    parts = []
    for key, value in evidence.as_dict().items():
        text = json.dumps(value, ensure_ascii=False)
        if isinstance(value, list):
            lines = ",\n".join(f"  {json.dumps(item, ensure_ascii=False)}" for item in value)
            text = f"[\n{lines}\n ]" if value else "[]"
        parts.append(f" {json.dumps(key)}: {text}")
    # A name of a file that is not UTF-8 is escaped, as JSON does.
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode("utf-8", "backslashreplace")
