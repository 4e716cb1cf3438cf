"""Writes the reference of the configuration into README.md, from the model that checks it.

    python scripts/update_readme.py

Run it when daskmeans/job/config.py has changed; a test fails until then.
"""

from __future__ import annotations

from pathlib import Path

from daskmeans.job.config import config_reference

README = Path(__file__).parents[1] / "README.md"
BEGIN = "<!-- Written by scripts/update_readme.py from here on -->"
END = "<!-- to here. -->"


def updated(text: str) -> str:
    """Return the text of the README with today's reference between the marks."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{config_reference()}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
