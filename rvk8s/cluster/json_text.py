"""JSON that YAML's readers read alike: the API server's of what is applied, Helm's of values."""

from __future__ import annotations

import json
from typing import Any

#: What YAML's readers refuse or take for the end of a line, and its escape, which JSON has, too.
_ESCAPES = {code: f"\\u{code:04x}" for code in (*range(127, 160), 0x2028, 0x2029, 0xFFFE, 0xFFFF)}


def json_text(value: Any) -> str:
    """A value as JSON; other characters are written as they are.

    JSON's escape for a character beyond U+FFFF is a pair of surrogates, of which YAML knows none.
    """
    return json.dumps(value, ensure_ascii=False).translate(_ESCAPES)
