"""What a module writes to the log, whoever has configured the log before."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs


@contextmanager
def logged(module: ModuleType) -> Iterator[list[MutableMapping[str, Any]]]:
    """The lines of ``module.log`` during a block, of every level: whoever has configured the log chose another."""
    with pytest.MonkeyPatch.context() as patch, capture_logs() as lines:
        patch.setattr(
            module, "log", structlog.wrap_logger(None, wrapper_class=structlog.make_filtering_bound_logger(0))
        )
        yield lines
