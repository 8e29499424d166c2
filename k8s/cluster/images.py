"""Whether the images of a run are on the nodes, or in a registry that says so."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from urllib.parse import urlencode, urlsplit

from k8s.cluster.client import Api, Object, find
from k8s.cluster.placement import nodes
from k8s.findings import Finding, ok, problem, warning
from k8s.values import Values, enabled_steps

_NODE_LISTS = 50
"""A kubelet reports so many images (nodeStatusMaxImages): of a node that reports fewer we know them all."""
_TYPES = (
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"
)
_TIMEOUT_S = 5.0


def wanted(values: Values) -> list[str]:
    """Return the images of a run, as the chart spells them."""
    default = values["image"]
    images = [step["image"] for step in enabled_steps(values).values()] + [values["conductor"]["image"]]
    references = set()
    for image in images:
        base = f"{default['registry']}/{image['name']}" if default["registry"] else image["name"]
        tail = f"@{image['digest']}" if image.get("digest") else f":{image.get('tag') or default['tag']}"
        references.add(base + tail)
    return sorted(references)


def images(api: Api, values: Values) -> Iterator[Finding]:
    """Yield which images no node has and no registry gives."""
    for secret in values["image"].get("pullSecrets") or []:
        if find(api, "secrets", secret) is None:
            yield problem(
                f"there is no Secret {secret} to pull images with",
                f"kubectl -n {api.namespace} create secret docker-registry {secret} --docker-server=... (see its help)",
            )
    there = nodes(api)
    missing = [image for image in wanted(values) if not _on_a_node(there, image)]
    if not missing:
        yield ok("all images are on a node")
        return
    known = all(len(node["status"].get("images") or []) < _NODE_LISTS for node in there)
    for image in missing:
        if values["image"]["pullPolicy"] == "Never" or _registry(image)[0].partition(":")[0] == "localhost":
            level = problem if known else warning
            yield level(f"no node has {image}, and it cannot be pulled", "make images images-load, or image.registry")
        else:
            yield _in_registry(image)


def _on_a_node(there: list[Object], image: str) -> bool:
    return any(image in (entry.get("names") or []) for node in there for entry in node["status"].get("images") or [])


def _registry(image: str) -> tuple[str, str, str]:
    """Split an image into registry host, repository, and tag or digest, the way container runtimes do."""
    name, _, reference = image.partition("@")
    if not reference:
        name, _, reference = image.rpartition(":")
    host, slash, rest = name.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        return "registry-1.docker.io", name if slash else f"library/{name}", reference
    return host, rest, reference


def _in_registry(image: str) -> Finding:
    """Ask the registry for the image, from here and as nobody."""
    host, repository, reference = _registry(image)
    try:
        status = _ask(host, repository, reference)
    except (OSError, http.client.HTTPException, ValueError, KeyError) as exc:
        status, why = 0, f"{host} cannot be asked from here ({exc})"
    else:
        why = f"{host} answers {status}"
    if status == 200:
        return ok(f"{image} is in its registry")
    if status == 404:
        return problem(
            f"{image} is neither on a node nor in its registry", "push it, or correct image.registry and tag"
        )
    return warning(
        f"no node has {image} yet, and {why}", "the nodes may have better access: image.pullSecrets, a mirror"
    )


def _ask(host: str, repository: str, reference: str) -> int:
    path, headers = f"/v2/{repository}/manifests/{reference}", {"Accept": _TYPES}
    response = _request(host, "HEAD", path, headers)
    challenge = response.headers.get("WWW-Authenticate") or ""
    if response.status == 401 and challenge.lower().startswith("bearer "):
        fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        realm = urlsplit(fields.pop("realm"))
        answer = _request(realm.netloc, "GET", f"{realm.path}?{urlencode(fields)}", {})
        token = json.loads(answer.read())
        headers["Authorization"] = f"Bearer {token.get('token') or token['access_token']}"
        response = _request(host, "HEAD", path, headers)
    return response.status


def _request(host: str, method: str, path: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    connection = http.client.HTTPSConnection(host, timeout=_TIMEOUT_S)
    connection.request(method, path, headers=headers)
    return connection.getresponse()
