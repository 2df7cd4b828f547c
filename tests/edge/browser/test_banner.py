"""The consent banner for everybody: keys, screen readers, and the rules of axe-core."""

from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.edge.browser.driving import CATEGORIES, NOTIFY, OPT_IN, OPT_OUT, OTHER_RULES, Browser, World
from tests.waiting import until

AXE = (Path(__file__).parents[1] / "axe" / "axe.min.js").read_text(encoding="utf-8")

pytestmark = pytest.mark.timeout(300)


def test_the_banner_can_be_used_with_keys(world: World, browser: Browser) -> None:
    """A dialog with a name, which has the focus; Tab and Enter answer it."""
    browser.get(world.url(OPT_IN))
    until(lambda: browser.find_elements(By.ID, "__hsbanner"), "the banner is there")
    section = browser.find_element(By.ID, "__hsbanner").shadow_root.find_element(By.CSS_SELECTOR, "section")
    assert (section.get_attribute("role"), section.accessible_name) == ("dialog", "Cookies on this site")
    active = browser.switch_to.active_element
    active.send_keys(Keys.TAB, Keys.ENTER)
    until(lambda: "hubspotutk" in browser.cookies(), "accepted")


def test_categories_chosen_with_keys(world: World, browser: Browser) -> None:
    """Tab goes through boxes and buttons, Space ticks a box, Enter saves."""
    browser.get(world.url(CATEGORIES))
    until(lambda: browser.find_elements(By.ID, "__hsbanner"), "the banner is there")
    keys = [Keys.TAB, Keys.TAB, Keys.SPACE, Keys.TAB, Keys.SPACE, Keys.TAB, Keys.TAB, Keys.TAB, Keys.ENTER]
    ActionChains(browser).send_keys(*keys).perform()
    until(lambda: "__hs_cookie_cat_pref" in browser.cookies(), "an answer")
    assert browser.cookies()["__hs_cookie_cat_pref"] == "1:false_2:true_3:true"
    assert not browser.find_elements(By.ID, "__hsbanner")


def test_escape_is_no_answer(world: World, browser: Browser) -> None:
    """The banner goes, the focus is where it was, nothing is stored, and the next page asks again; so does showBanner, after an answer."""
    browser.get(world.url(OPT_IN))
    until(lambda: browser.find_elements(By.ID, "__hsbanner"), "the banner is there")
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert not browser.find_elements(By.ID, "__hsbanner")
    assert browser.cookies() == {}
    browser.get(world.url(OPT_IN, "form"))
    browser.banner("Decline")
    browser.execute_script("document.querySelector('[name=size]').focus(); _hsq.push(['showBanner'], ['showBanner'])")
    until(lambda: browser.find_elements(By.ID, "__hsbanner"), "the banner is there again")
    assert len(browser.find_elements(By.ID, "__hsbanner")) == 1
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert browser.switch_to.active_element.get_attribute("name") == "size"
    assert browser.cookies()["__hs_opt_out"] == "yes"


def test_the_banner_speaks_the_pages_language(world: World, browser: Browser) -> None:
    """The page's language, else the browser's; the portal's texts before ours, and ours, or English, where it has none."""
    browser.get(world.url(OTHER_RULES))
    browser.banner("Accept")
    said = {language: spoken(browser, language) for language in ("en-GB", "de-AT", "fr", "xx", "")}
    english = ("en", ["Cookies on this site", "Accept", "Decline"])
    assert said == {
        "en-GB": english,
        "de-AT": ("de", ["Kekse", "Annehmen", "Ablehnen"]),
        "fr": ("fr", ["Biscuits", "Oui", "Decline"]),
        "xx": english,
        "": english,
    }
    browser.execute_script("Object.defineProperty(navigator, 'languages', {value: ['xx', 'de']})")
    assert spoken(browser, "") == said["de-AT"]


def spoken(browser: Browser, language: str) -> tuple[str | None, list[str]]:
    """The language and the texts of the banner in a page of this language."""
    browser.execute_script("document.documentElement.lang = arguments[0]; _hsq.push(['showBanner'])", language)
    until(lambda: browser.find_elements(By.ID, "__hsbanner"), "the banner is there")
    section = browser.find_element(By.ID, "__hsbanner").shadow_root.find_element(By.CSS_SELECTOR, "section")
    texts = [each.text for each in section.find_elements(By.CSS_SELECTOR, "h2, button")]
    found = section.get_attribute("lang"), texts
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    return found


@pytest.mark.parametrize("portal", [OPT_IN, CATEGORIES, OPT_OUT, NOTIFY])
def test_the_banner_breaks_no_rule_of_accessibility(world: World, browser: Browser, portal: int) -> None:
    """axe-core, with all its rules, at the size of a desktop and of a phone: no violation, nothing left to look at by eye."""
    for width in (1280, 360):
        browser.set_window_size(width, 700)
        browser.get(world.url(portal))
        until(lambda: browser.find_elements(By.ID, "__hsbanner"), "the banner is there")
        found = axe(browser)
        assert found["violations"] == [], width
        assert found["incomplete"] == [], width
        assert {"color-contrast", "aria-dialog-name", "button-name"} <= set(found["passes"])


def test_the_check_finds_mistakes(world: World, browser: Browser) -> None:
    """Text too pale to read and a dialog without a name are reported, within the shadow root."""
    browser.get(world.url(OPT_IN))
    until(lambda: browser.find_elements(By.ID, "__hsbanner"), "the banner is there")
    section = browser.find_element(By.ID, "__hsbanner").shadow_root.find_element(By.CSS_SELECTOR, "section")
    browser.execute_script("arguments[0].removeAttribute('aria-labelledby'); arguments[0].style.color = '#ccc'", section)
    assert {"aria-dialog-name", "color-contrast"} <= {rule for rule, _ in axe(browser)["violations"]}


def axe(browser: Browser) -> dict[str, Any]:
    """What axe-core says of the banner: rules broken and rules that it could not decide, with the elements; names of those that hold."""
    browser.execute_script(AXE)
    source = "axe.run('#__hsbanner', {resultTypes: ['violations', 'incomplete', 'passes']}).then(arguments[0])"
    found = browser.execute_async_script(source)
    told = {kind: [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found[kind]] for kind in ("violations", "incomplete")}
    return told | {"passes": [rule["id"] for rule in found["passes"]]}
