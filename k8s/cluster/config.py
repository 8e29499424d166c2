"""Where the API server is and how to sign in: a kubeconfig, or the service account of the pod we are in."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from jobs.contract.errors import EnvironmentUnfit, NotAuthorised

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TOKEN_AGE_S = 60.0


@dataclass(slots=True)
class Connection:
    """An API server and the headers that it wants."""

    server: str
    namespace: str
    tls: ssl.SSLContext | None
    token: Callable[[], str] = field(default=lambda: "")
    context: str = ""


def connect(context: str | None = None, namespace: str | None = None) -> Connection:
    """Return the connection that KUBECONFIG, ~/.kube/config or the pod's service account describe.

    Raises:
        EnvironmentUnfit: there is none, or it is incomplete.
    """
    paths = [Path(part) for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    if not paths and not (Path.home() / ".kube" / "config").exists() and (_ACCOUNT / "token").exists():
        connection = _in_cluster()
    else:
        connection = _from_kubeconfig(paths or [Path.home() / ".kube" / "config"], context)
    if namespace:
        connection.namespace = namespace
    return connection


def _in_cluster() -> Connection:
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    host = f"[{host}]" if ":" in host else host
    return Connection(
        server=f"https://{host}:{port}",
        namespace=(_ACCOUNT / "namespace").read_text(encoding="ascii").strip(),
        tls=ssl.create_default_context(cafile=str(_ACCOUNT / "ca.crt")),
        token=_file_token(_ACCOUNT / "token"),
    )


def _file_token(path: Path) -> Callable[[], str]:
    """Read a token that is rotated: at most a minute old."""
    kept = ("", -_TOKEN_AGE_S)

    def token() -> str:
        nonlocal kept
        if time.monotonic() - kept[1] >= _TOKEN_AGE_S:
            kept = (path.read_text(encoding="ascii").strip(), time.monotonic())
        return kept[0]

    return token


def _from_kubeconfig(paths: list[Path], name: str | None) -> Connection:
    document: dict[str, Any] = {}
    where = os.pathsep.join(str(path) for path in paths)
    found = [path for path in paths if path.is_file()]
    if not found:
        raise EnvironmentUnfit(
            f"no kubeconfig at {where}", next_step="set KUBECONFIG, or use --profile local to run on this machine"
        )
    for path in found:
        for key, value in _parse(path).items():
            document[key] = document.get(key, []) + value if isinstance(value, list) else document.get(key) or value
    name = name or document.get("current-context") or ""
    context = _named(document, "contexts", name, where).get("context") or {}
    cluster = _named(document, "clusters", context.get("cluster", ""), where).get("cluster") or {}
    user = _named(document, "users", context["user"], where).get("user") or {} if context.get("user") else {}
    return Connection(
        server=cluster.get("server", "").rstrip("/"),
        namespace=context.get("namespace") or "default",
        tls=_tls(cluster, user, found[0].parent),
        token=_user_token(user, found[0].parent),
        context=name,
    )


def _parse(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise EnvironmentUnfit(f"{path} cannot be read as a kubeconfig: {exc}") from exc
    return document if isinstance(document, dict) else {}


def _named(document: dict[str, Any], kind: str, name: str, where: str) -> dict[str, Any]:
    entries = document.get(kind) or []
    for entry in entries:
        if entry.get("name") == name:
            return dict(entry)
    known = ", ".join(str(entry.get("name")) for entry in entries) or "none"
    raise EnvironmentUnfit(
        f"the kubeconfig {where} has no {kind[:-1]} {name!r}",
        needed=f"one of: {known}",
        next_step="see `kubectl config`",
    )


def _tls(cluster: dict[str, Any], user: dict[str, Any], folder: Path) -> ssl.SSLContext | None:
    if not cluster.get("server", "").startswith("https:"):
        return None
    authority = _material(cluster, "certificate-authority", folder)
    context = ssl.create_default_context(cadata=authority) if authority else ssl.create_default_context()
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate, key = _material(user, "client-certificate", folder), _material(user, "client-key", folder)
    if certificate and key:
        # The ssl module reads certificates from files only; they are gone again before anybody can look.
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "client.pem"
            file.touch(mode=0o600)
            file.write_text(f"{certificate}\n{key}", encoding="ascii")
            context.load_cert_chain(file)
    return context


def _material(entry: dict[str, Any], key: str, folder: Path) -> str:
    if entry.get(f"{key}-data"):
        return base64.b64decode(entry[f"{key}-data"]).decode("ascii")
    return (folder / entry[key]).read_text(encoding="ascii") if entry.get(key) else ""


def _user_token(user: dict[str, Any], folder: Path) -> Callable[[], str]:
    if user.get("token"):
        return lambda: str(user["token"])
    if user.get("tokenFile"):
        return _file_token(folder / user["tokenFile"])
    if user.get("exec"):
        return _plugin_token(user["exec"])
    return lambda: ""


def _plugin_token(plugin: dict[str, Any]) -> Callable[[], str]:
    """Ask a credential plugin (cloud providers' way to sign in) and keep its token until shortly before it ends."""
    kept: tuple[str, float] = ("", 0.0)

    def token() -> str:
        nonlocal kept
        if time.time() < kept[1]:
            return kept[0]
        environment = os.environ | {item["name"]: item["value"] for item in plugin.get("env") or []}
        command = [plugin["command"], *(plugin.get("args") or [])]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
            status = json.loads(done.stdout)["status"]
        except FileNotFoundError as exc:
            raise EnvironmentUnfit(f"the kubeconfig signs in with {command[0]}, which is not installed") from exc
        except subprocess.CalledProcessError as exc:
            raise NotAuthorised(f"{command[0]} failed: {exc.stderr.strip()[-300:]}", next_step="sign in again") from exc
        except (subprocess.TimeoutExpired, json.JSONDecodeError, KeyError) as exc:
            raise NotAuthorised(f"{command[0]} gave no credentials ({exc})", next_step="sign in again") from exc
        kept = (str(status.get("token", "")), _expiry(status))
        return kept[0]

    return token


def _expiry(status: dict[str, Any]) -> float:
    with contextlib.suppress(KeyError, ValueError):
        stamp = time.strptime(status["expirationTimestamp"], "%Y-%m-%dT%H:%M:%SZ")
        return time.mktime(stamp) - time.timezone - 60
    return time.time() + 300
