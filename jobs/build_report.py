"""Render the night as one self-contained HTML page and print its tables on the terminal.

Reads runs, every other table and the checkpoints. Writes <warehouse>/../report.html (or --out).
"""

from precise_core.artefacts import REPORT
from precise_core.command import command, flag
from precise_core.report.page import build_report, print_summary
from precise_core.run.job import Job
from precise_core.store import above, below
from schemas import RUNS


@command(flag("--out", "where to write the page; beside the warehouse by default", metavar="FILE"))
def main(job: Job) -> None:
    out = job.arguments.out or below(above(job.root), REPORT)
    job.pin(RUNS)
    written = build_report(job.root, job.settings, out)
    print_summary(job.root, job.settings)
    job.say(f"report: {written}")
    job.balance("reports", rows_in=1, rows_out=1)


if __name__ == "__main__":
    raise SystemExit(main())
