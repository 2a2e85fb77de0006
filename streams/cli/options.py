"""Options that several commands have."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    pass


json_option = click.option("--json", "as_json", is_flag=True, help="For machines: JSON lines.")

compression_option = click.option(
    "--compression",
    type=click.Choice(["rq8", "rq1", "pq", "none"]),
    default="rq8",
    show_default=True,
    help="Of the vectors in Weaviate; the embedded index has its own, of 8 bits.",
)

max_rate_option = click.option(
    "--max-rate", type=click.FloatRange(min=0.1), help="Events a second, and no more."
)
