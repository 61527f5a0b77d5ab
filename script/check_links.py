"""Follows every link and picture of a built site that leads within it; says which lead nowhere.

python script/check_links.py site
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The places of a page that can be linked to, and where it leads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take what a tag says of both."""
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif value and (name, tag) in {("href", "a"), ("src", "img"), ("src", "script"), ("href", "link")}:
                self.links.add(value)


def broken(site: Path) -> list[str]:
    """Return the links that lead nowhere, each with its page."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    found: list[str] = []
    for path, page in sorted(pages.items()):
        if path.name == "404.html":
            # It is shown for any address, and its links start at the root.
            continue
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
            target = target / "index.html" if target.is_dir() else target
            there = next((known for known in pages if known.resolve() == target), None)
            if not target.exists():
                found.append(f"{path.relative_to(site)}: {link}: there is no such file")
            elif parts.fragment and there and unquote(parts.fragment) not in pages[there].anchors:
                found.append(f"{path.relative_to(site)}: {link}: the page has no such place")
    return found


def main() -> int:
    """Check the site that is named; exit code 1 if a link leads nowhere."""
    site = Path(sys.argv[1])
    faults = broken(site)
    pages = len(list(site.rglob("*.html")))
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{pages} pages, {len(faults)} broken links")
    return 1 if faults or not pages else 0


if __name__ == "__main__":
    sys.exit(main())
