"""`aios data report DIR`: what an ingestion said, again; plots on request."""

from __future__ import annotations

from pathlib import Path

import click
import orjson

from jobs.contract.errors import UpstreamMissing
from jobs.contract.files import to_json
from jobs.contract.manifest import verify
from jobs.contract.splits import REPORT_NAME


@click.command(name="report")
@click.argument("folder", metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="Print schema_report.json itself on stdout.")
@click.option(
    "--plots",
    metavar="DIR",
    help="Also draw the plots into this folder: drops, lengths, verdicts and annotators.",
)
@click.option(
    "--plot-format",
    type=click.Choice(["png", "svg"]),
    default="png",
    show_default=True,
    help="File format of the plots.",
)
def command(folder: str, as_json: bool, plots: str | None, plot_format: str) -> None:
    """Show the report of a data folder again, with plots on request.

    \b
    Example:
      aios data report training_data/curated_datasets/preferences --plots report
    """
    from jobs.ingest.summary import print_summary

    verify(Path(folder), step="ingest", content=False)
    try:
        report = orjson.loads((Path(folder) / REPORT_NAME).read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError) as exc:
        raise UpstreamMissing(f"{folder} has no readable {REPORT_NAME}", next_step="ingest the export again") from exc
    if as_json:
        click.echo(to_json(report).decode(), nl=False)
    else:
        print_summary(report, folder)
    if plots:
        from jobs.ingest.plots import draw

        for path in draw(report, Path(plots), plot_format):
            click.echo(str(path), err=True)
