"""Which forms the script reports, what it takes of their fields, and what it puts into one that posts to the collector."""

from collections import Counter

import pytest
from selenium.webdriver.common.by import By

from pipeline.core.events import FormSubmission
from tests.edge.browser.driving import OFF, OTHER_RULES, Browser, World
from tests.edge.browser.pushing import custom, event, push
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)

FORM = """<form {attributes} action=second onsubmit="return false"><input name=id type=hidden value=4>
<input name=mail type=email value=ann@x.io><input name=e-mail value=second@x.io>
<select name=size multiple><option selected>4</option><option selected>5</option><option>6</option></select>
<input type=checkbox name=color value=red checked><input type=checkbox name=color value=blue><textarea name=constructor>hello</textarea>
<input name=pin type=password value=canary><input name=shown type=text autocomplete="section-a current-password" value=canary>
<input name=cvc autocomplete=cc-csc value=canary><input name=reset_token value=canary><input name=_csrf type=hidden value=canary>
<input name=_xsrf type=hidden value=canary><input name=jwt-like value="eyJcanary.x"><textarea name=g-recaptcha-response>canary</textarea>
<input name=card1 value="4111 1111 1111 1111"><input name=card2 value=4111-1111-1111-1111>
<input name=card3 value=378282246310005>
<input name=phone value="+49 30 1234567"><input name=order value=4111111111111112><input type=file name=file>
<fieldset disabled><input name=off value=canary></fieldset><input value=canary>
<button name=send id=send value=canary>Send</button></form>"""


def forms(world: World, page: Browser, portal: int, attributes: str) -> list[FormSubmission]:
    """What arrives of the form when it is sent on a page of the portal."""
    page.get(world.url(portal))
    until(lambda: "hubspotutk" in page.cookies(), "the script runs")
    page.execute_script("document.body.innerHTML = arguments[0]", FORM.format(attributes=attributes))
    page.find_element(By.ID, "send").click()
    push(page, event(world, f"after {portal} {attributes}"))
    custom(world, f"after {portal} {attributes}")
    return world.forms()


def test_which_forms_and_what_of_them(world: World, page: Browser) -> None:
    """Marked forms, or all where the portal says so; all fields but passwords, files, tokens and what could be a card's."""
    assert forms(world, page, OFF, "id=news") == []
    (marked,) = forms(world, page, OFF, "data-track-form=contact id=news")
    assert (marked.form_id, marked.email, marked.utk) == ("contact", "ann@x.io", page.cookies()["hubspotutk"])
    assert marked.fields is not None
    assert dict(marked.fields) == {
        "id": "4",
        "mail": "ann@x.io",
        "e-mail": "second@x.io",
        "size": "4;5",
        "color": "red",
        "constructor": "hello",
        "phone": "+49 30 1234567",
        "order": "4111111111111112",
    }
    for attributes in ("id=news", "name=letter", ""):
        forms(world, page, OTHER_RULES, attributes)
    assert Counter(form.form_id for form in world.forms()) == Counter(["contact", "news", "letter", "form"])


def test_a_posted_form_after_a_no(world: World, page: Browser) -> None:
    """What an earlier submission put into the form is gone after the no, and the collector learns of the no."""
    page.get(world.url(OFF, "posted"))
    until(lambda: "hubspotutk" in page.cookies(), "the script runs")
    page.execute_script(
        "document.body.append(Object.assign(document.createElement('iframe'), {name: 'other'})); document.forms[0].target = 'other'"
    )
    for count in (1, 2):
        page.find_element(By.ID, "send").click()
        until(lambda count=count: len(world.forms()) == count, "the form")  # type: ignore[misc]
        push(page, ["setConsent", False])
    names = page.execute_script("return Array.from(document.forms[0].elements, (input) => input.name)")
    assert names == ["email", "", "_hsevent", "_hspage", "_hsconsent"]
    first, second = sorted(world.forms(), key=lambda form: form.occurred_at)
    assert first.utk is not None
    assert (second.utk, second.ip, second.user_agent) == (None, None, None)
