"""Audit stores: each writes rows for the relay and answers queries, behind the same two Protocols."""
