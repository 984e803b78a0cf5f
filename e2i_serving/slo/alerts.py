"""Alerts that have no budget: something is down, is lost, or stands still."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from e2i_serving.slo.indicators import KEPT_APART
from e2i_serving.slo.objectives import FAILED
from e2i_serving.slo.rules import RUNBOOKS, Group


class Alert(NamedTuple):
    """One alert.

    Attributes:
        name: Its name, and the heading of its runbook.
        severity: ``page`` or ``ticket``.
        lasting: How long it must hold.
        expression: PromQL, in which ``KEEP`` stands for the labels that are kept apart.
        summary: What is wrong, one sentence.
        description: What it means, and what to look at first.
    """

    name: str
    severity: str
    lasting: str
    expression: str
    summary: str
    description: str


_LEAST_FAILED: Final = 5
_BAD: Final = f'e2i_predictions_total{{outcome=~"{"|".join(FAILED)}"}}'
_COUNTED: Final = f'e2i_predictions_total{{outcome=~"ok|{"|".join(FAILED)}"}}'


def _grown(counter: str, labels: str, window: str) -> str:
    """A counter that went up. A series that begins above zero counts too, on a target that was there before it.

    One that was gone for a scrape or two has not begun.
    """
    return (
        f"sum by (KEEP{labels}) (increase({counter}[{window}])) > 0\n"
        "or\n"
        f"sum by (KEEP{labels}) (\n"
        f"  ({counter} unless last_over_time({counter}[{window}] offset {window}))\n"
        f"  and on (job, instance) (up offset {window} == 1)\n"
        ") > 0"
    )


OUTAGES: Final = (
    Alert(
        "E2iServiceDown",
        "page",
        "1m",
        "(max by (KEEP) (up) == 0 and on (KEEP) last_over_time(e2i_service_info[1d]))\n"
        "or\n"
        "(group by (KEEP) (last_over_time(e2i_service_info[1h])) unless on (KEEP) group by (KEEP) (up))",
        "No instance of {{ $labels.job }} can be scraped.",
        "All targets of a job that served predictions are down, or are gone.",
    ),
    Alert(
        "E2iRequestsFailing",
        "page",
        "30s",
        f"sum by (KEEP, model) (rate({_BAD}[1m])) / sum by (KEEP, model) (rate({_COUNTED}[1m])) > 0.5\n"
        "and\n"
        f"sum by (KEEP, model) (increase({_BAD}[1m])) >= {_LEAST_FAILED}",
        "More than half of the predictions of {{ $labels.model }} fail.",
        "{{ $value | humanizePercentage }} of the requests of the last minute failed, timed out or were rejected.",
    ),
    Alert(
        "E2iModelNotReady",
        "page",
        "5m",
        "max by (KEEP, model) (e2i_model_ready) == 0",
        "No worker has {{ $labels.model }} ready.",
        "The model is loaded nowhere, so none of its predictions can be served.",
    ),
    Alert(
        "E2iInstanceDown",
        "ticket",
        "5m",
        "up == 0 and on (job, instance) last_over_time(e2i_service_info[1d])",
        "{{ $labels.instance }} of {{ $labels.job }} can't be scraped.",
        "An instance that served predictions does not answer at /metrics.",
    ),
    Alert(
        "E2iWorkerMissing",
        "ticket",
        "5m",
        "sum by (KEEP, instance, service) (e2i_workers) < sum by (KEEP, instance, service) (e2i_workers_expected)",
        "{{ $labels.service }} at {{ $labels.instance }} has fewer workers than it should.",
        "Only {{ $value }} workers live. One dies again and again, or can't start.",
    ),
)

AUDIT: Final = (
    Alert(
        "E2iAuditUnjournaled",
        "page",
        "0s",
        _grown("e2i_audit_records_unjournaled_total", ", reason", "10m"),
        "Predictions are not on record: {{ $labels.reason }}.",
        "{{ $value | humanize }} records could not be written to the journal in 10 minutes.",
    ),
    Alert(
        "E2iAuditDropped",
        "page",
        "0s",
        _grown("e2i_audit_dropped_total", ", destination, reason", "10m"),
        "Records for {{ $labels.destination }} were dropped: {{ $labels.reason }}.",
        "{{ $value | humanize }} accepted records will not reach their destination.",
    ),
    Alert(
        "E2iRelayDown",
        "page",
        "5m",
        "max by (KEEP, instance) (e2i_relay_up) == 0",
        "No relay runs for {{ $labels.instance }}.",
        "Records stay in the journal until a relay runs, and the journal's disk is bounded.",
    ),
    Alert(
        "E2iAuditLag",
        "page",
        "5m",
        "max by (KEEP, destination) (e2i_audit_oldest_record_age_seconds) > 900",
        "Records wait for {{ $labels.destination }}.",
        "The oldest record has waited for {{ $value | humanizeDuration }}.",
    ),
    Alert(
        "E2iAuditBreakerOpen",
        "ticket",
        "10m",
        # Half-open is no sign of life: it is what the breaker is while an attempt hangs.
        "max by (KEEP, destination) (e2i_audit_breaker_state) >= 1",
        "{{ $labels.destination }} takes no records.",
        "Its breaker has not closed: deliveries fail, and are tried now and then only. Records stay in the journal.",
    ),
    Alert(
        "E2iAuditDeadLetters",
        "ticket",
        "5m",
        "sum by (KEEP, destination) (e2i_audit_dead_letters) > 0",
        "{{ $labels.destination }} refused records for good.",
        "{{ $value }} dead letters wait to be looked at.",
    ),
)

UPKEEP: Final = (
    Alert(
        "E2iFeaturesStale",
        "ticket",
        "15m",
        'sum by (KEEP, view) (rate(e2i_feature_outcomes_total{outcome="stale"}[30m]))\n'
        "/\n"
        'sum by (KEEP, view) (rate(e2i_feature_outcomes_total{outcome=~"hit|stale"}[30m])) > 0.1',
        "Features of {{ $labels.view }} are stale.",
        "{{ $value | humanizePercentage }} of what was found in 30 minutes was older than it may be.",
    ),
    Alert(
        "E2iInternalFailures",
        "ticket",
        "0s",
        _grown("e2i_internal_failures_total", ", part", "1h"),
        "The observability itself failed: {{ $labels.part }}.",
        "{{ $value | humanize }} faults in an hour. None of them failed a prediction; the log says more.",
    ),
)


def alert_groups(*, keep: Sequence[str] = KEPT_APART, runbooks: str = RUNBOOKS) -> list[Group]:
    """The rule groups of these alerts, as Prometheus reads them from YAML.

    Args:
        keep: Labels that tell apart what is served by different services.
        runbooks: Address of the page of runbooks.
    """
    groups = {"e2i-outages": (OUTAGES, "15s"), "e2i-audit": (AUDIT, "30s"), "e2i-upkeep": (UPKEEP, "1m")}
    return [
        {"name": name, "interval": interval, "rules": [_rule(each, keep, runbooks) for each in alerts]}
        for name, (alerts, interval) in groups.items()
    ]


def _rule(alert: Alert, keep: Sequence[str], runbooks: str) -> Group:
    return {
        "alert": alert.name,
        "expr": alert.expression.replace("KEEP", ", ".join(keep)),
        "for": alert.lasting,
        "labels": {"severity": alert.severity},
        "annotations": {
            "summary": alert.summary,
            "description": alert.description,
            "runbook_url": f"{runbooks}#{alert.name.lower()}",
        },
    }
