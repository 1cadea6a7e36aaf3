"""Tables of the methods, made from the catalogue.

The site calls :func:`markdown`. Run as a script, this writes the table between the markers of
the README (``--check`` only says whether it is up to date).
"""

import argparse
import pathlib
import re
import sys

from gradax import catalogue

README = pathlib.Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"(<!-- methods -->\n).*?(<!-- /methods -->)", re.DOTALL)

TITLES = {
    "optimizers": "Optimizers, `gradax.optimizers`",
    "schedules": "Schedules, `gradax.schedules`",
    "federated": "Federated, decentralized and robust training, `gradax.federated`",
}


def _paper(entry: catalogue.Entry) -> str:
    paper = entry.paper
    text = f"{paper.authors}, {paper.title}, {paper.year}".replace("|", r"\|")
    return f"[{text}]({paper.link})" if paper.link else text


def readme() -> str:
    """One table per package: method and paper, a row for each paper and room."""
    lines = []
    for package, title in TITLES.items():
        by_paper: dict[tuple[str, str], list[catalogue.Entry]] = {}
        for entry in catalogue.entries(package):
            by_paper.setdefault((entry.room, _paper(entry)), []).append(entry)
        lines += [f"**{title}**", "", "| methods | room | paper |", "| --- | --- | --- |"]
        for (room, paper), entries in by_paper.items():
            names = ", ".join(f"`{entry.name}`" for entry in entries)
            lines.append(f"| {names} | {room} | {paper} |")
        lines.append("")
    return "\n".join(lines)


def _pages() -> dict[str, str]:
    """Public name -> page of the reference whose summaries list it."""
    pages = (README.parent / "docs" / "api").glob("*.md")
    listed = re.compile(r"^   (\w+)$", re.MULTILINE)
    return {name: page.stem for page in pages for name in listed.findall(page.read_text())}


def markdown(package: str) -> str:
    """Everything that the catalogue knows of a package, with links into the reference."""
    pages = _pages()
    lines = ["| method | what it is | room and kind | paper |", "| --- | --- | --- | --- |"]
    for entry in catalogue.entries(package):
        name = f"{{py:obj}}`{entry.name} <{entry.public_name}>`"
        kind = f"[{entry.room}](api/{pages[entry.name]}.md), {entry.kind}"
        if entry.reexport_of:
            kind += f"; is `{entry.reexport_of}`"
        if entry.needs:
            kind += "; needs " + ", ".join(f"`{extra}`" for extra in entry.needs)
        what, paper = _plain(entry.summary), _short_paper(entry)
        lines.append(f"| {name} | {what} | {kind} | {paper} |")
    return "\n".join(lines)


def _short_paper(entry: catalogue.Entry) -> str:
    """Authors and year, which link to the paper and show its title."""
    paper = entry.paper
    text = f"{paper.authors}, {paper.year}"
    title = paper.title.replace("|", r"\|").replace('"', "'")
    return f'[{text}]({paper.link} "{title}")' if paper.link else text


def _plain(summary: str) -> str:
    """The first line of a docstring without the marks of reStructuredText."""
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", summary).replace("``", "`")
    return text.replace("|", r"\|")


def renew(text: str) -> str:
    """Returns the README with the table between its markers replaced."""
    return BLOCK.sub(lambda found: found[1] + "\n" + readme() + "\n" + found[2], text)


def main() -> None:
    """Writes or checks the README."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args().check
    old = README.read_text()
    new = renew(old)
    if check and new != old:
        sys.exit("README.md: the table of methods is out of date; run docs/_ext/methods_table.py")
    if not check:
        README.write_text(new)


if __name__ == "__main__":
    main()
