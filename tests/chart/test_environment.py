"""Which variables of a pod are the user's to give, by values, and which are not."""

from __future__ import annotations

import re
from typing import Any

import helm_python
import pytest
from chart import cases, rendering

from rvk8s.contract import Env, Label

#: Those of docs/guide/runs.md that no other value sets.
USERS = {Env.STREAM: "0", Env.RANKS_TIMEOUT: "600"}


def environments(**changes: Any) -> dict[str, dict[str, Any]]:
    """By object, those of the driver and of the stages."""
    found = rendering.everything(rendering.objects(cases.run(**changes), "r"))
    return {where: rendering.environment(pod) for where, pod in rendering.pod_templates(found)}


@pytest.mark.parametrize(("style", "variable"), [(None, None), (True, "1"), (False, "0")])
def test_path_style(style: bool | None, variable: str | None) -> None:
    for storage in ({"pathStyle": style}, {"pathStyle": style, "endpoint": "http://s3:9000"}):
        for environ in environments(storage=storage).values():
            assert environ.get(Env.S3_PATH_STYLE) == variable


def test_where_nothing_is_said_of_the_path_style_the_server_decides() -> None:
    for environ in environments(storage={"endpoint": "http://s3:9000"}).values():
        assert Env.S3_PATH_STYLE not in environ


def test_variables_that_are_the_user_s_reach_all_stages() -> None:
    found = environments(pools={"cpu": {"env": USERS}})
    stages = [environ for environ in found.values() if USERS.items() <= environ.items()]
    assert len(stages) == len(found) - 1 == 7  # all but the driver


def test_variables_that_the_guide_names_can_be_had_on_a_cluster() -> None:
    text = (rendering.ROOT / "docs/guide/runs.md").read_text()
    named = set(re.findall(r"RVK8S_\w+", text))
    assert named == {*USERS, Env.S3_PATH_STYLE}


#: Names that say that the value is a secret, and such as do not.
SECRETS = [
    *("A_TOKEN", "HF_TOKEN", "wandb_token", "GITHUB_TOKENS", "apiToken", "TOKEN"),
    *("DB_PASSWD", "DB_PASSWORD", "db_password", "PGPASSWORD", "SSH_PASSPHRASE", "SMTP_PASS"),
    *("MYSQL_PWD", "GDAL_HTTP_USERPWD", "CLIENT_SECRET", "secret_name", "MY_CREDENTIAL"),
    *("GOOGLE_APPLICATION_CREDENTIALS", "WANDB_API_KEY", "COMET_APIKEY", "apiKey"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_ACCESS_KEY"),
    *("SSH_PRIVATE_KEY", "KAGGLE_KEY", "SWIFT_KEY", "AZURE_STORAGE_SAS"),
    "AZURE_STORAGE_CONNECTION_STRING",
]
HARMLESS = [
    *("TOKENIZERS_PARALLELISM", "HF_TOKENIZER", "NCCL_DEBUG", "NCCL_SOCKET_IFNAME"),
    *("OMP_NUM_THREADS", "KMS_KEY_ID", "WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI"),
    *("MLFLOW_TRACKING_USERNAME", "GDAL_CACHEMAX", "GDAL_HTTP_AUTH", "KEYBOARD", "MONKEY"),
    *("KEY_COLUMN", "BYPASS_CACHE", "PASSES", "COMPASS", "PYTORCH_CUDA_ALLOC_CONF"),
    "CUDA_LAUNCH_BLOCKING",
]


@pytest.mark.parametrize("name", [*sorted(set(Env) - set(USERS)), "PET_NNODES", *SECRETS])
def test_others_are_refused(name: str) -> None:
    for changes in ({"pools": {"cpu": {"env": {name: "1"}}}}, {"driver": {"env": {name: "1"}}}):
        with pytest.raises(helm_python.HelmError, match="false schema"):
            environments(**changes)


def test_names_that_only_sound_like_secrets_pass() -> None:
    given = dict.fromkeys(HARMLESS, "1")
    found = environments(pools={"cpu": {"env": given}}, driver={"env": given})
    assert all(given.items() <= environ.items() for environ in found.values())


REFERENCES = [
    {"secretRef": {"name": "wandb"}},
    {"prefix": "TEAM_", "configMapRef": {"name": "team.settings", "optional": True}},
]


@pytest.mark.parametrize("launcher", ["pytorchjob", "job"])
def test_secrets_come_by_reference_to_the_stages_of_a_pool(launcher: str) -> None:
    pools = {"cpu": {"envFrom": REFERENCES[:1]}, "gpu": {"envFrom": REFERENCES}}
    values = cases.run(pools=pools, launcher=launcher, stages={"train": {"gpus": 2}})
    found = rendering.everything(rendering.objects(values, "r"))
    given = {}
    for _, pod in rendering.pod_templates(found):
        (container,) = pod["spec"]["containers"]
        given[pod["metadata"]["labels"].get(Label.STAGE, "driver")] = container.get("envFrom")
    assert given.pop("driver") is None
    assert given.pop("train") == REFERENCES
    assert list(given.values()) == [REFERENCES[:1]] * 6


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"secretRef": {}},
        {"secretRef": {"name": "Not A Name"}},
        {"secretRef": {"name": "a", "key": "b"}},
        {"secretRef": {"name": "a"}, "configMapRef": {"name": "b"}},
        {"secretRef": {"name": "a"}, "prefix": "1-"},
        {"secretRef": {"name": "a"}, "value": "b"},
        {"name": "WANDB_API_KEY", "value": "b"},
    ],
)
def test_references_are_nothing_else(wrong: dict[str, Any]) -> None:
    with pytest.raises(helm_python.HelmValuesError, match="/pools/cpu/envFrom/0"):
        environments(pools={"cpu": {"envFrom": [wrong]}})
