"""Ignore files, by Docker's documentation and the code of github.com/moby/patternmatcher."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigurationError
from pipeline.images.ignore import parse_ignore


@pytest.mark.parametrize(
    ("text", "ignored", "kept"),
    [
        # Docker's documentation, ".dockerignore files"
        ("*/temp*", ["somedir/temporary.txt", "somedir/temp", "somedir/temp/below"], ["temp", "a/b/temp"]),
        ("*/*/temp*", ["somedir/subdir/temporary.txt"], ["somedir/temp"]),
        ("temp?", ["tempa", "tempb", "tempa/below"], ["temp", "tempab", "temp/"]),
        ("**/*.go", ["a.go", "a/b.go", "a/b/c.go"], ["a.gob"]),
        ("*.md\n!README.md", ["x.md"], ["README.md", "a/x.md"]),
        ("*.md\n!README*.md\nREADME-secret.md", ["x.md", "README-secret.md"], ["README.md", "README-a.md"]),
        ("*.md\nREADME-secret.md\n!README*.md", ["x.md"], ["README.md", "README-secret.md"]),
        ("/foo/bar", ["foo/bar"], ["bar", "x/foo/bar"]),
        ("foo/bar/", ["foo/bar", "foo/bar/x"], ["foo/barx"]),
        ("# comment\n #not", ["#not"], ["# comment", "comment"]),
        (".", [], ["a"]),
        ("/", [], ["a"]),
        ("", [], ["a"]),
        ("*", ["a", ".hidden", "a/b"], []),
        # order: the last line that matches a path or one of its parents decides
        ("docs\n!docs/keep", ["docs", "docs/a"], ["docs/keep", "docs/keep/all"]),
        ("!docs/keep\ndocs", ["docs/keep"], []),
        ("docs\n!docs/keep\ndocs/keep/not", ["docs/keep/not"], ["docs/keep"]),
        ("*\n!src\nsrc/**/*.o", ["x", "src/a.o", "src/b/c.o"], ["src", "src/a.c"]),
        ("**\n!a/b", ["a", "a/c"], ["a/b", "a/b/c"]),
        ("a\n!a/b\na", ["a", "a/c"], ["a/b", "a/b/c"]),  # a line that changes nothing for a folder says nothing of what is in it
        # two stars
        ("**", ["a", "a/b"], []),
        ("**/foo", ["foo", "a/foo", "a/b/foo/c"], ["xfoo", "foox"]),
        ("**/foo/**", ["foo/a", "a/foo/b"], ["foo"]),
        ("foo/**", ["foo/a", "foo/a/b"], ["foo", "a/foo/b"]),
        ("foo**", ["foo", "foobar", "foo/a"], ["xfoo"]),
        ("**.log", ["a.log", "a/b.log", ".log"], ["a.logs"]),
        ("**foo", ["foo", "xfoo", "a/xfoo"], ["foox"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["ab", "a/xb"]),
        ("a**/b", ["ab", "a/b", "axx/b", "a/x/b"], ["a"]),
        ("**/a?", ["ab", "x/ab"], ["a", "xab"]),
        # characters
        ("[a-c]x", ["ax", "cx"], ["dx", "x"]),
        ("[^a]x", ["bx"], ["ax"]),
        ("[!a]x", ["!x", "ax"], ["bx"]),
        (r"\*", ["*"], ["a"]),
        (r"\[a]", ["[a]"], ["a"]),
        (r"[\]a]", ["]", "a"], ["\\"]),
        ("a.b", ["a.b"], ["axb"]),
        ("a+(b)|{c}$", ["a+(b)|{c}$"], ["aab"]),
        (r"\!a", ["!a"], ["a"]),
        ("ä*", ["äb"], ["ab"]),
        # how the text is read
        ("\ufeffa", ["a"], []),
        ("a\r\nb\r\n", ["a", "b"], ["a\r"]),
        ("  a  \n\t b", ["a", "b"], []),
        ("! a\na\n! a", [], ["a"]),
        ("a/../b", ["b"], ["a"]),
        ("./a//b", ["a/b"], []),
        ("../a", [], ["a"]),
        ("//a", ["a"], []),
        ("a\x0cb", ["a\x0cb"], ["a", "b"]),
        ("a\u2028b", ["a\u2028b"], ["a", "b"]),
        ("A", ["A"], ["a"]),
    ],
)
def test_rules(text: str, ignored: list[str], kept: list[str]) -> None:
    rules = parse_ignore(text)
    assert [path for path in ignored if not rules.ignores(path)] == []
    assert [path for path in kept if rules.ignores(path)] == []


@pytest.mark.parametrize("line", ["[", "[a", "[]", "[^]", "[z-a]", "!", "a\\"])
def test_a_pattern_that_docker_refuses_is_refused(line: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^\.dockerignore:2: ") as caught:
        parse_ignore(f"a\n{line}\n", ".dockerignore")
    assert caught.value.hint


def test_negation_may_bring_something_back() -> None:
    assert parse_ignore("a\n!a/b").may_bring_back
    assert not parse_ignore("a\n# !b").may_bring_back


@given(st.text(alphabet="ab*?[]^-!/\\. #\n", max_size=30), st.text(alphabet="ab/.", min_size=1, max_size=12))
def test_any_text_is_rules_or_a_configuration_error(text: str, path: str) -> None:
    try:
        rules = parse_ignore(text)
    except ConfigurationError:
        return
    assert rules.ignores(path) in (True, False)


@given(st.lists(st.sampled_from(["*", "a", "!a", "a/b", "!a/b", "**/b", "!**/b", "b"]), max_size=5))
def test_what_is_below_an_ignored_folder_is_ignored_unless_brought_back(lines: list[str]) -> None:
    rules = parse_ignore("\n".join(lines))
    if rules.ignores("a") and not rules.may_bring_back:
        assert rules.ignores("a/b")
        assert rules.ignores("a/c/d")
