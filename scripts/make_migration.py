"""Writes a migration; see scripts/make-migration."""

import subprocess
import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from pygrid.storage.sql.database import Database
from pygrid.storage.sql.migrations import FOLDER, migrate

VERSIONS = FOLDER / "versions"


def make(message: str, number: int) -> list[Path]:
    """Write the step to ``versions/`` and give its path."""
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")

    def write(connection: Connection) -> None:
        config.attributes["connection"] = connection
        command.revision(config, message, autogenerate=True, rev_id=f"{number:04d}")

    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/now.db")
        try:
            if number > 1:
                migrate(database)
            database.write_now(write)
        finally:
            database.close()
    written = sorted(VERSIONS.glob(f"{number:04d}_*.py"))
    for path in written:
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if "# ###" not in line))
    return written


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print('usage: scripts/make-migration "What changes" | --first', file=sys.stderr)
        return 2
    steps = sorted(VERSIONS.glob("[0-9]*.py"))
    if arguments[0] == "--first":
        if len(steps) > 1:
            print("there are later steps: a first step that others build on stays as it is", file=sys.stderr)
            return 1
        for step in steps:
            step.unlink()
        written = make("The first tables", 1)
    else:
        written = make(arguments[0], len(steps) + 1)
    for command_line in (["format", "-q"], ["check", "--fix", "-q"], ["format", "-q"]):
        subprocess.run([sys.executable, "-m", "ruff", *command_line, *map(str, written)], check=True)
    print("\n".join(map(str, written)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
