"""Namespaces: a `default` ServiceAccount in each, and nothing left in one that goes.

Read next: `minik8s/controllers/garbage.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from nodecore.kube.objects import View
from nodecore.kube.resource import SERVICE_ACCOUNTS
from nodecore.kube.workload import Anything, Meta

from .ops import Create, Finalize, Plan
from .world import Collection

FINALIZER = "kubernetes"


class NamespaceSpec(View, frozen=True):
    """core/v1 NamespaceSpec."""

    finalizers: list[str] | None = None


class Namespace(View, frozen=True):
    """core/v1 Namespace."""

    metadata: Meta = Meta()
    spec: NamespaceSpec = NamespaceSpec()


def plan_namespace(namespace: Namespace) -> Plan:
    """For a namespace that goes: empty it, then give it back."""
    finalizers = namespace.spec.finalizers or []
    if not namespace.metadata.deletion_timestamp or FINALIZER not in finalizers:
        return Plan()
    body = {"apiVersion": "v1", "kind": "Namespace", "spec": {"finalizers": [each for each in finalizers if each != FINALIZER]}}
    return Plan((Finalize(namespace.metadata, body),))


def plan_account(namespace: Namespace | None, account: Anything | None) -> Plan:
    """For a namespace that stays: its `default` ServiceAccount."""
    if namespace is None or namespace.metadata.deletion_timestamp or account is not None:
        return Plan()
    meta = {"name": "default", "namespace": namespace.metadata.name}
    return Plan((Create(SERVICE_ACCOUNTS, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}),))


class Namespaces:
    """The controller around `plan_namespace`."""

    name = "namespace"

    def __init__(self, namespaces: Collection[Namespace]) -> None:
        self.namespaces = namespaces

    def listen(self, mark: Callable[[str], None]) -> None:
        """Marked by its own change."""
        def of_namespace(old: Namespace | None, new: Namespace | None) -> None:
            if new is not None and new.metadata.deletion_timestamp:
                mark(new.metadata.name)

        self.namespaces.listeners.append(of_namespace)

    def plan(self, key: str, now: float) -> Plan:
        """The namespace's writes, none once it is gone."""
        found = self.namespaces.get(key)
        return plan_namespace(found) if found else Plan()


class DefaultAccounts:
    """The controller around `plan_account`."""

    name = "serviceaccount"

    def __init__(self, namespaces: Collection[Namespace], accounts: Collection[Anything]) -> None:
        self.namespaces, self.accounts = namespaces, accounts

    def listen(self, mark: Callable[[str], None]) -> None:
        """A namespace that came, an account that went."""
        def of_namespace(old: Namespace | None, new: Namespace | None) -> None:
            if new is not None:
                mark(new.metadata.name)

        def of_account(old: Anything | None, new: Anything | None) -> None:
            if new is None and old is not None and old.metadata.name == "default":
                mark(old.metadata.namespace)

        self.namespaces.listeners.append(of_namespace)
        self.accounts.listeners.append(of_account)

    def plan(self, key: str, now: float) -> Plan:
        """The account, where it is missing."""
        return plan_account(self.namespaces.get(key), self.accounts.get(f"{key}/default"))
