"""Forms in pages: each counts once, with the visitor and without what is nobody's business."""

import pytest
from selenium.webdriver.common.by import By

from tests.edge.browser.driving import OFF, Browser, World
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)


def test_a_caught_form(world: World, browser: Browser) -> None:
    """The form counts once, with the visitor's cookie, and without password and card number."""
    browser.get(world.url(OFF))
    (first,) = world.has_views(1)
    browser.get(world.url(OFF, "form"))
    browser.settles()
    browser.find_element(By.NAME, "email").send_keys("Ann@x.io")
    browser.find_element(By.ID, "send").click()
    until(world.forms, "the form")
    world.has_views(3)
    (form,) = world.forms()
    assert (form.form_id, form.email, form.utk) == ("contact", "ann@x.io", first.utk)
    assert form.fields == (("email", "Ann@x.io"), ("size", "4"))
    assert all(view.url.partition("?")[2].find("ann") < 0 for view in world.views()), "no address in the page's url"


def test_a_form_posted_to_the_collector(world: World, browser: Browser) -> None:
    """The form is the collector's alone, with the cookie and the page that the script adds; the sender is thanked."""
    browser.get(world.url(OFF, "posted"))
    (view,) = world.has_views(1)
    browser.find_element(By.NAME, "email").send_keys("ann@x.io")
    browser.find_element(By.ID, "send").click()
    until(world.forms, "the form")
    (form,) = world.forms()
    assert (form.form_id, form.email, form.utk, form.fields) == ("posted", "ann@x.io", view.utk, (("email", "ann@x.io"),))
    until(lambda: browser.current_url == "http://www.site.localhost/thanks", "the thanks")
