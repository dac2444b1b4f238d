"""The page over the service itself: two replicas, a Redis, and constant load.

With SCREENSHOTS=DIRECTORY, screenshots of the scenes are written there, in light and dark, and the first
ones as an animation (`make screenshots`).
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import grpc
import pytest
from playwright.sync_api import BrowserContext, FloatRect, Page, expect

from ratelimit_service.proto import ratelimit_pb2 as pb
from testing.redis_servers import RedisServer
from testing.service import Caller, Service, calling
from testing.waiting import wait_for

from .answers import HOSTILE
from .browsing import look_again, open_with_token, rows
from .film import Film

TOKEN = "admin-0123456789"

RULES = """\
domain: team-budgets
time_zone: {zone}
descriptors:
  - key: team
    value: dba
    rate_limits:
      - {{name: dba-hourly, unit: hour, tokens_per_unit: 5_000}}
      - {{name: dba-daily, unit: day, tokens_per_unit: 50_000}}
    ledger: {{}}
    price: {{per_million: 2.50, currency: USD}}
    denial_message: "{{rule}}: {{used}} of {{limit}} tokens of this {{unit}} are used."
  - key: team
    value: support
    rate_limits:
      - {{name: support-hourly, unit: hour, tokens_per_unit: 20_000}}
      - {{name: support-daily, unit: day, tokens_per_unit: 200_000}}
    ledger: {{}}
    price: {{per_million: 2.50, currency: USD}}
  - key: user
    rate_limit: {{unit: day, tokens_per_unit: 1_000}}
"""

DBA = "#/bucket?domain=team-budgets&descriptor=team%3Ddba"

PROMPTS = (1_359, 1_104, 1_489, 1_022, 800)
"""The costs of dba's prompts: the fifth exceeds the limit."""


class Stage(NamedTuple):
    """The parts of a scene. Each replica has a caller of its own."""

    redis: RedisServer
    replicas: tuple[Service, Service]
    callers: tuple[Caller, Caller]
    answered: list[int]
    """The codes of all answers to support so far."""

    @property
    def url(self) -> str:
        """Return the address of the page of the first replica."""
        return f"http://{self.replicas[0].debug}/"

    def prompt(self, team: str, cost: int) -> bool:
        """Act as a gateway for a prompt: check, and charge if the check passes. Return whether it passes."""
        if not self.admitted(0, team):
            return False
        self.callers[0].ask("team-budgets", "team", team, hits=cost)
        return True

    def admitted(self, replica: int, team: str) -> bool:
        """Return whether a replica admits a request of a team."""
        return self.callers[replica].ask("team-budgets", "team", team).overall_code == pb.RateLimitResponse.OK

    def admitted_by_both(self, team: str) -> bool:
        """Return whether both replicas do."""
        return all(self.admitted(replica, team) for replica in (0, 1))


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Start two replicas over a Redis of their own, and a load of requests by support."""
    # No window may end during a test: in India, hours begin at half past.
    zone = "UTC" if 5 <= datetime.now(UTC).minute < 50 else "Asia/Kolkata"
    (tmp_path / "config.yaml").write_text(RULES.format(zone=zone))
    answered: list[int] = []
    ending = threading.Event()
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        environment = {
            "CONFIG_PATH": str(tmp_path),
            "BACKEND_TYPE": "redis",
            "REDIS_URL": redis.address,
            "ADMIN_TOKEN": TOKEN,
        }
        first, second = (stack.enter_context(Service(environment)) for _ in range(2))
        callers = (stack.enter_context(calling(first.grpc)), stack.enter_context(calling(second.grpc)))
        made = Stage(redis, (first, second), callers, answered)

        def load() -> None:
            while not ending.wait(0.02):
                try:
                    asked = callers[len(answered) % 2].ask("team-budgets", "team", "support", hits=1)
                    answered.append(asked.overall_code)
                except grpc.RpcError:
                    answered.append(-1)

        thread = threading.Thread(target=load)
        thread.start()
        try:
            yield made
        finally:
            ending.set()
            thread.join()


def shoot(page: Page, name: str) -> None:
    """Write screenshots in light and dark, if SCREENSHOTS is set."""
    directory = os.environ.get("SCREENSHOTS")
    if not directory:
        return
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme)
        page.wait_for_timeout(500)
        end = page.evaluate("document.querySelector('main').getBoundingClientRect().bottom")
        clip: FloatRect = {"x": 0, "y": 0, "width": 1_200, "height": min(900, end)}
        page.screenshot(path=Path(directory) / f"page-{name}-{scheme}.png", animations="disabled", clip=clip)
    page.emulate_media(color_scheme="light")


def row(page: Page, team: str) -> str:
    """Return the row of a team in the list; "" if there is none."""
    found = page.locator(".virtual-item").filter(has=page.get_by_role("link", name=f"team={team}"))
    return found.inner_text() if found.count() else ""


def change(page: Page, verb: str, *, amount: str = "", reason: str) -> None:
    """Fill in the form for a change, and open its preview."""
    page.get_by_label(verb).check()
    if amount:
        page.get_by_role("textbox", name="Tokens or requests to add").fill(amount)
    page.get_by_label("Your name").fill("ana")
    page.get_by_label("Reason").fill(reason)
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_role("region", name="Preview")).to_be_visible()


def test_four_scenes(page: Page, stage: Stage) -> None:
    """No usage yet; dba uses up its hour; dba is refused, and support is not; an operator tops up dba's
    budget.
    """
    open_with_token(page, stage.url, TOKEN)
    expect(page.get_by_text("may change budgets")).to_be_visible()
    wait_for("support in the list", lambda: row(page, "support"))
    assert "0 of 5,000 (0 %)" in row(page, "dba")
    film = Film(page, os.environ.get("SCREENSHOTS"))
    film.shoot("Two teams share a model: dba has 5,000 tokens an hour, support has 20,000.", 2.5)

    for number, cost in enumerate(PROMPTS):
        assert stage.prompt("dba", cost) and stage.prompt("support", 1_200)
        used = f"{sum(PROMPTS[: number + 1]):,}"
        look_again(page)
        wait_for(f"{used} in the list", lambda used=used: f"{used} of 5,000" in row(page, "dba"))  # type: ignore[misc]
        last = number == len(PROMPTS) - 1
        film.shoot(
            f"dba: OK, {cost:,} tokens" + (": the call that crosses the limit succeeds." if last else "."),
            2.5 if last else 1,
        )
    assert "Over the limit" == row(page, "dba").splitlines()[0]
    assert ["team=dba", "team=support"] == rows(page)

    assert not stage.prompt("dba", 1)
    film.shoot("dba: OVER_LIMIT, so the gateway answers 429. support goes on.", 3)
    film.cut()
    shoot(page, "budgets")
    page.get_by_role("link", name="Refusals").click()
    expect(page.locator("tbody tr").first).to_contain_text("Over the limit (dba-hourly)")
    shoot(page, "refusals")
    assert {pb.RateLimitResponse.OK} == set(stage.answered)

    page.goto(f"{stage.url}{DBA}")
    expect(page.locator(".outcome")).to_contain_text("Refused:")
    change(page, "Top up", amount="5,000", reason="the launch is today")
    expect(page.get_by_role("region", name="Preview")).to_contain_text("of 10,000")
    shoot(page, "top-up")
    assert not stage.admitted(1, "dba")
    page.get_by_role("button", name="Confirm").click()
    wait_for("dba is let in by both replicas", lambda: stage.admitted_by_both("dba"))
    expect(page.locator(".card.budget")).to_contain_text("5,774 of 10,000")
    expect(page.get_by_text("the launch is today")).to_be_visible()
    page.get_by_role("navigation", name="Views").get_by_role("link", name="Budgets").click()
    wait_for("the new limit in the list", lambda: "5,774 of 10,000" in row(page, "dba"))
    film.shoot("An operator adds 5,000 tokens: dba is let in again.", 3.5)
    film.write("page-film")
    page.goto(f"{stage.url}{DBA}")
    assert stage.prompt("dba", 100)

    change(page, "Reset", reason="a new start")
    page.get_by_role("button", name="Confirm").click()
    expect(page.locator(".card.budget")).to_contain_text("0 of 10,000")
    page.get_by_role("link", name="Changes").click()
    expect(page.get_by_text("a new start")).to_be_visible()
    assert {pb.RateLimitResponse.OK} == set(stage.answered)


def test_the_kill_switch_blocks_a_domain_on_both_replicas(page: Page, stage: Stage) -> None:
    """And admits it again when it is removed."""
    open_with_token(page, f"{stage.url}#/service", TOKEN)
    expect(page.get_by_text("In step")).to_have_count(2)
    page.get_by_role("link", name="Block the whole domain …").click()
    change(page, "Override: set the limit", reason="incident 7")
    expect(page.get_by_role("region", name="Preview")).to_contain_text("blocked")
    shoot(page, "kill-switch")
    assert stage.admitted_by_both("support")
    page.get_by_role("button", name="Confirm").click()
    wait_for("both refuse", lambda: not stage.admitted(0, "support") and not stage.admitted(1, "support"))
    page.get_by_role("link", name="Budgets").click()
    wait_for("support is shown as blocked", lambda: "Blocked" in row(page, "support"))
    page.get_by_role("link", name="Changes").click()
    page.get_by_role("button", name='Remove "blocked" of *').click()
    page.get_by_label("Reason of the removal").fill("it is over")
    page.get_by_role("button", name="Preview").click()
    page.get_by_role("button", name="Confirm").click()
    wait_for("support is let in", lambda: stage.admitted_by_both("support"))


def test_a_wrong_token_is_refused_until_it_is_removed(page: Page, stage: Stage) -> None:
    """Without it, everything that needs no token is shown again."""
    open_with_token(page, f"{stage.url}{DBA}", f"{TOKEN}x")
    expect(page.get_by_role("alert").filter(has_text="The token is not valid")).to_have_count(1)
    shoot(page, "wrong-token")
    assert 0 == page.get_by_role("button", name="Preview").count()
    page.get_by_role("button", name="Token …").click()
    page.get_by_role("button", name="Forget it").click()
    expect(page.get_by_text("Changes need the admin token")).to_be_visible()


def test_usage_of_three_weeks_is_a_bar_for_each_day(page: Page, stage: Stage) -> None:
    """Of two teams, by their ledgers in Redis. Weekends are quiet."""
    usage = {"dba": 12_400, "support": 61_000}
    total = 0
    for day in range(1, 22):
        quiet = 5 if day % 7 in (0, 1) else 1  # 2026-11-01 is a Sunday
        for team, tokens in usage.items():
            used = (tokens + 700 * (day * len(team) % 11)) // quiet
            key = f"{{team-budgets|team={team}}}:ledger:hour:2026-11-{day:02}"
            stage.redis.cli("HSET", key, "T09Z:charged", f"{used}", "T14Z:charged", f"{used * 2 // 3}")
            total += used + used * 2 // 3
    page.goto(f"{stage.url}#/usage?domain=team-budgets&from=2026-11-01&to=2026-11-21")
    expect(page.get_by_role("img", name="Tokens by team from", exact=False)).to_be_visible()
    table = page.get_by_role("region", name="Tokens by", exact=False).first.locator("tbody tr")
    expect(table).to_have_count(2)
    expect(table.first).to_contain_text("USD")
    shown = [int(row.locator("td").first.inner_text().replace(",", "")) for row in table.all()]
    assert total == sum(shown)
    shoot(page, "usage")


def test_hostile_names_of_callers_are_text_with_working_links(page: Page, stage: Stage) -> None:
    """Each link opens its own bucket."""
    values = [HOSTILE[name][0] for name in ("markup", "attributes", "bidi", "no-utf-8", "control", "long")]
    for number, value in enumerate(values, 901):
        stage.callers[0].ask("team-budgets", "user", value.encode("utf-8", "surrogateescape"), hits=number)
    page.goto(f"{stage.url}#/budgets?domain=team-budgets&key=user")
    expect(page.locator(".virtual .budget")).to_have_count(len(values))
    assert [0, 0] == [page.locator(f"main {tag}").count() for tag in ("img", "script")]
    links = page.locator(".virtual .budget").filter(has=page.locator("h3 a"))
    used = [re.findall(r"(9\d\d) of 1,000", text)[0] for text in links.all_inner_texts()]
    addresses = [link.get_attribute("href") for link in page.locator(".virtual h3 a").all()]
    assert len(values) - 1 <= len(addresses)  # the long one is stored as a digest, and has no descriptor
    for number, address in zip(used, addresses, strict=True):
        page.goto(f"{stage.url}{address}")
        expect(page.locator(".card.budget")).to_contain_text(f"{number} of 1,000")
        assert page.locator("h1").inner_text().startswith("user=")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_page_reports_a_dead_store_and_recovers(page: Page, stage: Stage) -> None:
    """It keeps its data, and updates them once the store is back."""
    stage.prompt("dba", 4_500)
    page.goto(stage.url)
    wait_for("dba in the list", lambda: row(page, "dba"))
    stage.redis.stop()
    dead = page.get_by_role("alert").filter(has_text="The store does not answer.")

    def said() -> bool:
        look_again(page)
        return dead.count() > 0

    wait_for("the notice", said)
    assert "4,500 of 5,000" in row(page, "dba")
    shoot(page, "dead-store")
    stage.redis.start()
    wait_for("live again", lambda: not said())


def test_ten_open_pages_send_twelve_requests_a_second(context: BrowserContext, stage: Stage) -> None:
    """Each requests budgets and refusals every two seconds, and the status every five."""
    for page in [context.new_page() for _ in range(10)]:
        page.goto(stage.url)
        expect(page.get_by_text("budgets").first).to_be_visible()
    began, before = time.monotonic(), asked(stage.replicas[0])
    wait_for("eighty requests", lambda: asked(stage.replicas[0]) >= before + 80)
    # Twelve a second, after at most four from each new page; on a slow machine, it takes longer.
    assert time.monotonic() - began >= 2.0


def asked(service: Service) -> float:
    """Return the number of requests to the API so far."""
    return service.metric_sum("ratelimit_service_api_requests")
