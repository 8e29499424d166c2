"""`aios data argilla-export`: an Argilla export becomes train, eval and test splits with a report.

aios data argilla-export --input export.jsonl --output training_data/curated_datasets/preferences --format trl
"""

from __future__ import annotations

import sys

import click

from jobs.config.ingest import IngestConfig
from jobs.contract.child import report_result
from jobs.contract.errors import GateFailed
from jobs.contract.files import to_json
from jobs.options import config_options


@click.command(name="argilla-export")
@config_options(IngestConfig)
def command(config: IngestConfig) -> None:
    """Turn an Argilla export into train/eval/test splits.

    What kind of export it is and which question decides is found out from the content, printed, and written into
    schema_report.json; what a file cannot tell is refused with the remedy. Submitted answers only; the unique
    plurality of the annotators wins; every record that is not in the splits is counted under a reason.

    \b
    Example:
      aios data argilla-export --input export.jsonl --output training_data/curated_datasets/preferences
    """
    from jobs.ingest.report import gate_failures
    from jobs.ingest.run import ingest
    from jobs.ingest.summary import Meter, print_summary

    with Meter(sys.stderr) as meter:
        outcome = ingest(config, meter.update)
    if config.json:
        click.echo(to_json(outcome.report).decode(), nl=False)
    else:
        state = "already there, nothing to do" if outcome.skipped else "published"
        print_summary(outcome.report, f"{config.output}: {state}")
    for warning in outcome.report["warnings"]:
        click.echo(f"Warning: {warning}", err=True)
    failed = gate_failures(outcome.report, config)
    if failed:
        raise GateFailed(
            f"published, but {'; '.join(failed)}",
            next_step=f"look at the drops in {config.output}/schema_report.json and mend the export",
        )
    report_result(exit_code=0, message="published", manifest_sha256=outcome.manifest.sha256, skipped=outcome.skipped)
