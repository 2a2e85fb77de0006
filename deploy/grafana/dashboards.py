"""Writes the four dashboards beside it: `python deploy/grafana/dashboards.py`.

They ask any Prometheus (a variable of each dashboard says which) for the metrics of
docs/metrics.md, under the scrape jobs pixtide-ingest and pixtide-query.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
_WIDTH, _HEIGHT = 12, 8
_PROMETHEUS = {"type": "prometheus", "uid": "${prometheus}"}
#: Of one or several generations, as the dashboard's variable says.
_OF = '{generation=~"$generation"}'


@dataclass(frozen=True)
class Panel:
    """One graph. `queries` are PromQL by legend; `unit` is one of Grafana's."""

    title: str
    meaning: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    stacked: bool = False

    def as_json(self, number: int) -> dict[str, Any]:
        """The panel as Grafana reads it, two in a row."""
        column, row = number % 2, number // 2
        stacking = {"stacking": {"mode": "normal"}, "fillOpacity": 30} if self.stacked else {}
        return {
            "id": number + 1,
            "type": self.kind,
            "title": self.title,
            "description": self.meaning,
            "datasource": _PROMETHEUS,
            "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
            "fieldConfig": {
                "defaults": {"unit": self.unit, "min": 0, "custom": stacking},
                "overrides": [],
            },
            "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
            "targets": [
                {
                    "refId": chr(ord("A") + place),
                    "datasource": _PROMETHEUS,
                    "expr": expression,
                    "legendFormat": legend,
                }
                for place, (legend, expression) in enumerate(self.queries.items())
            ],
        }


def _sum(metric: str, by: str = "", where: str = "") -> str:
    return f"sum by ({by}) ({metric}{where})"


def _rate(metric: str, by: str = "", where: str = "", over: str = "$__rate_interval") -> str:
    return f"sum by ({by}) (rate({metric}{where}[{over}]))"


def _mean(metric: str, by: str = "", where: str = "") -> str:
    """Of a histogram's values."""
    return f"{_rate(f'{metric}_sum', by, where)} / {_rate(f'{metric}_count', by, where)}"


def _increase(metric: str, by: str, over: str) -> str:
    return f"sum by ({by}) (increase({metric}{_OF}[{over}]))"


def _memory(job: str) -> str:
    return _sum("process_resident_memory_bytes", "instance", f'{{job="{job}"}}')


def _quantiles(metric: str, by: str, where: str = "") -> dict[str, str]:
    buckets = _rate(f"{metric}_bucket", f"le, {by}", where)
    return {
        f"{{{{{by}}}}} p{percent}": f"histogram_quantile({percent / 100}, {buckets})"
        for percent in (50, 95)
    }


INGEST = (
    Panel(
        "Events waiting",
        "Between the log's end and what the group has committed.",
        {"{{generation}}": _sum("pixtide_ingest_lag_records", "generation", _OF)},
    ),
    Panel(
        "Events finished",
        "By what became of them.",
        {"{{outcome}}": _rate("pixtide_ingest_outcomes_total", "outcome", _OF)},
        unit="ops",
        stacked=True,
    ),
    Panel(
        "Where time goes",
        "Seconds of work in a second, by stage; fetch runs in many threads, encode in one.",
        {"{{stage}}": _rate("pixtide_ingest_stage_seconds_sum", "stage", _OF)},
        unit="s",
        stacked=True,
    ),
    Panel(
        "Time of a stage",
        "For one record; of encode and write its share of a batch's.",
        _quantiles("pixtide_ingest_stage_seconds", "stage", _OF),
        unit="s",
    ),
    Panel(
        "Pictures encoded at once",
        "Well below the batch size means that the encoder waits for pictures.",
        {"{{generation}}": _mean("pixtide_ingest_batch_pictures", "generation", _OF)},
    ),
    Panel(
        "In flight",
        "Records taken on and not finished.",
        {"{{instance}}": _sum("pixtide_ingest_in_flight_records", "instance", _OF)},
    ),
    Panel(
        "Memory",
        "Of each worker's process, and of the records in flight within.",
        {
            "{{instance}}": _memory("pixtide-ingest"),
            "{{instance}} in flight": _sum("pixtide_ingest_in_flight_bytes", "instance", _OF),
        },
        unit="bytes",
    ),
    Panel(
        "Waiting for something",
        "Threads that try a step again because a server, the disk or the device is unwell.",
        {"{{step}}": _sum("pixtide_ingest_retrying", "step", _OF)},
    ),
    Panel(
        "Failed attempts",
        "Attempts that failed for now, by step.",
        {"{{step}}": _rate("pixtide_ingest_retries_total", "step", _OF)},
        unit="ops",
    ),
    Panel(
        "Ready, and taking on",
        "Workers that do their work; those that take on no records, by reason.",
        {
            "ready": 'sum(pixtide_ready{job="pixtide-ingest"})',
            "paused: {{reason}}": _sum("pixtide_ingest_paused", "reason", _OF),
        },
    ),
)

SEARCH = (
    Panel(
        "Replies",
        "By code; OK is no error.",
        {"{{code}}": _rate("pixtide_query_replies_total", "code")},
        unit="reqps",
        stacked=True,
    ),
    Panel(
        "Requests waiting",
        "Not answered yet, in the log and in the consumers' queues.",
        {
            "in the log": _sum("pixtide_query_lag_records"),
            "in queues": _sum("pixtide_query_queue_requests"),
        },
    ),
    Panel(
        "Time of a stage",
        "For one batch.",
        _quantiles("pixtide_query_stage_seconds", "stage"),
        unit="s",
    ),
    Panel(
        "Requests answered at once",
        "Grows with the load; a batch costs hardly more than one.",
        {"mean": _mean("pixtide_query_batch_requests")},
    ),
    Panel(
        "Dropped",
        "Past their deadline, not taken by the broker, or with a reply topic that isn't allowed.",
        {
            "expired": _rate("pixtide_query_expired_total"),
            "undelivered": _rate("pixtide_query_undelivered_replies_total"),
            "forbidden reply topic": _rate("pixtide_query_forbidden_reply_topics_total"),
        },
        unit="reqps",
    ),
    Panel(
        "Remembered",
        "Requests answered from remembered replies; texts whose vectors are remembered.",
        {
            "replies": _rate("pixtide_query_cached_replies_total"),
            "texts": _sum("pixtide_query_texts_cached"),
        },
    ),
    Panel(
        "Served from",
        "Consumers by generation; two for longer than seconds is a consumer that stays behind.",
        {"{{generation}}": "count by (generation) (pixtide_query_snapshot)"},
        stacked=True,
    ),
    Panel(
        "Memory",
        "Of each consumer's process.",
        {"{{instance}}": _memory("pixtide-query")},
        unit="bytes",
    ),
)

REINDEX = (
    Panel(
        "Events waiting, by generation",
        "A generation may be promoted when it has caught up and was verified.",
        {"{{generation}}": _sum("pixtide_ingest_lag_records", "generation")},
    ),
    Panel(
        "Time left",
        "At the pace of the last ten minutes.",
        {
            "{{generation}}": _sum("pixtide_ingest_lag_records", "generation")
            + " / "
            + _rate("pixtide_ingest_outcomes_total", "generation", over="10m")
        },
        unit="s",
    ),
    Panel(
        "Events finished, by generation",
        "The live generation must keep its pace while another is built.",
        {"{{generation}}": _rate("pixtide_ingest_outcomes_total", "generation")},
        unit="ops",
    ),
    Panel(
        "Workers",
        "Of each generation, and query consumers that serve it.",
        {
            "ingest {{generation}}": "count by (generation) (pixtide_ingest_in_flight_records)",
            "query {{generation}}": "count by (generation) (pixtide_query_snapshot)",
        },
    ),
    Panel(
        "Time to encode a picture",
        "By generation.",
        {"{{generation}}": _mean("pixtide_ingest_stage_seconds", "generation", '{stage="encode"}')},
        unit="s",
    ),
    Panel(
        "Dead letters, by generation",
        "A source that has gone since is a dead letter of the new generation alone.",
        {"{{generation}}": _rate("pixtide_ingest_dead_letters_total", "generation")},
        unit="ops",
    ),
)

DEAD_LETTERS = (
    Panel(
        "Dead letters",
        "By code; docs/contracts.md says what each means.",
        {"{{code}}": _rate("pixtide_ingest_dead_letters_total", "code", _OF)},
        unit="ops",
        stacked=True,
    ),
    Panel(
        "Share of all events",
        "Above 95 % of its last 200 records a worker stops.",
        {
            "{{generation}}": _rate("pixtide_ingest_dead_letters_total", "generation", _OF)
            + " / "
            + _rate("pixtide_ingest_outcomes_total", "generation", _OF)
        },
        unit="percentunit",
    ),
    Panel(
        "In the last hour",
        "By code.",
        {"{{code}}": _increase("pixtide_ingest_dead_letters_total", "code", "1h")},
        kind="bargauge",
    ),
    Panel(
        "In the last day",
        "By code and generation.",
        {
            "{{code}} {{generation}}": _increase(
                "pixtide_ingest_dead_letters_total", "code, generation", "1d"
            )
        },
        kind="bargauge",
    ),
)

BOARDS = {
    "ingest": ("pixtide: ingest", INGEST),
    "search": ("pixtide: search", SEARCH),
    "reindex": ("pixtide: reindex", REINDEX),
    "dead-letters": ("pixtide: dead letters", DEAD_LETTERS),
}


def _variables(panels: tuple[Panel, ...]) -> list[dict[str, Any]]:
    source = {
        "name": "prometheus",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
    }
    generation = {
        "name": "generation",
        "label": "Generation",
        "type": "query",
        "datasource": _PROMETHEUS,
        "query": "label_values(pixtide_ingest_in_flight_records, generation)",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }
    chosen = any("$generation" in query for panel in panels for query in panel.queries.values())
    return [source, generation] if chosen else [source]


def dashboard(name: str) -> str:
    """A dashboard's file, as it should be."""
    title, panels = BOARDS[name]
    content = {
        "uid": f"pixtide-{name}",
        "title": title,
        "tags": ["pixtide"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": _variables(panels)},
        "panels": [panel.as_json(number) for number, panel in enumerate(panels)],
    }
    return json.dumps(content, indent=1) + "\n"


if __name__ == "__main__":
    for board in BOARDS:
        (FOLDER / f"{board}.json").write_text(dashboard(board))
