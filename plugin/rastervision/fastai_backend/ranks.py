"""Which process of a distributed training this one is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from rvk8s.contract import Env
from rvk8s.errors import InputError

_NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE")


@dataclass(frozen=True)
class Ranks:
    """Place of this process among those that train together, as torchrun says.

    Args:
        rank: 0-based, over all nodes.
        local_rank: 0-based, on this node: its GPU.
        world_size: processes over all nodes.
        local_size: processes on this node; 0: as many as there are in all.
        node: 0-based number of this node.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_size: int = 0
    node: int = 0

    @property
    def writes(self) -> bool:
        """Whether this is the one process that writes files."""
        return self.rank == 0

    @property
    def on_node(self) -> int:
        """Processes on this node."""
        return self.local_size or self.world_size

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Ranks:
        """Read torchrun's variables; without any of them the process is alone.

        Raises:
            InputError: some are missing, not numbers, don't fit each other, or are not of as many
                processes as the engine has asked for.
        """
        given = {name: env[name] for name in _NAMES if name in env}
        ranks = cls._parse(given, env) if given else cls()
        expected = env.get(Env.WORLD_SIZE) or str(ranks.world_size)
        if expected != str(ranks.world_size):
            raise InputError(
                f"the engine says {expected}, torchrun says {ranks.world_size} processes",
                where=Env.WORLD_SIZE,
                fix="nodes times processes per node have to be the same in both",
            )
        return ranks

    @classmethod
    def _parse(cls, given: Mapping[str, str], env: Mapping[str, str]) -> Ranks:
        text = ", ".join(f"{k}={v}" for k, v in given.items())
        fix = "start it with torchrun, or unset these variables"
        if len(given) < len(_NAMES):
            missing = ", ".join(n for n in _NAMES if n not in given)
            raise InputError(f"{text} set but not {missing}", where="environment", fix=fix)
        try:
            ranks = cls(
                rank=int(given["RANK"]),
                local_rank=int(given["LOCAL_RANK"]),
                world_size=int(given["WORLD_SIZE"]),
                local_size=int(env.get("LOCAL_WORLD_SIZE", 0)),
                node=int(env.get("GROUP_RANK", 0)),
            )
        except ValueError as e:
            raise InputError(f"{text}: not numbers", where="environment", fix=fix) from e
        if not 0 <= ranks.local_rank <= ranks.rank < ranks.world_size:
            raise InputError(f"{text} don't fit each other", where="environment", fix=fix)
        return ranks
