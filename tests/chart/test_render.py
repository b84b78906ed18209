"""What the charts render to, and the values that they refuse."""

from __future__ import annotations

import json
from typing import Any

import helm_python
import pytest
from chart import cases, rendering
from chart.cases import merged, run, train
from said import says

from rvk8s import yaml_loader
from rvk8s.contract import (
    CONTRACT_VERSION,
    PROJECT_DIR,
    RUN_ID_TOKEN,
    STAGES,
    Annotation,
    Env,
    ExitCode,
    Label,
)
from rvk8s.plan import Plan


@pytest.mark.parametrize("case", cases.WITH_GOLDEN)
def test_golden_files_are_current(case: str) -> None:
    expected = (cases.GOLDEN / f"{case}.yaml").read_text()
    assert cases.golden(case) == expected, "if it is right: `make manifests` writes it anew"


@pytest.mark.parametrize("case", cases.CASES)
def test_rendering_twice_gives_the_same_bytes(case: str) -> None:
    assert cases.golden(case) == cases.golden(case)


@pytest.mark.parametrize("case", cases.RUNS)
def test_the_plan_is_one_that_the_driver_reads(case: str) -> None:
    applied = rendering.objects(cases.RUNS[case], "release")
    stored = rendering.plan(applied)
    plan = Plan.from_dict(stored)
    assert plan.to_dict() == stored
    assert tuple(stage.name for stage in plan.stages) == STAGES
    assert plan.project_dir == PROJECT_DIR
    assert plan.args == cases.BASE["experiment"]["args"]
    assert plan.run_uri.startswith("s3://team-bucket/runs/")
    made = rendering.stages(applied)
    assert set(made) == set(STAGES)
    for name, found in made.items():
        assert all(o["metadata"]["labels"][Label.STAGE] == name for o in found)
        assert all(o["metadata"]["labels"][Label.RUN] == plan.run_id for o in found)
    for where, template in rendering.pod_templates(rendering.everything(applied)):
        env = rendering.environment(template)
        assert env[Env.CONTRACT] == str(CONTRACT_VERSION), where
        if template["metadata"]["labels"][Label.COMPONENT] == "stage":
            stage = plan.stage(template["metadata"]["labels"][Label.STAGE])
            assert env[Env.RUN_URI] == plan.run_uri
            assert env[Env.RUN_ID] == plan.run_id
            assert env[Env.SPLITS] == str(stage.splits)


def test_environment_names_are_those_of_the_contract() -> None:
    for values in cases.RUNS.values():
        applied = rendering.objects(values, "release")
        for where, template in rendering.pod_templates(rendering.everything(applied)):
            ours = {n for n in rendering.environment(template) if n.startswith("RVK8S_")}
            assert ours <= set(Env), where


@pytest.mark.parametrize(
    ("given", "pool", "shape"),
    [
        ({}, 4, (1, 0, 1)),
        ({"ranks": 3}, 4, (1, 0, 3)),
        ({"nodes": 2}, 4, (2, 0, 2)),
        ({"nodes": 2, "ranks": 4}, 4, (2, 0, 4)),
        ({"gpus": 1}, 4, (1, 1, 1)),
        ({"gpus": 3}, 4, (1, 3, 3)),
        ({"gpus": 4}, 4, (1, 4, 4)),
        ({"gpus": 4}, 2, (2, 2, 4)),
        ({"gpus": 16}, 8, (2, 8, 16)),
        ({"gpus": 4, "nodes": 4}, 4, (4, 1, 4)),
        ({"gpus": 5, "gpusPerNode": 1}, 2, (5, 1, 5)),
        ({"gpus": 6, "nodes": 3, "gpusPerNode": 2}, 4, (3, 2, 6)),
        ({"gpus": 4, "ranks": 4}, 4, (1, 4, 4)),
    ],
)
@pytest.mark.parametrize("launcher", ["pytorchjob", "job"])
def test_shape(
    given: dict[str, int], pool: int, shape: tuple[int, int, int], launcher: str
) -> None:
    values = merged(train(**given), {"pools": {"gpu": {"gpusPerNode": pool}}, "launcher": launcher})
    applied = rendering.objects(values, "release")
    nodes, gpus, ranks = shape
    stage = Plan.from_dict(rendering.plan(applied)).stage("train")
    assert (stage.nodes, stage.gpus, stage.ranks) == (nodes, nodes * gpus, ranks)
    found = rendering.stages(applied)["train"]
    ((_, template),) = rendering.pod_templates(found)
    (container,) = template["spec"]["containers"]
    env = rendering.environment(template)
    assert env[Env.GPUS] == str(gpus)
    assert env[Env.WORLD_SIZE] == str(ranks)
    assert env[Env.RANKS_PER_NODE] == str(ranks // nodes)
    assert container["resources"]["limits"].get("nvidia.com/gpu") == (str(gpus) if gpus else None)
    if launcher == "pytorchjob":
        spec = rendering.only(found, "PyTorchJob")["spec"]
        assert container["name"] == "pytorch"
        assert set(spec["pytorchReplicaSpecs"]) == {"Worker"}
        assert spec["nprocPerNode"] == str(ranks // nodes)
        elastic = spec["elasticPolicy"]
        assert elastic["minReplicas"] == elastic["maxReplicas"] == nodes
        assert spec["pytorchReplicaSpecs"]["Worker"]["replicas"] == nodes
        assert spec["runPolicy"]["cleanPodPolicy"] == "Running"
    else:
        job, service = rendering.only(found, "Job"), rendering.only(found, "Service")
        name = job["metadata"]["name"]
        assert job["spec"]["completions"] == job["spec"]["parallelism"] == nodes
        assert service["metadata"]["name"] == template["spec"]["subdomain"] == name
        assert env["PET_RDZV_ENDPOINT"] == f"{name}-0.{name}:29400"
        assert env["PET_NNODES"] == f"{nodes}:{nodes}"
        labels = template["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= labels.items()


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (
        "no whole nodes",
        {"gpus": 5},
        "5 GPUs…whole nodes of 4 (pool gpu); …--gpus 4 or 8, …--gpus-per-node 1…5 nodes",
    ),
    ("nodes", {"gpus": 6, "nodes": 4}, "--gpus 4 or 8, …--nodes 1"),
    ("product", {"gpus": 4, "nodes": 2, "gpusPerNode": 1}, "2 nodes of 1 GPUs…not 4 GPUs"),
    ("per node", {"gpus": 3, "gpusPerNode": 2}, "--gpus 2 or 4"),
    ("no gpus", {"gpusPerNode": 2}, "no GPUs"),
    ("too many", {"gpus": 16, "gpusPerNode": 8}, "pool gpu have 4"),
    ("ranks", {"gpus": 4, "ranks": 2}, "--ranks out, …--gpus 2"),
    ("uneven ranks", {"nodes": 2, "ranks": 3}, "--ranks 2 or 4"),
    ("few ranks", {"nodes": 2, "ranks": 1}, "--ranks 2"),
    ("pool", {"pool": "tpu"}, "no pool tpu; …cpu, gpu"),
    ("cpu pool", {"gpus": 1, "pool": "cpu"}, "pool cpu…no GPUs"),
]


@pytest.mark.parametrize(
    ("given", "message"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_impossible_shapes_name_the_nearest(given: dict[str, Any], message: str) -> None:
    with pytest.raises(helm_python.HelmRenderError) as refused:
        rendering.text(train(**given), "release")
    (line,) = [x for x in str(refused.value).splitlines() if "values." in x]
    assert says(line, f"…{message}…")
    assert ": values.stages.train" in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pools": {"gpu": {"maxNodes": 2}}, "stages": {"train": {"gpus": 12}}}, "values.stages.train: 3 nodes, …pool gpu has 2; …--gpus 8…"),  # noqa: E501
        ({"rootUri": ""}, "values.rootUri: …s3://"),
        ({"image": {"stage": ""}}, "values.image.stage: no image"),
        ({"experiment": {"name": ""}}, "values.experiment.name: "),
        ({"experiment": {"module": "other.py"}}, "values.experiment.module: other.py…files"),
        ({"driver": {"pool": "tpu"}}, "values.driver.pool: …tpu"),
        ({"pools": {"x": {}}, "stages": {"eval": {"pool": "x"}}}, "values.pools.x.cpu: is not"),
        ({"experiment": {"source": {"a.py": "x" * 800_000}}}, "700 KiB"),
    ],
)  # fmt: skip
def test_other_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(helm_python.HelmRenderError, match="values") as refused:
        rendering.text(run(**changes), "release")
    assert says(str(refused.value), f"…{message}…")


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"gpus": 1}, "additional properties 'gpus'"),
        ({"stages": {"train": {"gpuss": 1}}}, "/stages/train"),
        ({"stages": {"chip": {"gpus": 1}}}, "/stages/chip"),
        ({"stages": {"train": {"gpus": -1}}}, "/stages/train/gpus"),
        ({"stages": {"train": {"gpus": "4"}}}, "/stages/train/gpus"),
        ({"stages": {"chip": {"splits": 0}}}, "/stages/chip/splits"),
        ({"stages": {"predict": {"gpus": 2}}}, "/stages/predict/gpus"),
        ({"stages": {"train": {"deadlineSeconds": 0}}}, "/stages/train/deadlineSeconds"),
        ({"stages": {"eval": {"resources": {"limit": {}}}}}, "/stages/eval/resources"),
        ({"launcher": "mpi"}, "/launcher"),
        ({"pools": {"gpu": {"cpuPerGpu": "1.5"}}}, "/pools/gpu/cpuPerGpu"),
        ({"pools": {"gpu": {"memoryPerGpu": "16 GB"}}}, "/pools/gpu/memoryPerGpu"),
        ({"pools": {"gpu": {"gpu": 4}}}, "/pools/gpu"),
        ({"pools": {"gpu": {"env": {"AWS_SECRET_ACCESS_KEY": "x"}}}}, "/pools/gpu/env"),
        ({"pools": {"gpu": {"env": {"RVK8S_RUN_ID": "x"}}}}, "/pools/gpu/env"),
        ({"pools": {"gpu": {"nccl": {"NCCL_DEBUG": "INFO"}}}}, "/pools/gpu/nccl"),
        ({"storage": {"endpoint": "ftp://x"}}, "/storage/endpoint"),
        ({"storage": {"endpoint": "https://user:key@x"}}, "/storage/endpoint"),
        ({"storage": {"accessKey": "x"}}, "/storage"),
        ({"rootUri": "/data/runs"}, "/rootUri"),
        ({"run": {"id": "Potsdam"}}, "/run/id"),
        ({"run": {"fromStage": "training"}}, "/run/fromStage"),
        ({"schedule": {"cron": "every day"}}, "/schedule/cron"),
        ({"experiment": {"source": {"../x.py": ""}}}, "/experiment/source"),
        ({"experiment": {"source": {"/etc/x.py": ""}}}, "/experiment/source"),
        ({"runAsUser": 0}, "/runAsUser"),
        ({"labels": {"a b": "c"}}, "/labels"),
    ],
)
def test_the_schema_refuses(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(helm_python.HelmValuesError) as refused:
        rendering.text(run(**changes), "release")
    assert where in str(refused.value)


@pytest.mark.parametrize("chart", ["rvk8s", "rvk8s-platform"])
def test_every_mapping_of_the_schema_is_closed_or_typed_and_described(chart: str) -> None:
    schema = json.loads((cases.ROOT / "helm" / chart / "values.schema.json").read_text())
    #: Open by nature: Helm's own; entries of a NetworkPolicy.
    open_by_nature = {"/global", "/tensorboard/from/items"}

    def check(node: dict[str, Any], where: str) -> None:
        if node.get("type") == "object" and where not in open_by_nature:
            more = node.get("additionalProperties")
            assert more is False or (isinstance(more, dict) and more), f"{where} is open"
        for key, below in node.get("properties", {}).items():
            assert below.get("description"), f"{where}/{key} has no description"
            check(below, f"{where}/{key}")
        if isinstance(node.get("items"), dict):
            check(node["items"], f"{where}/items")

    check(schema, "")
    for name, below in schema["$defs"].items():
        check(below, f"$defs/{name}")


def test_a_schedule_leaves_the_run_id_to_the_driver() -> None:
    applied = rendering.objects(cases.RUNS["schedule"], "release")
    assert {o["kind"] for o in applied} == {"ConfigMap", "CronJob", "NetworkPolicy"}
    plan = rendering.plan(applied)
    assert (plan["runId"], plan["created"], plan["goOn"]) == (RUN_ID_TOKEN, "", "")
    cron = rendering.only(applied, "CronJob")
    assert cron["spec"]["timeZone"] == "Europe/Berlin"
    job = cron["spec"]["jobTemplate"]
    assert Annotation.ROOT_URI in job["metadata"]["annotations"]
    field = rendering.environment(job["spec"]["template"])[Env.RUN_ID]["fieldRef"]["fieldPath"]
    assert field == "metadata.labels['batch.kubernetes.io/job-name']"
    for o in rendering.everything(applied):
        labels = o["metadata"]["labels"]
        assert labels["rvk8s.io/schedule"] == "potsdam-nightly"
        made = labels[Label.COMPONENT] == "stage"
        assert labels.get(Label.RUN) == (RUN_ID_TOKEN if made else None)


@pytest.mark.parametrize("length", [1, 40, 49, 55, 62, 63])
@pytest.mark.parametrize("launcher", ["pytorchjob", "job"])
@pytest.mark.parametrize("cron", ["", "0 3 * * *"])
def test_names_fit_however_long_the_run_id_is(length: int, launcher: str, cron: str) -> None:
    run_id = ("abcdefghi-" * 7)[: length - 1] + "z"
    changes = {"run": {"id": run_id}, "launcher": launcher, "schedule": {"cron": cron}}
    shape = {"train": {"nodes": 12}, "chip": {"splits": 100}}
    applied = rendering.objects(merged(run(**changes), {"stages": shape}), "release")
    names = [(o["kind"], o["metadata"]["name"]) for o in rendering.everything(applied)]
    assert len(names) == len(set(names))
    driver = rendering.only(applied, "CronJob" if cron else "Job")["metadata"]["name"]
    assert driver == run_id or (cron and length > 36)
    # A CronJob adds the minutes since 1970 to its name, and that is the run's id.
    longest = f"{driver}-{2**31 // 60}" if cron else run_id
    assert len(longest) <= 63
    for kind, name in names:
        assert len(name.replace(RUN_ID_TOKEN, longest)) <= 63, name
        stage = name.replace(RUN_ID_TOKEN, longest)
        if kind == "PyTorchJob":
            assert len(f"{stage}-worker-11") <= 63
        elif kind == "Job" and stage.endswith(("-train", "-chip")):
            assert len(f"{stage}-99") <= 63


def test_two_long_ids_have_different_names() -> None:
    ids = ["x" * 62 + last for last in "ab"]
    names = [
        rendering.stages(rendering.objects(run(run={"id": i}), "r"))["train"][0]["metadata"]["name"]
        for i in ids
    ]
    assert len(set(names)) == 2


def test_the_release_names_a_run_without_id() -> None:
    applied = rendering.objects(run(run={"id": ""}), "my-run")
    assert rendering.only(applied, "Job")["metadata"]["name"] == "my-run"
    with pytest.raises(helm_python.HelmRenderError, match=r"values\.run\.id: 1a is not"):
        rendering.text(run(run={"id": ""}), "1a")


def test_the_project_lies_at_the_same_path_in_every_pod() -> None:
    applied = rendering.objects(cases.BASE, "release")
    (source,) = [o for o in applied if o["metadata"]["name"].endswith("-source")]
    for _, template in rendering.pod_templates(rendering.everything(applied)[len(applied) :]):
        (container,) = template["spec"]["containers"]
        found = {
            m["mountPath"].removeprefix(f"{PROJECT_DIR}/"): source["data"][m["subPath"]]
            for m in container["volumeMounts"]
            if m["name"] == "source"
        }
        assert found == cases.BASE["experiment"]["source"]


def test_final_exit_codes_end_a_split_job_and_passing_ones_do_not() -> None:
    (job,) = rendering.stages(rendering.objects(cases.RUNS["splits"], "r"))["predict"]
    ignore, fail = job["spec"]["podFailurePolicy"]["rules"]
    assert ignore["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    codes = fail["onExitCodes"]["values"]
    assert set(codes) == set(range(1, 128))
    assert {c for c in ExitCode if 0 < c < 128} <= set(codes)
    spec = job["spec"]
    assert (spec["completions"], spec["backoffLimitPerIndex"], spec["maxFailedIndexes"]) == (
        12,
        1,
        0,
    )
    assert spec["podReplacementPolicy"] == "Failed"


def test_the_queue_holds_stages_and_never_the_driver() -> None:
    applied = rendering.objects(cases.RUNS["queue"], "r")
    queue = "kueue.x-k8s.io/queue-name"
    assert all(queue not in o["metadata"]["labels"] for o in applied)
    for found in rendering.stages(applied).values():
        for o in found:
            assert o["metadata"]["labels"][queue] == "team"


def test_memory_and_threads_follow_the_pool() -> None:
    applied = rendering.objects(cases.RUNS["gpus"], "r")
    ((_, template),) = rendering.pod_templates(rendering.stages(applied)["train"])
    (container,) = template["spec"]["containers"]
    assert container["resources"]["limits"] == {
        "cpu": "8",
        "memory": "32Gi",
        "nvidia.com/gpu": "2",
    }
    assert rendering.environment(template)[Env.THREADS] == "8"
    assert rendering.environment(template)["NCCL_DEBUG"] == "WARN"
    assert Env.IMAGE_DIGEST not in rendering.environment(template)
    for made in rendering.stages(rendering.objects(cases.RUNS["storage"], "r")).values():
        ((_, pod),) = rendering.pod_templates(made)
        assert rendering.environment(pod)[Env.IMAGE_DIGEST] == "sha256:" + "0123456789abcdef" * 4
    (shm,) = [v for v in template["spec"]["volumes"] if v["name"] == "shm"]
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}


@pytest.mark.parametrize("preset", ["eks", "gke", "aks", "nvidia"])
def test_presets_place_gpu_pods(preset: str) -> None:
    values = yaml_loader.load((cases.ROOT / f"helm/rvk8s/presets/{preset}.yaml").read_text())
    pool = values["pools"]["gpu"]
    applied = rendering.objects(cases.CASES[f"preset-{preset}"][2], "r")
    ((_, template),) = rendering.pod_templates(rendering.stages(applied)["train"])
    assert template["spec"]["nodeSelector"] == pool["nodeSelector"] | {"kubernetes.io/os": "linux"}
    assert template["spec"]["tolerations"] == pool["tolerations"]
    assert Plan.from_dict(rendering.plan(applied)).stage("train").nodes == 8 // pool["gpusPerNode"]
    (container,) = template["spec"]["containers"]
    assert container["resources"]["requests"]["memory"].endswith("Gi")


def test_spot_pods_promise_no_more_than_a_spot_node_gives() -> None:
    gpu = yaml_loader.load((cases.ROOT / "helm/rvk8s/presets/gke.yaml").read_text())["pools"]["gpu"]
    values = merged(train(gpus=1), {"pools": {"gpu": {**gpu, "spot": True}}})
    ((_, template),) = rendering.pod_templates(
        rendering.stages(rendering.objects(values, "r"))["train"]
    )
    assert template["spec"]["terminationGracePeriodSeconds"] == 15
    assert template["spec"]["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert gpu["spotTolerations"][0] in template["spec"]["tolerations"]


def test_large_numbers_have_no_exponent() -> None:
    cpu = {"memory": 8_000_000_000, "env": {"ROWS": 10_000_000, "RATE": 0.5}}
    gpu = {"memoryPerGpu": 16_000_000_000, "gpusPerNode": 2}
    changes = {"pools": {"cpu": cpu, "gpu": gpu}, "stages": {"train": {"gpus": 2}}}
    values = run(**changes, driver={"ttlSecondsAfterFinished": 20_000_000})
    found = rendering.stages(rendering.objects(values, "r"))
    ((_, template),) = rendering.pod_templates(found["eval"])
    assert rendering.environment(template)["ROWS"] == "10000000"
    assert rendering.environment(template)["RATE"] == "0.5"
    (container,) = template["spec"]["containers"]
    assert container["resources"]["limits"]["memory"] == "8000000000"
    ((_, template),) = rendering.pod_templates(found["train"])
    assert template["spec"]["containers"][0]["resources"]["limits"]["memory"] == "32000000000"
    hard = {"quota": {"hard": {"requests.memory": 1_000_000_000_000}}}
    quota = rendering.only(rendering.objects(hard, "p", "rvk8s-platform"), "ResourceQuota")
    assert quota["spec"]["hard"] == {"requests.memory": "1000000000000"}
    text = rendering.text(values, "r") + rendering.text(hard, "p", "rvk8s-platform")
    assert "e+" not in text
