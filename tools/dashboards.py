"""Write the Grafana dashboards of dashboards/: one for all services, one for a model."""

from __future__ import annotations

from pathlib import Path
from string import ascii_uppercase
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, SortOrder, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FOLDER = Path(__file__).resolve().parents[1] / "dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
RATE = "[$__rate_interval]"
JOB = 'job=~"$job"'
MODEL = 'job=~"$job", model="$model", version=~"$version"'
OBJECTIVE = "{{service}} {{objective}} {{model}}{{view}}{{destination}}"
QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)


def overview() -> dashboard.Dashboard:
    """All services of a Prometheus: are they up, do they keep their objectives, is everything on record."""
    return (
        board("e2i-overview", "Predictions: overview", "All services that are observed by e2i-serving.")
        .with_row(dashboard.Row("Now"))
        .with_panel(number("Instances up", f"sum(up{{{JOB}}} and on (job, instance) e2i_service_info)"))
        .with_panel(number("Workers missing", f"sum(e2i_workers_expected{{{JOB}}}) - sum(e2i_workers{{{JOB}}})", bad=1))
        .with_panel(number("Models not ready", f"sum(1 - e2i_model_ready{{{JOB}}})", bad=1))
        .with_panel(number("In progress", f"sum(e2i_predictions_in_progress{{{JOB}}})"))
        .with_panel(number("Oldest record", f"max(e2i_audit_oldest_record_age_seconds{{{JOB}}})", "s", bad=60))
        .with_panel(number("Dead letters", f"sum(e2i_audit_dead_letters{{{JOB}}})", bad=1))
        .with_row(dashboard.Row("Objectives"))
        .with_panel(
            lines("Budget left", "percentunit").with_target(query(f"slo:e2i_budget_left:ratio{{{JOB}}}", OBJECTIVE))
        )
        .with_panel(
            lines("Burn rate over an hour", "short").with_target(
                query(f"slo:e2i_errors:ratio_rate1h{{{JOB}}} / slo:e2i_error_budget:ratio", OBJECTIVE)
            )
        )
        .with_row(dashboard.Row("Predictions"))
        .with_panel(
            lines("Requests a second", "reqps").with_target(
                query(f"sum by (model) (rate(e2i_predictions_total{{{JOB}}}{RATE}))", "{{model}}")
            )
        )
        .with_panel(
            lines("What is not ok", "reqps").with_target(
                query(
                    f'sum by (model, outcome) (rate(e2i_predictions_total{{{JOB}, outcome!="ok"}}{RATE}))',
                    "{{model}} {{outcome}}",
                )
            )
        )
        .with_panel(
            lines("Time to answer, 99th percentile", "s").with_target(
                query(quantile(0.99, "e2i_prediction_duration_seconds", JOB, "model"), "{{model}}")
            )
        )
        .with_panel(
            lines("Rows a second", "short").with_target(
                query(f"sum by (model) (rate(e2i_prediction_items_total{{{JOB}}}{RATE}))", "{{model}}")
            )
        )
        .with_panel(
            lines("HTTP requests by status", "reqps").with_target(
                query(f"sum by (status) (rate(e2i_http_requests_total{{{JOB}}}{RATE}))", "{{status}}")
            )
        )
        .with_panel(
            lines("HTTP requests by route", "reqps").with_target(
                query(f"sum by (route) (rate(e2i_http_requests_total{{{JOB}}}{RATE}))", "{{route}}")
            )
        )
        .with_row(dashboard.Row("Audit trail"))
        .with_panel(
            lines("Records a second", "short")
            .with_target(query(f"sum(rate(e2i_audit_records_observed_total{{{JOB}}}{RATE}))", "observed"))
            .with_target(query(f"sum(rate(e2i_audit_records_accepted_total{{{JOB}}}{RATE}))", "accepted"))
            .with_target(query(f"sum(rate(e2i_audit_records_sampled_out_total{{{JOB}}}{RATE}))", "sampled out"))
            .with_target(query(f"sum(rate(e2i_audit_records_interrupted_total{{{JOB}}}{RATE}))", "interrupted"))
            .with_target(
                query(
                    f"sum by (destination) (rate(e2i_audit_delivered_total{{{JOB}}}{RATE}))",
                    "delivered to {{destination}}",
                )
            )
        )
        .with_panel(
            lines("Records lost, in an hour", "short")
            .with_target(
                query(
                    f"sum by (reason) (increase(e2i_audit_records_unjournaled_total{{{JOB}}}[1h]))",
                    "not journaled: {{reason}}",
                )
            )
            .with_target(
                query(
                    f"sum by (destination, reason) (increase(e2i_audit_dropped_total{{{JOB}}}[1h]))",
                    "dropped for {{destination}}: {{reason}}",
                )
            )
        )
        .with_panel(
            lines("Backlog", "short").with_target(
                query(f"sum by (destination) (e2i_audit_backlog_records{{{JOB}}})", "{{destination}}")
            )
        )
        .with_panel(
            lines("Oldest record that waits", "s").with_target(
                query(f"max by (destination) (e2i_audit_oldest_record_age_seconds{{{JOB}}})", "{{destination}}")
            )
        )
        .with_panel(
            lines("Breakers: 0 closed, 1 half open, 2 open", "short").with_target(
                query(f"max by (destination) (e2i_audit_breaker_state{{{JOB}}})", "{{destination}}")
            )
        )
        .with_panel(lines("Relays", "short").with_target(query(f"sum by (job) (e2i_relay_up{{{JOB}}})", "{{job}}")))
        .with_row(dashboard.Row("Features and upkeep"))
        .with_panel(
            lines("Feature reads a second", "short").with_target(
                query(
                    f"sum by (view, outcome) (rate(e2i_feature_outcomes_total{{{JOB}}}{RATE}))", "{{view}} {{outcome}}"
                )
            )
        )
        .with_panel(
            lines("Age of features, 95th percentile", "s").with_target(
                query(quantile(0.95, "e2i_feature_age_seconds", JOB, "view"), "{{view}}")
            )
        )
        .with_panel(
            lines("Faults of the observability, in an hour", "short").with_target(
                query(f"sum by (part) (increase(e2i_internal_failures_total{{{JOB}}}[1h]))", "{{part}}")
            )
        )
        .with_panel(
            lines("Label values beyond the cap, in an hour", "short").with_target(
                query(f"sum by (label) (increase(e2i_label_overflow_total{{{JOB}}}[1h]))", "{{label}}")
            )
        )
    )


def model() -> dashboard.Dashboard:
    """One model: how much, how fast, how well, and what it says."""
    return (
        board("e2i-model", "Predictions: a model", "One model, all its versions or some.")
        .with_variable(choice("model", "Model", 'label_values(e2i_predictions_total{job=~"$job"}, model)'))
        .with_variable(
            choice(
                "version",
                "Version",
                'label_values(e2i_predictions_total{job=~"$job", model="$model"}, version)',
                all=True,
            )
        )
        .with_variable(
            dashboard.TextBoxVariable("label")
            .label("Business label")
            .description("A label that the service declares, such as brand.")
            .default_value("brand")
        )
        .with_row(dashboard.Row("Now"))
        .with_panel(number("Requests a second", f"sum(rate(e2i_predictions_total{{{MODEL}}}{RATE}))", "reqps"))
        .with_panel(
            number(
                "Not ok",
                f'1 - sum(rate(e2i_predictions_total{{{MODEL}, outcome="ok"}}{RATE}))'
                f" / sum(rate(e2i_predictions_total{{{MODEL}}}{RATE}))",
                "percentunit",
                bad=0.01,
            )
        )
        .with_panel(number("99th percentile", quantile(0.99, "e2i_prediction_duration_seconds", MODEL), "s"))
        .with_panel(number("Workers that have it ready", f"sum(e2i_model_ready{{{MODEL}}})"))
        .with_panel(number("Time to load", f"max(e2i_model_load_seconds{{{MODEL}}})", "s"))
        .with_panel(
            number("Budget left, least", 'min(slo:e2i_budget_left:ratio{job=~"$job", model="$model"})', "percentunit")
        )
        .with_row(dashboard.Row("How much"))
        .with_panel(
            lines("Requests by outcome", "reqps").with_target(
                query(f"sum by (outcome) (rate(e2i_predictions_total{{{MODEL}}}{RATE}))", "{{outcome}}")
            )
        )
        .with_panel(
            lines("Requests by version", "reqps").with_target(
                query(f"sum by (version) (rate(e2i_predictions_total{{{MODEL}}}{RATE}))", "{{version}}")
            )
        )
        .with_panel(
            lines("Rows a request", "short")
            .with_target(query(quantile(0.5, "e2i_batch_items", MODEL), "p50"))
            .with_target(query(quantile(0.99, "e2i_batch_items", MODEL), "p99"))
        )
        .with_panel(
            lines("Size of answers", "bytes")
            .with_target(query(quantile(0.5, "e2i_response_bytes", MODEL), "p50"))
            .with_target(query(quantile(0.99, "e2i_response_bytes", MODEL), "p99"))
        )
        .with_panel(
            lines("Errors by type", "reqps").with_target(
                query(f'sum by (type) (rate(e2i_errors_total{{{JOB}, model="$model"}}{RATE}))', "{{type}}")
            )
        )
        .with_panel(
            lines("Requests by $label", "reqps").with_target(
                query(f"sum by ($label) (rate(e2i_labelled_predictions_total{{{MODEL}}}{RATE}))", "{{$label}}")
            )
        )
        .with_row(dashboard.Row("How fast"))
        .with_panel(durations())
        .with_panel(
            lines("Mean time by phase", "s").with_target(
                query(
                    f"sum by (phase) (rate(e2i_prediction_phase_duration_seconds_sum{{{MODEL}}}{RATE}))"
                    f" / sum by (phase) (rate(e2i_prediction_phase_duration_seconds_count{{{MODEL}}}{RATE}))",
                    "{{phase}}",
                )
            )
        )
        .with_panel(
            lines("Within an objective's bound, in seconds", "percentunit").with_target(
                query(
                    f'sum by (bound) (rate(e2i_predictions_timed_total{{{MODEL}, within="yes"}}{RATE}))'
                    f" / sum by (bound) (rate(e2i_predictions_timed_total{{{MODEL}}}{RATE}))",
                    "{{bound}}",
                )
            )
        )
        .with_panel(
            lines("95th percentile by version", "s").with_target(
                query(quantile(0.95, "e2i_prediction_duration_seconds", MODEL, "version"), "{{version}}")
            )
        )
        .with_panel(
            lines("Mean time by $label", "s").with_target(
                query(
                    f"sum by ($label) (rate(e2i_labelled_prediction_duration_seconds_sum{{{MODEL}}}{RATE}))"
                    f" / sum by ($label) (rate(e2i_labelled_prediction_duration_seconds_count{{{MODEL}}}{RATE}))",
                    "{{$label}}",
                )
            )
        )
        .with_row(dashboard.Row("What it says"))
        .with_panel(
            lines("Predicted classes", "short").with_target(
                query(f"sum by (class) (rate(e2i_predicted_class_total{{{MODEL}}}{RATE}))", "{{class}}")
            )
        )
        .with_panel(distribution("Scores", "e2i_prediction_score"))
        .with_panel(distribution("Values", "e2i_prediction_value"))
        .with_panel(distribution("Effects", "e2i_prediction_effect"))
    )


def board(uid: str, title: str, description: str) -> dashboard.Dashboard:
    """An empty dashboard, with the variables that each has."""
    return (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["e2i-serving"])
        .editable()
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("Predictions")
            .type(DashboardLinkType.DASHBOARDS)
            .tags(["e2i-serving"])
            .include_vars(include_vars=True)
            .keep_time(keep_time=True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(choice("job", "Job", "label_values(e2i_service_info, job)", all=True))
    )


def choice(name: str, label: str, values: str, *, all: bool = False) -> dashboard.QueryVariable:  # noqa: A002  # Grafana's term
    """A variable whose values are asked of Prometheus."""
    variable = (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(values)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
    )
    if all:
        everything = VariableOption(text="All", value="$__all", selected=True)
        variable = variable.multi(multi=True).include_all(include_all=True).all_value(".*").current(everything)
    return variable


def query(expression: str, legend: str = "") -> prometheus.Dataquery:
    """A query over the dashboard's time."""
    return prometheus.Dataquery().datasource(SOURCE).expr(expression).legend_format(legend).range()


def quantile(share: float, metric: str, selected: str, *labels: str) -> str:
    """A percentile of a histogram, merged over workers and replicas."""
    grouping = ", ".join((*labels, "le"))
    return f"histogram_quantile({share}, sum by ({grouping}) (rate({metric}_bucket{{{selected}}}{RATE})))"


def number(title: str, expression: str, unit: str = "short", *, bad: float | None = None) -> stat.Panel:
    """A panel with one number; red from ``bad`` on."""
    steps = [Threshold(value=None, color="green")]
    if bad is not None:
        steps.append(Threshold(value=bad, color="red"))
    return (
        stat.Panel()
        .title(title)
        .datasource(SOURCE)
        .unit(unit)
        .height(4)
        .span(4)
        .thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(query(expression))
    )


def lines(title: str, unit: str) -> timeseries.Panel:
    """A panel with a line a series."""
    return (
        timeseries.Panel()
        .title(title)
        .datasource(SOURCE)
        .unit(unit)
        .height(8)
        .span(12)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(show_legend=True)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    )


def durations() -> timeseries.Panel:
    """The percentiles of the time to answer."""
    panel = lines("Time to answer", "s")
    for share in QUANTILES:
        panel = panel.with_target(query(quantile(share, "e2i_prediction_duration_seconds", MODEL), f"p{share * 100:g}"))
    return panel


def distribution(title: str, metric: str) -> heatmap.Panel:
    """A panel with a histogram's buckets over time."""
    buckets = query(f"sum by (le) (increase({metric}_bucket{{{MODEL}}}{RATE}))", "{{le}}").format(
        PromQueryFormat.HEATMAP
    )
    return heatmap.Panel().title(title).datasource(SOURCE).height(8).span(12).with_target(buckets)


def made() -> dict[str, str]:
    """The text of each dashboard by its file's name."""
    boards: tuple[Any, ...] = (overview().build(), model().build())
    for each in boards:
        for place, panel in enumerate(each.panels, start=1):
            panel.id_val = place
            for letter, target in zip(ascii_uppercase, getattr(panel, "targets", None) or (), strict=False):
                target.ref_id = letter
    return {f"{each.uid}.json": JSONEncoder(indent=2, sort_keys=True).encode(each) + "\n" for each in boards}


def main() -> None:
    """Write them."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in made().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
