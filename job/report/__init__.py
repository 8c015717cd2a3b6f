"""Report: the page of a run, one HTML file with its outcome, timeline, pictures, failures and settings."""

from job.report.collector import Collector
from job.report.recorder import AttemptRecorder
from job.report.run_report import Report, SimulationReport
from job.report.view import RunFacts

__all__ = ["AttemptRecorder", "Collector", "Report", "RunFacts", "SimulationReport"]
