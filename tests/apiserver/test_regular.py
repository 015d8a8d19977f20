"""Regular expressions of custom schemas: they find what Python's find, whatever the text, and no text takes long."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minik8s.apiserver.kinds.regular import Expression

NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
KNOWN = [
    NAME, r"^(a+)+$", r"a*?b", r"(a|ab)(c|bcd)$", r"^$", r"", r"x{2,4}", r"^(?:[^a-c]|\d\.)+$", r"\bab\b", r"a\B.",
    r"(?i)^aB$", r"(?s)a.b", r"(?m)^b$", r"(a*)*c", r"\A[\w-]+\Z", r"[^\W\d]\s", r"^(a|b){0,2}(?i:C)$", r"a|b|",
    r"^.{1,3}$", r"(?:(?:a?){3}b){2}"]


@pytest.mark.parametrize("pattern", KNOWN)
@settings(max_examples=40)
@given(text=st.text("aAbBcCd-.1 \n", max_size=8))
def test_the_same_is_found(pattern: str, text: str) -> None:
    text = text.rstrip("\n")  # before which Python's $ stands as well
    assert Expression(pattern).found(text) is bool(re.compile(pattern, re.ASCII).search(text))


@pytest.mark.parametrize("pattern", [r"^(a+)+$", r"^(a|aa)+$", r"(a*)*b", r"^(\w+\s?)*$", r"a*a*a*a*a*b", r"(.*)(.*)(.*)(.*)x$"])
def test_no_text_is_tried_again_and_again(pattern: str) -> None:
    """Of the first ones Python's own would try some 2 to the power of 3,000 ways."""
    assert not Expression(pattern).found("a" * 3000 + "!")


@pytest.mark.parametrize("pattern", [
    r"(", r"(a)\1", r"(?=a)", r"(?<!a)b", r"(a{1000}){1000}", r"[", "a{99999999999}", "*a", "(" * 3000 + ")" * 3000])
def test_what_cannot_be_matched_so_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Expression(pattern)


def test_letters_are_of_ascii_and_the_end_is_the_end() -> None:
    assert not Expression(r"^\d+$").found("٣")
    assert not Expression(r"^a$").found("a\n")
