"""The English of the project stays within its bounds, and the measure finds what it is for."""

from scripts import prose


def test_the_prose_of_the_project_is_within_its_bounds() -> None:
    """Long sentences, sentences that name nobody, refused phrases; `scripts/prose.py` prints them."""
    found = prose.judge([*prose.documents(prose.ROOT), *prose.code(prose.ROOT)])
    assert found.n_words > 50_000
    assert not found.refused
    assert found.counts()["long"] <= prose.MAX_LONG
    assert found.counts()["who"] <= prose.MAX_WHO


def test_a_long_sentence_and_one_that_names_nobody_are_counted() -> None:
    """Names in backquotes are one word, questions may begin with who, items are sentences of their own."""
    text = f"Whoever comes waits. Who may join? {'Word ' * 36}. `a b c` runs.\n- one item\n- of late, more"
    found = prose.judge(list(prose.split("page:1", text)))
    assert [sentence.text for sentence in found.who] == ["Whoever comes waits."]
    assert [sentence.n_words for sentence in found.long] == [36]
    assert [sentence.text for sentence in found.refused] == ["of late, more"]


def test_code_gives_docstrings_comments_and_messages() -> None:
    """Drawings and short strings are no prose."""
    text = (
        '"""Says what it is.\n\n        a --> b of a drawing here\n"""\n'
        'x = f"no peer answered {y} in time"\n# Two lines\n# of comment.\n'
    )
    found = [paragraph for _, paragraph in (*prose._strings(text), *prose._comments(text))]
    assert [" ".join(paragraph.split()) for paragraph in found] == [
        "Says what it is.",
        "no peer answered name in time",
        "Two lines of comment.",
    ]
