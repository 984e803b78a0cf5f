"""Paths such as ``attributes.patient.*``, compiled so that finding the rule of a value costs a look-up a step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from e2i_serving.exceptions import ConfigurationError

COLUMN_ROOTS: Final = ("inputs", "outputs", "entities")
TREE_ROOTS: Final = ("attributes", "labels")
FIELD_ROOTS: Final = ("request_id", "parent_request_id", "principal", "error_message")

_MEMO: Final = 1024
"""Most names that a state remembers the way from; names may come from callers."""
_STRENGTH: Final = ("drop", "mask", "hash", "round")


@dataclass(frozen=True, slots=True)
class Rule:
    """What is done to the values of a path.

    Attributes:
        number: Its place among the rules.
        path: As it was written.
        action: ``drop``, ``mask``, ``hash``, ``round``, or ``keep`` in an allow-list.
        digits: Decimals that ``round`` keeps.
    """

    number: int
    path: str
    action: str
    digits: int = 0


class _Node:
    """A place in the tree of all paths of a root."""

    __slots__ = ("any", "deep", "loops", "named", "rules")

    def __init__(self, *, loops: bool = False) -> None:
        self.named: dict[str, _Node] = {}
        self.any: _Node | None = None
        self.deep: _Node | None = None
        self.loops = loops
        self.rules: list[Rule] = []

    def below(self, segment: str) -> _Node:
        """The node behind a segment, made when it is not there."""
        if segment == "**":
            self.deep = self.deep or _Node(loops=True)
            return self.deep
        if segment == "*":
            self.any = self.any or _Node()
            return self.any
        return self.named.setdefault(segment, _Node())


class State:
    """Where all the paths of a root have come to after the names so far.

    Attributes:
        matched: The rules whose path ends here.
        rule: The strongest of them: ``drop`` before ``mask``, ``hash`` and ``round``.
        alive: Whether any path ends here or goes on from here.
    """

    __slots__ = ("_element", "_nodes", "_steps", "alive", "matched", "rule")

    def __init__(self, nodes: Iterable[_Node]) -> None:
        self._nodes = tuple(dict.fromkeys(nodes))
        self.alive = bool(self._nodes)
        self.matched = tuple(rule for node in self._nodes for rule in node.rules)
        self.rule = min(self.matched, key=_order, default=None)
        self._steps: dict[str, State] = {}
        self._element: State | None = None

    def step(self, name: str) -> State:
        """Where the paths come to with one more name. A dot in it separates names, as it does in a path."""
        if not self.alive:
            return self
        known = self._steps.get(name)
        if known is None:
            known = self._step(name)
            if len(self._steps) < _MEMO:
                self._steps[name] = known
        return known

    def element(self) -> State:
        """Where the paths come to in an element of a list: what is said of the list's parts is said of each."""
        if self._element is None:
            self._element = self.joined(self.step("\0")) if self.alive else self
        return self._element

    def joined(self, other: State) -> State:
        """Both."""
        return State(self._nodes + other._nodes)

    def names(self) -> frozenset[str]:
        """The names that paths go on with from here."""
        return frozenset(name for node in self._nodes for name in node.named)

    def _step(self, name: str) -> State:
        reached = _advance(self._nodes, name)
        if "." in name:
            nodes: Sequence[_Node] = self._nodes
            for part in name.split("."):
                nodes = _advance(nodes, part)
            reached += nodes
        return State(reached) if reached else NOWHERE


def compile_paths(rules: Iterable[Rule], what: str, *, fields: bool) -> dict[str, State]:
    """The states at which the paths of each root begin.

    Args:
        rules: The rules.
        what: The setting they come from, for errors.
        fields: Whether the roots that are a single text may be named.

    Raises:
        ConfigurationError: A path has no such root or is not a path.
    """
    trees: dict[str, _Node] = {}
    roots = (*COLUMN_ROOTS, *TREE_ROOTS, *(FIELD_ROOTS if fields else ()))
    for rule in rules:
        root, *segments = rule.path.split(".")
        if root not in roots:
            raise ConfigurationError(
                f"{what}: the path {rule.path!r} begins with {root!r}. It can begin with: {', '.join(roots)}."
            )
        if root in FIELD_ROOTS and segments:
            raise ConfigurationError(f"{what}: the path {rule.path!r} goes on behind {root!r}, which is one text.")
        if root not in FIELD_ROOTS and not segments:
            raise ConfigurationError(f"{what}: the path {rule.path!r} names nothing. Write `{root}.*` for all.")
        if "" in segments:
            raise ConfigurationError(f"{what}: the path {rule.path!r} has an empty part.")
        node = trees.setdefault(root, _Node())
        for segment in segments:
            node = node.below(segment)
        node.rules.append(rule)
    return {root: State([trees[root]]) if root in trees else NOWHERE for root in roots}


def _advance(nodes: Sequence[_Node], name: str) -> list[_Node]:
    reached: list[_Node] = []
    for node in nodes:
        for at in (node, node.deep):
            if at is None:
                continue
            if at.loops:
                reached.append(at)
            if at.any is not None:
                reached.append(at.any)
            if (named := at.named.get(name)) is not None:
                reached.append(named)
    return reached


def _order(rule: Rule) -> tuple[int, int]:
    return (_STRENGTH.index(rule.action), rule.digits) if rule.action in _STRENGTH else (len(_STRENGTH), 0)


NOWHERE: Final = State(())
"""No path leads here."""
