"""The table of faults at the end of `make faults`."""

from collections.abc import Iterator

import pytest

_HEADINGS = ("fault", "test", "result", "recovery", "searches")
_RESULTS = {"passed": "survived", "failed": "FAILED", "error": "FAILED", "skipped": "skipped"}

_faults = pytest.StashKey[dict[str, list[str]]]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note which tests show which faults."""
    config.stash[_faults] = {
        item.nodeid: [str(mark.args[0]) for mark in reversed(list(item.iter_markers("fault")))]
        for item in items
        if item.get_closest_marker("fault")
    }


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print it where the run was of faults alone, or of some of them."""
    rows = list(_rows(terminalreporter, config.stash.get(_faults, {})))
    if not rows or not config.option.markexpr.startswith("fault"):
        return
    widths = [max(map(len, column)) for column in zip(_HEADINGS, *rows, strict=True)]
    terminalreporter.section(f"{len(rows)} faults")
    for row in (_HEADINGS, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        terminalreporter.write_line("  ".join(cells).rstrip())


def _rows(
    reporter: pytest.TerminalReporter, faults: dict[str, list[str]]
) -> Iterator[tuple[str, str, str, str, str]]:
    for result, shown in _RESULTS.items():
        for report in reporter.stats.get(result, ()):
            told = dict(report.user_properties)
            recovery = told.get("recovery_s")
            for fault in faults.get(report.nodeid, ()):
                test = report.nodeid.rpartition("/")[2]
                took = "" if recovery is None else f"{recovery} s"
                yield fault, test, shown, took, str(told.get("searches", ""))
