"""A visitor of the shop who uses its real pages over HTTP: reads forms, fills them in, keeps cookies."""

from __future__ import annotations

import http.cookiejar
import json
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

#: No page of the shop takes as long.
TIMEOUT_S = 15


@dataclass
class Form:
    """One form of a page, as a browser would send it if nobody touched it."""

    action: str
    values: dict[str, str] = field(default_factory=dict)


class FormReader(HTMLParser):
    """Collects the forms of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self._select = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note forms and their fields."""
        attributes = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(Form(attributes.get("action", "")))
        elif not self.forms:
            return
        elif tag == "select":
            self._select = attributes.get("name", "")
        elif tag == "option":
            self._option(attributes)
        elif tag == "input" and "name" in attributes:
            self.forms[-1].values[attributes["name"]] = attributes.get("value", "")

    def _option(self, attributes: dict[str, str]) -> None:
        # A browser sends the option that is marked, or else the first one.
        if "selected" in attributes or self._select not in self.forms[-1].values:
            self.forms[-1].values[self._select] = attributes.get("value", "")


@dataclass(frozen=True)
class Page:
    """What the server answered."""

    url: str
    text: str

    def form(self, action: str) -> Form:
        """Return the form whose ``action`` is given; raise LookupError if the page has none."""
        for form in FormReader(self.text).forms:
            if form.action == action:
                return form
        raise LookupError(f"{self.url} has no form that is sent to {action}.")


class Visitor:
    """Somebody with a browser, without JavaScript."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        # No proxy: the shop is on this machine, whatever the environment says about the rest of the world.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), cookies)

    def get(self, path: str) -> Page:
        """Read a page."""
        return self._open(path, None)

    def get_json(self, path: str) -> dict[str, Any]:
        """Read what a script would."""
        answer: dict[str, Any] = json.loads(self.get(path).text)
        return answer

    def send(self, form: Form) -> Page:
        """Send a form and follow where it leads."""
        return self._open(form.action, urllib.parse.urlencode(form.values).encode())

    def _open(self, path: str, data: bytes | None) -> Page:
        request = urllib.request.Request(urllib.parse.urljoin(self.base_url, path), data)  # noqa: S310 - http only
        with self._opener.open(request, timeout=TIMEOUT_S) as answer:
            return Page(answer.url, answer.read().decode())
