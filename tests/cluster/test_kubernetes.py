"""The Kubernetes files, as kustomize renders them: against KubeRay's schemas, and against what these do not say."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from overlay.cli.parser import parse_arguments
from overlay.config import ClusterOptions, Compare, Loop, Predict, Prepare, Train

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "cluster" / "kubernetes"
OVERLAYS = sorted(file.parent.relative_to(KUBERNETES).as_posix() for file in KUBERNETES.glob("overlays/*/*/*.yaml"))
JOBS = [overlay for overlay in OVERLAYS if not overlay.endswith("/cluster")]
STORAGE = {"claim": "/storage", "bucket": "s3://my-bucket/overlay", "kueue": "s3://my-bucket/overlay"}
TOOL = ["kustomize", "build"] if shutil.which("kustomize") else ["kubectl", "kustomize"]

pytestmark = pytest.mark.skipif(
    shutil.which(TOOL[0]) is None, reason="NOT CHECKED: cluster/kubernetes, since neither kustomize nor kubectl is here"
)


@cache
def render(overlay: str) -> tuple[dict[str, Any], ...]:
    done = subprocess.run([*TOOL, str(KUBERNETES / overlay)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.load_all(done.stdout, yaml.CSafeLoader))


def ray_object(overlay: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the RayJob or RayCluster of an overlay, and the part that describes the cluster."""
    (document,) = (each for each in render(overlay) if each["kind"] in ("RayJob", "RayCluster"))
    return document, document["spec"].get("rayClusterSpec", document["spec"])


def pods(overlay: str) -> Iterator[dict[str, Any]]:
    """Yield the pods of the head, of all groups, and of a job's submitter."""
    document, cluster = ray_object(overlay)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]["spec"]
    if document["kind"] == "RayJob":
        yield document["spec"]["submitterPodTemplate"]["spec"]


@cache
def schema(kind: str) -> dict[str, Any]:
    file = ROOT / "tests" / "data" / "kuberay" / f"ray.io_{kind.lower()}s.yaml"
    definition = yaml.load(file.read_text(), yaml.CSafeLoader)
    (version,) = (each for each in definition["spec"]["versions"] if each["name"] == "v1")
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    found["properties"]["metadata"] = {"type": "object"}
    close(found)
    return found


def close(part: object) -> None:
    """Refuse fields that a schema does not name, which Kubernetes would drop without a word."""
    if isinstance(part, dict):
        for value in part.values():
            close(value)
        if isinstance(part.get("properties"), dict) and not part.get("x-kubernetes-preserve-unknown-fields"):
            part.setdefault("additionalProperties", False)
    elif isinstance(part, list):
        for value in part:
            close(value)


def test_every_verb_has_an_overlay_for_each_storage() -> None:
    wanted = [
        f"overlays/{s}/{v}" for s in ("bucket", "claim") for v in ("cluster", "compare", "predict", "prepare", "train")
    ]
    assert sorted([*wanted, "overlays/kueue/train"]) == OVERLAYS


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kuberay_accepts_it(overlay: str) -> None:
    document, _ = ray_object(overlay)
    jsonschema.Draft202012Validator(schema(document["kind"])).validate(document)


def test_the_schemas_refuse_a_misspelt_field() -> None:
    document = yaml.safe_load(yaml.safe_dump(ray_object("overlays/claim/train")[0]))
    document["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["enviroment"] = []
    with pytest.raises(jsonschema.ValidationError, match="enviroment"):
        jsonschema.Draft202012Validator(schema("RayJob")).validate(document)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_version_of_ray_is_that_of_the_image(overlay: str) -> None:
    found = re.search(r"^ARG RAY_VERSION=(.+)$", (ROOT / "cluster" / "Dockerfile").read_text(), re.MULTILINE)
    assert found is not None
    assert ray_object(overlay)[1]["rayVersion"] == found[1]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_restricted_namespace_admits_the_pods(overlay: str) -> None:
    """Kubernetes' Pod Security Standards, level restricted."""
    for pod in pods(overlay):
        user = pod["securityContext"]
        assert (user["runAsNonRoot"], user["runAsUser"], user["fsGroup"]) == (True, 1000, 1000)
        assert user["seccompProfile"] == {"type": "RuntimeDefault"}
        assert [each["securityContext"] for each in pod["containers"]] == [
            {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        ]
        assert all(set(volume) <= {"name", "emptyDir", "persistentVolumeClaim"} for volume in pod.get("volumes", []))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_cluster_wants_a_token_and_keys_come_from_secrets(overlay: str) -> None:
    document, cluster = ray_object(overlay)
    assert cluster["authOptions"] == {"mode": "token"}
    assert not re.search(
        r"(?i)secret_access_key|api.key",
        yaml.safe_dump(document).replace("WANDB_API_KEY", "").replace("key: api-key", ""),
    )
    for pod in pods(overlay):
        for variable in pod["containers"][0].get("env", []):
            assert ("valueFrom" in variable) == (variable["name"] == "WANDB_API_KEY")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_stopped_job_has_the_time_to_save(overlay: str) -> None:
    document, cluster = ray_object(overlay)
    head = cluster["headGroupSpec"]["template"]["spec"]
    wait = {each["name"]: each.get("value") for each in head["containers"][0]["env"]}["RAY_JOB_STOP_WAIT_TIME_S"]
    ray_pods = list(pods(overlay))[:3]
    assert {pod["restartPolicy"] for pod in pods(overlay)} == {"Never"}
    assert all(pod["terminationGracePeriodSeconds"] > int(wait or 0) >= 60 for pod in ray_pods)
    if document["kind"] == "RayJob":
        assert len(document["metadata"]["name"]) <= 47


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_groups_grow_from_zero_unless_a_queue_admits_them_whole(overlay: str) -> None:
    _, cluster = ray_object(overlay)
    sizes = {each["groupName"]: (each["replicas"], each["minReplicas"]) for each in cluster["workerGroupSpecs"]}
    gpu = cluster["workerGroupSpecs"][1]["template"]["spec"]
    assert gpu["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert gpu["containers"][0]["image"].endswith("-cuda")
    if overlay.startswith("overlays/kueue"):
        assert ray_object(overlay)[0]["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "overlay"}
        assert cluster["enableInTreeAutoscaling"] is False
        assert sizes == {"cpu": (1, 1), "gpu": (2, 2)}
    else:
        assert cluster["enableInTreeAutoscaling"] is True
        assert sizes == {"cpu": (0, 0), "gpu": (0, 0)}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_storage_is_a_bucket_with_an_account_or_a_claim(overlay: str) -> None:
    (settings,) = (each for each in render(overlay) if each["kind"] == "ConfigMap")
    storage = overlay.split("/")[1]
    assert (settings["metadata"]["name"], settings["data"]["STORAGE"]) == ("overlay-storage", STORAGE[storage])
    ray_pods = list(pods(overlay))[:3]
    accounts = {pod.get("serviceAccountName") for pod in ray_pods}
    volumes = [pod["volumes"][0] for pod in ray_pods]
    if storage == "claim":
        assert accounts == {None}
        claim = yaml.safe_load((KUBERNETES / "claim.example.yaml").read_text())
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
        assert [each["persistentVolumeClaim"]["claimName"] for each in volumes] == [claim["metadata"]["name"]] * 3
        assert all(each["kind"] != "PersistentVolumeClaim" for each in render(overlay))  # not deleted with a job
    else:
        assert accounts == {"overlay"}
        assert all("emptyDir" in each for each in volumes)
    environment = {each["name"]: each.get("value", "") for each in ray_pods[0]["containers"][0]["env"]}
    assert ray_pods[0]["containers"][0]["volumeMounts"] == [{"name": "storage", "mountPath": "/storage"}]
    assert environment["TORCH_HOME"].startswith("/storage/")


@pytest.mark.parametrize("overlay", JOBS)
def test_the_job_is_a_request_that_the_command_line_takes(overlay: str) -> None:
    document, _ = ray_object(overlay)
    storage = STORAGE[overlay.split("/")[1]]
    program, verb, *words = shlex.split(document["spec"]["entrypoint"].replace("$STORAGE", storage))
    assert (program, document["metadata"]["name"]) == ("overlay-job", f"overlay-{verb}")
    images, dataset, run = (f"{storage}/{name}" for name in ("images", "dataset", "run"))
    hour = ClusterOptions(wait=3600)
    expected = {
        "prepare": Prepare(sources=[images], out=dataset, cluster=hour),
        "train": Train(dataset=dataset, out=run, train=Loop(device="cuda", workers=2), cluster=hour),
        "compare": Compare(
            dataset=dataset,
            out=f"{storage}/comparison",
            archs="resnet50,resnet101",
            train=Loop(device="cuda"),
            cluster=hour,
        ),
        "predict": Predict(
            model=f"{run}/Resnet_fineTuning.pth",
            inputs=[images],
            out=f"{storage}/predictions",
            device="cuda",
            cluster=hour,
        ),
    }
    assert parse_arguments(verb, words) == expected[verb]


def test_the_secrets_that_pods_read_have_an_example() -> None:
    examples = list(yaml.safe_load_all((KUBERNETES / "secrets.example.yaml").read_text()))
    assert {each["metadata"]["name"] for each in examples} == {"wandb", "overlay-bucket"}
    assert all(value == "" for each in examples for value in each["stringData"].values())
