"""Two people act on the same run at once, on a real API server: one wins, the other hears of it."""

from __future__ import annotations

import pytest
from cluster.apiproxy import ApiProxy, api_proxy
from cluster.clientrun import Client, client, end_run, objects, submit
from cluster.controlplane import ControlPlane

__all__ = ["client"]

#: The loser's first request that changes something, of each kind of command.
_CHANGES = {"POST", "DELETE", "PATCH", "PUT"}


def other(client: Client) -> Client:
    """The same user at another laptop."""
    return Client(client.folder, dict(client.environ))


def uid_of(apiserver: ControlPlane, namespace: str, run: str) -> str:
    return apiserver.kubectl("get", "job", run, "-n", namespace, "-o", "jsonpath={.metadata.uid}")


class Beaten:
    """Somebody submits the run again when its other client changes something for the n-th time."""

    def __init__(self, winner: Client, run: str, proxy: ApiProxy, nth: int = 1):
        self.winner, self.run, self.left, self.said = winner, run, nth, ""
        proxy.rule = self.rule

    def rule(self, method: str, path: str) -> None:
        if method in _CHANGES and "dryRun" not in path and self.left:
            self.left -= 1
            if not self.left:
                self.said = self.winner.ok("submit", "one", "--run-id", self.run)


@pytest.mark.parametrize(
    ("before", "command", "nth"),
    [
        ("ended", ["submit", "one", "--run-id"], 1),
        ("ended", ["submit", "one", "--run-id"], 2),
        ("deleted", ["submit", "one", "--run-id"], 1),
        ("ended", ["delete"], 1),
        ("running", ["cancel"], 1),
    ],
    ids=["submit", "submit later", "submit what is deleted", "delete", "cancel"],
)
def test_the_loser_of_a_race_changes_nothing(
    client: Client,
    apiserver: ControlPlane,
    namespace: str,
    before: str,
    command: list[str],
    nth: int,
) -> None:
    run = submit(client)
    if before == "deleted":
        client.ok("delete", run)
    elif before == "ended":
        end_run(apiserver, namespace, run, code=2)
    with api_proxy(apiserver.kubeconfig, client.folder, namespace) as proxy:
        loser = other(client)
        loser.environ["KUBECONFIG"] = str(proxy.kubeconfig)
        if command[0] == "cancel":
            replace_when_cancelled(proxy, client, apiserver, namespace, run)
        else:
            Beaten(client, run, proxy, nth)
        error = loser.error(*command, run)
    (line,) = [
        line for line in error.splitlines() if "is left" not in line and "cannot be" not in line
    ]
    assert f"{run} was started by somebody else a moment ago" in line
    assert len(objects(apiserver, namespace)) == 4
    suspended = ("get", "job", run, "-n", namespace, "-o", "jsonpath={.spec.suspend}")
    assert apiserver.kubectl(*suspended) != "true"
    cancelled = ("-o", r"jsonpath={.metadata.annotations.rvk8s\.io/cancel}")
    assert apiserver.kubectl("get", "job", run, "-n", namespace, *cancelled) == ""


def replace_when_cancelled(
    proxy: ApiProxy, winner: Client, apiserver: ControlPlane, namespace: str, run: str
) -> None:
    """The run ends and is submitted again just before it is told to stop."""
    left = [True]

    def rule(method: str, path: str) -> None:
        if method == "PATCH" and left[0]:
            left[0] = False
            end_run(apiserver, namespace, run, code=2)
            winner.ok("submit", "one", "--run-id", run)

    proxy.rule = rule


def test_an_answer_that_is_lost_is_no_race(
    client: Client, apiserver: ControlPlane, namespace: str
) -> None:
    run = submit(client)
    end_run(apiserver, namespace, run, code=2)
    before = uid_of(apiserver, namespace, run)
    with api_proxy(apiserver.kubeconfig, client.folder, namespace) as proxy:
        client.environ["KUBECONFIG"] = str(proxy.kubeconfig)
        lost: set[str] = set()

        def rule(method: str, path: str) -> str | None:
            kind = path.partition("?")[0]
            if method not in ("POST", "DELETE") or f"{method} {kind}" in lost:
                return None
            lost.add(f"{method} {kind}")
            return "lose"

        proxy.rule = rule
        client.ok("submit", "one", "--run-id", run)
        assert len(lost) > 3
    assert uid_of(apiserver, namespace, run) not in ("", before)
    assert len(objects(apiserver, namespace)) == 4
