"""Looks at the objects of a Kubernetes cluster, by its HTTP API alone (``/api/v1``, ``/apis/…``): lists, read whole.

What a list says is judged by pure functions. Values of secrets are looked at and go nowhere.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from yarl import URL

from bailiwick.assurance.probes.means import Asked, Means
from bailiwick.assurance.probes.reading import Found, LookFailed
from bailiwick.assurance.probes.web import Untrusted
from bailiwick.assurance.thresholds import Unit
from bailiwick.handover.readiness.checks import KubernetesCheck
from bailiwick.handover.readiness.means.monitoring import get
from bailiwick.handover.readiness.strength import weakness

Objects = Sequence[Mapping[str, Any]]
Judge = Callable[[KubernetesCheck, Objects], Found]
_PAGE, _MOST_PAGES = 100, 100


async def kubernetes(check: KubernetesCheck, means: Means, asked: Asked) -> Found:
    """What the check names of a cluster."""

    async def listed(path: str) -> Objects:
        return await _listed(check, means, asked, path)

    try:
        return await _LOOKS[check.what](check, listed)
    except Untrusted as error:
        return Found(wrong=str(error))
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, ArithmeticError):
        raise LookFailed("the answer is not what a Kubernetes answers") from None


async def _listed(check: KubernetesCheck, means: Means, asked: Asked, path: str) -> Objects:
    """All objects of a list, page by page (``limit``, ``continue``); none where the cluster knows no such kind."""
    found: list[Mapping[str, Any]] = []
    following = ""
    for _ in range(_MOST_PAGES):
        query = {"limit": str(_PAGE), **({"continue": following} if following else {})}
        answer = await get(check, means, asked, str(URL(path).with_query(query)))
        if answer.status == 404:
            return found
        try:
            document = json.loads(answer.body)
        except (ValueError, RecursionError):
            raise LookFailed("the answer is no JSON") from None
        if not document["kind"].endswith("List"):
            raise LookFailed(f"the answer is a {document['kind']}, and no list")
        found += document["items"] or []
        following = document["metadata"].get("continue") or ""
        if not following:
            return found
    raise LookFailed(f"there are more than {_PAGE * _MOST_PAGES} objects")


# ---------------------------------------------------------------------- what is judged


def nodes(check: KubernetesCheck, objects: Objects) -> Found:
    """Nodes that are ready, take pods, and are as large as ``sizes`` (``cpu``, ``memory``) say."""
    ready = [
        each
        for each in objects
        if any(c["type"] == "Ready" and c["status"] == "True" for c in each["status"]["conditions"])
        and not each["spec"].get("unschedulable")
        and all(quantity(each["status"]["capacity"][name]) >= quantity(size) for name, size in check.sizes.items())
    ]
    return _enough(check, len(ready), f"{len(ready)} of {len(objects)} nodes are ready and large enough", objects)


def namespaces(check: KubernetesCheck, objects: Objects) -> Found:
    active = {_name(each) for each in objects if each["status"].get("phase") == "Active"}
    return _lacking(check.names, active, "namespaces", objects)


def storage_class(check: KubernetesCheck, objects: Objects) -> Found:
    """One whose name, or whose volumes' type, is in ``names``."""
    wanted = {name.lower() for name in check.names}
    fitting = [
        _name(each)
        for each in objects
        if {_name(each).lower(), str((each.get("parameters") or {}).get("type", "")).lower()} & wanted
    ]
    wrong = "" if fitting else f"none of {', '.join(check.names)}"
    return _found(len(fitting), ", ".join(fitting), wrong, objects)


def volumes(check: KubernetesCheck, objects: Objects) -> Found:
    """For each of ``sizes``, a claim with that in its name that is bound to as much."""
    wrong = []
    for part, size in check.sizes.items():
        bound = [each for each in objects if part in _name(each) and each["status"].get("phase") == "Bound"]
        if not any(quantity(each["status"]["capacity"]["storage"]) >= quantity(size) for each in bound):
            wrong.append(f"{part} has no {size}")
    return _found(len(objects), f"{len(check.sizes)} volumes", "; ".join(wrong), objects)


def load_balancer(check: KubernetesCheck, objects: Objects) -> Found:
    """An ingress with TLS that has an address."""
    serving = [
        _name(each)
        for each in objects
        if each["spec"].get("tls") and (each["status"].get("loadBalancer") or {}).get("ingress")
    ]
    wrong = "" if serving else f"none of {len(objects)} ingresses has TLS and an address"
    return _found(len(serving), ", ".join(serving), wrong, objects)


def network_policies(check: KubernetesCheck, objects: Objects) -> Found:
    """In each namespace one that denies everything both ways, and one that allows something."""
    wrong = []
    for space in check.names or [check.namespace]:
        specs = [each["spec"] for each in objects if each["metadata"]["namespace"] == space]
        denied: set[str] = set()
        for spec in specs:
            if not any(spec.get("podSelector") or {}):
                types = spec.get("policyTypes") or ["Ingress"]
                denied |= {each for each in types if not spec.get(each.lower())}
        opened = [each for spec in specs for each in _opens_all(spec)]
        if opened:
            wrong.append(f"{space} lets all {' and '.join(sorted(set(opened))).lower()} through")
        elif missing := {"Ingress", "Egress"} - denied:
            wrong.append(f"{space} does not deny {' and '.join(sorted(missing)).lower()} by default")
        elif not any(spec.get("ingress") or spec.get("egress") for spec in specs):
            wrong.append(f"{space} allows nothing explicitly")
    return _found(len(objects), f"{len(objects)} policies", "; ".join(wrong), objects)


def _opens_all(spec: Mapping[str, Any]) -> list[str]:
    """The ways that a policy for every pod opens to everybody: policies add up, so it takes back what others deny."""
    if any(spec.get("podSelector") or {}):
        return []
    return [way for way in ("Ingress", "Egress") if any(not rule for rule in spec.get(way.lower()) or ())]


def secrets(check: KubernetesCheck, objects: Objects) -> Found:
    """Every secret must be there with its keys, and none be weak. No value is told."""
    held = {_name(each): each.get("data") or {} for each in objects}
    wrong = []
    for name, wanted in check.secrets.items():
        if name not in held:
            wrong.append(f"{name} is not there")
            continue
        for key in wanted.keys:
            try:
                value = base64.b64decode(held[name][key], validate=True).decode("utf-8", "replace")
            except KeyError:
                wrong.append(f"{name} lacks {key}")
                continue
            except (binascii.Error, TypeError):
                raise LookFailed(f"{name} cannot be read") from None
            if why := weakness(value, wanted.least):
                wrong.append(f"{name}.{key}: {why}")
    told = "; ".join(wrong[:6])
    output = "\n".join(f"{name}: {' '.join(sorted(held.get(name, {})))}" for name in sorted(check.secrets)).encode()
    return Found(float(len(wrong)), Unit.COUNT, f"{len(check.secrets)} secrets", output, wrong=told, holds=not wrong)


def pod_security(check: KubernetesCheck, objects: Objects) -> Found:
    label = "pod-security.kubernetes.io/enforce"
    enforced = {_name(each) for each in objects if (each["metadata"].get("labels") or {}).get(label) == "restricted"}
    return _lacking(check.names or [check.namespace], enforced, "namespaces enforce restricted", objects)


def security_context(check: KubernetesCheck, objects: Objects) -> Found:
    """No container as root, none that writes its own file system, none with capabilities."""
    wrong = []
    for each in objects:
        pod = _pod(each)
        whole = pod.get("securityContext") or {}
        for container in _containers(pod):
            own = container.get("securityContext") or {}
            place = f"{_name(each)}/{container['name']}"
            if not own.get("runAsNonRoot", whole.get("runAsNonRoot", False)):
                wrong.append(f"{place} may run as root")
            elif own.get("runAsUser", whole.get("runAsUser")) == 0 or own.get("privileged"):
                wrong.append(f"{place} is root")
            if not own.get("readOnlyRootFilesystem"):
                wrong.append(f"{place} writes its file system")
            if "ALL" not in ((own.get("capabilities") or {}).get("drop") or ()):
                wrong.append(f"{place} keeps capabilities")
            if own.get("allowPrivilegeEscalation", True):
                wrong.append(f"{place} may gain privileges")
    return _of_workloads(check, objects, wrong)


def replicas(check: KubernetesCheck, objects: Objects) -> Found:
    one = _workload(check, objects)
    ready = int(one["status"].get("readyReplicas") or 0) if one is not None else 0
    if one is None:
        return Found(wrong=f"there is no {check.workload}", output=_kept(objects))
    return _enough(check, ready, f"{ready} of {one['spec'].get('replicas', 1)} replicas are ready", [one])


def environment(check: KubernetesCheck, objects: Objects) -> Found:
    """Every variable of ``names`` must have a value, or come from somewhere."""
    one = _workload(check, objects)
    if one is None:
        return Found(wrong=f"there is no {check.workload}", output=_kept(objects))
    said: set[str] = set()
    elsewhere = False
    for container in _containers(_pod(one)):
        said |= {each["name"] for each in container.get("env") or () if each.get("value") or each.get("valueFrom")}
        elsewhere = elsewhere or bool(container.get("envFrom"))
    lacking = [name for name in check.names if name not in said]
    wrong = "" if not lacking else f"{check.workload} lacks {', '.join(lacking)}"
    if not wrong and not said and not elsewhere:
        wrong = "no variable is set"
    output = "\n".join(sorted(said)).encode()  # names: values may be secrets
    return Found(float(len(said)), Unit.COUNT, f"{len(said)} variables", output, wrong=wrong, holds=not wrong)


def config_maps(check: KubernetesCheck, objects: Objects) -> Found:
    filled = {_name(each) for each in objects if each.get("data") or each.get("binaryData")}
    return _lacking(check.names, filled, "config maps", objects)


def health_probes(check: KubernetesCheck, objects: Objects) -> Found:
    """A container asks for ``live`` whether it lives and for ``ready`` whether it is ready."""
    one = _workload(check, objects)
    if one is None:
        return Found(wrong=f"there is no {check.workload}", output=_kept(objects))

    def asks(container: Mapping[str, Any], name: str) -> str:
        return str(((container.get(name) or {}).get("httpGet") or {}).get("path", ""))

    fitting = any(
        asks(each, "livenessProbe") == check.live and asks(each, "readinessProbe") == check.ready
        for each in _containers(_pod(one))
    )
    wrong = "" if fitting else f"none asks {check.live} and {check.ready}"
    return _found(1, f"{check.live} and {check.ready}", wrong, [one])


def limits(check: KubernetesCheck, objects: Objects) -> Found:
    """Every container has limits, and as much as ``sizes`` say (``cpu``, ``memory``)."""
    one = _workload(check, objects)
    if one is None:
        return Found(wrong=f"there is no {check.workload}", output=_kept(objects))
    wrong = []
    for container in _containers(_pod(one)):
        given = (container.get("resources") or {}).get("limits") or {}
        lacking = {"cpu", "memory", *check.sizes} - set(given)
        wrong += [f"{container['name']} has no limit of {name}" for name in lacking]
    # what prepares a pod has ended when it runs: it adds nothing to what the pod may use
    total: dict[str, Decimal] = {}
    for container in _pod(one)["containers"]:
        for name, size in ((container.get("resources") or {}).get("limits") or {}).items():
            total[name] = total.get(name, Decimal(0)) + quantity(size)
    wrong += [
        f"the pod's limit of {name} is not {size}"
        for name, size in sorted(check.sizes.items())
        if name in total and total[name] < quantity(size)
    ]
    return _found(1, "limits are set", "; ".join(sorted(wrong)[:6]), [one])


def hpa(check: KubernetesCheck, objects: Objects) -> Found:
    """It scales ``workload`` from ``at_least`` to ``at_most`` replicas by ``percent`` of CPU, and is active."""
    one = next((each for each in objects if each["spec"]["scaleTargetRef"]["name"] == check.workload), None)
    if one is None:
        return Found(wrong=f"nothing scales {check.workload}", output=_kept(objects))
    spec, wrong = one["spec"], []
    low, high = int(spec.get("minReplicas") or 1), int(spec["maxReplicas"])
    if low < check.at_least or (check.at_most is not None and high < check.at_most):
        wrong.append(f"it scales from {low} to {high}")
    aims = [
        each["resource"]["target"].get("averageUtilization")
        for each in spec.get("metrics") or ()
        if each["type"] == "Resource" and each["resource"]["name"] == "cpu"
    ]
    if check.percent is not None and not any(aim is not None and aim <= check.percent for aim in aims):
        wrong.append(f"it aims at no {check.percent} % of CPU")
    conditions = {each["type"]: each["status"] for each in one["status"].get("conditions") or ()}
    if conditions.get("ScalingActive") != "True":
        wrong.append("it is not active")
    return _found(low, f"{low} to {high} replicas", "; ".join(wrong), [one])


def pdb(check: KubernetesCheck, objects: Objects) -> Found:
    """One for the pods of ``workload`` keeps ``at_least`` of them."""
    keeping = [
        int(each["spec"]["minAvailable"])
        for each in objects
        if str(each["spec"].get("minAvailable", "")).isdigit()
        and check.workload in {_name(each), *((each["spec"].get("selector") or {}).get("matchLabels") or {}).values()}
    ]
    least = max(keeping, default=0)
    return _enough(check, least, f"at least {least} stay", objects)


def service_monitor(check: KubernetesCheck, objects: Objects) -> Found:
    """One that scrapes ``workload``."""
    fitting = [
        _name(each)
        for each in objects
        if each["spec"].get("endpoints")
        and check.workload in {_name(each), *((each["spec"].get("selector") or {}).get("matchLabels") or {}).values()}
    ]
    wrong = "" if fitting else f"none of {len(objects)} monitors scrapes {check.workload}"
    return _found(len(fitting), ", ".join(fitting), wrong, objects)


# ---------------------------------------------------------------------- where the lists are

Listed = Callable[[str], Awaitable[Objects]]


def _at(path: str, judge: Judge) -> Callable[[KubernetesCheck, Listed], Awaitable[Found]]:
    async def look(check: KubernetesCheck, listed: Listed) -> Found:
        return judge(check, await listed(path.format(namespace=check.namespace, of=check.of)))

    return look


_LOOKS = {
    "nodes": _at("/api/v1/nodes", nodes),
    "namespaces": _at("/api/v1/namespaces", namespaces),
    "storage_class": _at("/apis/storage.k8s.io/v1/storageclasses", storage_class),
    "volumes": _at("/api/v1/namespaces/{namespace}/persistentvolumeclaims", volumes),
    "load_balancer": _at("/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses", load_balancer),
    "network_policies": _at("/apis/networking.k8s.io/v1/networkpolicies", network_policies),
    "secrets": _at("/api/v1/namespaces/{namespace}/secrets", secrets),
    "pod_security": _at("/api/v1/namespaces", pod_security),
    "security_context": _at("/apis/apps/v1/namespaces/{namespace}/deployments", security_context),
    "replicas": _at("/apis/apps/v1/namespaces/{namespace}/{of}", replicas),
    "environment": _at("/apis/apps/v1/namespaces/{namespace}/{of}", environment),
    "config_maps": _at("/api/v1/namespaces/{namespace}/configmaps", config_maps),
    "health_probes": _at("/apis/apps/v1/namespaces/{namespace}/{of}", health_probes),
    "limits": _at("/apis/apps/v1/namespaces/{namespace}/{of}", limits),
    "hpa": _at("/apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers", hpa),
    "pdb": _at("/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets", pdb),
    "service_monitor": _at("/apis/monitoring.coreos.com/v1/namespaces/{namespace}/servicemonitors", service_monitor),
}


# ---------------------------------------------------------------------- small things

_FACTORS = {
    "": Decimal(1), "m": Decimal("0.001"), "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9),
    "T": Decimal(10**12), "P": Decimal(10**15), "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30),
    "Ti": Decimal(2**40), "Pi": Decimal(2**50),
}  # fmt: skip


def quantity(text: str) -> Decimal:
    """What a Kubernetes quantity (``500m``, ``2Gi``) amounts to. Raises :class:`ValueError`, ``ArithmeticError``."""
    number = str(text).rstrip("mkMGTPi")
    factor = _FACTORS.get(str(text)[len(number) :])
    if factor is None:
        raise ValueError(text)
    return Decimal(number) * factor


def _name(each: Mapping[str, Any]) -> str:
    return str(each["metadata"]["name"])


def _pod(each: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = each["spec"]["template"]["spec"]
    return found


def _containers(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*pod["containers"], *(pod.get("initContainers") or ())]


def _workload(check: KubernetesCheck, objects: Objects) -> Mapping[str, Any] | None:
    return next((each for each in objects if _name(each) == check.workload), None)


def _of_workloads(check: KubernetesCheck, objects: Objects, wrong: list[str]) -> Found:
    if check.workload is not None and _workload(check, objects) is None:
        wrong = [f"there is no {check.workload}"]
    elif not objects:
        wrong = ["there are no workloads"]
    more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
    return _found(len(objects), f"{len(objects)} workloads", "; ".join(wrong[:4]) + more, objects)


def _enough(check: KubernetesCheck, count: int, told: str, objects: Objects) -> Found:
    wrong = f"{told}, and {check.at_least} should be" if count < check.at_least else ""
    return _found(count, told, wrong, objects)


def _lacking(wanted: Iterable[str], there: set[str], what: str, objects: Objects) -> Found:
    lacking = [name for name in wanted if name not in there]
    return _found(len(there), f"{len(there)} {what}", f"not {', '.join(lacking)}" if lacking else "", objects)


def _found(count: int, told: str, wrong: str, objects: Objects) -> Found:
    return Found(float(count), Unit.COUNT, told, _kept(objects), wrong=wrong, holds=not wrong)


def _kept(objects: Objects) -> bytes:
    """What is kept as evidence: which objects there were, in which version, and not what is in them."""
    lines = []
    for each in objects:
        about = each["metadata"]
        lines.append(f"{about.get('namespace', '')}/{about['name']} {about.get('resourceVersion', '')}".lstrip("/"))
    return "\n".join(lines).encode()
