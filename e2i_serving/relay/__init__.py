"""The relay: takes what workers journaled to where it is kept, in a process of its own."""

from e2i_serving.relay.books import Book, read_books
from e2i_serving.relay.breaker import Breaker, BreakerState
from e2i_serving.relay.dead_letters import DeadLetter
from e2i_serving.relay.delivery import Delivery
from e2i_serving.relay.destination import Destination
from e2i_serving.relay.election import RelayLock
from e2i_serving.relay.export_destination import ExportDestination
from e2i_serving.relay.ledger import Ledger
from e2i_serving.relay.loop import Relay
from e2i_serving.relay.payloads import LargePayloads, Payload, read_payload

__all__ = [
    "Book",
    "Breaker",
    "BreakerState",
    "DeadLetter",
    "Delivery",
    "Destination",
    "ExportDestination",
    "LargePayloads",
    "Ledger",
    "Payload",
    "Relay",
    "RelayLock",
    "read_books",
    "read_payload",
]
