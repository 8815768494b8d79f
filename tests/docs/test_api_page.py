from __future__ import annotations

from website import api


def test_the_page_about_the_api_is_what_the_code_says() -> None:
    """After a change of a public signature or docstring: make api-page."""
    assert api.PAGE.read_text(encoding="utf-8") == api.page()
