"""When a token is fetched, and what a person is told when none is given."""

from __future__ import annotations

import http.client

import pytest
import trio
from trio.testing import MockClock

from registry.base import RegistryUnavailable
from registry.nacos.login import LOGIN_S, REFUSED_S, Login
from registry.nacos.settings import NacosSettings

SETTINGS = NacosSettings(servers=("a:1", "b:1"), user="u", password="hush", context_path="/nacos")


class Answers:
    """What servers answer to a login. life_s: of each token."""

    def __init__(self, life_s: float = 100.0) -> None:
        self.life_s = life_s
        self.posts: list[tuple[str, str]] = []
        self.old = False
        self.status = 200
        self.error: Exception | None = None

    async def post(self, server: str, path: str, form: str) -> tuple[int, bytes]:
        await trio.lowlevel.checkpoint()
        assert form == "username=u&password=hush"
        self.posts.append((server, path))
        if self.error is not None:
            raise self.error
        if self.old and "/v3/" in path:
            return 404, b""
        raw = f'{{"accessToken":"t{len(self.posts)}","tokenTtl":{self.life_s},"globalAdmin":true}}'.encode()
        return self.status, raw


async def test_one_token_serves_until_nine_tenths_of_its_time(autojump_clock: MockClock) -> None:
    answers = Answers()
    login = Login(SETTINGS, answers.post)
    assert await login.token("a:1") == "t1"
    await trio.sleep(89.0)
    assert await login.token("b:1") == "t1"
    await trio.sleep(1.5)
    assert await login.token("b:1") == "t2"
    assert [server for server, _ in answers.posts] == ["a:1", "b:1"]


async def test_a_token_that_was_refused_is_replaced(autojump_clock: MockClock) -> None:
    login = Login(SETTINGS, Answers().post)
    token = await login.token("a:1")
    login.reject("another")
    assert await login.token("a:1") == token
    login.reject(token)
    assert await login.token("a:1") == "t2"


async def test_older_servers_are_asked_where_they_answer(autojump_clock: MockClock) -> None:
    answers = Answers()
    answers.old = True
    login = Login(SETTINGS, answers.post)
    for _ in range(2):
        login.reject(await login.token("a:1"))
    paths = [path for _, path in answers.posts]
    assert paths == ["/nacos/v3/auth/user/login", "/nacos/v1/auth/login", "/nacos/v1/auth/login"]


@pytest.mark.parametrize("status", [403, 401, 500, 200])
async def test_a_refusal_says_what_to_correct_and_is_not_repeated_at_once(
    status: int, autojump_clock: MockClock
) -> None:
    answers = Answers()
    answers.status = status
    login = Login(SETTINGS, answers.post)
    if status == 200:
        answers.error = http.client.BadStatusLine("")
    for _ in range(3):
        with pytest.raises(RegistryUnavailable, match="refuses user 'u' or the password") as error:
            await login.token("a:1")
        assert error.value.code == "MESH-R009"
        assert "hush" not in str(error.value)
    assert len(answers.posts) == 1
    await trio.sleep(REFUSED_S)
    answers.status, answers.error = 200, None
    assert await login.token("a:1") == "t2"


async def test_a_server_that_is_away_leaves_a_token_that_is_still_good(autojump_clock: MockClock) -> None:
    answers = Answers()
    login = Login(SETTINGS, answers.post)
    assert await login.token("a:1") == "t1"
    await trio.sleep(95.0)
    answers.error = ConnectionRefusedError("refused")
    assert await login.token("a:1") == "t1"
    await trio.sleep(6.0)
    with pytest.raises(RegistryUnavailable, match="does not answer a login") as error:
        await login.token("a:1")
    assert error.value.code == "MESH-R001"


async def test_a_server_that_hangs_is_given_up(autojump_clock: MockClock) -> None:
    async def post(server: str, path: str, form: str) -> tuple[int, bytes]:
        await trio.sleep_forever()
        raise AssertionError

    with pytest.raises(RegistryUnavailable, match="in time"):
        await Login(SETTINGS, post).token("a:1")
    assert trio.current_time() == pytest.approx(LOGIN_S)


async def test_without_a_user_nothing_is_asked() -> None:
    assert await Login(NacosSettings(servers=("a:1",)), Answers().post).token("a:1") == ""
