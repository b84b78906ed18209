"""Several processes train together: this one starts those of its node and waits for them.

What torchrun is as a program, this is inside `rvk8s-stage train`: torch's elastic agent, told by
torchrun's own variables (PET_*), which the training operator and our Indexed Job set, or by
RVK8S_RANKS_PER_NODE on a single machine. Each process that it starts is `rvk8s-stage train` again,
as a rank.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rastervision.kubernetes import threads
from rastervision.kubernetes.failures import chain

from rvk8s.contract import Env, ExitCode
from rvk8s.errors import InputError, Interrupted, Preempted, RanksLost, Rvk8sError

if TYPE_CHECKING:
    from rastervision.fastai_backend.distributed import Group
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

log = logging.getLogger(__name__)

#: Seconds that nodes wait for each other at the start, at least: images may have to be pulled.
RENDEZVOUS_TIMEOUT = 900
#: Variables that the training operator sets on a pod, with the node's numbers and not a rank's.
_OF_NODE = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
#: Seconds from a signal to the end of a rank that does not end by itself; the local engine kills
#: the agent after 8.
_RANK_GRACE = 5.0
#: The same for the agent, whose ranks die with it.
_AGENT_GRACE = 7.0
#: Linux's number of this call.
_PR_SET_PDEATHSIG = 1
#: torchrun names here the file in which a rank says why it failed.
_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"


class RankFailed(Rvk8sError):
    """A rank of this node failed; exits with its code.

    Attributes:
        lost: it only missed the others: the reason is another one's.
    """

    def __init__(self, message: str, code: int, lost: bool = False):
        super().__init__(message)
        self.code, self.lost = code, lost


@dataclass(frozen=True)
class Launch:
    """How many processes train, and where the nodes meet.

    Attributes:
        nodes, per_node: as many nodes, each with as many processes.
        endpoint: host:port where the nodes meet; unused with one node.
        run_id: what nodes of one training have in common.
        config: settings of the meeting, as torchrun's --rdzv-conf.
    """

    nodes: int = 1
    per_node: int = 1
    endpoint: str = ""
    run_id: str = "rvk8s"
    config: Mapping[str, str] = field(default_factory=dict)

    @property
    def world_size(self) -> int:
        return self.nodes * self.per_node

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Launch:
        """Read torchrun's PET_* variables and ours.

        Raises:
            InputError: a value is wrong, or two contradict each other.
        """
        nodes = _number("PET_NNODES", environ.get("PET_NNODES", "1").rpartition(":")[2])
        given = environ.get("PET_NPROC_PER_NODE", "")
        ours = environ.get(Env.RANKS_PER_NODE, "")
        if given in ("", "auto", "gpu", "cpu"):
            given = ours or "1"
        per_node = _number("PET_NPROC_PER_NODE", given)
        if ours and ours != given:
            what = f"{Env.RANKS_PER_NODE} is {ours}, PET_NPROC_PER_NODE {given}"
            raise InputError(what, where="environment", fix="give one number")
        backend = environ.get("PET_RDZV_BACKEND", "c10d")
        endpoint = environ.get("PET_RDZV_ENDPOINT", "")
        if nodes > 1 and (backend != "c10d" or not endpoint):
            what = f"{nodes} nodes meet by {backend} at {endpoint or 'no place'}"
            fix = "set PET_RDZV_BACKEND=c10d and PET_RDZV_ENDPOINT=host:port"
            raise InputError(what, where="environment", fix=fix)
        pairs = [one.partition("=") for one in environ.get("PET_RDZV_CONF", "").split(",") if one]
        launch = cls(
            nodes=nodes,
            per_node=per_node,
            endpoint=endpoint,
            run_id=environ.get("PET_RDZV_ID") or environ.get(Env.RUN_ID) or "rvk8s",
            config={key.strip(): value.strip() for key, _, value in pairs},
        )
        expected = environ.get(Env.WORLD_SIZE) or str(launch.world_size)
        if expected != str(launch.world_size):
            raise InputError(
                f"the engine says {expected} processes, torchrun's variables say {nodes} nodes "
                f"with {per_node} each",
                where=Env.WORLD_SIZE,
                fix="nodes times processes per node have to be the same in both",
            )
        return launch

    def rendezvous(self) -> dict[str, Any]:
        """torch's settings of the meeting: nobody gives up before RENDEZVOUS_TIMEOUT."""
        long = {"timeout", "join_timeout", "read_timeout"}
        given = {key: value for key, value in self.config.items() if key not in long}
        waits = {key: int(float(self.config.get(key, 0))) for key in long}
        return given | {key: max(value, RENDEZVOUS_TIMEOUT) for key, value in waits.items()}


def is_rank(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether an agent has started this process, so that RANK and WORLD_SIZE are a rank's."""
    return "TORCHELASTIC_RUN_ID" in environ


def forget_node() -> None:
    """Drop the operator's RANK and WORLD_SIZE: they number pods."""
    for name in _OF_NODE:
        os.environ.pop(name, None)


def run(launch: Launch, stage: str, folder: Path) -> None:
    """Start the ranks of this node, and wait until all have ended well.

    Args:
        stage: what each does: `rvk8s-stage STAGE`.
        folder: for torch's files.

    Raises:
        RankFailed: one of this node failed; the others are gone then.
        RanksLost: the nodes did not find each other.
        Preempted, Interrupted: a signal came; all ranks of this node are gone.
    """
    import torch
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    alone = launch.nodes == 1
    _end_if_stuck(_AGENT_GRACE)
    if not alone:
        wait_for_host(launch.endpoint)
    _share_node(launch.per_node, alone)
    config = LaunchConfig(
        min_nodes=launch.nodes,
        max_nodes=launch.nodes,
        nproc_per_node=launch.per_node,
        run_id=launch.run_id,
        role=stage,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0" if alone else launch.endpoint,
        rdzv_configs={**launch.rendezvous(), **({"is_host": "1"} if alone else {})},
        max_restarts=0,
        local_addr="127.0.0.1" if alone else None,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder)),
    )
    log.info("%d nodes with %d ranks each", launch.nodes, launch.per_node)
    rank = ("-P", "-m", "rastervision.kubernetes.stage", stage)
    try:
        elastic_launch(config, sys.executable)(*rank)
    except ChildFailedError as error:
        raise reason(error.failures, launch.world_size, torch.cuda.is_available()) from None
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise Interrupted("interrupted") from None
        raise Preempted(
            "ended by SIGTERM; a restart goes on from the last checkpoint, or anew without one"
        ) from None
    except (RendezvousError, DistError) as error:
        what = " ".join(str(error).split())
        raise RanksLost(f"{launch.nodes} nodes did not find or lost each other: {what}") from error


def wait_for_host(endpoint: str, seconds: float = RENDEZVOUS_TIMEOUT) -> None:
    """Wait until a host's name resolves: a pod's does not in the first moments of its life.

    Raises:
        RanksLost: it does not resolve in time.
    """
    host, _, _ = endpoint.rpartition(":")
    end, said = time.monotonic() + seconds, False
    while True:
        try:
            socket.getaddrinfo(host, None)
            return
        except socket.gaierror as error:
            if time.monotonic() > end:
                what = f"{host}, where the nodes meet, has had no address for {seconds:.0f} s"
                raise RanksLost(what) from error
            if not said:
                log.info("waiting for an address of %s ...", host)
                said = True
            time.sleep(1)


def reason(failures: Mapping[int, ProcessFailure], world_size: int, gpus: bool) -> RankFailed:
    """The error of the rank that failed first: not of one that only missed it.

    Args:
        failures: by rank.
        gpus: the ranks train on GPUs.
    """

    def order(item: tuple[int, ProcessFailure]) -> tuple[bool, float, int]:
        rank, failure = item
        told = float(failure.error_file_data.get("time", failure.timestamp))
        return _failed(rank, failure, world_size, gpus).lost, told, rank

    rank, failure = min(failures.items(), key=order)
    return _failed(rank, failure, world_size, gpus)


def _failed(rank: int, failure: ProcessFailure, world_size: int, gpus: bool) -> RankFailed:
    who, data = f"rank {rank} of {world_size}", failure.error_file_data
    if "code" in data:
        return RankFailed(str(data["message"]), int(data["code"]), bool(data["lost"]))
    if failure.exitcode >= 0:
        return RankFailed(f"{who} ended with exit code {failure.exitcode}", failure.exitcode)
    message = f"{who} was ended by {failure.signal_name()}"
    if failure.exitcode == -signal.SIGABRT and gpus and world_size > 1:
        from rastervision.fastai_backend.distributed import timeout

        # NCCL's watchdog ends the process: no Python of ours hears of it.
        message += ", as by NCCL when another rank has ended or has not answered for "
        message += f"{timeout():.0f} s ({Env.RANKS_TIMEOUT}), or after a CUDA error: "
        message += "its log says which"
        return RankFailed(message, ExitCode.RETRYABLE, lost=True)
    hints = {
        signal.SIGKILL: " (out of memory?)",
        signal.SIGBUS: " (out of shared memory, /dev/shm?)",
    }
    hint = next((hint for number, hint in hints.items() if failure.exitcode == -number), "")
    return RankFailed(message + hint, 128 - failure.exitcode)


def tell_agent(message: str, code: int, lost: bool, known: bool) -> None:
    """Say why this rank fails, in the file that the agent reads.

    Args:
        lost: another rank has failed, this one only noticed.
        known: the message is one of ours, which says itself where the fault is.
    """
    rank = os.environ.get("RANK", "0")
    text = message if known else f"rank {rank}: {message}"
    value = {"message": text, "timestamp": int(time.time()), "time": time.time()}
    if path := os.environ.get(_ERROR_FILE):
        Path(path).write_text(json.dumps({**value, "code": code, "lost": lost}))


def join() -> Group:
    """The ranks that train together, this one among them; waits for the others."""
    from rastervision.fastai_backend.distributed import Group

    return Group.join()


def lost(error: BaseException) -> RanksLost | None:
    """The error to report where a rank fails only because another one is gone."""
    from rastervision.fastai_backend import distributed

    found = [distributed.lost(one) for one in chain(error)]
    return next((one for one in found if one), None)


def log_as() -> tuple[int, str]:
    """The log level of this rank and how its lines start: rank 0's are the stage's own."""
    rank = os.environ.get("RANK", "0")
    return (logging.INFO, "") if rank == "0" else (logging.WARNING, f"rank {rank}: ")


def leave(code: int) -> NoReturn:
    """End a rank at once: nothing of value comes now, and gloo's threads may hang."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def end_with_agent() -> None:
    """End this rank when its agent dies, and soon after a signal even where it hangs."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _end_if_stuck(_RANK_GRACE)


def _end_if_stuck(seconds: float) -> None:
    """End this process some time after a signal, if it has not ended by itself.

    Python's own handlers wait until a call into torch returns, and one that waits for another rank
    or node may not.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # A loader's worker that is told to end is not this process.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))

    def watch() -> None:
        ending = {int(signal.SIGTERM), int(signal.SIGINT)}
        while not (came := ending & set(os.read(reader, 16))):
            continue
        time.sleep(seconds)
        os._exit(128 + came.pop())

    threading.Thread(target=watch, name="watch-signals", daemon=True).start()


def _share_node(per_node: int, alone: bool) -> None:
    """The environment that the ranks inherit: each its part of the cores."""
    forget_node()
    threads.share(per_node)
    if alone:
        # gloo would look for an address of the host's name, which need not have one.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    for name, value in _nccl().items():
        os.environ.setdefault(name, value)


def _nccl() -> dict[str, str]:
    """How torch's NCCL watchdog ends a rank (torch's ProcessGroupNCCL has the variables).

    Without these torchrun has it abort the communicator first: the rank wakes up, takes sums that
    are none for gradients and may save them. Then it waits a minute for a dump that nobody asks
    for. And a rank whose watchdog stands still, as it may while rank 0 waits for storage, is ended
    after eight minutes, however long ranks are to wait for each other.
    """
    from rastervision.fastai_backend.distributed import timeout

    return {
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "3",
        "TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC": "500",
        "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": f"{max(480.0, timeout()):.0f}",
    }


def _number(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"{text!r} is no number of at least 1", where=name)
    return int(text)


def code_of(error: Rvk8sError) -> int:
    """The exit status that an error of ours ends a process with."""
    return error.code if isinstance(error, RankFailed) else int(error.exit_code)


def is_lost(error: Rvk8sError | None) -> bool:
    """Whether an error is only that another rank or node has failed."""
    return isinstance(error, RanksLost) or (isinstance(error, RankFailed) and error.lost)
