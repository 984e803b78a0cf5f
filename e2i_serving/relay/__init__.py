"""The relay: takes what workers journaled to where it is kept, in a process of its own."""

from e2i_serving.relay.books import Book, read_books
from e2i_serving.relay.delivery import Delivery
from e2i_serving.relay.election import RelayLock
from e2i_serving.relay.ledger import Ledger
from e2i_serving.relay.loop import Relay

__all__ = ["Book", "Delivery", "Ledger", "Relay", "RelayLock", "read_books"]
