"""What `make bench-ingest` has measured, as tables."""

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from tests.benchmarks.pairs import Ratio

_NAMES = {"embedded": "embedded broker, LanceDB", "servers": "Apache Kafka, Weaviate"}
#: What performance is aimed at.
_SHARE, _DUPLICATES = 0.85, 0.9
_LOOP = {"drain": 0.8, "faust": 3.0, "quixstreams": 2.0}
_SAID_OF = {
    "drain": "a bare confluent drain",
    "faust": "faust, one by one",
    "quixstreams": "quixstreams",
}


def table(results: Mapping[str, Any]) -> str:
    """All parts that were measured, in Markdown."""
    machine = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    ends = {name: results[part] for part, name in _NAMES.items() if part in results}
    lines = [
        "# Ingest",
        "",
        f"Made by `make bench-ingest` on: {machine}.",
        "",
        *(_end_to_end(ends) if ends else ()),
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
            f"| {name} | {new:.0f} | {limit:.0f} | {share} | {_SHARE} | {duplicates} | {goal:.2f} "
            f"| {part['ready_s']} s |"
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
    yield from ("", "As the index grows, and the memory of the worker and its decoders:", "")
    for name, part in parts.items():
        yield from _growth(name, part["growth"])
    yield "What `pixtide ingest --profile` said of each in the end:"
    yield ""
    for name, part in parts.items():
        yield from (f"{name}:", "", "```text", *part["profile"], "```", "")


def _growth(name: str, growth: list[dict[str, float]]) -> Iterator[str]:
    shown = [each for n, each in enumerate(growth, 1) if n in (1, 2, 5, len(growth)) or n % 25 == 0]
    yield from (
        f"| {name}: pictures | " + " | ".join(f"{each['pictures']:,}" for each in shown) + " |",
        "|---|" + "---:|" * len(shown),
        "| a second, in the last 1,000 | "
        + " | ".join(f"{each['per_second']:.0f}" for each in shown)
        + " |",
        "| MiB | " + " | ".join(f"{each['MiB']:,.0f}" for each in shown) + " |",
        "",
    )


def _loop(kinds: Mapping[str, Any]) -> Iterator[str]:
    yield from (
        "## The consumer loop",
        "",
        "Consumers of the same records on Apache Kafka that do nothing with them: pixtide's is the "
        "worker's main loop, which polls, keeps the order of keys and commits what is finished. "
        "Each in a process of its own, libraries capped to one thread, in turns.",
        "",
        "| records | contender | a second | pixtide against it | goal |",
        "|---|---|---:|---:|---:|",
    )
    for kind, part in kinds.items():
        for name, figures in part["turns"].items():
            middle = statistics.median(figures)
            compared = part["ratios"].get(name)
            against = f"{_ratio(compared)} | {_LOOP[name]:g} ×" if compared else " | "
            called = _SAID_OF.get(name, name)
            yield f"| {kind}, {part['bytes']:,} bytes | {called} | {middle:,.0f} | {against} |"
    yield ""


def _start(took: Mapping[str, float]) -> Iterator[str]:
    yield from ("## Start", "", "| until it does its work | s | goal |", "|---|---:|---:|")
    for name, seconds in took.items():
        yield f"| `{name}` | {seconds} | 0.5 |"
    yield ""


def _ratio(raw: Mapping[str, Any]) -> Ratio:
    return Ratio(**{name: raw[name] for name in ("median", "low", "high", "pairs")})
