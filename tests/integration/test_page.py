"""The page in headless Chromium, over the service: what a reader sees and does."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from blyan.api.callers import Role
from blyan.lake import Lake
from blyan.settings import Settings
from blyan.solana.landing import Landing, read_head
from blyan.solana.slots import SlotRange
from blyan.solana.sources import open_source
from tests.http_service import LAST_SLOT, key_for, made_lake, make_searchable
from tests.integration.test_ui import CHROMIUM, FLAGS
from tests.page_service import ATTACKED, ATTACKS, ENDLESS, REFUSED, Served, page_service

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = REPOSITORY / "blyan/api/page"
AXE = REPOSITORY / "tests/axe.min.js"
DESK, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
DAGSTER = "http://localhost:3000"
MANY = 100_000
WAIT_S = 45.0


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = made_lake(tmp_path_factory.mktemp("page") / "lake")
    make_searchable(settings)
    return settings.model_copy(update={"audit_log": "", "query_processes": 1, "dagster_url": DAGSTER})


@pytest.fixture(scope="module")
def service(settings: Settings) -> Iterator[Served]:
    with page_service(settings) as service:
        yield service


@pytest.fixture(scope="module")
def key(settings: Settings) -> str:
    return key_for(Lake.from_settings(settings), Role.ANALYST)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is absent, and a CI run must have it")
        pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


class Watched:
    """A page whose every request and complaint is kept.

    Attributes:
        page: of the browser.
        requested: addresses.
        complaints: of the console and of uncaught errors; policy violations are among them.
    """

    def __init__(self, context: Any, url: str) -> None:
        self.url = url
        self.requested: list[str] = []
        self.complaints: list[str] = []
        self.page = context.new_page()
        self.page.set_default_timeout(WAIT_S * 1000)
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))

    def check(self) -> None:
        """Nothing was asked of elsewhere, and nothing was complained of but answers that say no."""
        assert [address for address in self.requested if not address.startswith((self.url + "/", "blob:" + self.url, "data:,"))] == []
        assert [said for said in self.complaints if not said.startswith("Failed to load resource: the server responded with a status of 4")] == []


def with_key(browser: Any, key: str, **options: Any) -> Any:
    """A window whose reader has given a key, and may use the clipboard."""
    context = browser.new_context(**{"viewport": DESK, "reduced_motion": "reduce", **options})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.add_init_script(f"sessionStorage.setItem('blyan-key', {json.dumps(key)})")
    return context


@pytest.fixture(scope="module")
def window(browser: Any, service: Served, key: str) -> Watched:
    """The page that most tests use one after another, so that its process starts once."""
    return Watched(with_key(browser, key), service.url)


@pytest.fixture
def opened(window: Watched, request: pytest.FixtureRequest) -> Iterator[Watched]:
    """The page, with a key; a parameter is the size of the window."""
    window.requested.clear()
    window.complaints.clear()
    window.page.set_viewport_size(getattr(request, "param", DESK))
    window.page.goto(f"{window.url}/?{request.node.name}")  # another address: a fragment alone would load nothing
    window.page.wait_for_selector("#schema details", state="attached")
    yield window
    window.check()


def until(page: Any, condition: str) -> None:
    """Wait for an expression to be true. The browser's own way of waiting evaluates text, which the policy of the page refuses."""
    ends = time.monotonic() + WAIT_S
    while not page.evaluate(condition):
        assert time.monotonic() < ends, f"it did not come about: {condition}"
        page.wait_for_timeout(40)


def write(page: Any, sql: str) -> None:
    """Put a statement into the editor, as a reader pastes it."""
    page.evaluate("(text) => navigator.clipboard.writeText(text)", sql)
    page.locator("#editor .cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.press("Control+v")


def run(page: Any, sql: str) -> None:
    """Run a statement, and wait until it is over."""
    write(page, sql)
    page.click("#run")
    done(page)


def done(page: Any) -> None:
    until(page, "document.getElementById('cancel').disabled && !document.getElementById('sql-status').textContent.endsWith('…')")


def cells(page: Any, row: int = 0) -> list[str]:
    return page.locator(f"td[data-row='{row}']").all_inner_texts()  # type: ignore[no-any-return]


def status(page: Any) -> str:
    return page.inner_text("#sql-status")  # type: ignore[no-any-return]


# How its files are sent


def test_the_page_is_sent_with_strict_headers_and_kept_by_its_digest(service: Served) -> None:
    with httpx.Client(base_url=service.url) as client:
        front = client.get("/")
        assert front.headers["content-type"] == "text/html; charset=utf-8"
        policy = front.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert "require-trusted-types-for 'script'" in policy
        assert front.headers["x-content-type-options"] == "nosniff"
        assert front.headers["cache-control"] == "no-cache"
        assert client.get("/", headers={"if-none-match": front.headers["etag"]}).status_code == 304
        assert client.get("/", headers={"if-none-match": '"another"'}).status_code == 200
        assert client.head("/").status_code == 200
        named = sorted(set(re.findall(r'(?:href|src)="(/page/[^"]+)"', front.text)))
        assert len(named) >= 4
        for path in named:
            sent = client.get(path)
            assert sent.status_code == 200
            assert "immutable" in sent.headers["cache-control"]
            assert sent.headers["content-encoding"] == "gzip"
            plain = client.get(path, headers={"accept-encoding": "identity"})
            assert "content-encoding" not in plain.headers
            assert plain.content == sent.content == (FILES / path.rsplit("/", 1)[1]).read_bytes()
        for path in ("/page/0000000000000000/app.js", named[0].rsplit("/", 1)[0] + "/../app.py", named[0].rsplit("/", 1)[0] + "/nothing.js"):
            gone = client.get(path)
            assert gone.status_code == 404
            assert gone.json()["type"] == "urn:blyan:problem:not-found"


def test_every_file_that_the_page_names_is_in_the_package() -> None:
    named = set(re.findall(r'@FILES@/([^"]+)', (FILES / "index.html").read_text()))
    own = [file for file in FILES.glob("*.js") if file.name != "vendor.js"]
    for file in own:
        named |= set(re.findall(r'from "\./([^"]+)"', file.read_text()))
    assert named <= {file.name for file in FILES.iterdir()}
    assert {"app.js", "vendor.js", "page.css"} <= named
    assert '"api/page/*"' in (REPOSITORY / "pyproject.toml").read_text()


def test_the_bundle_is_of_the_locked_versions_and_has_their_licences() -> None:
    locked = json.loads((REPOSITORY / "page/package-lock.json").read_text())["packages"]
    said = dict(re.findall(r"^(@?[\w/.-]+) (\d+\.\d+\.\d+) \(\w", (FILES / "vendor-licences.txt").read_text(), re.MULTILINE))
    assert {"@codemirror/view", "@codemirror/lang-sql", "uplot"} <= said.keys()
    for name, version in said.items():
        assert locked[f"node_modules/{name}"]["version"] == version, name
    assert locked["node_modules/axe-core"]["version"] in AXE.read_text()[:40]


def test_the_bundle_is_what_the_lock_file_makes(tmp_path: Path) -> None:
    if not (REPOSITORY / "page/node_modules/esbuild").is_dir() or shutil.which("node") is None:
        pytest.skip("the packages of the page are not installed: `make page` installs them")
    shutil.copytree(REPOSITORY / "page", tmp_path / "page", symlinks=True)
    (tmp_path / "blyan/api/page").mkdir(parents=True)
    (tmp_path / "tests").mkdir()
    subprocess.run(["node", "build.mjs"], cwd=tmp_path / "page", check=True, capture_output=True, timeout=120)
    for name in ("vendor.js", "vendor.css", "vendor-licences.txt"):
        assert (tmp_path / "blyan/api/page" / name).read_bytes() == (FILES / name).read_bytes(), f"{name} is not what `make page` makes"


# The key


def test_a_key_is_asked_for_and_stays_in_the_tab(browser: Any, service: Served, key: str) -> None:
    context = browser.new_context(viewport=DESK)
    watched = Watched(context, service.url)
    page = watched.page
    page.goto(service.url)
    page.wait_for_selector("#key-dialog[open]")
    page.fill("#key-field", "blyan_wrong_key")
    page.keyboard.press("Enter")
    page.wait_for_selector("#key-problem .problem")
    assert "Who asks is not known" in page.inner_text("#key-problem")
    assert "What to do" in page.inner_text("#key-problem")
    page.fill("#key-field", key)
    page.keyboard.press("Enter")
    page.wait_for_selector("#schema details", state="attached")
    assert page.evaluate("[sessionStorage.getItem('blyan-key'), JSON.stringify(localStorage), document.cookie]")[0] == key
    assert key not in page.evaluate("JSON.stringify(localStorage) + document.cookie + location.href + document.documentElement.outerHTML")
    assert not any(key in address for address in watched.requested)
    page.click("#show-key")
    page.click("#key-forget")
    page.wait_for_selector("#key-dialog[open]")
    assert page.evaluate("sessionStorage.getItem('blyan-key')") is None
    watched.check()
    context.close()


# SQL


def test_a_query_shows_its_rows_and_what_they_were_read_from(opened: Watched) -> None:
    page = opened.page
    run(page, "select slot, leader, transaction_count, block_timestamp from solana.blocks where slot < 40 order by slot desc limit 3")
    assert status(page).startswith("3 rows in ")
    assert "rows/s" in status(page)
    slot, leader, count, moment = cells(page)
    assert (slot, count) == ("39", "6")
    assert re.fullmatch(r"\w{4}…\w{4}", leader)
    assert moment.endswith("UTC")
    reading = page.inner_text("#sql-reading")
    assert re.search(r"Read: solana\.blocks@\d+ ↗ up to slot 49 \(confirmed; final to 44\), behind the tip by 2 slots and ", reading)
    link = page.locator("#sql-reading a", has_text="solana.blocks")
    assert link.get_attribute("href") == f"{DAGSTER}/assets/solana/blocks"
    assert link.get_attribute("rel") == "noopener noreferrer"
    assert page.locator("[role=grid]").get_attribute("aria-rowcount") == "4"
    page.hover("td[data-row='0'][data-column='1']")
    page.click("td[data-row='0'][data-column='1'] .copy")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith(leader[:4])
    assert len(copied) > 40
    page.click("td[data-row='0'][data-column='1'] a")
    page.wait_for_selector("#record table")
    assert copied in page.inner_text("#title-record")


def test_no_digit_is_lost(opened: Watched) -> None:
    page = opened.page
    values = ["9223372036854775807", "-9223372036854775808", "18446744073709551615", "12345678901234567890.123456789"]
    kinds = ["bigint", "bigint", "ubigint", "decimal(38,9)"]
    chosen = ", ".join(f"'{value}'::{kind} as v{place}" for place, (value, kind) in enumerate(zip(values, kinds, strict=True)))
    run(page, f"select {chosen}, 0.1::double as v4, '1234567890123456789, 9007199254740993' as v5, [9007199254740993] as v6")
    shown = [text.replace("\u202f", "") for text in cells(page)]
    assert shown == [*values, "0.1", "1234567890123456789, 9007199254740993", '["9007199254740993"]']


def test_an_error_says_what_to_do_and_is_underlined(opened: Watched) -> None:
    page = opened.page
    run(page, "select slot\nfrom solana.blocs")
    said = page.inner_text("#sql-problem")
    assert "The query is not accepted" in said
    assert "there is no table solana.blocs" in said
    assert "What to do: did you mean solana.blocks?" in said
    assert "request " in said
    assert page.locator("#editor .cm-lintRange-error").all_inner_texts() == ["solana.blocs"]
    run(page, "select slot\nfrom solana.blocks where (")
    page.wait_for_selector("#editor .cm-lintRange-error")
    assert page.locator("#editor .cm-line").nth(1).locator(".cm-lintRange-error").count() == 1
    run(page, "select 1 as one")
    assert page.locator("#sql-problem .problem").count() == 0
    assert page.locator("#editor .cm-lintRange-error").count() == 0


def test_names_are_completed_from_the_tables(opened: Watched) -> None:
    page = opened.page
    write(page, "select * from solana.")
    page.keyboard.type("token_t")
    page.locator("#editor .cm-tooltip-autocomplete li", has_text="token_transfers").wait_for()
    page.wait_for_timeout(100)  # the editor takes no key for a choice at once, lest somebody chooses who only types on
    page.keyboard.press("Enter")
    assert page.inner_text("#editor .cm-content") == "select * from solana.token_transfers"
    page.fill("#schema-filter", "token_tra")
    assert page.locator("#schema > details:visible").all_inner_texts() == ["solana.token_transfers"]


def test_a_hundred_thousand_rows_do_not_become_elements(opened: Watched) -> None:
    page = opened.page
    page.select_option("#page-rows", str(MANY))
    run(page, f"select i, 'row ' || i as name from range({MANY}) t(i)")
    assert status(page).replace("\u202f", "").startswith(f"{MANY} rows")
    assert page.locator("#grid tr").count() < 120
    page.focus("[role=grid]")
    page.keyboard.press("Control+End")
    page.wait_for_selector(f"td[data-row='{MANY - 1}']")
    assert cells(page, MANY - 1) == ["99\u202f999", "row 99999"]
    assert page.locator("#grid tr").count() < 120
    assert page.locator("[role=grid]").get_attribute("aria-activedescendant") == f"cell-{MANY - 1}-1"


def test_a_result_that_goes_on_says_so_and_goes_on(opened: Watched) -> None:
    page = opened.page
    page.select_option("#page-rows", "100")
    run(page, "select i from range(250) t(i)")
    assert "there are more rows than these" in status(page)
    for known in ("200", "250"):
        page.click("#more")
        until(page, f"document.getElementById('sql-status').textContent.startsWith('{known} rows so far')")
    assert "more rows" not in status(page)
    assert page.locator("#more").is_hidden()
    page.focus("[role=grid]")
    page.keyboard.press("Control+End")
    page.wait_for_selector("td[data-row='249']")
    assert cells(page, 249) == ["249"]


def test_a_plan_is_shown_and_a_long_query_is_cancelled(opened: Watched) -> None:
    page = opened.page
    write(page, "select count(*) from solana.blocks")
    page.click("#explain")
    done(page)
    assert "Read Parquet" in page.inner_text("#grid")
    write(page, "select sum(sqrt(a.i * b.i)) from range(1000000) a(i), range(1000000) b(i)")
    page.click("#run")
    page.click("#cancel")
    until(page, "document.getElementById('sql-status').textContent.startsWith('Cancelled')")
    assert page.locator("#cancel").is_disabled()
    page.click("#history-box summary")
    page.locator("#history button.entry", has_text="range(1000000)").wait_for()


def test_rows_are_saved_whole_and_pinned(opened: Watched) -> None:
    page = opened.page
    page.select_option("#page-rows", "100")
    run(page, "select i, i * 1000000000000000000::hugeint as big from range(300) t(i)")
    saved: dict[str, Path] = {}
    for form in ("csv", "json", "parquet", "arrow"):
        page.select_option("#export-form", form)
        with page.expect_download() as download:
            page.click("#export")
        saved[form] = download.value.path()
        assert download.value.suggested_filename.endswith(f".{form}")
        until(page, "document.getElementById('sql-status').textContent.includes('It is whole')")
    assert len(list(csv.reader(saved["csv"].read_text().splitlines()))) == 301
    assert len(json.loads(saved["json"].read_text())["rows"]) == 300
    assert pq.read_table(saved["parquet"]).num_rows == 300
    page.click("#pin")
    page.wait_for_selector("#pinned a")
    link = page.get_attribute("#pinned a", "href")
    other = page.context.new_page()
    other.goto(f"{opened.url}/{link}")
    until(other, "document.getElementById('sql-status').textContent.includes('those that were pinned')")
    assert status(other).startswith("100 rows")
    other.close()


# Charts


INKED = """() => {
  const canvas = document.querySelector("#chart canvas");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let count = 0;
  for (let at = 0; at < data.length; at += 4) if (data[at + 3] > 200 && data[at + 1] > data[at] + 60) count += 1;
  return count;
}"""
"""How many pixels of the chart have the colour of what is drawn, which its frame has not."""


def chart(page: Any, kind: str) -> tuple[str, int]:
    """Draw the result as another kind: what is said of it, and how much ink it has."""
    page.click("#as-chart")
    page.locator("#chart select").first.select_option(kind)
    page.wait_for_selector("#chart canvas")
    return page.inner_text("#chart-said"), page.evaluate(INKED)


def test_a_result_is_drawn_and_said_in_words(opened: Watched) -> None:
    page = opened.page
    run(page, "select i as slot, i * i as square from range(50) t(i)")
    said, line = chart(page, "line")
    assert said.startswith("Line: square by slot, 50 points from 0 to 49; least 0 at 0, greatest 2401 at 49.")
    assert page.locator("#chart [role=img]").get_attribute("aria-labelledby") == "chart-said"
    bars = chart(page, "bar")[1]
    assert bars > 3 * line > 300
    assert 0 < chart(page, "scatter")[1] < bars
    run(page, "select case i when 0 then '<b>first</b>' else 'name ' || i end as name, i + 1 as n from range(80) t(i)")
    until(page, "document.getElementById('chart-said').textContent.startsWith('Bars: n by name, 60 points from <b>first</b>')")
    assert "20 rows are not drawn" in page.inner_text("#chart-said")
    assert page.evaluate(INKED) > 300
    run(page, "select block_timestamp, leader_reward from solana.blocks")
    page.locator("#chart select").first.select_option("line")
    assert "leader_reward by block_timestamp" in page.inner_text("#chart-said")
    run(page, "select leader from solana.blocks limit 1")
    assert "no column of numbers" in page.inner_text("#chart-said")
    assert page.locator("#chart canvas").count() == 0


# Records


def test_a_slot_leads_to_its_transactions_and_they_to_accounts(opened: Watched) -> None:
    page = opened.page
    page.evaluate("location.hash = '#slot/41'")
    page.locator("#record a[href^='#tx/']").first.click()
    page.wait_for_selector("#record pre")
    said = page.inner_text("#record")
    assert "setComputeUnit" in said
    assert "Lamports that changed" in said
    assert "invoke [1]" in said
    page.locator("#record a[href^='#account/']").first.click()
    page.get_by_text("Transactions, the newest first").wait_for()
    assert "Read: solana.transactions@" in page.inner_text("#record-reading")
    page.evaluate("location.hash = '#slot/99'")
    page.wait_for_selector("#record-problem .problem")
    assert "slot 99 is not there" in page.inner_text("#record-problem")


# Search and questions


def search(page: Any, query: str) -> dict[str, Any]:
    """Search, and wait until the hits are shown; what was asked."""
    page.fill("#search-query", query)
    with page.expect_request("**/v1/search") as asked:
        page.press("#search-query", "Enter")
    until(page, "/ hits? in |^$/.test(document.getElementById('search-status').textContent)")
    assert page.inner_text("#search-problem") == ""
    return asked.value.post_data_json  # type: ignore[no-any-return]


def test_search_shows_hits_and_sends_filters(opened: Watched, key: str) -> None:
    page = opened.page
    page.click("nav a[href='#search']")
    page.click(".filters summary")
    page.select_option("[name=status]", "Fail")
    page.fill("[name=first_slot]", "7")
    page.fill("[name=program]", "System, SPL Token")
    page.fill("[name=kinds]", "transfer, account")
    asked = search(page, "failed transfers")
    assert asked == {
        "query": "failed transfers",
        "mode": "hybrid",
        "filters": {"first_slot": 7, "kinds": ["transfer", "account"], "statuses": ["Fail"], "programs": ["System", "SPL Token"]},
        "limit": 10,
        "understand": True,
    }
    found = httpx.post(f"{opened.url}/v1/search", json=asked, headers={"authorization": f"Bearer {key}"}).json()
    cards, hits = page.locator("#hits .card").all(), found["hits"]
    assert len(cards) == len(hits) > 0
    for card, hit in zip(cards, hits, strict=True):
        assert (hit["status"], hit["kind"] in ("transfer", "account"), hit["slot"] >= 7) == ("Fail", True, True)
        assert card.locator(".text").inner_text() == hit["text"]
        assert card.locator("a").first.get_attribute("href") == f"#slot/{hit['slot']}"
        assert card.locator("a[href^='#tx/']").get_attribute("href") == f"#tx/{hit['signature']}"
        assert ("words: " in card.inner_text()) == bool(hit["words"])
    searched = found["searched"]
    assert 0 < searched["passing"] < searched["documents"]
    assert f"among {searched['passing']} of {searched['documents']} documents" in page.inner_text("#search-status")
    assert "Understood: status = Fail" in page.inner_text("#search-said")
    assert "Read: corpus.documents@" in page.inner_text("#search-reading")
    page.reload()
    page.wait_for_selector("#schema details", state="attached")
    search(page, "failed swaps on Raydium")
    assert "Not met by any hit: kind = swap program = Raydium (5 programs)" in " ".join(page.inner_text("#search-said").split())


def ask(page: Any, question: str) -> Any:
    """Ask, and wait for the end of the answer."""
    page.fill("#question", question)
    page.keyboard.press("Enter")
    until(page, "/nswered/.test(document.getElementById('ask-status').textContent)")
    return page.locator(".answer").last


def test_a_question_is_answered_with_its_sql_and_its_rows(opened: Watched) -> None:
    page = opened.page
    page.click("nav a[href='#ask']")
    answer = ask(page, "How many transactions failed in the last 30 slots?")
    assert page.inner_text("#ask-status").startswith("Answered by planner, ")
    counted = re.match(r"Transactions that failed: (\d+) transactions", answer.inner_text())
    assert counted
    assert int(counted[1]) > 0
    assert answer.get_attribute("aria-busy") is None
    assert re.search(r"\d rows? that it rests on", answer.inner_text())
    cited = answer.locator("a[href^='#tx/']").first.get_attribute("href")
    assert "where t.status = 'Fail' and t.block_slot between " in answer.locator("pre").inner_text()
    answer = ask(page, "What will the price of SOL be tomorrow?")
    assert page.inner_text("#ask-status").startswith("Not answered by planner")
    assert "Not answered The tables have what happened, and nothing of the future." in answer.inner_text()
    answer.locator(".instead button").first.click()
    assert page.input_value("#question") == "How many transactions failed in the last 100 slots?"
    with page.expect_request("**/v1/chat/completions") as sent:
        answer = ask(page, "Which programs failed most often?")
    body = sent.value.post_data_json
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user", "assistant", "user"]
    assert (body["stream"], body["model"]) == (True, "blyan-planner")
    assert f"#account/{'1' * 32}" in [link.get_attribute("href") for link in answer.locator(".text a").all()]
    page.get_by_role("button", name="Run this SQL in the editor").first.click()
    page.click("#run")
    done(page)
    assert cells(page) == [counted[1]]
    page.evaluate("(link) => { location.hash = link; }", cited)
    page.wait_for_selector("#record .chip.bad")


def test_an_answer_is_stopped(opened: Watched, service: Served) -> None:
    page = opened.page
    page.click("nav a[href='#ask']")
    left = service.left
    page.fill("#question", ENDLESS)
    page.keyboard.press("Enter")
    until(page, "(document.querySelector('.answer .text')?.textContent.length ?? 0) > 40")
    page.click("#ask-stop")
    until(page, "document.getElementById('ask-status').textContent === 'Stopped.'")
    assert "this is not the whole answer" in page.locator(".answer").last.inner_text()
    for _ in range(100):
        if service.left > left:
            break
        page.wait_for_timeout(50)
    assert service.left == left + 1


# Live


def land(settings: Settings, slots: SlotRange) -> None:
    """Let more slots land, as the follower would."""
    lake = Lake.from_settings(settings)
    landing = Landing(lake, settings.grid)
    landing.open(40)
    landing.advance(list(open_source(settings).read(slots)), processed=slots.last + 1)
    landing.close()


def test_the_ticker_and_a_watched_result_move_when_a_slot_lands(opened: Watched, settings: Settings) -> None:
    page = opened.page
    until(page, f"document.getElementById('ticker-text').textContent.includes('{LAST_SLOT}')")
    write(page, "select max(slot) as newest from solana.blocks")
    page.check("#watch")
    page.wait_for_selector("td[data-row='0']")
    assert cells(page) == [str(LAST_SLOT)]
    assert "Watching for others" in status(page)
    land(settings, SlotRange(LAST_SLOT + 1, LAST_SLOT + 2))
    head = read_head(Lake.from_settings(settings))
    assert head is not None
    newest = max(head.slots())
    assert newest > LAST_SLOT
    until(page, f"document.getElementById('ticker-text').textContent.includes('{newest}')")
    until(page, "document.getElementById('sql-status').textContent.startsWith('The result changed')")
    assert cells(page) == [str(newest)]
    page.click("#cancel")
    until(page, "!document.getElementById('watch').checked")
    page.click("nav a[href='#live']")
    page.wait_for_selector("#live-slots tbody tr")
    assert page.inner_text("#live-facts .big") == str(newest)
    until(page, "document.querySelector('#live-slots tbody td:nth-child(3)').textContent === '6'")
    label = page.get_attribute("#live-line svg", "aria-label")
    assert re.match(rf"Transactions of each slot: \d+ slots up to {newest}, the most 6, the newest 6", label)
    assert page.locator("#live-slots tbody tr").count() == 25


def test_a_broken_stream_is_come_back_to(opened: Watched) -> None:
    page = opened.page
    page.click("nav a[href='#live']")
    until(page, "document.getElementById('live-status').textContent.startsWith('Connected')")
    page.context.set_offline(True)
    page.evaluate("import(document.querySelector('script').src.replace('app.js', 'live.js')).then((live) => { live.listen(); })")
    until(page, "document.getElementById('live-status').textContent.startsWith('The connection is lost')")
    page.context.set_offline(False)
    until(page, "document.getElementById('live-status').textContent.startsWith('Connected')")
    assert any("/v1/live?after=" in address for address in opened.requested)
    opened.complaints[:] = [said for said in opened.complaints if "ERR_INTERNET_DISCONNECTED" not in said]


# What strangers wrote


def harm(page: Any) -> dict[str, Any]:
    """What a text of strangers has done to a page."""
    return page.evaluate(  # type: ignore[no-any-return]
        """() => ({
          caught: window.caught ?? null,
          elements: document.querySelectorAll("main :is(script, img, iframe, style, math, [onerror], [onload])").length,
          links: [...document.querySelectorAll("a")].map((link) => link.getAttribute("href")).filter((href) => !/^(#|http:\\/\\/localhost:3000\\/assets\\/)/.test(href)),
          hidden: getComputedStyle(document.body).display === "none",
        })"""
    )


NONE = {"caught": None, "elements": 0, "links": [], "hidden": False}


def test_text_of_strangers_stays_text(opened: Watched) -> None:
    page = opened.page
    quoted = [attack.replace("'", "''") for attack in ATTACKS]
    values = ", ".join(f"'{text}'" for text in quoted)
    first, second = (attack.replace('"', '""') for attack in (ATTACKS[0], ATTACKS[8]))
    run(page, f'select unnest([{values}]) as "{first}", 1 as "{second}"')
    assert status(page).startswith(f"{len(ATTACKS)} rows")
    assert cells(page)[0] == ATTACKS[0]
    assert "\\u202e" in cells(page, ATTACKS.index("\u202egnp.exe\u202c and \u2066hidden\u2069 \u200bspace"))[0]
    page.click("td[data-row='1'][data-column='0']")
    assert ATTACKS[1] in page.inner_text(".value pre")
    assert harm(page) == NONE
    chart(page, "bar")
    run(page, f"select '{quoted[8]}' from nothing")
    assert page.locator("#sql-problem .problem").count() == 1
    page.click("nav a[href='#search']")
    search(page, ATTACKED)
    assert page.locator("#hits .card").count() == len(ATTACKS)
    first_hit = page.locator("#hits .card").first
    shown = len(first_hit.inner_text())
    first_hit.get_by_role("button", name="All of it").click()
    assert len(first_hit.inner_text()) > shown + 400
    assert ATTACKS[0] in first_hit.locator(".text").inner_text()
    assert "3 alike" in first_hit.inner_text()
    assert harm(page) == NONE
    page.click("nav a[href='#ask']")
    assert ATTACKS[1] in ask(page, ATTACKED).locator("pre").inner_text()
    assert ATTACKS[0] in ask(page, REFUSED).locator("button").first.inner_text()
    assert harm(page) == NONE
    for attack in ATTACKS:
        page.evaluate("(text) => { location.hash = '#tx/' + encodeURIComponent(text); }", attack)
        page.wait_for_selector("#record-problem .problem")
    assert harm(page) == NONE


def test_the_same_text_does_harm_where_it_is_taken_for_markup(opened: Watched) -> None:
    """A negative control: of the texts, and of the policy that stands behind the page."""
    page = opened.page
    refused = page.evaluate(
        "(text) => { try { document.querySelector('#record').innerHTML = text; return ''; } catch (error) { return error.message; } }", ATTACKS[1]
    )
    assert "TrustedHTML" in refused
    opened.complaints.clear()
    other = page.context.browser.new_page()
    other.set_content("<main></main>")
    other.evaluate("(texts) => { document.querySelector('main').innerHTML = texts.join(' '); }", list(ATTACKS))
    until(other, "window.caught")
    assert harm(other)["elements"] > 3
    assert harm(other)["links"]
    other.close()


# Everybody

RULES = "{type: 'tag', values: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']}"

COLOURS = "{type: 'rule', values: ['color-contrast']}"
"""What can differ between light and dark; the rest is looked at once for each width."""

SOME = ("rows", "an error", "an answer", "a transaction")
"""States in which the phone is looked at by default, and the other colours at both widths."""


def barriers(page: Any, rules: str = RULES) -> list[str]:
    """What axe finds that keeps somebody from using the page: serious and critical, WCAG 2.2 A and AA."""
    found = page.evaluate(f"async () => (await axe.run(document, {{runOnly: {rules}, resultTypes: ['violations']}})).violations")
    return [
        f"{each['id']}: {each['nodes'][0]['html'][:200]} {each['nodes'][0]['failureSummary'][:300]}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("thorough", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize("opened", [DESK, PHONE], indirect=True, ids=["desk", "phone"])
def test_no_state_of_the_page_has_barriers_or_is_too_wide(opened: Watched, thorough: bool) -> None:
    page = opened.page
    page.evaluate(AXE.read_text())
    narrow = page.viewport_size == PHONE

    def look(state: str) -> None:
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{state} is wider than the window"
        if thorough or state in SOME or not narrow:
            assert barriers(page) == [], state
        if thorough or state in SOME:
            page.emulate_media(color_scheme="dark", reduced_motion="reduce")
            assert barriers(page, RULES if thorough else COLOURS) == [], f"{state} in the dark"
            page.emulate_media(color_scheme="light", reduced_motion="reduce")

    run(page, "select signature, fee, status, accounts from solana.transactions order by block_slot desc")
    page.click("td[data-row='1'][data-column='3']")
    look("rows")
    chart(page, "bar")
    look("a chart")
    run(page, "select slott from solana.blocks")
    look("an error")
    page.click("#history-box summary")
    look("history")
    page.click("nav a[href='#search']")
    search(page, "failed transfers")
    page.click(".filters summary")
    look("search")
    page.click("nav a[href='#ask']")
    ask(page, "How many transactions failed in slot 41?")
    ask(page, "What will the price of SOL be tomorrow?").locator("summary").click()
    look("an answer")
    page.click("nav a[href='#live']")
    page.wait_for_selector("#live-slots tbody tr")
    look("live")
    page.evaluate("location.hash = '#slot/41'")
    page.wait_for_selector("#record table")
    page.locator("#record a[href^='#tx/']").first.click()
    page.wait_for_selector("#record pre")
    look("a transaction")
    page.click("#show-key")
    look("the key")
    page.click("#key-close")
    page.click("#show-keys")
    look("shortcuts")


def test_a_barrier_would_be_found(opened: Watched) -> None:
    """A negative control of the one before."""
    page = opened.page
    page.evaluate(AXE.read_text())
    assert barriers(page) == []
    page.evaluate("document.querySelector('.bar').append(document.createElement('button')); document.querySelector('#run').style.color = '#0b7b6f'")
    assert {each.split(":")[0] for each in barriers(page)} == {"button-name", "color-contrast"}


def test_a_query_is_run_by_keys_alone(opened: Watched) -> None:
    page = opened.page
    stops = []
    page.keyboard.press("Tab")
    for _ in range(60):
        stops.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.slice(0, 20)"))
        if stops[-1] == "editor":
            break
        page.keyboard.press("Tab")
    assert stops[0] == "Skip to the content"
    assert stops[-1] == "editor"
    page.keyboard.press("Control+a")
    page.keyboard.press("Delete")
    page.keyboard.type("select slot from solana.blocks order by slot ")
    page.keyboard.press("Tab")  # is of the editor
    assert page.evaluate("document.activeElement.id") == "editor"
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("td[data-row='0']")
    done(page)
    page.keyboard.press("Escape")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "run"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('role')") == "grid":
            break
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.locator("[role=grid]").get_attribute("aria-activedescendant") == "cell-2-0"
    page.keyboard.press("Control+c")
    until(page, "document.getElementById('notice').textContent === 'Copied 2'")
    page.keyboard.press("Enter")
    page.wait_for_selector("#record table")
    assert page.evaluate("document.activeElement.id") == "title-record"
    assert page.inner_text("#title-record") == "Slot 2"


def test_who_has_no_key_may_read_and_is_told_what_needs_one(browser: Any, settings: Settings, tmp_path: Path) -> None:
    """And where nobody follows the chain, the newest slots are those of the lake."""
    shutil.copytree(settings.lake, tmp_path / "lake", ignore=shutil.ignore_patterns("head.json", "query"))
    with page_service(settings.model_copy(update={"lake": str(tmp_path / "lake"), "serve_anonymous": True})) as service:
        watched = Watched(browser.new_context(viewport=DESK), service.url)
        page = watched.page
        page.goto(f"{service.url}/#live")
        until(page, "document.getElementById('ticker-text').textContent.includes('39')")
        assert "slot 39 finalized · 6 tx" in page.inner_text("#ticker-text")
        assert "nobody follows it" in page.inner_text("#live-facts")
        assert page.locator("#key-dialog[open]").count() == 0
        assert page.locator("#live-slots tbody tr").count() == 25
        page.click("nav a[href='#sql']")
        page.click("#run")
        done(page)
        said = page.inner_text("#sql-problem")
        assert "this needs the scope `sql`" in said
        assert "What to do: use a key of role analyst" in said
        watched.check()
        page.context.close()


def test_what_the_service_lacks_is_said(opened: Watched) -> None:
    page = opened.page
    missing = {"title": "There is no such thing", "status": 404, "detail": "nothing is served at /v1/search", "remedy": "", "errors": []}
    page.route("**/v1/search", lambda route: route.fulfill(status=404, content_type="application/problem+json", body=json.dumps(missing)))
    page.click("nav a[href='#search']")
    page.fill("#search-query", "swaps")
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-problem .problem")
    page.unroute("**/v1/search")
    assert "This service does not have that" in page.inner_text("#search-problem")
