"""Serve the model of a voucher's effect."""

from __future__ import annotations

import e2i_serving


@e2i_serving.service(workers=2, traffic={"timeout": 10})
class Uplift(e2i_serving.CausalService):
    """How much more will a customer spend for having got a voucher, and is it worth sending?"""

    model = "uplift:latest"
    label_names = ("brand", "region", "segment")
    effect_threshold = 2.0  # what a voucher costs, in EUR
