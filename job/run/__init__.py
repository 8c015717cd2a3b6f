"""One run of the job: its parts wired, its items drained, its exit code found."""

from job.run.course import Run

__all__ = ["Run"]
