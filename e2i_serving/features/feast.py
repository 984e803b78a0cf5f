"""Feast as a feature store. Its own statuses do not tell a hit from a miss, so timestamps are read instead."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from e2i_serving.exceptions import ConfigurationError, FeatureError
from e2i_serving.typing import Feature, FeatureService, OnlineFeatures

logger = logging.getLogger("e2i_serving")

_INVALID: Final = frozenset(
    {
        "EntityNotFoundException",
        "IndexError",
        "KeyError",
        "RequestDataNotFoundInEntityRowsException",
        "TypeError",
        "ValueError",
    }
)
"""Names of the errors by which Feast says that the rows don't fit."""

_DIGITS: Final = re.compile(r"-?[0-9]{1,19}")

_PLAIN: Final = frozenset({"string_val", "int32_val", "int64_val", "double_val", "float_val", "bool_val", "bytes_val"})
"""Kinds of a value that are Python values as they are; each is its type's name and this ending."""


class FeastFeatureStore:
    """Features from the online store of a Feast repository.

    Feast is imported in the worker that opens it, as that takes seconds.

    Args:
        repo_path: The folder with ``feature_store.yaml``.
        name: What it is called in metrics and records.
    """

    def __init__(self, repo_path: str | Path, *, name: str = "feast") -> None:
        self._path = Path(repo_path)
        self._name = name
        self._timeout = 0.0
        self._store: Any = None
        self._service: Any = None
        self._converters: dict[str, Callable[[Any], Any]] = {}
        self._readers: tuple[Callable[[Any], Any], ...] = ()
        self._to_python: Callable[[Any], Any] = _no_value

    @property
    def name(self) -> str:
        """What it is called in metrics and records."""
        return self._name

    def open(self, service: str, timeout: float) -> FeatureService:
        """Open the repository, look the feature service up, and ask once, so that later answers are fast.

        Of the online stores, SQLite and Redis on one server keep to the timeout by themselves.

        Raises:
            ConfigurationError: Feast is not installed, or there is no such repository or feature service.
        """
        try:
            import feast  # noqa: PLC0415  # slow, and only where it is used
            from feast.type_map import feast_value_type_to_python_type  # noqa: PLC0415  # likewise
        except ImportError as error:
            raise ConfigurationError(
                f"The feature store {self._name!r} needs Feast, which can't be imported: {error}. "
                "Install e2i-serving[feast]."
            ) from error
        self._to_python = feast_value_type_to_python_type
        self._timeout = timeout
        try:
            self._store = feast.FeatureStore(repo_path=str(self._path))
            keeps_time = self._keep_time()
            self._service = self._store.get_feature_service(service)
            described = self._describe(service)._replace(keeps_time=keeps_time)
        except Exception as error:
            raise ConfigurationError(
                f"The feature service {service!r} of the Feast repository {self._path} can't be opened: "
                f"{type(error).__name__}: {error}. Has `feast apply` been run?"
            ) from error
        self._warm_up(described)
        return described

    def get_online_features(self, service: FeatureService, entity_rows: Sequence[Mapping[str, Any]]) -> OnlineFeatures:
        """The features of entities.

        Raises:
            FeatureError: A key or the request data is missing, or not of its type; or the store took too long.
        """
        needed = (*service.entities, *service.request_data)
        rows = [self._row(row, needed) for row in entity_rows]
        try:
            # Full names would make Feast leave out what Python on-demand views give.
            answer = self._store.get_online_features(self._service, rows, full_feature_names=False).proto
        except Exception as error:
            if type(error).__name__ in _INVALID:
                raise FeatureError(
                    f"The entities don't fit the feature service {service.name!r}.", "invalid"
                ) from error
            if type(error).__name__ == "TimeoutError":
                raise FeatureError(
                    f"The feature store did not answer within {self._timeout:g} s.", "timeout"
                ) from error
            raise
        found = dict(zip(answer.metadata.feature_names.val, answer.results, strict=True))
        values: list[list[Any]] = []
        times: list[list[int]] = []
        # A store has one row an entity and view, with one event time.
        by_view: dict[str, list[int]] = {}
        slowly = self._value
        for feature, read in zip(service.features, self._readers, strict=True):
            vector = found[feature.name]
            # What reads as nothing may be zero, null, or of another type than its view says.
            values.append([read(value) or slowly(value) for value in vector.values])
            of_view = by_view.get(feature.view)
            if of_view is None:
                of_view = by_view[feature.view] = (
                    [0] * len(rows)
                    if feature.is_computed
                    else [stamp.seconds * 1_000_000_000 + stamp.nanos for stamp in vector.event_timestamps]
                )
            times.append(of_view)
        return OnlineFeatures(list(zip(*values, strict=True)), list(zip(*times, strict=True)))

    def refresh(self) -> None:
        """Read the registry anew, so that no request has to."""
        self._store.refresh_registry()

    def close(self) -> None:
        """Let the repository go, and close the connections of its online store."""
        store, self._store, self._service = self._store, None, None
        # Feast closes what is asynchronous only.
        for held in ("_client", "_conn"):
            with contextlib.suppress(Exception):
                getattr(store.provider.online_store, held).close()

    def _keep_time(self) -> bool:
        """Let the online store's calls end in time; returns whether they will."""
        config = self._store.config.online_store
        try:
            if config.type == "sqlite":
                connection = self._store.provider.online_store._get_conn(self._store.config)  # noqa: SLF001  # no other way
                connection.execute(f"PRAGMA busy_timeout = {int(self._timeout * 1000)}")
                return True
            kinds = {config.type, getattr(config, "redis_type", ""), getattr(config, "client", "redis")}
            if kinds == {"redis"}:
                # Feast connects by this when it is first asked. The client's own retries would take seconds.
                config.connection_string += (
                    f",socket_timeout={self._timeout:g},socket_connect_timeout={self._timeout:g},retry=null"
                )
                return True
        except Exception as error:  # noqa: BLE001  # of another release of Feast; a thread keeps the time then
            logger.info("The online store of %s is not told how long it may take: %s", self._path, error)
        return False

    def _describe(self, service: str) -> FeatureService:
        entities: dict[str, None] = {}
        features: list[Feature] = []
        readers: list[Callable[[Any], Any]] = []
        request_data: dict[str, None] = {}
        on_demand = {view.name: view for view in self._store.list_on_demand_feature_views()}
        kinds = {view.name: view for view in self._store.list_batch_feature_views()}
        kinds |= {view.name: view for view in self._store.list_stream_feature_views()}
        digest = hashlib.sha256(_canonical(self._service))
        for projection in self._service.feature_view_projections:
            view = projection.name_to_use()
            computed = on_demand.get(projection.name)
            if computed is None:
                definition = kinds[projection.name]
                ttl = definition.ttl.total_seconds() if definition.ttl else 0.0
                self._add_entities(definition, projection.join_key_map, entities)
                digest.update(_canonical(definition))
            else:
                ttl = 0.0
                digest.update(_canonical(computed))
                for source in computed.source_request_sources.values():
                    request_data |= dict.fromkeys(field.name for field in source.schema)
                for source in computed.source_feature_view_projections.values():
                    self._add_entities(kinds[source.name], source.join_key_map, entities)
            features += [Feature(field.name, view, ttl, computed is not None) for field in projection.features]
            readers += [_reader(field) for field in projection.features]
        self._readers = tuple(readers)
        return FeatureService(service, tuple(entities), tuple(features), tuple(request_data), digest.hexdigest())

    def _add_entities(self, view: Any, renamed: Mapping[str, str], into: dict[str, None]) -> None:
        for field in view.entity_columns:
            if field.name == "__dummy_id":
                continue
            name = renamed.get(field.name, field.name)
            into[name] = None
            kind = field.dtype.to_value_type().name
            self._converters[name] = _integer if kind in ("INT32", "INT64") else str if kind == "STRING" else _same

    def _row(self, row: Mapping[str, Any], needed: Sequence[str]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name in needed:
            value = row.get(name)
            if value is None:
                raise FeatureError(f"{name!r} is needed for the features, and not given.", "invalid")
            try:
                made[name] = self._converters.get(name, _same)(value)
            except (TypeError, ValueError):
                raise FeatureError(
                    f"{name!r} is not of the type that the feature store has it in.", "invalid"
                ) from None
        return made

    def _value(self, value: Any) -> Any:
        kind = value.WhichOneof("val")
        if kind is None:
            return None
        return getattr(value, kind) if kind in _PLAIN else self._to_python(value)

    def _warm_up(self, service: FeatureService) -> None:
        row = {name: 0 if self._converters.get(name) is _integer else "" for name in service.entities}
        row |= dict.fromkeys(service.request_data, 0)
        try:
            self.get_online_features(service, [row])
        except Exception:  # noqa: BLE001  # request data of another type, or a store that is down now and not for ever
            return


def _reader(field: Any) -> Callable[[Any], Any]:
    """Reads a value of the type that a field is declared with; of any other, nothing."""
    kind = f"{field.dtype.to_value_type().name.lower()}_val"
    return operator.attrgetter(kind) if kind in _PLAIN else _no_value


def _canonical(definition: Any) -> bytes:
    """A definition as the same bytes in every process.

    Feast keeps some of its lists in the order of a set, makes times of nested definitions anew when it reads them, and
    has a function as a pickle beside its text, which is another one in each process.
    """
    from google.protobuf.json_format import MessageToDict  # noqa: PLC0415  # comes with Feast

    return json.dumps(_sorted(MessageToDict(definition.to_proto().spec)), sort_keys=True).encode()


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        left_out = {"createdTimestamp", "lastUpdatedTimestamp"} | ({"body"} if "bodyText" in value else set())
        return {name: _sorted(each) for name, each in value.items() if name not in left_out}
    if isinstance(value, list):
        return sorted((_sorted(each) for each in value), key=lambda each: json.dumps(each, sort_keys=True))
    return value


def _integer(value: Any) -> int:
    """An integer key, which may be given by its digits. Python takes 1_000 as well, which names nobody."""
    if isinstance(value, str) and not _DIGITS.fullmatch(value):
        raise ValueError(value)
    return int(value)


def _same(value: Any) -> Any:
    return value


def _no_value(_: Any) -> Any:
    return None
