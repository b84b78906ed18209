"""The driver's role is the least: each verb beside what needs it, and the code that does so."""

from __future__ import annotations

from collections.abc import Mapping

from chart import rendering

from rvk8s.cluster.kinds import KINDS

#: (group, resource) -> verb -> what needs it.
DRIVER: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("batch", "jobs"): {
        "create": "makes the stages",
        "delete": "stops a stage that is cancelled or too late; makes a training anew",
        "get": "reads its own Job: uid for the owner references, annotation that cancels the run",
        "list": "sees the stages that a driver before it has made",
        "patch": "labels its own Job, made by a schedule, with the run that it is",
        "watch": "learns at once that a stage has ended, or that the run is cancelled",
    },
    ("", "configmaps"): {
        "create": "copies what a schedule's run begins with",
        "get": "a driver after it reads the copy",
    },
    ("kubeflow.org", "pytorchjobs"): {
        "create": "makes the training",
        "delete": "stops it, makes it anew",
        "get": "compares the one that is there with its own before it takes it over",
        "list": "sees what a driver before it has made",
        "watch": "learns at once that the training has ended",
    },
    ("", "services"): {
        "create": "the name of node 0, for the launcher `job`",
        "delete": "removes it with the training",
        "get": "compares the one that is there before it takes it over",
    },
    ("", "pods"): {
        "list": "finds the pods of a stage",
        "watch": "exit codes, and why a pod waits",
    },
    ("", "pods/log"): {"get": "copies logs into the run's folder"},
    ("", "events"): {"list": "says why a pod is not made or placed"},
    ("kueue.x-k8s.io", "workloads"): {"list": "says why a stage waits in a queue"},
    ("coordination.k8s.io", "leases"): {
        "create": "one driver for each run",
        "get": "who holds it",
        "update": "holds it on, and gives it back",
    },
}


def _verbs(name: str, values: rendering.Object) -> dict[tuple[str, str], set[str]]:
    objects = rendering.objects(values, "platform", "rvk8s-platform")
    (role,) = [o for o in objects if o["kind"] == "Role" and o["metadata"]["name"] == name]
    found: dict[tuple[str, str], set[str]] = {}
    for rule in role["rules"]:
        assert set(rule) == {"apiGroups", "resources", "verbs"}
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                assert (group, resource) not in found
                found[group, resource] = set(rule["verbs"])
    return found


def test_the_driver_may_do_what_it_needs_and_nothing_else() -> None:
    assert _verbs("rvk8s-driver", {}) == {key: set(verbs) for key, verbs in DRIVER.items()}


def test_a_submitter_may_do_nothing_with_what_the_client_never_asks_for() -> None:
    asked = {(kind.api.rpartition("/")[0], kind.plural) for kind in KINDS.values()}
    assert set(_verbs("rvk8s-submitter", {})) <= asked | {("", "pods/log")}


def test_no_role_reads_secrets_or_has_wildcards() -> None:
    for name in ("rvk8s-driver", "rvk8s-submitter"):
        for (group, resource), verbs in _verbs(name, {}).items():
            assert "*" not in {group, resource, *verbs}
            assert resource not in ("secrets", "pods/exec", "serviceaccounts/token", "roles")


def test_roles_are_bound_to_the_driver_and_to_submitters_alone() -> None:
    group = {"kind": "Group", "name": "ml", "apiGroup": "rbac.authorization.k8s.io"}
    objects = rendering.objects({"submitters": [group]}, "platform", "rvk8s-platform")
    bound = {o["roleRef"]["name"]: o["subjects"] for o in objects if o["kind"] == "RoleBinding"}
    driver = {"kind": "ServiceAccount", "name": "rvk8s-driver", "namespace": rendering.NAMESPACE}
    assert bound == {"rvk8s-driver": [driver], "rvk8s-submitter": [group]}
    accounts = {o["metadata"]["name"]: o for o in objects if o["kind"] == "ServiceAccount"}
    assert set(accounts) == {"rvk8s-driver", "rvk8s-stage"}
    assert not any(a["automountServiceAccountToken"] for a in accounts.values())


def test_a_service_account_that_submits_is_of_the_namespace_where_it_names_none() -> None:
    """The API server takes no subject of this kind without a namespace."""
    account = {"kind": "ServiceAccount", "name": "ci"}
    submitters = [account, {**account, "namespace": "builds"}, {**account, "namespace": ""}]
    objects = rendering.objects({"submitters": submitters}, "platform", "rvk8s-platform")
    (bound,) = [
        o for o in objects if o["metadata"]["name"] == "rvk8s-submitter" and "subjects" in o
    ]
    found = [subject["namespace"] for subject in bound["subjects"]]
    assert found == [rendering.NAMESPACE, "builds", rendering.NAMESPACE]
