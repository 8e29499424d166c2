"""The whole run as the API server would take it, without making anything: every object, and a pod of every Job.

helm's own `--dry-run=server` asks the server for its kinds only; nothing passes its admission.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import yaml

from jobs.contract.errors import AiosError, BadConfig, NotAuthorised
from k8s import helm
from k8s.cluster.client import Api, ApiError, Object
from k8s.values import Values

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where libyaml is there
_KINDS = {"Job": "jobs", "ConfigMap": "configmaps", "Service": "services", "ServiceAccount": "serviceaccounts",
          "Role": "roles"}  # fmt: skip
"""Of a RoleBinding the server wants the Role to be there, so it cannot be tried alone."""


def rehearse(api: Api, values: Values) -> Iterator[AiosError]:
    """Yield what the API server refuses: schema, quota, Pod Security, admission policies, rights."""
    release = values["run"]["name"]
    documents = yaml.load_all(helm.template(release, values, namespace=api.namespace), Loader=_LOADER)
    known = [document for document in documents if document and document["kind"] in _KINDS]
    with ThreadPoolExecutor(8) as pool:
        for refusals in pool.map(lambda document: _tried(api, document), known):
            yield from refusals


def _tried(api: Api, document: Object) -> list[AiosError]:
    refusals = list(_refusal(api, _KINDS[document["kind"]], document))
    if document["kind"] == "Job":
        # Pod Security and most policies look at pods only, and then the Job waits for ever. Who may make Jobs need not
        # be allowed to make pods.
        refusals += [exc for exc in _refusal(api, "pods", _pod(document)) if not isinstance(exc, NotAuthorised)]
    return refusals


def _refusal(api: Api, kind: str, document: Object) -> Iterator[AiosError]:
    try:
        api.create(api.path(kind), document, dryRun="All")
    except ApiError as exc:
        if exc.status == 409:
            yield BadConfig(
                f"the {document['kind']} {document['metadata']['name']} exists in {api.namespace}",
                next_step=f"`aios jobs resume {document['metadata']['labels']['app.kubernetes.io/instance']}`, "
                "or choose another --name",
            )
        else:
            yield exc
    except NotAuthorised as exc:
        yield exc


def _pod(job: Object) -> Object:
    template = job["spec"]["template"]
    # The account of the conductor comes with the run.
    spec = {key: value for key, value in template["spec"].items() if key != "serviceAccountName"}
    metadata = dict(template["metadata"]) | {"name": f"{job['metadata']['name']}-try"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
