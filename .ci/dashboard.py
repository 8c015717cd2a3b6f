"""Print the Grafana dashboard as JSON. Change charts.py or this, not what they make; a test compares the two.

usage: .venv/bin/python .ci/dashboard.py >k8s/overlays/monitoring/flagjob-dashboard.json
It needs requirements-e2e.lock, which `make e2e` installs.
"""  # noqa: INP001  (a script, not a package)

import json
import sys
from collections.abc import Sequence

from charts import OPTIONS, Chart
from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as models

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
OUTCOMES = {
    0: "ok",
    1: "bug",
    2: "usage",
    3: "retryable",
    4: "permanent",
    5: "storage",
    6: "origin down",
    7: "deadline",
    129: "SIGHUP",
    130: "SIGINT",
    143: "SIGTERM",
}
"""job.exit_code.Exit, as people read it; a test compares the two."""


def thresholds(chart: Chart) -> dashboard.ThresholdsConfig:
    """Give a value its colour."""
    steps = [models.Threshold(value=value, color=color) for value, color in chart.steps]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def looked_up(anchor: str) -> dashboard.DashboardLink:
    """Link to a place of the runbook."""
    link = dashboard.DashboardLink("Runbook").type(models.DashboardLinkType.LINK)
    return link.url(f"${{runbook}}#{anchor}").target_blank(target_blank=True)


def panel(chart: Chart) -> stat.Panel | timeseries.Panel:
    """Choose how to draw it."""
    if chart.kind in {"stat", "names"}:
        drawn = stat.Panel().graph_mode(looks.BigValueGraphMode.NONE)
        drawn.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        drawn.text_mode(looks.BigValueTextMode.NAME if chart.kind == "names" else looks.BigValueTextMode.AUTO)
        return drawn.height(4)
    drawn = timeseries.Panel().legend(
        common.VizLegendOptions().show_legend(show_legend=True).placement(looks.LegendPlacement.BOTTOM)
    )
    drawn.min(0)
    if len(chart.steps) > 1:
        drawn.thresholds_style(common.GraphThresholdsStyleConfig().mode(looks.GraphThresholdsStyleMode.LINE))
    if chart.kind == "steps":  # one value a run, from one run to the next
        drawn.line_interpolation(looks.LineInterpolation.STEP_AFTER)
    return drawn.height(8)


def filled(chart: Chart, number: int) -> stat.Panel | timeseries.Panel:
    """Make a panel with all that it shows."""
    drawn = panel(chart).id(number).span(chart.width).title(chart.title).description(chart.description)
    drawn.datasource(SOURCE).unit(chart.unit).thresholds(thresholds(chart))
    if chart.coded:
        events = {str(code): models.ValueMappingResult(text=f"{code} {name}") for code, name in OUTCOMES.items()}
        drawn.mappings([models.ValueMap(options=events)])
        drawn.data_links([looked_up(chart.anchor)])
    elif chart.anchor:
        drawn.links([looked_up(chart.anchor)])
    for place, (legend, expr) in enumerate(chart.queries.items()):
        target = prometheus.Dataquery().expr(expr).legend_format(legend).ref_id("ABC"[place]).datasource(SOURCE)
        drawn.with_target(target.instant() if chart.kind in {"stat", "names"} else target.range())
    return drawn


def variables() -> Sequence[dashboard.DatasourceVariable | dashboard.QueryVariable]:
    """Give what a viewer may choose."""
    job = dashboard.QueryVariable("job").label("Job").description("As runs are pushed; the live row adds -live.")
    job.query('label_values(flagjob_last_run_timestamp_seconds{job!~".+-live"}, job)')
    job.current(models.VariableOption(selected=True, text="flagjob", value="flagjob"))
    namespace = dashboard.QueryVariable("namespace").label("Namespace").description("Of the CronJob.")
    namespace.query('label_values(kube_cronjob_info{cronjob="$job"}, namespace)').include_all(
        include_all=True
    ).all_value(".*")
    namespace.current(models.VariableOption(selected=True, text="All", value="$__all"))
    runbook = dashboard.QueryVariable("runbook").label("Runbook").description("Where the rules say that it is.")
    runbook.query("label_values(flagjob:runbook:info, runbook)")
    runbook.current(models.VariableOption(selected=True, text="docs/runbook.md", value="docs/runbook.md"))
    for variable in (job, namespace, runbook):
        variable.datasource(SOURCE).refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
    return dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"), job, namespace, runbook


def build() -> models.Dashboard:
    """Put it all together."""
    board = dashboard.Dashboard("flagjob").uid("flagjob").tags(["flagjob"]).readonly().timezone("utc")
    board.description("The last run of each shard, the run that goes on, and what Kubernetes knows of both.")
    board.time("now-14d", "now").refresh("1m").tooltip(models.DashboardCursorSync.CROSSHAIR)
    link = dashboard.DashboardLink("Runbook").type(models.DashboardLinkType.LINK).icon("doc").url("${runbook}")
    board.link(link.target_blank(target_blank=True))
    board.annotation(
        dashboard.AnnotationQuery()
        .name("Alerts")
        .datasource(SOURCE)
        .enable(enable=True)
        .icon_color("red")
        .expr('ALERTS{alertname=~"Flagjob.+", alertstate="firing"}')
    )
    for variable in variables():
        board.with_variable(variable)
    number = 1
    for title, charts in OPTIONS:
        board.with_row(dashboard.Row(title).id(number))
        for chart in charts:
            number += 1
            board.with_panel(filled(chart, number))
        number += 1
    return board.build()


json.dump(build(), sys.stdout, cls=JSONEncoder, indent=2, sort_keys=True)
sys.stdout.write("\n")
