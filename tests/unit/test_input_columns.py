"""What of a request's features goes on record, whatever form they have."""

from __future__ import annotations

import msgspec
import numpy as np
import pandas as pd
import pytest

from e2i_serving.record import Constant, Matrix, Values
from e2i_serving.services.base import input_columns

ROWS = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [3.0, 0.0]])


def test_features_of_any_form_go_on_record():
    """Arrays as one matrix, frames by column, rows by name, anything else once."""
    assert input_columns(ROWS, 4, ()) == {"features": Matrix.of(ROWS)}
    frame = pd.DataFrame({"age": [1, 2], "city": ["a", "b"]})
    assert input_columns(frame, 2, ()) == {"age": Values([1, 2]), "city": Values(["a", "b"])}
    rows = np.array([["a", 1], ["b", 2]], dtype=object)
    assert input_columns(rows, 2, ("city", "age")) == {
        "features": Values([{"city": "a", "age": 1}, {"city": "b", "age": 2}])
    }
    assert input_columns({"ids": [1, 2, 3]}, 2, ()) == {"features": Constant({"ids": [1, 2, 3]})}
    for names in ((), ("city", "age")):
        assert input_columns(["ab", "cd"], 2, names) == {"features": Values(["ab", "cd"])}
        assert input_columns([["a", 1, 2], ["b"]], 2, names) == {"features": Values([["a", 1, 2], ["b"]])}


def test_the_inputs_of_a_model_with_several_go_on_record_by_column():
    """Each member of a mapping or a tuple is a column, a frame several, and what is none stands beside them."""
    frame = pd.DataFrame({"city": ["a", "b", "c", "d"]})
    assert input_columns({"wide": ROWS, "deep": frame, "scale": 0.5, "sizes": (1, 2)}, 4, ()) == {
        "wide": Matrix.of(ROWS),
        "city": Values(["a", "b", "c", "d"]),
        "scale": Constant(0.5),
        "sizes": Constant([1, 2]),
    }
    assert input_columns((ROWS, ["a", "b", "c", "d"]), 4, ()) == {
        "0": Matrix.of(ROWS),
        "1": Values(["a", "b", "c", "d"]),
    }


@pytest.mark.parametrize(
    "features",
    [
        {str(item): [0.5, 1.5] for item in range(1000)},
        {"ids": list(range(1000)), "edges": [[0, 1]] * 2000},
        {"ids": list(range(1000)), **{str(item): 0.5 for item in range(1000)}},
        ([[0, 1]] * 2000, "model"),
        [[0, 1]] * 2000,
        "x" * 5000,
    ],
    ids=["by item", "edges", "scalars", "tuple", "list", "text"],
)
def test_what_is_no_column_is_not_kept_with_each_item(features):
    """Whatever its form, what is stored with each of many items does not grow with their number."""
    found = input_columns(features, 1000, ())
    constants = [column for column in found.values() if isinstance(column, Constant)]
    assert len(msgspec.json.encode(constants)) < 2000
    assert all(len(column.values) == 1000 for column in found.values() if isinstance(column, Values))
    assert len(msgspec.msgpack.encode(found)) < 20_000


def test_no_column_takes_the_place_of_another():
    """Frames may have columns of one name; each stands on record, the later under its frame's name as well."""
    frames = (pd.DataFrame({"x": [1, 2]}), pd.DataFrame({"x": [3, 4], "y": [5, 6]}))
    found = input_columns(frames, 2, ())
    assert {name: column.values for name, column in found.items()} == {"x": [1, 2], "1.x": [3, 4], "y": [5, 6]}


def test_all_of_a_single_item_is_kept():
    """What is about one item is its own, however large."""
    features = {"edges": [[0, 1]] * 2000}
    assert input_columns(features, 1, ()) == {"features": Constant(features)}


def test_features_that_can_not_be_looked_at_are_described():
    """A mapping that raises makes a description, and no error."""

    class Broken(dict):
        def items(self):
            raise RuntimeError

    found = input_columns(Broken(a=ROWS), 4, ())
    assert found == {"features": Constant({"type": f"{__name__}.{Broken.__qualname__}"})}
