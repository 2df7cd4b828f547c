"""What each consent mode lets a browser write, read and send."""

import json
import time
from uuid import uuid4

import pytest
from selenium.webdriver.common.by import By

from tests.edge.browser.driving import CATEGORIES, NOTIFY, OFF, OPT_IN, OPT_OUT, Browser, World
from tests.edge.running import raw_values
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)


def test_opt_in(world: World, browser: Browser) -> None:
    """Before the answer and after a no: nobody, no cookie. After a yes: a visitor. Withdrawn: nobody again, and later another one."""
    browser.get(world.url(OPT_IN))
    (before,) = world.has_views(1)
    assert (before.utk, before.ip, before.user_agent, before.title) == (None, None, None, None)
    assert browser.cookies() == {}
    browser.banner("Decline")
    browser.get(world.url(OPT_IN))
    assert world.has_views(2)[1].utk is None
    assert set(browser.cookies()) == {"__hs_opt_out", "__hs_cookie_cat_pref", "__hs_initial_opt_in"}
    assert not browser.find_elements(By.ID, "__hsbanner")
    browser.execute_script("_hsq.push(['setConsent', {analytics: true}])")
    utk = browser.cookies()["hubspotutk"]
    browser.get(world.url(OPT_IN))
    assert world.has_views(3)[2].utk == utk
    until(lambda: world.answers(utk), "the answer")
    assert (
        world.answers(utk)[0].properties == '{"advertisement":false,"analytics":true,"functionality":false,"mode":"opt_in","version":"1"}'
    )
    browser.execute_script("_hsp.push(['revokeCookieConsent'])")
    assert browser.cookies() == {}
    browser.banner("Accept")
    assert browser.cookies()["hubspotutk"] not in (utk, None)


def test_an_answer_that_is_repeated_on_every_page(world: World, browser: Browser) -> None:
    """As consent platforms do: it counts each time and is one event, until it is another one; what the banner hears is one each time."""
    utk = None
    for again in range(3):
        browser.get(world.url(OPT_IN))
        assert world.has_views(again + 1)[-1].utk == utk
        browser.execute_script("_hsq.push(['setConsent', {analytics: true}])")
        utk = browser.cookies()["hubspotutk"]
    browser.execute_script("_hsq.push(['setConsent', true])")
    until(lambda: len(world.answers(utk)) == 2, "another answer")
    browser.execute_script("_hsq.push(['showBanner'])")
    browser.banner("Accept")
    until(lambda: len(world.answers(utk)) == 3, "what the banner has heard")
    assert [json.loads(answer.properties or "")["advertisement"] for answer in world.answers(utk)] == [False, True, True]


UNASKED, DECLINED, ACCEPTED = "before the answer", "after a no", "after a yes"
VISITOR = {"__hstc", "hubspotutk", "__hssc", "__hssrc"}
ANSWERS = {
    DECLINED: {"__hs_opt_out": "yes", "__hs_cookie_cat_pref": "1:false_2:false_3:false"},
    ACCEPTED: {"__hs_opt_out": "no", "__hs_cookie_cat_pref": "1:true_2:true_3:true"},
}
STRICT = {DECLINED: {"__hs_initial_opt_in": "no"}, ACCEPTED: {"__hs_initial_opt_in": "yes"}}
LIVES = {"__hs_opt_out": 180 * 1440, "__hs_cookie_cat_pref": 180 * 1440, "__hs_initial_opt_in": 7 * 1440}


@pytest.mark.parametrize("portal", [OFF, NOTIFY, OPT_IN, CATEGORIES, OPT_OUT])
def test_cookies_of_each_mode(world: World, browser: Browser, portal: int) -> None:
    """Before the answer, after a no, after a yes: which cookies there are, what they say of the answer, and for how long."""
    is_asked_first = portal in (OPT_IN, CATEGORIES)
    browser.get(world.url(portal))
    (before,) = world.has_views(1)
    assert set(browser.cookies()) == (set() if is_asked_first else VISITOR)
    assert (before.utk is None) == is_asked_first
    for count, (moment, given) in enumerate(((DECLINED, "false"), (ACCEPTED, "true")), 2):
        browser.execute_script(f"_hsq.push(['setConsent', {given}])")
        browser.get(world.url(portal, "second"))
        view = world.has_views(count)[-1]
        cookies = browser.cookies()
        answer = ANSWERS[moment] | (STRICT[moment] if is_asked_first else {})
        assert {name: value for name, value in cookies.items() if name.startswith("__hs_")} == answer
        assert {name: left for name, left in browser.lives().items() if name in answer} == {name: LIVES[name] for name in answer}
        assert cookies.keys() - answer.keys() == (VISITOR if moment == ACCEPTED else set())
        assert view.utk == cookies.get("hubspotutk")
        assert (view.user_agent is None, view.ip is None) == (moment == DECLINED, moment == DECLINED)
    utks = [view.utk for view in world.views()]
    assert utks[1] is None
    assert utks[2] not in (None, utks[0]), "a yes after a no begins with another visitor"


def test_categories(world: World, browser: Browser) -> None:
    """Each category by itself: a script that waits for advertisement runs after that yes, and not before."""
    browser.get(world.url(CATEGORIES, "held"))
    browser.settles()
    assert browser.title == "held"
    until(lambda: browser.find_elements(By.ID, "__hsbanner"), "the banner is there")
    browser.find_element(By.ID, "__hsbanner").shadow_root.find_element(By.ID, "advertisement").click()
    browser.banner("Save my choice")
    assert browser.title == "advertised"
    assert "hubspotutk" not in browser.cookies()
    assert browser.cookies()["__hs_cookie_cat_pref"] == "1:false_2:true_3:false"


OBJECTIONS = {"globalPrivacyControl": ("true", "Sec_GPC"), "doNotTrack": ("'1'", "DNT")}


@pytest.mark.parametrize("signal", OBJECTIONS)
def test_the_browsers_objection(world: World, browser: Browser, signal: str) -> None:
    """Global Privacy Control and Do Not Track are a no in opt_out, until the visitor says yes; in off only advertisement waits."""
    value, header = OBJECTIONS[signal]
    browser.on_each_page(f"Object.defineProperty(navigator, '{signal}', {{value: {value}}})")
    browser.says(**{header: "1"})
    browser.get(world.url(OPT_OUT))
    (view,) = world.has_views(1)
    assert (view.utk, view.user_agent, view.ip) == (None, None, None)
    assert browser.cookies() == {}
    browser.execute_script("_hsq.push(['setConsent', true])")
    browser.get(world.url(OPT_OUT))
    assert world.has_views(2)[1].utk == browser.cookies()["hubspotutk"]
    browser.execute_script("_hsq.push(['revokeCookieConsent'])")
    browser.get(world.url(OFF, "held"))
    assert world.has_views(3)[2].utk is not None
    assert browser.title == "held"


def test_an_objection_that_only_the_request_tells(world: World, browser: Browser) -> None:
    """The script sees nothing of it and writes its cookies: the collector reads the header, and takes them out."""
    browser.says(Sec_GPC="1")
    browser.get(world.url(OPT_OUT))
    (view,) = world.has_views(1)
    assert "hubspotutk" in browser.cookies()
    assert (view.utk, view.user_agent, view.ip, view.hstc) == (None, None, None, None)


def test_do_not_track(world: World, browser: Browser) -> None:
    """After doNotTrack the script sends nothing at all, until it is taken back."""
    browser.get(world.url(OFF))
    world.has_views(1)
    browser.execute_script("_hsq.push(['doNotTrack'])")
    browser.get(world.url(OFF))
    browser.settles()
    browser.execute_script("_hsq.push(['doNotTrack', {track: true}])")
    browser.get(world.url(OFF, "second"))
    assert [view.url for view in world.has_views(2)] == [world.url(OFF), world.url(OFF, "second")]


@pytest.mark.parametrize("portal", [OFF, NOTIFY, OPT_IN, CATEGORIES, OPT_OUT])
def test_withdrawn_with_a_hit_in_flight(world: World, browser: Browser, portal: int) -> None:
    """What was on its way under a yes arrives; its answer brings no cookie back, neither in place of none nor of the next visitor's."""
    waiting = f"return localStorage.getItem('__hsqueue{portal}')"
    browser.get(world.url(portal))
    world.has_views(1)
    browser.execute_script("_hsq.push(['setConsent', true])")
    browser.get(world.url(portal))
    first = world.has_views(2)[1].utk
    assert first is not None
    until(lambda: browser.execute_script(waiting) == "[]", "everything is sent")
    with world.silent():
        browser.execute_script("_hsq.push(['trackPageView'])")
        time.sleep(0.5)  # the request leaves with the cookie
        browser.execute_script("_hsq.push(['setConsent', false])")
        assert "hubspotutk" not in browser.cookies()
        assert browser.execute_script(waiting) is None
    assert [view.utk for view in world.has_views(3)][1:] == [first, first]
    until(lambda: len(world.refusals()) == 1, "the answer is sent after it")
    assert "hubspotutk" not in browser.cookies()

    browser.execute_script("_hsq.push(['setConsent', true], ['trackPageView'])")
    second = browser.cookies()["hubspotutk"]
    world.has_views(4)
    with world.silent():
        browser.execute_script("_hsq.push(['trackPageView'])")
        time.sleep(0.5)
        browser.execute_script("_hsq.push(['setConsent', false], ['setConsent', true])")
        third = browser.cookies()["hubspotutk"]
    until(lambda: world.answers(third), "the last answer is sent")
    assert len({first, second, third}) == 3
    assert browser.cookies()["hubspotutk"] == third
    assert [view.utk for view in world.has_views(5)][3:] == [second, second]


def test_an_answer_that_comes_when_the_page_is_gone(world: World, browser: Browser) -> None:
    """The cookie that it brings back after a no is deleted by the next page."""
    browser.get(world.url(OPT_IN))
    browser.execute_script("_hsq.push(['setConsent', false])")
    browser.sets_cookie("hubspotutk", "0" * 32)
    browser.get(world.url(OPT_IN, "second"))
    world.has_views(2)
    assert "hubspotutk" not in browser.cookies()


@pytest.mark.parametrize("portal", [OFF, NOTIFY, OPT_IN, CATEGORIES, OPT_OUT])
def test_after_a_no_canaries_are_nowhere(world: World, browser: Browser, portal: int) -> None:
    """In every mode: cookies, browser, emails in urls, titles and properties; topics, spool and logs, byte by byte.

    Where nobody is asked first, a visitor who is known says no; where one is, the canaries are there before the banner is. (Of addresses
    tests/edge/test_privacy.py has the same: a browser cannot say that it is elsewhere.)
    """
    is_asked_first = portal in (OPT_IN, CATEGORIES)
    canaries = {"utk": uuid4().hex, "email": f"canary-{world.visit}@x.io", "agent": f"Canary-{world.visit}/9"}
    if not is_asked_first:
        browser.get(world.url(portal))
        world.has_views(1)
        browser.execute_script("_hsq.push(['setConsent', false])")
        until(world.refusals, "the answer is sent")
    else:
        browser.get(world.url(portal, "no-page"))
    browser.sets_cookie("hubspotutk", canaries["utk"])
    browser.sets_cookie("__hstc", f"1.{canaries['utk']}.1.1.1.1")
    browser.sets_cookie("messagesUtk", canaries["utk"])
    browser.execute_cdp_cmd("Network.setUserAgentOverride", {"userAgent": f"Mozilla/5.0 {canaries['agent']}"})
    for times, page in enumerate(("plain", "second"), 1):
        browser.get(world.url(portal, page, f"?mail={canaries['email']}&q=%61{canaries['email']}#{canaries['email']}"))
        until(lambda: browser.execute_script("return !!window.__hsTracking"), "the script runs")
        browser.execute_script(
            "document.title = arguments[0]; _hsq.push(['identify', {email: arguments[0]}], ['trackPageView'],"
            "['trackCustomBehavioralEvent', {name: arguments[1], properties: {mail: arguments[0]}}])",
            *(canaries["email"], f"bought {world.visit}"),
        )
        has_told(world, f"bought {world.visit}", times)
        browser.execute_script("_hsq.push(['setConsent', false])")
    views = world.has_views(4 if is_asked_first else 5)[-4:]
    assert {(view.utk, view.ip, view.user_agent, view.title) for view in views} == {(None, None, None, None)}
    for page in ("form", "posted"):
        browser.get(world.url(portal, page))
        browser.settles()
        browser.find_element(By.NAME, "email").send_keys(f"{page}-{world.visit}@x.io")
        browser.find_element(By.ID, "send").click()
        until(lambda page=page: browser.current_url != world.url(portal, page), "it leads elsewhere")  # type: ignore[misc]
    until(lambda: len(world.forms()) == 2, "both forms")
    assert {(form.email, form.utk, form.ip, form.user_agent) for form in world.forms()} == {
        (f"form-{world.visit}@x.io", None, None, None),
        (f"posted-{world.visit}@x.io", None, None, None),
    }
    seen = told(world) + b"".join(path.read_bytes() for path in world.edge.directory.rglob("*") if path.is_file())
    assert world.visit.encode() in seen
    assert [name for name, canary in canaries.items() if canary.encode() in seen or canary.replace("@", "%40").encode() in seen] == []


def has_told(world: World, text: str, times: int) -> None:
    until(lambda: told(world).count(text.encode()) == times, "the events are sent")


def told(world: World) -> bytes:
    """All records of the raw topics."""
    return b"\n".join(raw_values(world.edge.settings))
