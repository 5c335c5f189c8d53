"""Who may use a node: what clients show is judged here, rules are read here, and read again when their files change.

Decides whether a proof is good, and when an open session may not go on. What a principal may do is decided by its `Rights`.
Invariants: files are taken whole or not at all: a broken one changes nothing and is told; after a reload every open session has been
judged by the new state before any other task runs.
Bounds: RIGHTS principals and VERIFIED tokens are remembered; files are looked at every POLL_S.
Source: docs/access.md; docs/decisions/0022-access.md.
"""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import structlog
import trio

from mesh.access.audit import Audit, Result
from mesh.access.credentials import CertifiedName, Shown
from mesh.access.denial import Denied
from mesh.access.principal import Kind, Principal
from mesh.access.rights import Rights
from mesh.access.rule_file import RuleFile, read_rules
from mesh.access.terms import AccessTerms, BadToken, UnknownKey, is_url
from mesh.access.token_file import TokenFile, digest, read_tokens
from mesh.access.usage import Usage
from mesh.model.errors import MeshError
from mesh.model.ids import MeshId, SessionId
from mesh.node.service import Receivers

if TYPE_CHECKING:
    from mesh.access.key_source import KeySource
    from mesh.access.signed import Keys, SignedTokens

log = structlog.get_logger("access")

POLL_S: Final = 2.0
RIGHTS: Final = 4_096
VERIFIED: Final = 4_096
FILE_BYTES: Final = 8 << 20


class Proof(NamedTuple):
    """What is kept of what a session showed, to judge it again: of a token from the file only its hash."""

    hashed: bytes = b""
    token: str = ""
    certified: CertifiedName | None = None


class Judged(Protocol):
    """An open session."""

    principal: Principal
    proof: Proof

    def judge(self, principal: Principal, rights: Rights) -> None:
        """Its rights are these from now on: it goes on with what is allowed, or ends."""

    def end(self, detail: str) -> None:
        """What it showed is no longer good."""


class Settled(NamedTuple):
    """Events that a client was owed and may not see."""

    receivers: Receivers
    session: SessionId
    ids: Sequence[MeshId]


class Access:
    """Args: wall_s: wall clock. audit: told of what is refused and what changes. Raises: MeshError where a file cannot be used."""

    def __init__(self, terms: AccessTerms, audit: Audit, wall_s: Callable[[], float]) -> None:
        self.terms = terms
        self.audit = audit
        self.usage = Usage()
        self.sessions: set[Judged] = set()
        """Open ones, in no order."""
        self.generation = 0
        """Grows whenever a proof or a right may have changed."""
        self._wall_s = wall_s
        self._stamps: dict[str, tuple[int, int, int]] = {}
        self._tokens = TokenFile({})
        self._rules = RuleFile(str(terms.acl))
        self._signed: SignedTokens | None = None
        self._source: KeySource | None = None
        self._rights: OrderedDict[Principal, Rights] = OrderedDict()
        self._verified: OrderedDict[bytes, Principal] = OrderedDict()
        self._owed: deque[Settled] = deque()
        self._owes = trio.Event()
        if terms.tokens is not None:
            self._open_signed()
        for path in self._files():
            self._stamps[path] = _stamp(path)
            self._take(path, _read(path))

    def _open_signed(self) -> None:
        from mesh.access.key_source import KeySource
        from mesh.access.signed import Keys, SignedTokens

        assert self.terms.tokens is not None, "asked for"
        self._signed = SignedTokens(self.terms.tokens, Keys({}))
        if is_url(self.terms.jwks):
            self._source = KeySource(self.terms.jwks, self.terms.jwks_refresh_s, self._keys_changed)

    # -- proofs --------------------------------------------------------------------------------------------------

    async def admit(self, shown: Shown) -> tuple[Principal, Proof]:
        """Whose proof this is. Cost: 2 us for a token seen lately; a JWT of a key that is not held waits for the issuer's answer.

        Raises: Denied MESH-E061, E062, E066."""
        if shown.token:
            proof = Proof(digest(shown.token), shown.token if shown.token.count(".") == 2 else "")
        elif shown.certified is not None and self.terms.certificates:
            proof = Proof(certified=shown.certified)
        else:
            raise Denied("MESH-E061", "the request shows no token")
        try:
            return self._principal(proof), proof
        except UnknownKey:
            pass
        if self._source is not None:
            await self._source.refreshed()
        try:
            return self._principal(proof), proof
        except UnknownKey as unknown:
            raise Denied("MESH-E062", f"the token is not good: {unknown}") from None

    def _principal(self, proof: Proof) -> Principal:
        """Raises: Denied; UnknownKey."""
        now_s = self._wall_s()
        if proof.certified is not None:
            name, until_s = proof.certified
            if until_s <= now_s or not self.terms.certificates:
                raise Denied("MESH-E062", "the certificate is out of date")
            return Principal(name, Kind.CERTIFICATE, until_s=until_s)
        found = self._tokens.of(proof.hashed)
        if found is None:
            return self._of_signed(proof, now_s)
        if found.until_s is not None and found.until_s <= now_s:
            raise Denied("MESH-E062", "the token has ended")
        return found

    def _of_signed(self, proof: Proof, now_s: float) -> Principal:
        if not proof.token or self._signed is None:
            raise Denied("MESH-E062", "the token is not known")
        known = self._verified.get(proof.hashed)
        if known is not None and known.until_s is not None and known.until_s > now_s:
            self._verified.move_to_end(proof.hashed)
            return known
        if self._source is not None and not self._source.fresh:
            raise Denied("MESH-E066", self._source.problem or "the issuer has not been asked yet")
        try:
            principal = self._signed.read(proof.token, now_s)
        except UnknownKey:
            raise
        except BadToken as bad:
            raise Denied("MESH-E062", f"the token is not good: {bad}") from None
        self._verified[proof.hashed] = principal
        if len(self._verified) > VERIFIED:
            self._verified.popitem(last=False)
        return principal

    def is_over(self, principal: Principal) -> bool:
        """Whether the time of a principal's proof is over."""
        return principal.until_s is not None and principal.until_s <= self._wall_s()

    def rights_of(self, principal: Principal) -> Rights:
        """What a principal may do now. Cost: 0.5 us where it was asked lately, else 1 us a rule."""
        found = self._rights.get(principal)
        if found is None:
            found = self._rights[principal] = Rights(self._rules, principal)
            if len(self._rights) > RIGHTS:
                self._rights.popitem(last=False)
        else:
            self._rights.move_to_end(principal)
        return found

    # -- events that may not be seen -----------------------------------------------------------------------------

    def settle(self, receivers: Receivers, session: SessionId, ids: Iterable[MeshId]) -> None:
        """They wait for an acknowledgement that will not come: given soon, not in this call, which hands events over."""
        self._owed.append(Settled(receivers, session, tuple(ids)))
        self._owes.set()

    async def _keep_settling(self) -> None:
        while True:
            await self._owes.wait()
            self._owes = trio.Event()
            while self._owed:
                receivers, session, ids = self._owed.popleft()
                receivers.ack(session, ids)

    # -- files ---------------------------------------------------------------------------------------------------

    def _files(self) -> list[str]:
        found = [self.terms.acl, self.terms.tokens_file]
        if self.terms.jwks and self._source is None:
            found.append(Path(self.terms.jwks))
        return [str(path) for path in found if path is not None]

    def _take(self, path: str, text: str) -> None:
        """Raises: MeshError; nothing is changed then."""
        if path == str(self.terms.acl):
            self._rules = read_rules(text, path)
        elif self.terms.tokens_file is not None and path == str(self.terms.tokens_file):
            self._tokens = read_tokens(text, path)
        else:
            from mesh.access.signed import read_keys

            assert self._signed is not None, "there are keys"
            self._signed.keys = read_keys(text.encode(), path)

    def reload(self, by: str) -> None:
        """Read every file again, and the issuer's keys soon; then judge every open session anew. by: who asked, for the audit.

        Never raises for what the files hold: a broken one is told, and the state before stays."""
        self._reload({path: _read_or_error(path) for path in self._files()}, by)
        if self._source is not None:
            self._source.want()

    def _reload(self, texts: dict[str, str | MeshError], by: str) -> None:
        for path, text in texts.items():
            try:
                if isinstance(text, MeshError):
                    raise text
                self._take(path, text)
            except MeshError as error:
                log.error("not reloaded: what was read before stays", code=error.code, problem=str(error))
                self.audit.tell(
                    "reload", path, Result.FAILED, who=by, port="node", code=error.code, detail=str(error)
                )
            else:
                log.info("reloaded", file=path)
                self.audit.tell("reload", path, Result.DONE, who=by, port="node")
        self._changed()

    def _keys_changed(self, keys: Keys) -> None:
        assert self._signed is not None, "there is an issuer"
        self._signed.keys = keys
        self._changed()

    def _changed(self) -> None:
        self.generation += 1
        self._rights.clear()
        self._verified.clear()
        for session in list(self.sessions):
            self._judge(session)

    def _judge(self, session: Judged) -> None:
        try:
            principal = self._principal(session.proof)
        except UnknownKey:
            session.end("its token's key is not one of the issuer's any more")
        except Denied as denied:
            if denied.code != "MESH-E066":  # an issuer that does not answer ends no session
                session.end(denied.detail)
        else:
            session.judge(principal, self.rights_of(principal))

    # -- running -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look at the files, ask the issuer, end sessions whose time is over; until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_polling, name="access files")
            nursery.start_soon(self._keep_settling, name="access settles")
            if self._source is not None:
                nursery.start_soon(self._source.run, name="access keys")

    async def _keep_polling(self) -> None:
        while True:
            await trio.sleep(POLL_S)
            changed = await trio.to_thread.run_sync(self._look)
            if changed:
                self._reload(changed, "file change")
            for session in [one for one in self.sessions if self.is_over(one.principal)]:
                self._judge(session)

    def _look(self) -> dict[str, str | MeshError]:
        """Files that changed, with what is in them. Runs in a thread."""
        found: dict[str, str | MeshError] = {}
        for path in self._files():
            stamp = _stamp(path)
            if stamp != self._stamps.get(path):
                self._stamps[path] = stamp
                found[path] = _read_or_error(path)
        return found

    def items(self) -> list[dict[str, object]]:
        """What each principal uses and may use, for the admin port."""
        found: list[dict[str, object]] = []
        for use in self.usage.all():
            allowance = self.rights_of(use.principal).allowance
            found.append(
                {
                    "name": use.principal.name,
                    "kind": use.principal.kind.value,
                    "roles": sorted(use.principal.roles),
                    "connections": use.connections,
                    "subscriptions": use.subscriptions,
                    "events": use.events,
                    "bytes": use.bytes,
                    "denied": use.denied,
                    "limited": use.limited,
                    "may": {name: value for name, value in allowance._asdict().items() if value is not None},
                }
            )
        return found


def _stamp(path: str) -> tuple[int, int, int]:
    """What changes when a file does; zeros where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _read(path: str) -> str:
    """Raises: MeshError MESH-C026."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise MeshError("MESH-C026", path, (error.strerror or "it cannot be read").lower()) from None
    except ValueError:
        raise MeshError("MESH-C026", path, "it is not UTF-8") from None
    if len(text) > FILE_BYTES:
        raise MeshError("MESH-C026", path, f"it is longer than {FILE_BYTES} characters")
    return text


def _read_or_error(path: str) -> str | MeshError:
    try:
        return _read(path)
    except MeshError as error:
        return error
