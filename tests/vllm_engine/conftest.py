"""Models, engines and servers that several tests share: each start costs half a minute and more on two cores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Server, serving

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vllm")


@pytest.fixture(scope="session")
def pair(folder: Path) -> tuple[Path, Path]:
    """The folders of an early and a late Qwen3."""
    from pairs import saved_pair

    return saved_pair(folder / "pair", "qwen3")


@pytest.fixture(scope="module")
def server(folder: Path, pair: tuple[Path, Path]) -> Iterator[Server]:
    """The pair at alpha 1.5, with prefix caching, as it is by default."""
    early, late = pair
    words = ("--early", str(early), "--late", str(late), "--alpha", "1.5", "--name", "pair")
    with serving(folder / "server.log", *words) as started:
        yield started
