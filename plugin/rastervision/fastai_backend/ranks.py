"""Which process of a distributed training this one is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from rvk8s.errors import InputError

_NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE")


@dataclass(frozen=True)
class Ranks:
    """Place of this process among those that train together, as torchrun says.

    Args:
        rank: 0-based, over all nodes.
        local_rank: 0-based, on this node: its GPU.
        world_size: processes over all nodes.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1

    @property
    def writes(self) -> bool:
        """Whether this is the one process that writes files."""
        return self.rank == 0

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Ranks:
        """Read torchrun's variables; without any of them the process is alone.

        Raises:
            InputError: some are missing, not numbers, or don't fit each other.
        """
        given = {name: env[name] for name in _NAMES if name in env}
        if not given:
            return cls()
        text = ", ".join(f"{k}={v}" for k, v in given.items())
        fix = "start it with torchrun, or unset these variables"
        if len(given) < len(_NAMES):
            missing = ", ".join(n for n in _NAMES if n not in given)
            raise InputError(f"{text} set but not {missing}", where="environment", fix=fix)
        try:
            ranks = cls(*(int(given[name]) for name in _NAMES))
        except ValueError as e:
            raise InputError(f"{text}: not numbers", where="environment", fix=fix) from e
        if not 0 <= ranks.local_rank <= ranks.rank < ranks.world_size:
            raise InputError(f"{text} don't fit each other", where="environment", fix=fix)
        return ranks
