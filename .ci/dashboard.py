"""Print the Grafana dashboard as JSON. Change charts.py or this, not what they make; a test compares the two.

usage: .venv/bin/python .ci/dashboard.py >k8s/overlays/monitoring/flagjob-dashboard.json
It needs requirements-e2e.lock, which `make e2e` installs.
"""  # noqa: INP001  (a script, not a package)

import json
import sys
from collections.abc import Sequence

from charts import OPTIONS, Chart
from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as models

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
OUTCOMES = {
    0: ("ok", "green"),
    1: ("bug", "dark-red"),
    2: ("usage", "dark-red"),
    3: ("retryable", "orange"),
    4: ("permanent", "dark-orange"),
    5: ("storage", "dark-red"),
    6: ("origin down", "red"),
    7: ("deadline", "purple"),
    129: ("SIGHUP", "blue"),
    130: ("SIGINT", "blue"),
    143: ("SIGTERM", "blue"),
}
"""job.exit_code.Exit, as people read it, and its colour; a test compares the two."""
THROTTLED = {"429": models.ValueMappingResult(text="answers 429", color="yellow")}
"""No exit code: a run that was throttled may have ended well, but late."""
LIVE_RANGE = "1h"
"""What the live row shows, whatever the range of the rest: in a fortnight a run is too narrow to be seen."""
Panel = stat.Panel | statetimeline.Panel | timeseries.Panel


def thresholds(chart: Chart) -> dashboard.ThresholdsConfig:
    """Give a value its colour."""
    steps = [models.Threshold(value=value, color=color) for value, color in chart.steps]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def looked_up(anchor: str) -> dashboard.DashboardLink:
    """Link to a place of the runbook."""
    link = dashboard.DashboardLink("Runbook").type(models.DashboardLinkType.LINK)
    return link.url(f"${{runbook}}#{anchor}").target_blank(target_blank=True)


def panel(chart: Chart) -> Panel:
    """Choose how to draw it."""
    if chart.kind in {"stat", "names"}:
        drawn = stat.Panel().graph_mode(looks.BigValueGraphMode.NONE)
        drawn.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        drawn.text_mode(looks.BigValueTextMode.NAME if chart.kind == "names" else looks.BigValueTextMode.AUTO)
        return drawn.height(chart.height or 4)
    if chart.kind == "states":  # one state a run, from one run to the next
        hidden = common.VizLegendOptions().show_legend(show_legend=False)
        return statetimeline.Panel().legend(hidden).fill_opacity(85).row_height(0.8).height(chart.height or 6)
    return lines(chart)


def lines(chart: Chart) -> timeseries.Panel:
    """Draw lines over time; an axis reaches at least to the last threshold, which would else look near or be unseen."""
    drawn = timeseries.Panel().legend(
        common.VizLegendOptions().show_legend(show_legend=True).placement(looks.LegendPlacement.BOTTOM)
    )
    drawn.min(0).line_width(2)
    if len(chart.steps) > 1:
        drawn.thresholds_style(common.GraphThresholdsStyleConfig().mode(looks.GraphThresholdsStyleMode.LINE))
        drawn.axis_soft_max(chart.steps[-1][0] or 0.0)
    if chart.kind == "steps":  # one value a run, from one run to the next
        drawn.line_interpolation(looks.LineInterpolation.STEP_AFTER)
    return drawn.height(chart.height or 8)


def paint(drawn: Panel, chart: Chart) -> None:
    """Give series the colours of what they mean; shards and pods, which mean nothing, are shades of blue."""
    if chart.kind in {"stat", "names", "states"} and ".*" not in chart.colors:
        usual = dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS)
    else:
        mode = models.FieldColorModeId.FIXED if ".*" in chart.colors else models.FieldColorModeId.SHADES
        usual = dashboard.FieldColor().mode(mode).fixed_color(chart.colors.get(".*", "blue"))
    drawn.color_scheme(usual)
    for name, color in chart.colors.items():
        if name != ".*":
            fixed = {"mode": models.FieldColorModeId.FIXED.value, "fixedColor": color}
            drawn.override_by_name(name, [models.DynamicConfigValue("color", fixed)])


def filled(chart: Chart, number: int) -> Panel:
    """Make a panel with all that it shows."""
    drawn = panel(chart).id(number).span(chart.width).title(chart.title).description(chart.description)
    drawn.datasource(SOURCE).unit(chart.unit).thresholds(thresholds(chart))
    paint(drawn, chart)
    if chart.empty:
        drawn.no_value(chart.empty)
    if chart.coded:
        texts = {
            str(code): models.ValueMappingResult(f"{code} {name}", color) for code, (name, color) in OUTCOMES.items()
        }
        drawn.mappings([models.ValueMap(options=texts | (THROTTLED if "throttled" in chart.queries else {}))])
    if "$" in chart.anchor:
        drawn.data_links([looked_up(chart.anchor)])
    elif chart.anchor:
        drawn.links([looked_up(chart.anchor)])
    for place, (legend, expr) in enumerate(chart.queries.items()):
        target = prometheus.Dataquery().expr(expr).legend_format(legend).ref_id("ABC"[place]).datasource(SOURCE)
        drawn.with_target(target.instant() if chart.kind in {"stat", "names"} else target.range())
    return drawn


def variables() -> Sequence[dashboard.DatasourceVariable | dashboard.QueryVariable]:
    """Give what a viewer may choose."""
    job = (
        dashboard.QueryVariable("job")
        .label("Job")
        .description("As runs are pushed; what is scraped may have -live behind it.")
    )
    job.query("label_values(flagjob_last_run_start_timestamp_seconds, job)").regex("/^(.+?)(?:-live)?$/")
    job.current(models.VariableOption(selected=True, text="flagjob", value="flagjob"))
    namespace = dashboard.QueryVariable("namespace").label("Namespace").description("Of the CronJob, if there is one.")
    namespace.query(
        'label_values(flagjob_last_run_start_timestamp_seconds{job=~"$job(-live)?"}, namespace)'
    ).include_all(include_all=True).all_value(".*")
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
            drawn = filled(chart, number)
            board.with_panel(drawn.time_from(LIVE_RANGE) if title == "Live" else drawn)
        number += 1
    return board.build()


json.dump(build(), sys.stdout, cls=JSONEncoder, indent=2, sort_keys=True)
sys.stdout.write("\n")
