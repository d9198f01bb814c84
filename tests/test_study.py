"""The user study: its input, its page in a real browser, its votes and their table."""

import io
import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faceshifter.apps import http
from faceshifter.apps.guard import Names
from faceshifter.apps.study.server import create_app
from faceshifter.apps.study.study import read_study
from faceshifter.apps.study.votes import QUESTIONS, Votes, share_of, share_table, shares, wilson
from faceshifter.cli import main as cli
from faceshifter.errors import DataError, OutputError

METHODS = ("alpha-swap", "beta-swap", "gamma-swap")
COLOURS = {"source": 30, "target": 60, "alpha-swap": 100, "beta-swap": 160, "gamma-swap": 220}


def write_pictures(folder: Path, pairs: int) -> Path:
    """Grey pictures whose level says what they are, in another format for each method."""
    lines = ["source,target,result,method,note"]
    suffixes = dict(zip(METHODS, ("png", "jpg", "tif"), strict=True))
    for pair in range(pairs):
        for name, level in COLOURS.items():
            picture = folder / f"{pair}-{name}.{suffixes.get(name, 'png')}"
            Image.new("RGB", (40, 30), (level, level, level)).save(picture)
        lines += [
            f"{pair}-source.png,{pair}-target.png,{pair}-{method}.{suffix},{method},x"
            for method, suffix in suffixes.items()
        ]
    path = folder / "results.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return write_pictures(tmp_path, pairs=25)


@pytest.fixture
def votes(results: Path, tmp_path: Path) -> Votes:
    return Votes(tmp_path / "votes.sqlite", read_study(results))


@pytest.fixture
def address(votes: Votes) -> Iterator[str]:
    """A server in a thread."""
    server, listening = (
        http.make_server(create_app(votes, 20, Names())),
        http.listen("127.0.0.1", 0),
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield http.address(listening)
    server.should_exit = True
    thread.join()


def ask(url: str, data: object = None) -> tuple[bytes, dict[str, str]]:
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.read(), dict(response.headers)


def level(jpeg: bytes) -> str:
    """What the picture is, by its grey."""
    grey = np.asarray(Image.open(io.BytesIO(jpeg)).convert("L")).mean()
    return min(COLOURS, key=lambda name: abs(COLOURS[name] - grey))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda text: text.replace("method,note", "name,note"), "lacks the column method; its fir"),
        (
            lambda text: text.replace("0-beta-swap.jpg,beta-swap", "0-x.png,"),
            "line 3, lacks",
        ),
        (lambda text: text.replace("0-beta-swap.jpg", "no.jpg"), "no.jpg, named in"),
        (lambda text: text.replace("0-beta-swap.jpg", "results.csv"), "is missing or no picture"),
        (lambda text: text + text.splitlines()[1], "is a second result of alpha-swap for 0-source"),
        (lambda text: "\n".join(text.splitlines()[:3]), "no result of gamma-swap|results of 2"),
        (lambda text: "\n".join(text.splitlines()[:-1]), "no result of gamma-swap for 24-source"),
        (lambda text: "\n".join(text.splitlines()[:2]), "results of 1 methods; give two or more"),
        (lambda text: "", "lacks the column source"),
    ],
)
def test_a_table_that_cannot_be_shown_is_refused(
    results: Path, change: Callable[[str], str], sentence: str
) -> None:
    changed = change(results.read_text())
    results.write_text(changed)
    if len(changed.splitlines()) == 3:  # two methods of one pair are a study
        assert read_study(results).methods == ["alpha-swap", "beta-swap"]
        return
    with pytest.raises(DataError, match=sentence):
        read_study(results)


def test_a_rater_gets_other_pairs_and_places_and_never_a_pair_twice(votes: Votes) -> None:
    orders: Counter[tuple[str, ...]] = Counter()
    drawn = []
    for _ in range(10):
        rater = votes.new_rater(20)
        pairs = []
        for position in range(20):
            question = votes.question(rater, 3 * position)
            assert question is not None
            paths = [votes.picture(token) for token in question.results]
            orders[tuple(path.stem.partition("-")[2] for path, _ in paths if path)] += 1
            pairs.append(votes.picture(question.source)[0])
        assert len(set(pairs)) == 20
        drawn.append(pairs)
    assert len({tuple(pairs) for pairs in drawn}) == 10
    # Six orders, 200 draws: each is expected 33 times, with a standard deviation of 5.3.
    assert len(orders) == 6
    assert all(6 < count < 61 for count in orders.values())


def test_a_study_of_few_pairs_shows_all_of_them(tmp_path: Path) -> None:
    votes = Votes(tmp_path / "votes.sqlite", read_study(write_pictures(tmp_path, pairs=3)))
    rater = votes.new_rater(20)
    assert votes.progress(rater) == (9, 0)
    sources = {votes.picture(votes.question(rater, 3 * k).source)[0].name for k in range(3)}
    assert sources == {"0-source.png", "1-source.png", "2-source.png"}


def test_a_changed_mind_counts_once(votes: Votes) -> None:
    rater = votes.new_rater(20)
    methods = [
        votes.picture(token)[0].stem.partition("-")[2] for token in votes.question(rater, 1).results
    ]
    assert votes.vote(rater, 1, 0)
    assert votes.vote(rater, 1, 2)
    assert votes.question(rater, 1).chosen == 2
    assert votes.counts() == {"identity": {}, "attributes": {1: {methods[2]: 1}}, "realism": {}}
    assert votes.progress(rater) == (60, 0)


@pytest.mark.parametrize(("index", "choice"), [(60, 0), (-1, 0), (0, 3), (0, -1)])
def test_votes_on_nothing_are_refused(votes: Votes, index: int, choice: int) -> None:
    assert not votes.vote(votes.new_rater(20), index, choice)
    assert not votes.vote("nobody", 0, 0)
    assert votes.raters() == (0, 0)


def test_votes_of_many_raters_at_once_are_all_kept(votes: Votes) -> None:
    def rate() -> None:
        rater = votes.new_rater(20)
        for index in range(60):
            assert votes.vote(rater, index, index % 3)

    threads = [threading.Thread(target=rate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert votes.raters() == (4, 4)
    counts = votes.counts()
    for question in QUESTIONS:
        assert [sum(by_method.values()) for by_method in counts[question].values()] == [20] * 4


def test_votes_on_other_pictures_and_foreign_files_are_refused(
    votes: Votes, results: Path, tmp_path: Path
) -> None:
    fewer = "\n".join(results.read_text().splitlines()[:-3])
    (tmp_path / "fewer.csv").write_text(fewer)
    with pytest.raises(DataError, match="holds votes on other pictures"):
        Votes(votes.path, read_study(tmp_path / "fewer.csv"))
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as db:
        db.execute("CREATE TABLE study (name TEXT)")
    for foreign in (results, tmp_path / "other.sqlite"):
        before = foreign.read_bytes()
        with pytest.raises(DataError, match=r"damaged, or another file|lacks began of raters"):
            Votes(foreign, votes.study)
        assert foreign.read_bytes() == before
    with pytest.raises(OutputError, match="cannot be written"):
        Votes(tmp_path / "no" / "votes.sqlite", votes.study)


def test_the_study_may_move_with_its_pictures(votes: Votes, results: Path, tmp_path: Path) -> None:
    rater = votes.new_rater(20)
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    tmp_path.rename(moved)
    again = Votes(moved / "votes.sqlite", read_study(moved / "results.csv"))
    path, synthetic = again.picture(again.question(rater, 0).target)
    assert path.is_file()
    assert not synthetic


def test_nothing_that_is_served_names_a_method_or_a_file(address: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(f"{address}/start", b"")) as response:
        page, link = response.read(), response.url
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert "HttpOnly" in response.headers["Set-Cookie"]
    rater = link.rpartition("/")[2]
    served = [page, ask(f"{address}/api/{rater}")[0]]
    tokens, sizes = [], set()
    for index in range(0, 60, 3):
        text, _ = ask(f"{address}/api/{rater}/{index}")
        question = json.loads(text)
        served.append(text)
        names = []
        for token in (question["source"], question["target"], *question["results"]):
            jpeg, headers = ask(f"{address}/picture/{token}")
            names.append(level(jpeg))
            sizes.add((headers["content-type"], jpeg[:4], Image.open(io.BytesIO(jpeg)).size))
            served.append(jpeg)
            tokens.append(token)
        assert names[:2] == ["source", "target"]
        assert sorted(names[2:]) == sorted(METHODS)
    assert len(set(tokens)) == len(tokens) == 100
    assert sizes == {("image/jpeg", b"\xff\xd8\xff\xe0", (40, 30))}
    assert not [text for text in served if b"-swap" in text or b".png" in text]


def test_a_known_rater_goes_on_and_an_unknown_one_begins_anew(address: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(f"{address}/start", b"")) as response:
        link, cookie = response.url, response.headers["Set-Cookie"].partition(";")[0]
    again = urllib.request.Request(address, headers={"Cookie": cookie})
    with urllib.request.urlopen(again) as response:
        assert response.url == link
    for page in (f"{address}/r/nobody", address):
        with urllib.request.urlopen(page) as response:
            assert response.url.rstrip("/") == address
    for path in ("api/nobody", "api/nobody/0", "picture/none", "docs", "openapi.json"):
        with pytest.raises(urllib.error.HTTPError, match="404") as refused:
            ask(f"{address}/{path}")
        refused.value.close()


def test_pictures_may_be_kept_and_nothing_else_and_a_vote_is_small(address: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(f"{address}/start", b"")) as response:
        rater = response.url.rpartition("/")[2]
    text, headers = ask(f"{address}/api/{rater}/0")
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "same-origin"
    _, headers = ask(f"{address}/picture/{json.loads(text)['source']}")
    assert headers["cache-control"] == "private, max-age=86400"
    assert ask(f"{address}/api/{rater}/0", {"choice": 0})
    with pytest.raises(urllib.error.HTTPError, match="413") as refused:
        ask(f"{address}/api/{rater}/0", {"choice": "0" * 2**20})
    refused.value.close()


def test_what_no_rater_sends_is_refused(address: str, votes: Votes) -> None:
    api = f"{address}/api/{votes.new_rater(20)}"
    huge = "9" * 22
    for path, body, status in (
        (huge, None, 404),
        (huge, '{"choice": 1}', 404),
        ("-1", None, 404),
        ("0", '{"choice": 1e400}', 422),
        ("0", f'{{"choice": {huge}}}', 404),
        ("0", '{"choice": NaN}', 422),
        ("0", "[" * 10**5, 400),
    ):
        data, kind = body and body.encode(), {"Content-Type": "application/json"}
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(f"{api}/{path}", data, kind))
        assert refused.value.code == status, (path, body)
        refused.value.close()
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        with pytest.raises(urllib.error.HTTPError, match="403") as refused:
            urllib.request.urlopen(urllib.request.Request(f"{api}/0", headers=headers))
        refused.value.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE shown SET methods = '[\"nobody-swap\"'",
        "UPDATE shown SET pictures = '[]'",
        "UPDATE pictures SET unit = 99",
        "INSERT INTO votes VALUES (1, 0, 'identity', 'nobody-swap', 'now')",
        "ALTER TABLE votes DROP COLUMN voted",
        "DELETE FROM study",
    ],
)
def test_votes_that_this_study_has_not_written_are_refused(votes: Votes, change: str) -> None:
    votes.new_rater(2)
    with closing(sqlite3.connect(votes.path)) as db:
        db.execute(change)
        db.commit()
    with pytest.raises(DataError, match=r"damaged; choose|lacks voted of votes|other pictures"):
        Votes(votes.path, votes.study)


def test_a_damaged_file_of_votes_is_refused(votes: Votes) -> None:
    for _ in range(20):
        votes.new_rater(20)
    with closing(sqlite3.connect(votes.path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(votes.path.read_bytes())
    content[2**13 : 2**15] = bytes(range(256)) * 96
    votes.path.write_bytes(content)
    with pytest.raises(DataError, match=r"is damaged.*; choose another --votes"):
        Votes(votes.path, votes.study)


def test_the_page_takes_nothing_from_elsewhere() -> None:
    page = resources.files("faceshifter.apps.study").joinpath("page.html").read_text("utf-8")
    assert not re.findall(r"https?:|(?:src|href)=\"(?!data:,)|@import|url\(", page)


def test_the_wilson_interval_has_its_known_values() -> None:
    np.testing.assert_allclose(wilson(0.5, 10), (0.2366, 0.7634), atol=5e-5)
    np.testing.assert_allclose(wilson(0.0, 20), (0.0, 0.1611), atol=5e-5)
    np.testing.assert_allclose(wilson(1.0, 20), (0.8389, 1.0), atol=5e-5)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_an_interval_contains_its_share(p: float) -> None:
    for n in range(1, 200):
        low, high = wilson(p, n)
        assert 0 <= low <= p <= high <= 1


def test_votes_of_raters_who_always_agree_with_themselves_count_once_a_rater() -> None:
    decided = share_of([20] * 50 + [0] * 50, [20] * 100)
    assert decided is not None
    np.testing.assert_allclose((decided.low, decided.high), wilson(0.5, 99), rtol=1e-6)
    undecided = share_of([10] * 100, [20] * 100)
    assert undecided is not None
    np.testing.assert_allclose((undecided.low, undecided.high), wilson(0.5, 2000), rtol=1e-6)
    assert share_of([], []) is None


def test_shares_of_one_question_add_up() -> None:
    counts = {
        "identity": {1: {"a": 3, "b": 1}, 2: {"b": 4}},
        "attributes": {1: {"a": 1}},
        "realism": {},
    }
    result = shares(counts, ["a", "b"])
    assert [result[method]["identity"].share for method in "ab"] == [3 / 8, 5 / 8]
    assert [result[method]["attributes"].share for method in "ab"] == [1, 0]
    header, _, a, b = share_table(result).splitlines()
    assert header == "| method | identity | attributes | realism |"
    assert a.startswith("| a | 37.5 (")
    assert b.endswith("| no votes |")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_study(results: Path, port: int) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "faceshifter", "study", str(results), "--pairs", "3"]
    words += ["--votes", str(results.with_name("v.sqlite")), "--port", str(port)]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdout.readline() == "25 pairs, methods alpha-swap, beta-swap, gamma-swap\n"
    assert f":{port}" in server.stdout.readline()
    return server


@pytest.fixture
def browser(chromium: Callable[..., object]) -> object:
    """Chromium without a window, the size of a phone."""
    phone = {"width": 390, "height": 844, "pixelRatio": 2}
    return chromium(mobileEmulation={"deviceMetrics": phone})


@pytest.mark.browser
def test_raters_in_a_browser_lose_no_vote_when_the_server_is_killed(
    browser,
    results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    def wait(condition: Callable[[], object]) -> None:
        """Wait for something; an element of a page that is left meanwhile is found again."""
        wait = WebDriverWait(browser, 60, 0.1, [StaleElementReferenceException])
        wait.until(lambda _: condition())

    def shown(name: str):
        return browser.find_element(By.ID, name)

    def buttons() -> list:
        return browser.find_elements(By.CSS_SELECTOR, "#results button:enabled")

    def wait_for(count: str) -> None:
        wait(lambda: shown("count").text == count and len(buttons()) == 3)

    def picture_of(button) -> str:
        token = button.find_element(By.TAG_NAME, "img").get_attribute("src").rpartition("/")[2]
        return level(ask(f"{address}/picture/{token}")[0])

    def press(key: str) -> None:
        """Press keys wherever the focus is, on elements that may be replaced meanwhile."""
        ActionChains(browser).send_keys(key).perform()

    port = free_port()
    address = f"http://127.0.0.1:{port}"
    server = start_study(results, port)
    try:
        browser.get(address)
        wait(lambda: browser.switch_to.active_element.text == "Begin")  # it gets the focus
        press(Keys.ENTER)
        wait_for("1 of 9")
        link = browser.current_url
        expected: dict[str, Counter[str]] = {question: Counter() for question in QUESTIONS}
        width = browser.execute_script("return document.documentElement.scrollWidth")
        assert width == 390  # nothing sticks out of a phone

        expected["identity"][picture_of(buttons()[1])] += 1
        buttons()[1].click()
        wait_for("2 of 9")
        press("1")
        wait_for("3 of 9")
        press(Keys.BACKSPACE)
        wait_for("2 of 9")
        assert [b.get_attribute("aria-pressed") for b in buttons()] == ["true", "false", "false"]
        # Whoever is fast is asked what is shown.
        press(Keys.BACKSPACE + Keys.BACKSPACE + "3")
        wait_for("1 of 9")
        question = shown("question").text
        assert question == "Which picture shows the person most like the one in the source photo?"
        assert [b.get_attribute("aria-pressed") for b in buttons()] == ["false", "true", "false"]
        press("2")
        wait_for("3 of 9")
        press(Keys.BACKSPACE)
        wait_for("2 of 9")
        expected["attributes"][picture_of(buttons()[2])] += 1
        press("3")
        wait_for("3 of 9")

        # Another rater at the same time.
        with urllib.request.urlopen(urllib.request.Request(f"{address}/start", b"")) as response:
            other = response.url.rpartition("/")[2]
        for index, question in enumerate(QUESTIONS):
            asked = json.loads(ask(f"{address}/api/{other}/{index}")[0])
            expected[question][level(ask(f"{address}/picture/{asked['results'][0]}")[0])] += 1
            ask(f"{address}/api/{other}/{index}", {"choice": 0})

        server.send_signal(signal.SIGKILL)
        server.wait()
        press("2")
        wait(lambda: shown("failed").is_displayed())
        server.stdout.close()
        server = start_study(results, port)
        press(Keys.ENTER)  # try again: this vote is stored now
        wait_for("4 of 9")
        press(Keys.BACKSPACE)
        wait_for("3 of 9")
        expected["realism"][picture_of(buttons()[1])] += 1
        browser.get(address)  # the cookie knows who this is
        wait_for("4 of 9")
        assert browser.current_url == link

        for index in range(3, 9):
            wait_for(f"{index + 1} of 9")
            button = buttons()[index % 3]
            expected[QUESTIONS[index % 3]][picture_of(button)] += 1
            button.send_keys(Keys.SPACE)
        wait(lambda: shown("thanks").is_displayed())

        requested = {
            json.loads(entry["message"])["message"]["params"].get("request", {}).get("url", "")
            for entry in browser.get_log("performance")
            if "Network.requestWillBeSent" in entry["message"]
        }
        assert [url for url in requested if url and not url.startswith((address, "data:"))] == []
        assert len(requested) > 10
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait() == 0
        server.stdout.close()

    out = tmp_path / "table.json"
    words = ["study", str(results), "--votes", str(tmp_path / "v.sqlite"), "--table", str(out)]
    monkeypatch.setattr(sys, "argv", ["faceshifter", *words])
    cli.main()
    printed = capsys.readouterr().out
    assert printed.startswith("2 raters, 1 of them with all questions answered; percent of votes\n")
    written = json.loads(out.read_text())
    assert (written["raters"], written["finished"]) == (2, 1)
    for question in QUESTIONS:
        for method in METHODS:
            share = written["methods"][method][question]
            assert share["votes"] == expected[question][method]
            assert share["share"] == pytest.approx(expected[question][method] / 4)
            assert 0 <= share["low"] <= share["share"] <= share["high"] <= 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["none.csv", "--votes", "v"], "none.csv cannot be read (No such file or directory); give"),
        (["0-source.png", "--votes", "v"], "0-source.png lacks the column source"),
        (["results.csv", "--votes", "no/v"], "the folder no of --votes does not exist"),
        (["results.csv", "--votes", "v", "--table", "t"], "v does not exist; run the study first"),
        (["results.csv", "--votes", "v", "--pairs", "0"], "--pairs must be at least 1, got 0"),
        (["results.csv", "--votes", "v", "--port", "70000"], "port 70000 cannot be served from"),
        (["results.csv", "--votes", "v", "--host", "192.0.2.1"], "192.0.2.1 port 8000 cannot be"),
        (
            ["results.csv", "--votes", "results.csv", "--port", "0"],
            "results.csv is damaged, or another file",
        ),
    ],
)
def test_bad_input_to_study_is_refused_in_one_sentence(
    words: list[str],
    sentence: str,
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(results.parent)
    before = sorted(results.parent.iterdir())
    monkeypatch.setattr(sys, "argv", ["faceshifter", "study", *words])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    error = capsys.readouterr().err
    assert error.startswith("faceshifter: ")
    assert error.count("\n") == 1
    assert sentence in error
    assert sorted(results.parent.iterdir()) == before


def test_a_study_names_the_package_it_lacks(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    words = ["study", str(results), "--votes", str(results.with_name("v.sqlite")), "--port", "0"]
    monkeypatch.setattr(sys, "argv", ["faceshifter", *words])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert "needs fastapi; run pip install 'faceshifter[study]'" in capsys.readouterr().err
