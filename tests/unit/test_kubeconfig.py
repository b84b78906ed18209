"""Kubeconfigs that are none: one line each. That good ones work is tested on the cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from said import says

from rvk8s.cluster import Cluster
from rvk8s.errors import InputError

CASES = {
    "contexts: foo": "contexts is not a list",
    "contexts: [foo]": "contexts[0] is not a mapping",
    "contexts: [{name: a, context: foo}]": "contexts[0].context is not a mapping",
    "users: {a: b}": "users is not a list",
    "users: [{name: a, user: {exec: aws}}]": "users[0].user.exec is not a mapping",
    "clusters: [{name: a}, 3]": "clusters[1] is not a mapping",
    "current-context: [a]": "current-context is not a text",
    "[a]": "is no kubeconfig",
    "a: [": "is not YAML",
    "[" * 3000: "is nested too deeply",
    "current-context: a\ncontexts: [{name: a, context: {cluster: c}}]": "",
    "current-context: a\ncontexts: [{name: a}]": "",
    "current-context: a\ncontexts: [{context: {cluster: c}}]": "",
    "current-context: a": "",
    "current-context: a\ncontexts:\nclusters:\nusers:": "",
    "current-context: a\ncontexts: [{name: a, context: {cluster: c}}]\nclusters: [{name: c}]": "",
    (
        "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\n"
        "clusters: [{name: c, cluster: {server: 3}}]\nusers: [{name: u, user: {token: t}}]"
    ): "",
}


@pytest.mark.parametrize("text", CASES, ids=lambda text: text[:40])
def test_a_file_of_another_form(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(InputError) as caught:
        Cluster.connect()
    said = str(caught.value)
    assert said.startswith("kubeconfig: ")
    assert CASES[text] in said
    assert str(path) in said or not CASES[text]
    assert says(said, "…; …KUBECONFIG…`kubectl config get-contexts`…--context")
