"""Parse a page of the report, for tests."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """The parts of a page that tests look at.

    Attributes
    ----------
    tables : dict of id to rows of cells
    galleries : dict of heading to list of (address of the picture, lines below it)
    tags : list of str
    attributes : list of (tag, name, value)
    words : str
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.galleries: dict[str, list[tuple[str, list[str]]]] = {}
        self.words = ""
        self.heading = ""
        self.rows: list[list[str]] = []
        self.cards: list[tuple[str, list[str]]] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        given = dict(attrs)
        if tag in ("h2", "h3"):
            self.heading = ""
        elif tag == "table":
            self.rows = self.tables[given["id"] or ""] = []
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "small" and self.rows:
            self.rows[-1][-1] += " "
        elif tag == "ul" and "photos" in (given.get("class") or ""):
            self.cards = self.galleries.setdefault(self.heading, [])
        elif tag == "li" and self.cards is not None:
            self.cards.append(("", []))
        elif tag == "img" and self.cards and not self.cards[-1][0]:
            self.cards[-1] = (given["src"] or "", self.cards[-1][1])

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self.rows = []
        if tag == "ul":
            self.cards = None

    def handle_data(self, data: str) -> None:
        self.words += data
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()
        elif self.cards and data.strip():
            self.cards[-1][1].append(data.strip())
        elif not self.rows and not self.heading and data.strip():
            self.heading = data.strip()
