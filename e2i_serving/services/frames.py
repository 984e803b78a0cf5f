"""Features as a pandas DataFrame, for pipelines that select columns by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from e2i_serving.exceptions import ConfigurationError

if TYPE_CHECKING:
    import pandas as pd


def require_frames(service: str, names: tuple[str, ...]) -> None:
    """Refuse a service with ``as_frame`` that could make no frame.

    Args:
        service: Name of the service's class.
        names: The model's feature names; empty when not known.

    Raises:
        ConfigurationError: pandas is not installed, or the names are not known.
    """
    try:
        import pandas as pd  # noqa: F401, PLC0415  # only services that ask for frames need it
    except ImportError as error:
        raise ConfigurationError(
            f"{service}.as_frame needs pandas, which can't be imported: {error}. Install e2i-serving[pandas]."
        ) from error
    if not names:
        raise ConfigurationError(
            f"{service}.as_frame needs the names of the features, which the model does not say. Set feature_names."
        )


def refuse_arrays(service: str, estimator: Any) -> None:
    """Refuse an estimator that selects columns by name where it would be given arrays.

    Args:
        service: Name of the service's class.
        estimator: What takes the features first.

    Raises:
        ConfigurationError: It needs a frame.
    """
    steps = getattr(estimator, "steps", None)
    first = steps[0][1] if steps else estimator
    selections = [columns for _, _, columns in getattr(first, "transformers", ())]
    if any(isinstance(name, str) for columns in selections for name in _each(columns)):
        raise ConfigurationError(
            f"{service} serves a model that selects columns by name. Set as_frame = True, and feature_dtype = object "
            "if some of them hold strings."
        )


def _each(columns: Any) -> list[Any]:
    return list(columns) if isinstance(columns, list | tuple) else [columns]


def frame_of(matrix: NDArray[Any], names: tuple[str, ...]) -> pd.DataFrame:
    """An array as a frame.

    Args:
        matrix: Shape ``(n, k)``.
        names: ``k`` names, for the columns.

    Returns:
        The frame; of an array of dtype ``object``, each column has the dtype of its values.
    """
    import pandas as pd  # noqa: PLC0415  # as above

    if matrix.dtype != object:
        return pd.DataFrame(matrix, columns=list(names))
    # Frames that models are fitted on mark what is missing by NaN, and encoders tell it from None.
    filled = matrix.copy()
    filled[np.equal(matrix, np.array(None))] = np.nan
    frame = pd.DataFrame(filled, columns=list(names))
    empty = frame.columns[frame.isna().all()]
    # A column without a value stays object: as numbers, an encoder of strings would fail on it.
    return frame.infer_objects().astype(dict.fromkeys(empty, object))
