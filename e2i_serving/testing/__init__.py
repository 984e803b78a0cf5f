"""For tests of services and of extensions: run a service without a server, and fakes held to the real contracts."""

from e2i_serving.testing.exporters import ExportReceiver, Fault, OpikReceiver, RecordingExporter
from e2i_serving.testing.harness import Reply, ServiceHarness
from e2i_serving.testing.receivers import EnvelopeReceiver, LogReceiver, MetricsReceiver, OtlpReceiver
from e2i_serving.testing.stores import InMemoryAuditStore

__all__ = [
    "EnvelopeReceiver",
    "ExportReceiver",
    "Fault",
    "InMemoryAuditStore",
    "LogReceiver",
    "MetricsReceiver",
    "OpikReceiver",
    "OtlpReceiver",
    "RecordingExporter",
    "Reply",
    "ServiceHarness",
]
