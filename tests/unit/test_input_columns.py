"""What of a request's features goes on record, whatever form they have."""

from __future__ import annotations

import numpy as np
import pandas as pd

from e2i_serving.record import Matrix, Values
from e2i_serving.services.base import input_columns

ROWS = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [3.0, 0.0]])


def test_features_of_any_form_go_on_record():
    """Arrays as one matrix, frames by column, rows by name, anything else whole."""
    assert input_columns(ROWS, 4, ()) == {"features": Matrix.of(ROWS)}
    frame = pd.DataFrame({"age": [1, 2], "city": ["a", "b"]})
    assert input_columns(frame, 2, ()) == {"age": Values([1, 2]), "city": Values(["a", "b"])}
    rows = np.array([["a", 1], ["b", 2]], dtype=object)
    assert input_columns(rows, 2, ("city", "age")) == {
        "features": Values([{"city": "a", "age": 1}, {"city": "b", "age": 2}])
    }
    assert input_columns({"ids": [1, 2, 3]}, 2, ()) == {"features": Values([{"ids": [1, 2, 3]}] * 2)}
    assert input_columns(["a", "b"], 2, ()) == {"features": Values(["a", "b"])}
