"""The real servers themselves: what every other test here and in `tests/contract` relies on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from services.servers import (
    Etcd,
    EtcdGroup,
    EtcdOptions,
    Nacos2,
    Nacos3,
    NacosOptions,
    Refused,
    ServerFailed,
    run,
)
from services.servers.etcd import CALL_S
from services.servers.process import Pid, ServerProcess

OwnServer = Callable[..., Any]
TESTS = Path(__file__).resolve().parents[1]


def wait_until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, f"not within {within_s} s"
        time.sleep(0.02)


def services(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`scripts/services` with its own folder."""
    environment = {**os.environ, run.VARIABLE: str(folder)}
    command = [str(TESTS.parent / "scripts" / "services"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)


def running_below(folder: Path) -> list[Pid]:
    found = [ServerProcess(file.parent, file.stem).pid() for file in folder.rglob("*.pid")]
    return [pid for pid in found if pid is not None]


class TestEtcd:
    def test_it_comes_up_once_and_keeps_what_it_has_over_a_restart(self, own_server: OwnServer) -> None:
        server: Etcd = own_server("etcd")
        server.start()
        first = server.process.pid()
        server.start()
        assert server.process.pid() == first
        server.etcdctl("put", "greeting", "hello")
        address = server.address
        server.restart()
        assert (server.address, server.etcdctl("get", "greeting", "--print-value-only")) == (
            address,
            "hello\n",
        )

    def test_it_is_killed_at_once_and_comes_back_with_what_it_had_or_empty(
        self, own_server: OwnServer
    ) -> None:
        server: Etcd = own_server("etcd")
        server.start()
        server.etcdctl("put", "greeting", "hello")
        server.kill()
        assert not server.running()
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", server.client_port), timeout=CALL_S)
        server.start()
        assert server.etcdctl("get", "greeting", "--print-value-only") == "hello\n"
        server.wipe()
        assert server.etcdctl("get", "", "--prefix") == ""

    def test_paused_it_takes_connections_and_says_nothing(self, own_server: OwnServer) -> None:
        server: Etcd = own_server("etcd")
        server.start()
        server.pause()
        with socket.create_connection(("127.0.0.1", server.client_port), timeout=CALL_S) as connection:
            connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
            connection.settimeout(0.5)
            with pytest.raises(TimeoutError):
                connection.recv(1)
        server.resume()
        assert server.ready()

    def test_another_process_finds_the_same_server(self, own_server: OwnServer) -> None:
        server: Etcd = own_server("etcd", EtcdOptions(password="secret", flags=("--max-txn-ops", "64")))
        server.start()
        again = Etcd.open(server.folder)
        assert (again.address, again.options, again.process.pid()) == (
            server.address,
            server.options,
            server.process.pid(),
        )
        assert again.status()["leader"] != "0"

    def test_with_certificates_it_answers_only_who_has_one_of_its_authority(
        self, own_server: OwnServer
    ) -> None:
        server: Etcd = own_server("etcd", EtcdOptions(tls=True, client_certificates=True))
        stranger: Etcd = own_server("etcd", EtcdOptions(tls=True))
        server.start()
        server.etcdctl("put", "greeting", "hello")
        assert server.url.startswith("https://")
        foreign = stranger.client_certificate
        expired = server.authority.issue("expired", expired=True)
        for wrong in (foreign, expired):
            asked = ["curl", "--silent", "--show-error", "--cacert", str(server.authority.certificate)]
            asked += ["--cert", str(wrong.certificate), "--key", str(wrong.key), f"{server.url}/health"]
            assert subprocess.run(asked, capture_output=True, timeout=30).returncode != 0

    @pytest.mark.parametrize("token", ["simple", "jwt"])
    def test_with_a_password_it_asks_for_it_and_its_tokens_end(
        self, own_server: OwnServer, token: Any
    ) -> None:
        server: Etcd = own_server("etcd", EtcdOptions(password="secret", token=token, token_ttl_s=1))
        server.start()
        assert server.etcdctl("put", "greeting", "hello", user="mesh:secret") == "OK\n"
        with pytest.raises(ServerFailed, match="authentication failed"):
            server.etcdctl("get", "greeting", user="mesh:wrong")
        with pytest.raises(Refused):
            server.call("/v3/kv/range", {"key": "Z3JlZXRpbmc="})
        made = server.call("/v3/auth/authenticate", {"name": "mesh", "password": "secret"})["token"]
        assert server.call("/v3/kv/range", {"key": "Z3JlZXRpbmc="}, made)["count"] == "1"

        def ended() -> bool:
            # A simple token lives on while it is used: it is looked at through the time only.
            if token == "simple" and time.monotonic() < used + 3:
                return False
            try:
                server.call("/v3/kv/range", {"key": "Z3JlZXRpbmc="}, made)
            except Refused as refused:
                return "invalid auth token" in refused.text
            return False

        used = time.monotonic()
        wait_until(ended, 10)
        server.wipe()
        assert server.etcdctl("get", "greeting", user="mesh:secret") == ""

    def test_one_that_cannot_start_says_why(self, own_server: OwnServer) -> None:
        server: Etcd = own_server("etcd", EtcdOptions(flags=("--no-such-flag",)))
        with pytest.raises(ServerFailed, match=r"last lines of [^:]*etcd\.log:\n(.*\n)*.*no-such-flag"):
            server.start()


class TestThreeEtcds:
    def test_one_may_be_killed_and_another_leads(self, own_server: OwnServer) -> None:
        group: EtcdGroup = own_server("etcd3")
        group.start()
        assert len(set(group.addresses)) == 3
        leader = group.leader()
        leader.etcdctl("put", "greeting", "hello")
        leader.kill()
        second = group.leader(other_than=leader)
        assert second.etcdctl("get", "greeting", "--print-value-only") == "hello\n"
        leader.start()
        assert group.ready()
        group.wipe()
        assert group.members[0].etcdctl("get", "", "--prefix") == ""

    def test_one_is_cut_off_from_the_others_but_not_from_its_clients(self, own_server: OwnServer) -> None:
        group: EtcdGroup = own_server("etcd3", cuttable=True)
        group.start()
        alone = group.leader()
        group.cut_off(alone)
        other = group.leader(other_than=alone)
        other.etcdctl("put", "greeting", "hello")
        # A serializable read asks no other member: it is the client's connection that is seen to work.
        assert alone.etcdctl("get", "greeting", "--consistency=s") == ""
        assert not alone.ready()
        group.join_again(alone)
        wait_until(alone.ready)
        wait_until(
            lambda: alone.etcdctl("get", "greeting", "--consistency=s", "--print-value-only") == "hello\n"
        )

    def test_two_paused_stop_the_third(self, own_server: OwnServer) -> None:
        group: EtcdGroup = own_server("etcd3")
        group.start()
        third, *others = group.members
        for member in others:
            member.pause()
        wait_until(lambda: not third.ready())
        for member in others:
            member.resume()
        wait_until(group.ready)


@pytest.mark.timeout(300, func_only=True)
class TestNacos:
    @pytest.fixture(params=["nacos2", "nacos3"])
    def kind(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    def register(self, server: Nacos2 | Nacos3, service: str, *, ephemeral: bool) -> None:
        form = {"serviceName": service, "ip": "10.1.2.3", "port": "7000", "ephemeral": str(ephemeral).lower()}
        path = "/nacos/v1/ns/instance" if isinstance(server, Nacos2) else "/nacos/v3/admin/ns/instance"
        server.call("POST", path, form)

    def test_the_shared_ones_answer_only_with_the_right_password(
        self, nacos2_server: Nacos2, nacos3_server: Nacos3, unique_name: str
    ) -> None:
        for server in (nacos2_server, nacos3_server):
            with pytest.raises(Refused):
                server.login(password="wrong")
            with pytest.raises(Refused) as refused:
                server.call("GET", "/nacos/v1/ns/instance/list", {"serviceName": unique_name}, token="")
            assert refused.value.status == 403
            self.register(server, unique_name, ephemeral=True)
            wait_until(lambda server=server: len(server.instances(unique_name)) == 1)  # type: ignore[misc]

    def test_it_survives_a_restart_a_kill_and_comes_back_empty(
        self, own_server: OwnServer, kind: str
    ) -> None:
        server: Nacos2 | Nacos3 = own_server(kind, NacosOptions(password="other-secret", token_ttl_s=30))
        server.start()
        with pytest.raises(Refused):
            server.login(password="nacos")
        self.register(server, "kept", ephemeral=False)
        wait_until(lambda: len(server.instances("kept")) == 1)
        port = server.port
        server.kill()
        assert not server.running()
        server.start()
        assert server.port == port
        wait_until(lambda: len(server.instances("kept")) == 1)
        server.wipe()
        assert server.port == port
        assert server.instances("kept") == []
        assert server.login()


class TestTheScript:
    def test_up_twice_is_once_status_tells_the_truth_and_down_leaves_nothing(self, tmp_path: Path) -> None:
        folder = tmp_path / "services"
        before = services(folder, "status", "etcd")
        assert before.returncode == 1
        assert "none" in before.stdout
        assert not folder.exists()
        try:
            first = services(folder, "up", "etcd", "etcd3")
            assert first.returncode == 0, first.stderr
            pids = running_below(folder)
            assert len(pids) == 4
            again = services(folder, "up", "etcd", "etcd3")
            assert again.stdout.split()[:3] == first.stdout.split()[:3]
            assert running_below(folder) == pids
            server = Etcd.open(folder / "etcd")
            assert f"etcd    running   {server.address}" in services(folder, "status", "etcd").stdout
            os.kill(pids[0].number, signal.SIGKILL)
            wait_until(lambda: not pids[0].alive())
            after = services(folder, "status", "etcd")
            assert after.returncode == 1
            assert "stopped" in after.stdout
        finally:
            assert services(folder, "down").returncode == 0
        assert not any(pid.alive() for pid in pids)
        assert not folder.exists()

    def test_down_leaves_what_is_not_its_own(self, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").write_text("kept")
        assert services(tmp_path, "up", "etcd").returncode == 0
        assert services(tmp_path, "down").returncode == 0
        assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]

    def test_a_pid_that_was_given_to_another_process_is_left_alone(self, tmp_path: Path) -> None:
        bystander = subprocess.Popen(["sleep", "60"])
        try:
            process = ServerProcess(tmp_path, "etcd")
            process.pid_file.write_text(f"{bystander.pid} 1\n")
            assert process.pid() is None
            process.stop()
            assert bystander.poll() is None
        finally:
            bystander.kill()
            bystander.wait()

    def test_a_run_ends_with_its_owner_even_when_that_is_killed(self, tmp_path: Path) -> None:
        program = (
            "from services.servers import run\nimport signal\n"
            "folder = run.new_run()\nrun.up(folder, 'etcd')\nprint(folder, flush=True)\nsignal.pause()\n"
        )
        environment = {**os.environ, "PYTHONPATH": str(TESTS), "TMPDIR": str(tmp_path)}
        with subprocess.Popen(
            [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True
        ) as owner:
            assert owner.stdout is not None
            folder = Path(owner.stdout.readline().strip())
            (pid,) = running_below(folder)
            owner.kill()
        wait_until(lambda: not pid.alive() and not folder.exists())
