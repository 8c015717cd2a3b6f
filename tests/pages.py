"""Reads pages of HTML as a browser sees them: elements with their attributes, in order, and texts."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """The elements and texts of a page."""

    def __init__(self, page: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.raw: dict[str, str] = {}
        """The text of style and script, by their element."""
        self._tag = ""
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self._tag in {"style", "script"}:
            self.raw[self._tag] = self.raw.get(self._tag, "") + data
        elif data.strip():
            self.texts.append(data.strip())

    def handle_endtag(self, tag: str) -> None:
        del tag
        self._tag = ""

    @property
    def shape(self) -> list[tuple[str, tuple[str, ...]]]:
        """Each element with the names of its attributes."""
        return [(tag, tuple(attributes)) for tag, attributes in self.elements]

    def named(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        """Return the attributes of the elements of a name that have these attributes; `_` stands for `-`."""
        pairs = [(name.rstrip("_").replace("_", "-"), value) for name, value in wanted.items()]
        return [
            attributes
            for found, attributes in self.elements
            if found == tag and all(attributes.get(name) == value for name, value in pairs)
        ]

    @property
    def bars(self) -> list[dict[str, str]]:
        """The bars of the timeline, with what they say as `title`."""
        found: list[dict[str, str]] = []
        for (tag, attributes), (after, _) in zip(self.elements, [*self.elements[1:], ("", {})], strict=True):
            if tag == "rect" and after == "title" and attributes["class"] != "pause":
                found.append(attributes)
        return found
