"""The capacity page holds what the script reckons, and the script's formulas hold together."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search.generations import Compression
from tests.benchmarks.compression_report import bytes_a_vector

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture(scope="module")
def capacity() -> Any:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("capacity", DEPLOY / "capacity.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["capacity"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_script_reckons(capacity: Any) -> None:
    page = (DEPLOY / "CAPACITY.md").read_text()
    assert page == capacity.page(), "run: python deploy/capacity.py --write"


@pytest.mark.parametrize("compression", ["none", "rq8", "rq1", "pq"])
@pytest.mark.parametrize("dimension", [64, 384, 512, 768, 1024, 4096])
def test_vectors_are_as_large_as_in_the_benchmark(
    capacity: Any, compression: Compression, dimension: int
) -> None:
    assert capacity.bytes_a_vector(compression, dimension) == bytes_a_vector(compression, dimension)


def test_ten_times_the_pictures_need_ten_times_the_memory(capacity: Any) -> None:
    plan, known = capacity.Plan(pictures=1e9), capacity.measured("rq8")
    small, large = (capacity.need(replace(plan, pictures=n), known) for n in (1e8, 1e9))
    assert large.memory_gib == pytest.approx(10 * small.memory_gib)
    assert large.disk_tb == pytest.approx(10 * small.disk_tb)
    assert large.nodes * plan.node_gib * 0.8 >= large.memory_gib
    assert large.partitions >= large.workers
    assert large.reindex_hours <= plan.reindex_days * 24


def test_smaller_vectors_need_less_memory(capacity: Any) -> None:
    plan = capacity.Plan(pictures=1e8)
    sizes = [
        capacity.need(replace(plan, compression=name), capacity.measured(name)).memory_gib
        for name in ("none", "rq8", "pq", "rq1")
    ]
    assert sizes == sorted(sizes, reverse=True)


def test_the_command_prints_one_column(capacity: Any, capsys: pytest.CaptureFixture[str]) -> None:
    capacity.main(["--pictures", "1e7", "--compression", "none", "--dimension", "768"])
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert head == "| | 1e7 none |"
    assert "| bytes a vector in memory | 3,072 |" in lines
