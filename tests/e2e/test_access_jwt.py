"""JWTs with real processes: an issuer whose keys change, an issuer that fails, and tokens that must not get in."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import trio
from guarded import Files, Issuer, closed, op, publish, start, websocket
from joserfc.jwk import RSAKey
from processes import running, until

RULES = """\
allow role:shop publish,subscribe orders/#
allow claim:tenant=acme publish tenants/{tenant}/#
"""


def auth(issuer: str, *more: str) -> list[str]:
    return [f'jwks = "{issuer}"', 'issuer = "https://issuer"', 'audience = "mesh"', *more]


def forged(header: dict[str, Any], claims: dict[str, Any], secret: bytes | None) -> str:
    """A token without a signature, or with one of a shared secret."""
    parts = [base64.urlsafe_b64encode(json.dumps(one).encode()).rstrip(b"=") for one in (header, claims)]
    signed = b".".join(parts)
    signature = b"" if secret is None else hmac.new(secret, signed, hashlib.sha256).digest()
    return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


async def test_tokens_of_an_issuer_whose_keys_change(tmp_path: Path) -> None:
    files = Files(tmp_path / "auth")
    files.rules(RULES)
    issuer = Issuer()
    issuer.new_key("k1")
    now_s = time.time()
    with issuer.serving():
        async with running(tmp_path) as mesh:
            a = await start(mesh, files, *auth(issuer.url, 'jwks_refresh = "1s"', 'leeway = "1ms"'))
            good = issuer.token("k1", now_s, roles=["shop"], tenant="acme")

            async def taken() -> bool:
                return (await publish(a, good, "orders/1")).status == 202

            await until(taken, 10, "the issuer's keys are there")
            assert (await publish(a, good, "tenants/acme/1")).status == 202
            assert (await publish(a, good, "tenants/other/1")).status == 403
            assert (await publish(a, issuer.token("k1", now_s, roles=["else"]), "orders/1")).status == 403

            claims = {
                "iss": "https://issuer",
                "aud": "mesh",
                "exp": int(now_s) + 600,
                "sub": "x",
                "roles": ["shop"],
            }
            public = json.dumps(issuer.keys["k1"].as_dict(private=False)).encode()
            pem = issuer.keys["k1"].as_pem(private=False)
            for token, why in (
                (issuer.token("k1", now_s, aud="other"), "aud"),
                (issuer.token("k1", now_s, iss="https://else"), "iss"),
                (issuer.token("k1", now_s, exp=int(now_s) - 5), "Expired"),
                (issuer.token("k1", now_s, nbf=int(now_s) + 300), "nbf"),
                (good[:-8] + "AAAAAAAA", "signature"),
                (forged({"alg": "none", "kid": "k1"}, claims, None), "algorithm"),
                (forged({"alg": "HS256", "kid": "k1"}, claims, pem), "algorithm"),
                (forged({"alg": "HS256", "kid": "k1"}, claims, public), "algorithm"),
                ("a.b.c", "no JWT"),
            ):
                answer = await publish(a, token, "orders/1")
                assert (answer.status, answer.json["code"]) == (401, "MESH-E062"), why
                assert why in answer.json["detail"], (why, answer.json["detail"])

            # A new key is found when its first token comes; tokens of unknown keys do not make the node ask all the time.
            issuer.new_key("k2", "RSA")
            second = issuer.token("k2", now_s, roles=["shop"])

            async def second_taken() -> bool:
                return (await publish(a, second, "orders/1")).status == 202

            await until(second_taken, 5, "the new key is found")
            asked, begun = issuer.asked, trio.current_time()
            stranger = issuer.token("k2", now_s).replace(
                second.partition(".")[0],
                base64.urlsafe_b64encode(b'{"alg":"RS256","kid":"k9"}').rstrip(b"=").decode(),
            )
            for _ in range(50):
                assert (await publish(a, stranger, "orders/1")).status == 401
            assert issuer.asked - asked <= 2 * (trio.current_time() - begun) + 2

            # The old key is taken back: its open session ends.
            async with websocket(a, good) as old, websocket(a, second) as new:
                assert (await op(old, op="subscribe", id=1, sid=1, filter="orders/#"))["op"] == "ok"
                del issuer.keys["k1"]
                code, reason = await closed(old)
                assert (code, "key is not one of the issuer's" in reason) == (1008, True)
                assert (await op(new, op="ping", id=1))["op"] == "ok"
            assert (await publish(a, good, "orders/1")).status == 401

            # An issuer that fails ends nothing.
            issuer.broken = True
            asked = issuer.asked

            async def asked_again() -> bool:
                return issuer.asked > asked + 1

            await until(asked_again, 10, "the issuer is asked again")
            assert (await publish(a, second, "orders/1")).status == 202
            assert "MESH-C052" in a.log.read_text()


async def test_an_issuer_that_does_not_answer_at_the_start_and_a_token_that_ends(tmp_path: Path) -> None:
    files = Files(tmp_path / "auth")
    files.rules(RULES)
    issuer = Issuer()
    issuer.new_key("k1")
    issuer.broken = True
    with issuer.serving():
        async with running(tmp_path) as mesh:
            a = await start(mesh, files, *auth(issuer.url, 'jwks_refresh = "1s"', 'leeway = "1ms"'))
            token = issuer.token("k1", time.time(), roles=["shop"])

            async def unavailable() -> bool:
                answer = await publish(a, token, "orders/1")
                assert (answer.status, answer.json["code"]) == (503, "MESH-E066")
                return "it answers 500" in answer.json["detail"]

            await until(unavailable, 10, "the reason is told")
            issuer.broken = False

            async def taken() -> bool:
                return (await publish(a, token, "orders/1")).status == 202

            await until(taken, 10, "the keys are there")
            short = issuer.token("k1", time.time(), roles=["shop"], exp=int(time.time()) + 2)
            async with websocket(a, short) as socket:
                assert (await op(socket, op="subscribe", id=1, sid=1, filter="orders/#"))["op"] == "ok"
                code, reason = await closed(socket)
            assert (code, "Expired" in reason) == (1008, True)


async def test_keys_from_a_file_and_names_and_roles_inside_other_claims(tmp_path: Path) -> None:
    files = Files(tmp_path / "auth")
    files.rules("allow jwt:alice publish {name}/#\nallow role:ops publish ops/#\n")
    issuer = Issuer()
    issuer.new_key("rsa", "RSA")
    assert isinstance(issuer.keys["rsa"], RSAKey)
    keys = tmp_path / "keys.json"
    keys.write_bytes(issuer.jwks())
    async with running(tmp_path) as mesh:
        names = ['name_claim = "user.login"', 'roles_claim = "realm_access.roles"']
        a = await start(mesh, files, *auth(str(keys), *names))
        told = {"user": {"login": "alice"}, "realm_access": {"roles": ["ops"]}}
        token = issuer.token("rsa", time.time(), **told)
        for topic, status in (("alice/x", 202), ("ops/x", 202), ("bob/x", 403)):
            assert (await publish(a, token, topic)).status == status
        nameless = await publish(a, issuer.token("rsa", time.time()), "ops/x")
        assert (nameless.status, "no name in 'user.login'" in nameless.json["detail"]) == (401, True)

        issuer.new_key("other")
        del issuer.keys["rsa"]
        keys.write_bytes(issuer.jwks())
        other = issuer.token("other", time.time(), **told)

        async def taken() -> bool:
            return (await publish(a, other, "alice/x")).status == 202

        await until(taken, 10, "the file was read again")
        assert (await publish(a, token, "alice/x")).status == 401
