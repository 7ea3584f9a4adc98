"""Exit code 0 if this interpreter has pygrid from this folder, and all it and the named extras require; else 1."""

import sys
import tomllib
from importlib import metadata, util
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def is_satisfied(text: str) -> bool:
    """Whether a requirement, written as in pyproject.toml, is met or does not apply here."""
    from pip._vendor.packaging.requirements import Requirement

    requirement = Requirement(text)
    if requirement.marker is not None and not requirement.marker.evaluate():
        return True
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=True)


def main(extras: list[str]) -> int:
    if util.find_spec("pip") is None or (spec := util.find_spec("pygrid")) is None or spec.origin is None:
        return 1
    if not Path(spec.origin).is_relative_to(ROOT / "src"):
        return 1
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return 0 if all(map(is_satisfied, wanted)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
