"""Markdown from people, as HTML that can do nothing.

CommonMark with tables; raw HTML is escaped, images become their text (an image address would tell
its server that the page was opened), links may only be http, https, mailto or an anchor. The
result is sanitised again by nh3, so that no single mistake is enough.
"""

import re
from collections.abc import Callable, Sequence

import nh3
from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markupsafe import Markup

from steerproof.text import reveal

NumberLink = Callable[[int], str | None]
"""Address of the experiment with this number, or None if the board has none."""

_TAGS = {
    *("h2", "h3", "h4", "h5", "h6", "p", "ul", "ol", "li", "blockquote", "pre", "code", "hr"),
    *("br", "em", "strong", "s", "a", "table", "thead", "tbody", "tr", "th", "td"),
}
_REFERENCE = re.compile(r"#(\d{1,6})(?![\w-])")


def render(text: str, link: NumberLink = lambda _number: None, *, top: int = 3) -> Markup:
    """HTML of a Markdown text.

    Args:
        text: The Markdown, hostile.
        link: Turns `#267` into an address; unknown numbers stay text.
        top: Level of the highest heading in the page around it; deeper ones follow.
    """
    parser = _parser()
    env = {"link": link, "top": top}
    html = parser.render(reveal(text.replace("\r\n", "\n")), env)
    safe = nh3.clean(
        html,
        tags=_TAGS,
        attributes={"a": {"href"}, "ol": {"start"}},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
    )
    return Markup(safe)


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    parser.inline.ruler.push("experiment_number", _number)
    # The text rule stops only at characters it knows; `#` is not one of them.
    parser.inline.ruler.at("text", _text)
    parser.core.ruler.push("quiet_images", _quiet_images)
    parser.core.ruler.push("heading_levels", _heading_levels)
    return parser


_STOP = re.compile(r"[\n!#$%&*+\-:<=>@\[\\\]^_`{}~]")


def _text(state: StateInline, silent: bool) -> bool:
    """Plain text up to the next character that may begin something."""
    match = _STOP.search(state.src, state.pos)
    end = match.start() if match else state.posMax
    end = min(end, state.posMax)
    if end == state.pos:
        return False
    if not silent:
        state.pending += state.src[state.pos : end]
    state.pos = end
    return True


def _number(state: StateInline, silent: bool) -> bool:
    """`#267` as a link to the experiment of that number."""
    match = _REFERENCE.match(state.src, state.pos)
    before = state.src[state.pos - 1 : state.pos] if state.pos else ""
    if match is None or before.isalnum() or before in ("&", "/", "#"):
        return False
    if state.linkLevel > 0:
        return False
    address = state.env["link"](int(match[1]))
    if address is None:
        return False
    if not silent:
        state.push("link_open", "a", 1).attrs = {"href": address}
        state.push("text", "", 0).content = match[0]
        state.push("link_close", "a", -1)
    state.pos = match.end()
    return True


def _quiet_images(state: StateCore) -> None:
    for token in state.tokens:
        if token.children:
            token.children = _without_images(token.children)


def _without_images(tokens: Sequence[Token]) -> list[Token]:
    kept: list[Token] = []
    for token in tokens:
        if token.type == "image":
            text = Token("text", "", 0)
            text.content = f"[image: {token.content or 'no text'}]"
            kept.append(text)
        else:
            kept.append(token)
    return kept


def _heading_levels(state: StateCore) -> None:
    headings = [t for t in state.tokens if t.type in ("heading_open", "heading_close")]
    highest = min((int(t.tag[1]) for t in headings), default=1)
    for token in headings:
        token.tag = f"h{min(6, int(token.tag[1]) - highest + state.env['top'])}"
