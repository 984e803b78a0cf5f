"""Serve the regressor of diabetes progression."""

from __future__ import annotations

import e2i_serving


@e2i_serving.service(workers=2, traffic={"timeout": 10})
class Diabetes(e2i_serving.RegressionService):
    """How far will a patient's diabetes have come in a year? From 10 measures taken today."""

    model = "diabetes:latest"
    label_names = ("brand", "region", "segment")
    interval_level = 0.9
