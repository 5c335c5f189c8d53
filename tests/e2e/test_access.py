"""Access with real processes: who gets in, what a rule denies on every protocol, and what a reload does to open sessions."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import trio
from guarded import (
    Files,
    Watcher,
    audit_lines,
    audited,
    bearer,
    closed,
    op,
    publish,
    refused,
    replace,
    start,
    websocket,
)
from processes import MESH, NodeProcess, Subscriber, bridge, http, running, sees_regions, until

from mesh.client import CallRefused, Client

RULES = """\
# who      rights               filter
no-hr: deny   *          *                    hr/#
deny   role:shop  subscribe            orders/+/secret
allow  role:shop  publish,subscribe    orders/#
allow  workers    group                orders/#
allow  workers    request              ask/#
allow  admin      *                    #
allow  admin      subscribe            $mesh/audit
allow  *          publish,subscribe    tenants/{tenant}/#
scope  admin      admin
scope  shop-1     read
"""


def event(topic: str, number: int = 1) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": str(number),
        "source": "/t",
        "type": "t",
        "topic": topic,
        "data": {"n": number},
    }


async def items(node: NodeProcess, token: str, what: str) -> list[dict[str, Any]]:
    answer = await http(node.admin, "GET", f"/v1/{what}", headers=bearer(token))
    assert answer.status == 200, answer.body
    return list(answer.json["items"])


def plain_files(folder: Path) -> Files:
    files = Files(folder / "auth")
    files.token("shop-1", "role=shop", "tenant=acme")
    files.token("workers")
    files.token("admin")
    files.token("nobody")
    files.rules(RULES)
    return files


async def test_curl_without_a_good_token_gets_401_and_with_one_what_the_rules_allow(tmp_path: Path) -> None:
    files = plain_files(tmp_path)
    async with running(tmp_path) as mesh:
        a = await start(mesh, files)

        async def curl(*arguments: str) -> tuple[int, dict[str, Any], str]:
            done = await trio.run_process(
                ["curl", "-sS", "-i", "--max-time", "10", "-d", "hello", *arguments], capture_stdout=True
            )
            head, _, body = done.stdout.decode().partition("\r\n\r\n")
            return int(head.split()[1]), json.loads(body), head.lower()

        url = f"http://{a.events}/v1/events"
        status, told, head = await curl(f"{url}/orders/1")
        assert (status, told["code"]) == (401, "MESH-E061")
        assert 'www-authenticate: bearer realm="hopmesh"' in head
        status, told, head = await curl("-H", "Authorization: Bearer mesh_wrong", f"{url}/orders/1")
        assert (status, told["code"]) == (401, "MESH-E062")
        assert "mesh_wrong" not in json.dumps(told)
        shop = f"Authorization: Bearer {files.tokens['shop-1']}"
        assert (await curl("-H", shop, f"{url}/orders/1"))[0] == 202
        assert (await curl("-H", shop, f"{url}/tenants/acme/x"))[0] == 202
        status, told, _ = await curl("-H", shop, f"{url}/hr/salaries")
        assert (status, told["code"]) == (403, "MESH-E063")
        assert told["rule"] == {"name": "no-hr", "file": "mesh.acl", "line": 2, "text": "deny * * hr/#"}
        assert 'rule "no-hr" (mesh.acl:2)' in told["detail"]
        status, told, _ = await curl("-H", shop, f"{url}/tenants/other/x")
        assert (status, told["rule"]["name"]) == (403, "default")
        assert (await curl("-H", shop, "-H", shop, f"{url}/orders/1"))[0] == 400

        denied = await audited(a, what="publish", where="hr/salaries")
        assert denied | {"time": "", "remote": ""} == {
            "time": "",
            "node": "a/a-1",
            "who": "shop-1",
            "kind": "token",
            "remote": "",
            "port": "events",
            "what": "publish",
            "where": "hr/salaries",
            "rule": f'rule "no-hr" ({files.acl}:2)',
            "result": "denied",
            "code": "MESH-E063",
            "detail": "",
            "count": 1,
        }
        line = await audited(a, what="authenticate", result="refused", code="MESH-E062")
        assert line["remote"].startswith("127.0.0.1:")
        lines = (a.folder / "data" / "audit.jsonl").read_text()
        assert all(token not in lines + a.log.read_text() for token in files.tokens.values())


async def test_a_subscriber_of_everything_sees_only_what_it_may(tmp_path: Path) -> None:
    files = plain_files(tmp_path)
    admin, shop = files.tokens["admin"], files.tokens["shop-1"]
    async with running(tmp_path) as mesh, trio.open_nursery() as nursery:
        a = await start(mesh, files)
        b = await start(mesh, files, name="a-2", flags=[f"--seed={a.link}"])
        sse = Watcher()
        await nursery.start(sse.run, b, "filter=%23&wait=region", bearer(shop))
        async with (
            websocket(b, shop) as socket,
            websocket(b, shop, path="/v1/events?filter=%23", offered=["cloudevents.json"]) as plain,
        ):
            assert (await op(socket, op="subscribe", id=1, sid=7, filter="#", wait="region"))["op"] == "ok"
            receipt = json.loads(await socket.get_message())
            assert (receipt["op"], receipt["complete"]) == ("receipt", True)
            held = {item["filter"] for item in await items(b, admin, "subscriptions")}
            assert held == {"orders/#", "tenants/acme/#"}  # what the mesh is asked for is cut by the rules
            for topic in (
                "orders/1",
                "orders/1/secret",
                "tenants/acme/x",
                "tenants/other/x",
                "hr/x",
                "orders/2",
            ):
                answer = await publish(a, admin, topic)
                assert answer.status == (403 if topic == "hr/x" else 202)
            shown = ["orders/1", "tenants/acme/x", "orders/2"]
            await sse.wait(3)
            assert sse.topics == shown
            with trio.fail_after(5):
                told = [json.loads(await socket.get_message()) for _ in range(3)]
                events = [json.loads(await plain.get_message()) for _ in range(3)]
            assert [one["topic"] for one in told] == shown
            assert {tuple(one["sids"]) if "sids" in one else (one["sid"],) for one in told} == {(7,)}
            assert len(events) == 3
        assert (await audited(b, what="deliver", where="orders/1/secret"))["result"] == "denied"
        text = (await http(b.admin, "GET", "/metrics", headers=bearer(admin))).body.decode()
        assert 'mesh_drops_total{reason="access_deny"} 3.0' in text
        answer = await http(
            b.events,
            "GET",
            "/v1/events?filter=hr/%23",
            headers=[*bearer(shop), ("Accept", "text/event-stream")],
        )
        assert (answer.status, answer.json["rule"]["line"]) == (403, 2)
        nursery.cancel_scope.cancel()


async def test_rights_differ_for_groups_requests_and_durable_clients(tmp_path: Path) -> None:
    files = plain_files(tmp_path)
    async with running(tmp_path) as mesh:
        a = await start(mesh, files)
        async with websocket(a, files.tokens["workers"]) as workers:
            assert (await op(workers, op="subscribe", id=1, sid=1, filter="orders/#"))["problem"][
                "code"
            ] == "MESH-E063"
            assert (await op(workers, op="subscribe", id=2, sid=1, filter="$share/w/orders/#"))["op"] == "ok"
            shared = await op(workers, op="subscribe", id=3, sid=2, filter="#", group="w")
            assert "whole or not at all" in shared["problem"]["detail"]
            asked = await op(workers, op="request", id=4, topic="orders/x", event=event("orders/x"))
            assert asked["problem"]["status"] == 403
            asked = await op(workers, op="request", id=5, topic="ask/x", event=event("ask/x"), timeout=1)
            assert asked["problem"]["code"] == "MESH-E013"  # allowed; nobody answers
            said = await op(workers, op="publish", id=6, topic="orders/x", event=event("orders/x"))
            assert said["problem"]["rule"]["name"] == "default"
        taken = await refused(a, files.tokens["workers"], "/v1/ws?client=shop-1&durable=true")
        assert (taken.status, taken.json["code"]) == (403, "MESH-E067")
        async with websocket(a, files.tokens["admin"], path="/v1/ws?client=admin.a&durable=true") as durable:
            assert json.loads(await durable.get_message())["op"] == "resumed"
            told = await op(durable, op="subscribe", id=1, sid=1, filter="#")
            assert "whole or not at all" in told["problem"]["detail"]  # hr/# is denied to all
            assert (await op(durable, op="subscribe", id=2, sid=1, filter="orders/#"))["op"] == "ok"
        own = await http(a.events, "GET", "/v1/clients", headers=bearer(files.tokens["workers"]))
        assert own.json["clients"] == []
        gone = await http(a.events, "DELETE", "/v1/clients/admin.a", headers=bearer(files.tokens["workers"]))
        assert gone.status == 403
        gone = await http(a.events, "DELETE", "/v1/clients/admin.a", headers=bearer(files.tokens["admin"]))
        assert gone.status == 204
        assert (await audited(a, what="client delete", result="done"))["where"] == "admin.a"


async def test_a_browser_shows_its_token_in_a_subprotocol_or_where_it_is_allowed_in_the_address(
    tmp_path: Path,
) -> None:
    files = plain_files(tmp_path)
    shop = files.tokens["shop-1"]
    async with running(tmp_path) as mesh, trio.open_nursery() as nursery:
        a = await start(mesh, files)
        async with websocket(a, offered=["mesh.v1.json", f"mesh.bearer.{shop}"]) as socket:
            assert socket.subprotocol == "mesh.v1.json"
            assert (await op(socket, op="ping", id=1))["op"] == "ok"
        stream = ("Accept", "text/event-stream")
        answer = await http(
            a.events, "GET", f"/v1/events?filter=orders/%23&access_token={shop}", headers=[stream]
        )
        assert answer.status == 401
        assert "URLs are logged" in answer.json["detail"]
        b = await start(mesh, files, "token_in_query = true", name="b-1")
        watcher = Watcher()
        await nursery.start(watcher.run, b, f"filter=orders/%23&access_token={shop}", [])
        assert (await publish(b, shop, "orders/1")).status == 202
        await watcher.wait(1)
        posted = await http(b.events, "POST", f"/v1/events/orders/1?access_token={shop}", body=b"x")
        assert posted.status == 401
        nursery.cancel_scope.cancel()


async def test_what_a_reload_no_longer_allows_ends_with_a_reason(tmp_path: Path) -> None:
    files = plain_files(tmp_path)
    shop, admin = files.tokens["shop-1"], files.tokens["admin"]
    async with running(tmp_path) as mesh, trio.open_nursery() as nursery:
        a = await start(mesh, files)
        narrowed, ended = Watcher(), Watcher()
        await nursery.start(narrowed.run, a, "filter=%23", bearer(shop))
        await nursery.start(ended.run, a, "filter=tenants/acme/%23", bearer(shop))
        async with websocket(a, files.tokens["workers"]) as workers:
            assert (await op(workers, op="subscribe", id=1, sid=1, filter="orders/#", group="w"))[
                "op"
            ] == "ok"
            replace(files.acl, RULES.replace("tenants/{tenant}/#", "common/#"))
            closing = await ended.end()
            assert closing["reason"] == "access_ended"
            assert "no rule of mesh.acl allows it" in closing["detail"]

            async def held() -> bool:
                return {one["filter"] for one in await items(a, admin, "subscriptions")} == {
                    "orders/#",
                    "common/#",
                }

            await until(held, 10, "the subscription follows the rules")
            for topic in ("tenants/acme/x", "common/x", "orders/x"):
                assert (await publish(a, admin, topic)).status == 202
            await narrowed.wait(2)
            assert narrowed.topics == ["common/x", "orders/x"]
            assert not narrowed.ended

            replace(files.acl, "allow * everything #\n")
            failed = await audited(a, what="reload", result="failed")
            assert (failed["code"], failed["where"]) == ("MESH-C051", str(files.acl))
            assert f"{files.acl}:1" in failed["detail"]
            assert (await publish(a, shop, "orders/3")).status == 202  # the rules before stay

            files.take_back("workers")
            assert await closed(workers) == (1008, "MESH-E068 the token is not known")
        assert (await publish(a, files.tokens["workers"], "orders/3")).status == 401
        assert (await audited(a, what="session", who="workers", result="ended"))["code"] == "MESH-E068"
        nursery.cancel_scope.cancel()


async def test_sighup_reads_the_files_at_once(tmp_path: Path) -> None:
    files = plain_files(tmp_path)
    async with running(tmp_path) as mesh:
        a = await start(mesh, files)
        new = files.token("late", "role=shop")
        a.signal(signal.SIGHUP)

        async def known() -> bool:
            return (await publish(a, new, "orders/1")).status == 202

        await until(known, 10, "the new token is known")
        assert (await audited(a, what="reload", who="SIGHUP", result="done"))["where"]


async def test_rate_quota_connections_and_subscriptions_are_bounded_by_principal(tmp_path: Path) -> None:
    files = plain_files(tmp_path)
    limits = "limit shop-1 events=5/s bytes=2KiB/s connections=2 subscriptions=3\n"
    files.rules(limits + RULES)
    shop, admin = files.tokens["shop-1"], files.tokens["admin"]
    async with running(tmp_path) as mesh:
        a = await start(mesh, files)
        answers = [await publish(a, shop, "orders/1") for _ in range(12)]
        taken = [answer for answer in answers if answer.status == 202]
        over = [answer for answer in answers if answer.status == 429]
        assert len(taken) + len(over) == 12
        assert 5 <= len(taken) <= 8
        assert over[0].json["code"] == "MESH-E064"
        assert over[0].headers["retry-after"] == "1"
        for _ in range(12):  # others are not held up
            assert (await publish(a, admin, "orders/1")).status == 202

        async def rested() -> bool:
            return (await publish(a, shop, "orders/1", b"x" * 6_000)).status == 202

        await until(rested, 10, "a large call passes when there is anything left")
        over_bytes = await publish(a, shop, "orders/1")
        assert over_bytes.status == 429
        assert int(over_bytes.headers["retry-after"]) >= 2  # 6,000 of 2,048 bytes a second

        async with websocket(a, shop) as one, websocket(a, shop) as two:
            assert (await refused(a, shop)).json["code"] == "MESH-E065"
            for sid, socket in enumerate((one, one, two)):
                assert (await op(socket, op="subscribe", id=1, sid=sid, filter=f"orders/{sid}"))["op"] == "ok"
            told = await op(two, op="subscribe", id=1, sid=9, filter="orders/9")
            assert told["problem"]["code"] == "MESH-E065"
            assert (await op(one, op="unsubscribe", id=1, sid=0))["op"] == "ok"
            assert (await op(two, op="subscribe", id=1, sid=9, filter="orders/9"))["op"] == "ok"
            shown = next(item for item in await items(a, admin, "access") if item["name"] == "shop-1")
            assert (shown["connections"], shown["subscriptions"]) == (2, 3)
            assert shown["limited"] > 0
            assert shown["may"]["connections"] == 2
        async with websocket(a, shop):
            pass  # room again
        text = (await http(a.admin, "GET", "/metrics", headers=bearer(admin))).body.decode()
        assert 'mesh_refusals_total{port="events",reason="MESH-E064"}' in text
        assert 'mesh_refusals_total{port="events",reason="MESH-E065"} 2.0' in text


async def test_the_admin_port_asks_for_scopes_and_tells_the_audit(tmp_path: Path) -> None:
    files = plain_files(tmp_path)
    async with running(tmp_path) as mesh:
        a = await start(mesh, files)
        for path in ("/livez", "/readyz"):
            assert (await http(a.admin, "GET", path)).status == 200
        answer = await http(a.admin, "GET", "/v1/nodes")
        assert (answer.status, answer.json["code"]) == (401, "MESH-A004")
        assert "www-authenticate" in answer.headers
        shop = bearer(files.tokens["shop-1"])
        assert (await http(a.admin, "GET", "/v1/nodes", headers=shop)).status == 200
        assert (await http(a.admin, "GET", "/v1/nodes", headers=bearer(files.tokens["nobody"]))).status == 403
        leave = await http(a.admin, "POST", "/v1/node/leave", headers=shop)
        assert (leave.status, leave.json["code"]) == (403, "MESH-A040")
        dropped = await http(a.admin, "DELETE", "/v1/dlq/a-1/1", headers=shop)
        assert dropped.status == 403
        assert (await audited(a, what="drain", result="denied"))["who"] == "shop-1"
        assert (await audited(a, what="dlq drop", result="denied"))["who"] == "shop-1"

        token_file = tmp_path / "admin.token"
        token_file.write_text(files.tokens["admin"] + "\n")
        where = [
            "--node",
            f"http://{a.admin}",
            "--events",
            f"http://{a.events}",
            "--token-file",
            str(token_file),
        ]
        run = await trio.run_process([MESH, "node", "list", "-o", "name", *where], capture_stdout=True)
        assert run.stdout.decode().split() == ["a-1"]
        await trio.run_process([MESH, "publish", "orders/1", "hello", *where], capture_stdout=True)
        await trio.run_process([MESH, "node", "leave", *where], capture_stdout=True)
        assert a.process is not None
        with trio.fail_after(15):
            assert await a.process.wait() == 0
        assert (await audited(a, what="drain", result="done"))["who"] == "admin"


async def test_the_audit_stream_is_rotated_and_told_to_those_who_may_see_it(tmp_path: Path) -> None:
    files = plain_files(tmp_path)
    admin = files.tokens["admin"]
    async with running(tmp_path) as mesh, trio.open_nursery() as nursery:
        a = await start(mesh, files, more='[audit]\nsize = "4KiB"\nfiles = 3')
        watcher = Watcher()
        await nursery.start(watcher.run, a, "filter=$mesh/audit", bearer(admin))
        answer = await http(
            a.events,
            "GET",
            "/v1/events?filter=$mesh/audit",
            headers=[*bearer(files.tokens["shop-1"]), ("Accept", "text/event-stream")],
        )
        assert answer.status == 403
        for number in range(60):
            assert (await publish(a, files.tokens["shop-1"], f"nowhere/{number}")).status == 403

        async def told() -> bool:
            return sum(one["what"] == "publish" for one in watcher.data) == 60

        await until(told, 10, "every denial is told")
        folder = a.folder / "data"
        names = sorted(path.name for path in folder.glob("audit.jsonl*"))
        assert names == ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2"]
        for name in names:
            assert (folder / name).stat().st_size <= 4_096
            assert (folder / name).stat().st_mode & 0o777 == 0o600
            for line in (folder / name).read_text().splitlines():
                assert json.loads(line)["node"] == "a/a-1"
        nursery.cancel_scope.cancel()


async def test_a_full_disk_of_the_audit_disturbs_nobody(tmp_path: Path) -> None:
    files = plain_files(tmp_path)
    admin = files.tokens["admin"]
    async with running(tmp_path) as mesh:
        a = await start(mesh, files, more='[audit]\nfile = "/dev/full"')
        for number in range(200):
            assert (await publish(a, admin, f"orders/{number}")).status == 202
            assert (await publish(a, files.tokens["nobody"], f"orders/{number}")).status == 403

        async def known() -> bool:
            stream = next(item for item in await items(a, admin, "access") if item["kind"] == "audit")
            return stream["problem"] == "No space left on device" and stream["waiting"] >= 200

        await until(known, 10, "the problem is shown, and records wait")
        begun = trio.current_time()
        assert await a.stop() == 0
        assert trio.current_time() - begun < 12
        assert "MESH-C053" in a.log.read_text()


async def test_the_python_client_and_the_command_show_tokens(tmp_path: Path) -> None:
    files = plain_files(tmp_path)
    shop = files.tokens["shop-1"]
    async with running(tmp_path) as mesh:
        a = await start(mesh, files)
        url = f"http://{a.events}"
        with pytest.raises(CallRefused) as raised:
            async with Client(url):
                pass
        assert raised.value.code == "MESH-E061"
        async with Client(url, token=lambda: shop) as client:
            async with await client.subscribe("orders/#", wait="node") as orders:
                await client.publish("orders/1", b"hello")
                delivery = await orders.__anext__()
                assert (delivery.topic, delivery.data) == ("orders/1", b"hello")
            with pytest.raises(CallRefused) as raised:
                await client.publish("hr/1", b"hello")
            assert raised.value.code == "MESH-E063"
            assert "mesh.acl:2" in str(raised.value)

        made = await trio.run_process(
            [MESH, "token", "new", "robot", "--role", "shop", "--claim", "tenant=x"],
            capture_stdout=True,
            capture_stderr=True,
        )
        line, token = made.stdout.decode().strip(), made.stderr.decode().strip()
        assert line.startswith("robot sha256:")
        assert token not in line
        replace(files.token_file, files.token_file.read_text() + line + "\n")
        environ = os.environ | {"MESH_TOKEN": token, "MESH_EVENTS": url, "MESH_ADMIN": f"http://{a.admin}"}

        async def known() -> bool:
            run = await trio.run_process(
                [MESH, "publish", "orders/1", "hi"],
                env=environ,
                check=False,
                capture_stdout=True,
                capture_stderr=True,
            )
            return run.returncode == 0

        await until(known, 10, "the new token is good")
        run = await trio.run_process(
            [MESH, "publish", "hr/1", "hi"],
            env=environ,
            check=False,
            capture_stdout=True,
            capture_stderr=True,
        )
        assert run.returncode == 1
        assert run.stderr.startswith(b"MESH-E063")


async def test_events_kept_for_a_durable_client_pass_the_last_gate_too(tmp_path: Path) -> None:
    """What was kept while it was allowed is not shown when it no longer is, and does not come again."""
    files = plain_files(tmp_path)
    files.rules("allow * * #\nscope * admin\n")
    shop = files.tokens["shop-1"]
    path = "/v1/ws?client=shop-1&durable=true"
    async with running(tmp_path) as mesh:
        a = await start(mesh, files)
        async with websocket(a, shop, path=path) as socket:
            assert json.loads(await socket.get_message())["op"] == "resumed"
            for sid, filter in enumerate(("orders/#", "hr/#")):
                assert (await op(socket, op="subscribe", id=1, sid=sid, filter=filter))["op"] == "ok"

        async def keeps() -> bool:  # a node that has just started waits until it knows who wants what
            return (await publish(a, shop, "nobody/x", query="?level=at-least-once")).status == 202

        await until(keeps, 15, "the node keeps events")
        for topic in ("orders/1", "hr/1", "orders/2"):
            assert (await publish(a, shop, topic, query="?level=at-least-once")).status == 202
        files.rules("deny shop-1 * hr/#\nallow * * #\nscope * admin\n")
        await audited(a, what="reload", where=str(files.acl), result="done")
        async with websocket(a, shop, path=path) as socket:
            resumed = json.loads(await socket.get_message())
            assert [one["filter"] for one in resumed["subscriptions"]] == ["orders/#"]
            with trio.fail_after(10):
                told = [json.loads(await socket.get_message()) for _ in range(2)]
            assert [one["topic"] for one in told] == ["orders/1", "orders/2"]
            for one in told:
                await socket.send_message(json.dumps({"op": "ack", "mesh_id": one["mesh_id"]}))

            async def settled() -> bool:
                found = (await http(a.events, "GET", "/v1/clients", headers=bearer(shop))).json["clients"]
                return bool(found) and found[0]["waiting"] == 0 and found[0]["unacked"] == 0

            await until(settled, 10, "nothing is owed any more")


@pytest.mark.parametrize(
    ("auth", "code"),
    [
        ('tokens_file = "tokens"', "MESH-C054"),
        ('acl = "mesh.acl"', "MESH-C054"),
        ('acl = "mesh.acl"\ntokens_file = "missing"', "MESH-C026"),
        ('acl = "bad.acl"\ntokens_file = "tokens"', "MESH-C051"),
        ('acl = "mesh.acl"\njwks = "https://x/keys"', "MESH-C054"),
        ('acl = "mesh.acl"\njwks = "http://issuer.example/keys"\nissuer = "i"\naudience = "a"', "MESH-C054"),
    ],
)
async def test_half_of_auth_stops_the_start(tmp_path: Path, auth: str, code: str) -> None:
    (tmp_path / "mesh.acl").write_text("allow * * #\n")
    (tmp_path / "bad.acl").write_text("allow * * #\nallow * publishh #\n")
    (tmp_path / "tokens").write_text("")
    (tmp_path / "mesh.toml").write_text(f"[auth]\n{auth}\n")
    run = await trio.run_process(
        [
            MESH,
            "run",
            "--config",
            "mesh.toml",
            "--data",
            "data",
            *(f"--{port}=127.0.0.1:0" for port in ("events", "link", "admin")),
        ],
        cwd=tmp_path,
        check=False,
        capture_stdout=True,
        capture_stderr=True,
    )
    assert run.returncode == 1
    assert run.stderr.decode().startswith(code), run.stderr
    if code == "MESH-C051":
        assert b"bad.acl:2: 'publishh' is not known here; did you mean publish?" in run.stderr


async def test_a_replay_shows_only_what_may_be_seen(tmp_path: Path) -> None:
    files = plain_files(tmp_path)
    shop, admin = files.tokens["shop-1"], files.tokens["admin"]
    async with running(tmp_path) as mesh, trio.open_nursery() as nursery:
        a = await start(mesh, files, more='[[topic]]\nfilter = "#"\nretain = "1h"')
        for topic in ("orders/1", "orders/1/secret", "tenants/other/x", "tenants/acme/x"):
            assert (await publish(a, admin, topic)).status == 202
        watcher = Watcher()
        await nursery.start(watcher.run, a, "filter=%23&from=1h", bearer(shop))
        await watcher.wait(2)
        assert (await publish(a, admin, "orders/2/secret")).status == 202
        assert (await publish(a, admin, "orders/2")).status == 202
        await watcher.wait(3)
        assert watcher.topics == ["orders/1", "tenants/acme/x", "orders/2"]
        async with websocket(a, shop) as socket:
            # A replay that has no beginning leaves nothing behind: its sid is judged again when it is used again.
            lost = await op(socket, op="subscribe", id=1, sid=5, filter="orders/#", **{"from": "a/a-1/1/1"})
            assert lost["problem"]["code"] == "MESH-E033"
            again = await op(socket, op="subscribe", id=2, sid=5, filter="hr/#")
            assert again["problem"]["code"] == "MESH-E063"
            assert (await op(socket, op="subscribe", id=3, sid=5, filter="orders/#"))["op"] == "ok"
            taken = await op(socket, op="subscribe", id=4, sid=5, filter="orders/#")
            assert taken["problem"]["code"] == "MESH-E019"
        nursery.cancel_scope.cancel()


async def test_one_connection_may_show_different_tokens_and_a_storm_of_wrong_ones_is_a_few_lines(
    tmp_path: Path,
) -> None:
    files = plain_files(tmp_path)
    async with running(tmp_path) as mesh:
        a = await start(mesh, files)
        host, _, port = a.events.rpartition(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:

            async def on_it(token: str) -> int:
                answer = await http(
                    a.events, "POST", "/v1/events/orders/1", headers=bearer(token), body=b"x", stream=stream
                )
                return answer.status

            for name, status in (("admin", 202), ("nobody", 403), ("admin", 202), ("shop-1", 202)):
                assert await on_it(files.tokens[name]) == status
            assert await on_it("wrong") == 401
            files.take_back("admin")
            a.signal(signal.SIGHUP)

            async def gone() -> bool:
                return await on_it(files.tokens["admin"]) == 401

            await until(gone, 10, "the connection has no memory of a token that was taken back")
            for _ in range(2_000):
                assert await on_it("wrong") == 401
        await audited(a, what="authenticate", result="refused", code="MESH-E062")

        async def all_told() -> bool:
            lines = [line for line in audit_lines(a) if line["code"] == "MESH-E062"]
            return sum(line["count"] for line in lines) >= 2_000 and len(lines) < 400

        await until(all_told, 10, "2,000 refusals are few lines")


async def test_a_durable_client_is_known_by_its_token_at_any_node_of_the_region(tmp_path: Path) -> None:
    files = plain_files(tmp_path)
    files.rules("limit shop-1 connections=1\nallow * * #\nscope * read\n")
    shop = files.tokens["shop-1"]
    async with running(tmp_path) as mesh:
        home = await start(mesh, files)
        other = await start(mesh, files, name="a-2", flags=[f"--seed={home.link}"])
        path = "/v1/ws?client=shop-1.w1&durable=true"
        async with websocket(home, shop, path=path) as first:
            assert json.loads(await first.get_message())["op"] == "resumed"
            assert (await op(first, op="subscribe", id=1, sid=1, filter="orders/#", wait="region"))[
                "op"
            ] == "ok"
            assert json.loads(await first.get_message())["op"] == "receipt"

            async def known() -> bool:
                answer = await http(
                    other.events, "DELETE", "/v1/clients/shop-1.w2", headers=bearer(shop)
                )  # nobody's: both nodes know each other when the table has come
                listed = await items(other, shop, "subscriptions")
                return answer.status == 404 and any(one["durable"] == "connected" for one in listed)

            await until(known, 10, "the other node knows the home")
            # Through the other node, by a page's subprotocol: the home is shown the token, and the older connection gives way,
            # although one connection is all the principal may have.
            async with websocket(other, path=path, offered=["mesh.v1.json", f"mesh.bearer.{shop}"]) as second:
                resumed = json.loads(await second.get_message())
                assert [one["filter"] for one in resumed["subscriptions"]] == ["orders/#"]
                assert await closed(first) == (4409, "another connection of this client came after this one")
        stranger = await refused(other, files.tokens["nobody"], path)
        assert (stranger.status, stranger.json["code"]) == (403, "MESH-E067")


async def test_without_auth_nobody_is_asked_and_an_audit_is_kept_only_where_one_is_named(
    tmp_path: Path,
) -> None:
    config = tmp_path / "mesh.toml"
    config.write_text(f'[audit]\nfile = "{tmp_path / "log" / "audit.jsonl"}"\n')
    async with running(tmp_path) as mesh:
        plain = await mesh.start("a-1", "a")
        audits = await mesh.start("a-2", "a", "--config", str(config))
        for node in (plain, audits):
            answer = await http(node.events, "POST", "/v1/events/hr/1", body=b"x", headers=bearer("whatever"))
            assert answer.status == 202
            assert (await http(node.admin, "GET", "/v1/access")).status == 404
            text = (await http(node.admin, "GET", "/metrics")).body
            assert (b"mesh_audit_writes 1.0" in text) is (node is audits)
            assert (await http(node.admin, "POST", "/v1/node/leave")).status == 202
            assert node.process is not None
            with trio.fail_after(15):
                await node.process.wait()
        assert not list((plain.folder / "data").glob("audit*"))
        lines = [json.loads(line) for line in (tmp_path / "log" / "audit.jsonl").read_text().splitlines()]
        assert [(line["what"], line["who"], line["result"]) for line in lines] == [("drain", "", "done")]


async def test_what_a_boundary_denies_and_the_reload_of_its_rules_are_audited(tmp_path: Path) -> None:
    rules = tmp_path / "policy.rules"
    rules.write_text("export to b deny topic hr/#\nexport to b allow topic #\nimport from b allow topic #\n")
    audit = tmp_path / "log" / "audit.jsonl"
    config = tmp_path / "mesh.toml"
    config.write_text(f'[policy]\nfile = "{rules}"\n[audit]\nfile = "{audit}"\n')
    async with running(tmp_path) as mesh, trio.open_nursery() as nursery:
        far = await mesh.start("b-1", "b")
        near = await mesh.start("a-1", "a", f"--config={config}", *bridge(far))
        await sees_regions(far, "a")
        subscriber = Subscriber()
        await nursery.start(subscriber.run, far.events, "filter=%23")
        replace(rules, "nonsense\n")

        def lines(what: str) -> list[dict[str, Any]]:
            each = map(json.loads, audit.read_text().splitlines()) if audit.exists() else ()
            return [line for line in each if line["what"] == what]

        async def told() -> bool:
            # Once near knows what far wants; receipts do not cross a link with rules.
            assert (await http(near.events, "POST", "/v1/events/hr/1", body=b"x")).status == 202
            return bool(lines("export") and lines("reload"))

        await until(told, 15, "the audit tells both")
        denied = lines("export")[0]
        assert (denied["who"], denied["where"], denied["result"]) == ("b/b-1", "hr/1", "denied")
        assert "policy.rules:1" in denied["rule"]
        assert (lines("reload")[0]["where"], lines("reload")[0]["code"]) == (str(rules), "MESH-F021")
        kept = await http(near.admin, "GET", "/v1/policy/denials")
        assert {one["topic"] for one in kept.json["items"]} == {"hr/1"}
        nursery.cancel_scope.cancel()
