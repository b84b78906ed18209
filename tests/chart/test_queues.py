"""What waits in Kueue's queues: stages, and drivers where Kueue takes all Jobs."""

from __future__ import annotations

import helm_python
import pytest
from chart import rendering
from chart.cases import run

from rvk8s.cluster.queues import QUEUE
from rvk8s.contract import Label


@pytest.mark.parametrize("cron", ["", "@daily"])
@pytest.mark.parametrize(
    ("queue", "of_driver"), [("", ""), ("team", ""), ("", "drivers"), ("team", "drivers")]
)
def test_stages_and_the_driver_have_queues_of_their_own(
    cron: str, queue: str, of_driver: str
) -> None:
    values = run(queue=queue, driver={"queue": of_driver}, schedule={"cron": cron})
    applied = rendering.objects(values, "r")
    if cron:
        job = rendering.only(applied, "CronJob")["spec"]["jobTemplate"]
    else:
        job = rendering.only(applied, "Job")
    assert job["metadata"]["labels"].get(QUEUE, "") == of_driver
    assert job["metadata"]["labels"][Label.COMPONENT] == "driver"
    for stages in rendering.stages(applied).values():
        assert {one["metadata"]["labels"].get(QUEUE, "") for one in stages} == {queue}
    for where, pod in rendering.pod_templates(rendering.everything(applied)):
        assert QUEUE not in pod["metadata"]["labels"], where


@pytest.mark.parametrize("name", ["Team", "a b", "x" * 64])
def test_what_is_no_queue(name: str) -> None:
    with pytest.raises(helm_python.HelmValuesError, match="/driver/queue"):
        rendering.text(run(driver={"queue": name}), "r")
