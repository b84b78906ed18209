"""Reads YAML that programs write, such as rendered charts: by libyaml, if PyYAML has it.

It is ten times as fast. Files that people write (rvk8s.yaml, kubeconfigs) are read in Python:
libyaml crashes where 100,000 brackets are open, instead of raising an error.
"""

from __future__ import annotations

from typing import Any

import yaml

YAMLError = yaml.YAMLError
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load(text: str | bytes) -> Any:
    """Return the document in a text; None where it is empty.

    Raises:
        YAMLError: it is no YAML, or several documents.
    """
    return yaml.load(text, _Loader)


def load_all(text: str | bytes) -> list[Any]:
    """Return the documents in a text that are not empty.

    Raises:
        YAMLError: it is no YAML.
    """
    return [document for document in yaml.load_all(text, _Loader) if document]
