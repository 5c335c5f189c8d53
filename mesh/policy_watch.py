"""The policy file of a running node: taken over when it changes, refused when it has a mistake.

Decides when the file is looked at. Never decides what it means. Invariant: the rules in force are always those of one whole file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import structlog
import trio

from mesh.access.audit import Audit, Result
from mesh.model.errors import MeshError
from mesh.node.runner import Node
from mesh.policies import Policy, changed, read_policy, stamp_of

log = structlog.get_logger("policy")

LOOK_S: Final = 1.0
"""How often the files are looked at for changes."""


class PolicyWatch:
    """Takes over the policy's file when it changes, and on SIGHUP. A file with a problem changes nothing, and is told once."""

    def __init__(self, path: Path, policy: Policy, node: Node, audit: Audit | None = None) -> None:
        self._path = path
        self._policy = policy
        self._node = node
        self._audit = audit
        self._refused: Policy | None = None

    async def run(self) -> None:
        """Look for changes every LOOK_S."""
        while True:
            await trio.sleep(LOOK_S)
            if changed(self._refused or self._policy):
                self.reload()

    def reload(self) -> None:
        """Read the file again. Never raises for what is written there."""
        try:
            policy = read_policy(self._path)
        except MeshError as error:
            # The next look compares with the file as it is now.
            self._refused = self._policy._replace(stamp=stamp_of(self._path, self._policy))
            log.error("policy not reloaded: the rules before hold", code=error.code, problem=str(error))
            self._tell(Result.FAILED, error.code, str(error))
            return
        self._refused = None
        self._policy = policy
        self._node.replace_policy(policy.rule_file, policy.keys)
        log.info("policy reloaded", file=str(self._path), rules=len(policy.rule_file.rules))
        self._tell(Result.DONE)

    def _tell(self, result: Result, code: str = "", detail: str = "") -> None:
        if self._audit is not None:
            self._audit.tell("reload", str(self._path), result, port="node", code=code, detail=detail)
