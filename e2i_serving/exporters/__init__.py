"""Exporters: what sends predictions and events to places that are written to and never read."""
