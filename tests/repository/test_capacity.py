"""The capacity page holds what the script reckons, and the script's formulas hold together."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.scripts import capacity

PAGE = Path(__file__).parents[2] / "deploy" / "CAPACITY.md"


def test_the_page_is_what_the_script_reckons() -> None:
    assert PAGE.read_text() == capacity().page(), "run: python deploy/capacity.py --write"


@pytest.mark.parametrize(
    ("compression", "sizes"),
    [
        ("none", {384: 1536, 512: 2048}),
        ("rq8", {8: 80, 384: 400, 512: 528, 1000: 1040}),
        ("rq1", {8: 40, 384: 56, 1024: 136}),
        ("pq", {64: 32, 63: 63, 384: 96, 768: 128, 1024: 256, 4096: 512}),
    ],
)
def test_bytes_of_a_vector(compression: str, sizes: dict[int, int]) -> None:
    found = {each: capacity().bytes_a_vector(compression, each) for each in sizes}
    assert found == sizes


def test_ten_times_the_pictures_need_ten_times_the_memory() -> None:
    plan, known = capacity().Plan(pictures=1e9), capacity().measured("rq8")
    small, large = (capacity().need(replace(plan, pictures=n), known) for n in (1e8, 1e9))
    assert large.memory_gib == pytest.approx(10 * small.memory_gib)
    assert large.disk_tb == pytest.approx(10 * small.disk_tb)
    assert large.nodes * plan.node_gib * 0.8 >= large.memory_gib
    assert large.partitions >= large.workers
    assert large.reindex_hours <= plan.reindex_days * 24


def test_smaller_vectors_need_less_memory() -> None:
    plan = capacity().Plan(pictures=1e8)
    sizes = [
        capacity().need(replace(plan, compression=name), capacity().measured(name)).memory_gib
        for name in ("none", "rq8", "pq", "rq1")
    ]
    assert sizes == sorted(sizes, reverse=True)


def test_the_command_prints_one_column(capsys: pytest.CaptureFixture[str]) -> None:
    capacity().main(["--pictures", "1e7", "--compression", "none", "--dimension", "768"])
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert head == "| | 1e7 none |"
    assert "| bytes a vector in memory | 3,072 |" in lines
