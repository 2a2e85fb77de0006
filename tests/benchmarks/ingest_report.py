"""What `make bench-ingest` has measured, as tables."""

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from tests.benchmarks.pairs import Ratio
from tests.benchmarks.plot import curves

_NAMES = {"embedded": "embedded broker, LanceDB", "servers": "Apache Kafka, Weaviate"}
#: By a part that watches an index grow, what it grows in.
GROWN = {"growth": _NAMES["embedded"], "growth-servers": _NAMES["servers"]}
#: What performance is aimed at.
_SHARE, _DUPLICATES = 0.85, 0.9
_LOOP = {"drain": 0.8, "faust": 3.0, "quixstreams": 2.0}
_SAID_OF = {
    "drain": "a bare confluent drain",
    "poll": "the same, one by one",
    "faust": "faust, one by one",
    "quixstreams": "quixstreams",
}


def table(results: Mapping[str, Any]) -> str:
    """All parts that were measured, in Markdown."""
    machine = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    ends = {name: results[part] for part, name in _NAMES.items() if part in results}
    grown = {name: results[part] for part, name in GROWN.items() if part in results}
    lines = [
        "# Ingest",
        "",
        f"Made by `make bench-ingest` on: {machine}.",
        "",
        *(_end_to_end(ends) if ends else ()),
        *(_growth(grown) if grown else ()),
        *(_loop(results["loop"]) if "loop" in results else ()),
        *(_start(results["start"]) if "start" in results else ()),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _end_to_end(parts: Mapping[str, Any]) -> Iterator[str]:
    yield from (
        "## End to end",
        "",
        "Starter model in fp32; JPEGs of 0.26 MP and 43 kB in the middle, as files that events "
        "name on the embedded parts, and on servers in their events; broker, "
        "index, worker and publisher share the machine. The limit is cores ÷ the sum of what each "
        "stage takes by itself, on one core: what a pipeline could reach that lost nothing, and "
        "in which broker and publisher cost nothing. Stretches of "
        "new pictures, stretches with 30 % duplicates and the stages alone took turns, "
        f"{next(iter(parts.values()))['share_of_limit']['pairs']} of each, forwards and backwards; "
        "ratios are medians of the turns' ratios, with their bootstrapped 95 % interval.",
        "",
        "| | pictures/s | limit | share of it | goal | with 30 % duplicates | goal | ready after |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    )
    for name, part in parts.items():
        new, limit = (statistics.median(part["turns"][each]) for each in ("new", "limit"))
        goal = _DUPLICATES / (1 - part["duplicates"]["share"])
        share, duplicates = _ratio(part["share_of_limit"]), _ratio(part["duplicates"])
        yield (
            f"| {name} | {new:.0f} | {limit:.0f} | {share} | {_SHARE} "
            f"| {duplicates} | {goal:.2f} | {part['ready_s']} s |"
        )
    stages = list(next(iter(parts.values()))["stages_ms"])
    yield from (
        "",
        "Milliseconds a picture in each stage alone, on one core, in batches of 16:",
        "",
        f"| | {' | '.join(stages)} | sum |",
        "|---|" + "---:|" * (len(stages) + 1),
    )
    for name, part in parts.items():
        each = part["stages_ms"].values()
        yield f"| {name} | {' | '.join(map(str, each))} | {sum(each):.1f} |"
    yield ""
    yield from _profiles(parts)


def _growth(parts: Mapping[str, Any]) -> Iterator[str]:
    yield from (
        "## As the index grows",
        "",
        "From nothing, with a tiny model (one layer, 512 dimensions) and JPEGs of 96 × 96, 2 kB, "
        "each with pixels of its own, so that what is measured is all but the model: pipeline, "
        "index and log. The rate is that of the pictures since the column before, among which the "
        "publisher shares the machine; the memory is that of the worker and its decoders. It "
        "ends where its time is over.",
        "",
    )
    for name, part in parts.items():
        steps = part["steps"]
        yield from (
            f"| {name}: pictures | " + " | ".join(f"{each['pictures']:,}" for each in steps) + " |",
            "|---|" + "---:|" * len(steps),
            "| a second | " + " | ".join(f"{each['per_second']:.0f}" for each in steps) + " |",
            "| MiB | " + " | ".join(f"{each['MiB']:,.0f}" for each in steps) + " |",
            "",
        )
    yield from ("![Rate and memory as the index grows](ingest.svg)", "")
    yield from _profiles(parts)


def _profiles(parts: Mapping[str, Any]) -> Iterator[str]:
    yield "What `pixtide ingest --profile` said of each in the end:"
    yield ""
    for name, part in parts.items():
        yield from (f"{name}:", "", "```text", *part["profile"], "```", "")


def plot(results: Mapping[str, Any]) -> str:
    """Rates and memory as the index grows."""
    series = {}
    for part, name in GROWN.items():
        for what, label in (("per_second", "pictures/s"), ("MiB", "MiB")):
            if part in results:
                points = [(each["pictures"], each[what]) for each in results[part]["steps"]]
                series[f"{label}, {name.split()[-1]}"] = points
    return curves(series, x="pictures in the index")


def _loop(kinds: Mapping[str, Any]) -> Iterator[str]:
    yield from (
        "## The consumer loop",
        "",
        "Consumers of the same records on Apache Kafka that do nothing with them: pixtide's is the "
        "worker's main loop, which polls, keeps the order of keys and commits what is finished. "
        "Each in a process of its own, libraries capped to one thread, in turns. A drain takes 500 "
        "at once.",
        "",
        "| records | contender | a second | pixtide against it | goal |",
        "|---|---|---:|---:|---:|",
    )
    for kind, part in kinds.items():
        for name, figures in part["turns"].items():
            middle = part["failed"].get(name) or f"{statistics.median(figures):,.0f}"
            compared = part["ratios"].get(name)
            goal = f"{_LOOP[name]:g} ×" if name in _LOOP else ""
            against = f"{_ratio(compared)} | {goal}" if compared else f"| {goal}"
            called = _SAID_OF.get(name, name)
            yield f"| {kind}, {part['bytes']:,} bytes | {called} | {middle} | {against} |"
    yield from (
        "",
        "Why it is slower than a drain: it polls one by one, since partitions may go to another "
        "worker between any two records, and then notes of each its fields, its trace, its place "
        "among its key's and what may be committed, which a drain doesn't. A picture takes a "
        "thousand times as long. Of large records it holds 32 MB ahead at most, where the others "
        "hold 64 MB or more.",
        "",
    )


def _start(took: Mapping[str, float]) -> Iterator[str]:
    yield from ("## Start", "", "| until it does its work | s | goal |", "|---|---:|---:|")
    for name, seconds in took.items():
        yield f"| `{name}` | {seconds} | 0.5 |"
    yield ""


def _ratio(raw: Mapping[str, Any]) -> Ratio:
    return Ratio(**{name: raw[name] for name in ("median", "low", "high", "pairs")})
