"""Access and audit of one started node: made from its configuration, run beside it, and empty where nothing asks for them.

Decides where the audit is written, and that it is kept at all: where [auth] is set, or a file is named. Never judges anything.
Invariant: without [auth] and [audit] nothing here runs, and the ports are those of a node that asks nobody.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from federation.core.policy.rules import Denial
from mesh.access.audit import TOPIC, Audit, Result
from mesh.access.audit_file import AuditFile
from mesh.config import Config, data_folder
from mesh.model.event import NewEvent
from mesh.node.service import RefusedError

if TYPE_CHECKING:
    from mesh.access.access import Access
    from mesh.node.runner import Node

AUDIT_FILE = "audit.jsonl"
DENIALS_S: Final = 0.25
"""How often what did not cross to another region is told to the audit."""


class Admitted:
    """access: None where the ports ask nobody. audit: None where none is kept. denied: what did not cross to other regions."""

    def __init__(
        self, access: Access | None, audit: Audit | None, denied: Callable[[], Sequence[Denial]] = list
    ) -> None:
        self.access = access
        self.audit = audit
        self._denied = denied

    @classmethod
    def of(cls, config: Config, node: Node) -> Admitted:
        """What the configuration asks for. Raises: MeshError where a file of [auth] cannot be used."""
        if config.access is None and config.audit.file is None:
            return cls(None, None)
        path = config.audit.file or data_folder(config) / AUDIT_FILE
        file = AuditFile(path, config.audit.size, config.audit.files)
        asked = config.access is not None
        audit = Audit(str(node.key), time.time, file, Published(node).publish if asked else None)
        node.inspection.audit = audit.reading
        denied = node.machine.boundary.audit.take
        if config.access is None:
            return cls(None, audit, denied)
        from mesh.access.access import Access

        return cls(Access(config.access, audit, time.time), audit, denied)

    async def run(self) -> None:
        """Until cancelled; returns at once where nothing is asked for."""
        async with trio.open_nursery() as nursery:
            if self.audit is not None:
                nursery.start_soon(self.audit.run, name="audit")
                nursery.start_soon(self._tell_denied, self.audit, name="denials")
            if self.access is not None:
                nursery.start_soon(self.access.run, name="access")

    async def _tell_denied(self, audit: Audit) -> None:
        while True:
            for one in self._denied():
                audit.tell(
                    one.direction.value,
                    one.topic,
                    Result.DENIED,
                    who=one.peer,
                    kind="node",
                    port="link",
                    rule=f'rule "{one.rule}" ({one.where})' if one.rule else one.where,
                    detail=f"{one.mesh_id} for {','.join(one.regions)}: {one.reason.value}",
                )
            await trio.sleep(DENIALS_S)

    def reload(self, by: str) -> None:
        """Read the files of [auth] again."""
        if self.access is not None:
            self.access.reload(by)

    def tell(self, what: str, by: str) -> None:
        """Somebody at the machine did something to the node."""
        if self.audit is not None:
            self.audit.tell(what, "node", Result.DONE, who=by, kind="signal", port="node")


class Published:
    """Records as events on `$mesh/audit`, for those who may subscribe to it in this region."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._source = f"mesh://{node.key}"
        self._prefix = f"{node.settings.epoch}-audit-"
        self._numbers = itertools.count(1)

    def publish(self, records: Sequence[bytes]) -> None:
        """Publish records; while the node leaves they are in the file only."""
        events = [
            NewEvent(
                TOPIC,
                "",
                0,
                None,
                msgspec.json.encode(
                    {
                        "specversion": "1.0",
                        "id": f"{self._prefix}{next(self._numbers)}",
                        "source": self._source,
                        "type": "mesh.audit",
                        "datacontenttype": "application/json",
                        "topic": TOPIC,
                        "data": msgspec.Raw(record),
                    }
                ),
            )
            for record in records
        ]
        try:
            self._node.clients.publish(events)
        except RefusedError:
            return
