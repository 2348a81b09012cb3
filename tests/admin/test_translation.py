"""All texts can be translated, and German is complete."""

from __future__ import annotations

import ast
import gettext
import re
from pathlib import Path

import pytest

import duroxide_django

PACKAGE = Path(duroxide_django.__file__).parent
CALLS = {"_", "gettext", "gettext_lazy", "ngettext"}


@pytest.fixture(scope="module")
def german():
    with (PACKAGE / "locale/de/LC_MESSAGES/django.mo").open("rb") as file:
        return gettext.GNUTranslations(file)


def texts_of_code():
    for path in PACKAGE.rglob("*.py"):
        if "migrations" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in CALLS:
                text = node.args[0]  # A plural stands in the catalogue under its singular.
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    yield text.value


def texts_of_templates():
    for path in PACKAGE.rglob("*.html"):
        for text in re.findall(r"{% translate '([^']*)'", path.read_text()):
            yield text.replace("%", "%%")
        for text in re.findall(r"{% blocktranslate[^%]*%}(.*?){%", path.read_text(), re.DOTALL):
            yield re.sub(r"{{ (\w+) }}", r"%(\1)s", text.replace("%", "%%"))


def test_every_text_has_a_german_one(german):
    known = {key[0] if isinstance(key, tuple) else key for key, text in german._catalog.items() if text}
    assert set(texts_of_code()) - known == set()
    assert set(texts_of_templates()) - known == set()


def test_translations_have_the_same_placeholders(german):
    for key, text in german._catalog.items():
        original = key[0] if isinstance(key, tuple) else key
        if original:
            wanted = set(re.findall(r"%\(\w+\)[sd]", original))
            assert set(re.findall(r"%\(\w+\)[sd]", text)) == wanted, original


def test_pages_speak_german(browser, client, work, page_of, settings):
    settings.LANGUAGE_CODE = "de"
    client.start_orchestration("asks", "Approval", 1)
    work()
    response = browser.get(page_of("asks"))
    assert response.context["sentence"].startswith("Wartet auf Ereignis „approved“ (seit ")
    text = response.content.decode()
    assert "Ereignis auslösen" in text
    assert "Zeitachse" in text
