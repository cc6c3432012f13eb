"""All resources at one revision, immutable: ``control.kinds.base.kind.View``, with indexes made at first use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

from control.kinds.base.kind import Kind
from control.kinds.base.model import Key, Resource, Spec
from control.kinds.base.relations import Labels, Reach, Selector, matches
from control.kinds.known import KINDS
from control.wire.ids import ROOT_NAMESPACE

Label = tuple[str, str, str]
"""(namespace, label, value); label and value are empty for a selector without labels."""
LabelIndex = dict[Label, list[Resource[Any]]]
SelectorIndex = dict[Label, list[tuple[Labels, Resource[Any]]]]


class Catalogue:
    """Resources by key. ``revision`` is the store's when it was read."""

    def __init__(self, resources: Iterable[Resource[Any]], revision: int) -> None:
        self.revision = revision
        self._by_key: dict[Key, Resource[Any]] = {resource.key: resource for resource in resources}
        self._sorted: dict[str, list[Resource[Any]]] = {}
        for key in sorted(self._by_key):
            self._sorted.setdefault(key[0], []).append(self._by_key[key])
        self._labels: dict[str, LabelIndex] = {}
        self._selectors: dict[str, SelectorIndex] = {}

    def with_changes(self, put: Iterable[Resource[Any]], removed: Iterable[Key] = ()) -> Catalogue:
        """Another catalogue, as it would be."""
        resources = dict(self._by_key)
        for key in removed:
            resources.pop(key, None)
        resources.update((resource.key, resource) for resource in put)
        return Catalogue(resources.values(), self.revision)

    def get(self, key: Key) -> Resource[Any] | None:
        """The resource of that kind, namespace and name."""
        return self._by_key.get(key)

    def find(self, kind: Kind[Spec], name: str, namespace: str = "") -> Resource[Spec] | None:
        """The resource of that name."""
        return self._by_key.get((kind.name, namespace, name))

    def of(self, kind: Kind[Spec], namespace: str | None = None) -> Sequence[Resource[Spec]]:
        """All resources of a kind (in a namespace), sorted by namespace and name."""
        found = cast(Sequence[Resource[Spec]], self._sorted.get(kind.name, ()))
        return found if namespace is None else [resource for resource in found if resource.namespace == namespace]

    def selecting(self, kind: Kind[Spec], target: Resource[Any]) -> list[Resource[Spec]]:
        """The resources of ``kind`` whose selector selects ``target``, sorted by namespace and name."""
        selector = kind.selector
        if selector is None or selector.kind != target.kind:
            return []
        index = self._selector_index(kind, selector)
        if not index:
            return []
        namespace, labels = target.namespace, target.labels
        homes = [namespace]
        if selector.reach is not Reach.NAMESPACE and namespace != ROOT_NAMESPACE:
            homes.append(ROOT_NAMESPACE)
        found = [
            resource
            for home in homes
            for label, value in (("", ""), *labels.items())
            for wanted, resource in index.get((home, label, value), ())
            if selector.selects(home, wanted, namespace, labels)
        ]
        return sorted(found, key=lambda resource: resource.key) if len(found) > 1 else found

    def selected(self, source: Resource[Any], kind: Kind[Spec]) -> list[Resource[Spec]]:
        """The resources of ``kind`` that the selector of ``source`` selects, sorted by namespace and name."""
        selector = KINDS[source.kind].selector
        if selector is None or selector.kind != kind.name:
            return []
        wanted = selector.wanted(source)
        if selector.spans(source.namespace, wanted):
            return [resource for resource in self.of(kind) if matches(wanted, resource.labels)]
        if not wanted:
            return list(self.of(kind, source.namespace))
        label, value = min(wanted.items())
        candidates = self._label_index(kind).get((source.namespace, label, value), ())
        return [resource for resource in candidates if matches(wanted, resource.labels)]

    def virtual_addresses(self) -> Iterator[tuple[str, Resource[Any]]]:
        """Every virtual address with the resource that has it, by kind, namespace and name."""
        for kind in KINDS:
            if kind.virtual_addresses is not None:
                yield from ((address, r) for r in self.of(kind) for address in kind.virtual_addresses(r))

    def _label_index(self, kind: Kind[Any]) -> LabelIndex:
        index = self._labels.get(kind.name)
        if index is None:
            index = {}
            for resource in self.of(kind):
                for label, value in resource.labels.items():
                    index.setdefault((resource.namespace, label, value), []).append(resource)
            self._labels[kind.name] = index
        return index

    def _selector_index(self, kind: Kind[Any], selector: Selector) -> SelectorIndex:
        index = self._selectors.get(kind.name)
        if index is None:
            index = {}
            for resource in self.of(kind):
                wanted = selector.wanted(resource)
                # A selected resource has every label of the selector, so an index by one of them finds it.
                label, value = min(wanted.items(), default=("", ""))
                index.setdefault((resource.namespace, label, value), []).append((wanted, resource))
            self._selectors[kind.name] = index
        return index
