"""Logging set-up from `config/logging.yaml`, once per command; a step adds its own file."""

from __future__ import annotations

import contextlib
import logging
import logging.config
from collections.abc import Iterator
from pathlib import Path

import yaml

from jobs.contract.files import make_folder
from jobs.contract.redact import redact
from jobs.contract.resources import resource

LOG = logging.getLogger("aios")


def set_up_logging() -> None:
    """Configure handlers and levels; the file of the working directory wins over the packaged one."""
    logging.config.dictConfig(yaml.safe_load(resource("config/logging.yaml").read_text(encoding="utf-8")))


class _Redacting(logging.Formatter):
    """Formats without secrets, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


@contextlib.contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Append everything to a file while the block runs, the traceback of an error that leaves it included."""
    make_folder(path.parent)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_Redacting("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(), LOG]
    logging.captureWarnings(True)
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    except BaseException as exc:
        handler.handle(
            LOG.makeRecord("aios", logging.ERROR, __file__, 0, str(exc), (), (type(exc), exc, exc.__traceback__))
        )
        raise
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()
        logging.captureWarnings(False)
