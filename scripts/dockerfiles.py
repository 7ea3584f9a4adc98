"""Reads Dockerfiles, as far as those of apps/ go, and says what is wrong with one."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

_SECRET = re.compile(r"SECRET|PASSWORD|TOKEN|CREDENTIAL|API_?KEY|PRIVATE", re.IGNORECASE)


@dataclass(frozen=True)
class Instruction:
    """``name`` in capitals, ``flags`` without their dashes, ``text`` as it stands, ``words`` as a shell or JSON reads it."""

    name: str
    flags: dict[str, str]
    text: str

    @property
    def is_exec_form(self) -> bool:
        return self.text.startswith("[")

    @property
    def words(self) -> list[str]:
        return json.loads(self.text) if self.is_exec_form else shlex.split(self.text)


@dataclass
class Stage:
    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)

    def last(self, name: str) -> Instruction | None:
        """The instruction of this name that holds: the last."""
        return next((one for one in reversed(self.instructions) if one.name == name), None)

    def variables(self, name: str = "ENV") -> dict[str, str]:
        pairs = [word.partition("=") for one in self.instructions if one.name == name for word in one.words]
        return {key: value for key, _, value in pairs}


def parse_dockerfile(text: str) -> list[Stage]:
    """The stages; the last one becomes the image."""
    stages: list[Stage] = []
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, _, rest = line.partition(" ")
        flags = {}
        while match := re.match(r"--([a-z-]+)(?:=(\S+))?\s+", rest):
            flags[match[1]] = match[2] or ""
            rest = rest[match.end() :]
        one = Instruction(name.upper(), flags, rest.strip())
        if one.name == "FROM":
            base, *rest_words = one.words
            stages.append(Stage(base, rest_words[1] if rest_words else ""))
        else:
            stages[-1].instructions.append(one)
    return stages


def find_faults(stages: list[Stage]) -> list[str]:
    """What an image should not be: root, without health, with secrets, on a base that changes under it."""
    faults = []
    image = stages[-1]
    for stage in stages:
        _, _, tag = stage.base.partition(":")
        if tag in ("", "latest"):
            faults.append(f"FROM {stage.base}: name a tag, which is not latest")
        for one in stage.instructions:
            if one.name == "ADD":
                faults.append("ADD fetches and unpacks by itself: use COPY")
            if one.name == "COPY" and "from" not in one.flags and "." in one.words[:-1]:
                faults.append("COPY . takes what happens to lie there: name what is needed")
            if one.name == "RUN" and re.search(r"apt-get .*install", one.text) and "/var/lib/apt/lists" not in one.text:
                faults.append("RUN apt-get install leaves the package lists in the layer")
        faults += [
            f"{name} {key}: what is secret does not belong in a layer"
            for name in ("ENV", "ARG")
            for key in stage.variables(name)
            if _SECRET.search(key)
        ]
    user = image.last("USER")
    if user is None or not re.fullmatch(r"[1-9]\d*:[1-9]\d*", user.text):
        faults.append("USER must be a number that is not 0, with a group")
    if (stop := image.last("STOPSIGNAL")) is None or stop.text != "SIGTERM":
        faults.append("STOPSIGNAL SIGTERM is missing")
    health = image.last("HEALTHCHECK")
    if health is None or (health.text == "NONE") == bool(image.last("EXPOSE")):
        faults.append("HEALTHCHECK is missing (an image that exposes no port says NONE)")
    for name in ("ENTRYPOINT", "CMD"):
        if (one := image.last(name)) is not None and not one.is_exec_form:
            faults.append(f"{name} needs the form with brackets, or a shell stands between the signals and the app")
    if image.last("ENTRYPOINT") is None:
        faults.append("ENTRYPOINT is missing")
    labels = image.variables("LABEL")
    faults += [
        f"LABEL org.opencontainers.image.{name} is missing"
        for name in ("title", "description", "version", "licenses")
        if not labels.get(f"org.opencontainers.image.{name}")
    ]
    return faults


def context_files(folder: Path) -> list[Path]:
    """What a builder is given of ``folder``: its files but for those that .dockerignore leaves out; relative paths."""
    rules = [line.strip() for line in (folder / ".dockerignore").read_text().splitlines()]
    rules = [line for line in rules if line and not line.startswith("#")]

    def is_left_out(path: Path) -> bool:
        left_out = False
        for rule in rules:
            pattern, anywhere = rule.removeprefix("!"), rule.removeprefix("!").startswith("**/")
            parts = [path, *path.parents][:-1]
            if anywhere:
                matches = any(fnmatch.fnmatch(part.name, pattern.removeprefix("**/")) for part in parts)
            else:
                matches = any(fnmatch.fnmatch(str(part), pattern) and "/" not in str(part) for part in parts)
            if matches:
                left_out = not rule.startswith("!")
        return left_out

    found = []
    for top in sorted(folder.iterdir()):
        inside = [top] if top.is_file() else sorted(path for path in top.rglob("*") if path.is_file())
        # Nothing below is taken back in that the rules for its folder leave out: no need to walk .git or .venv.
        if top.is_dir() and is_left_out(Path(top.name)):
            continue
        found += [path.relative_to(folder) for path in inside if not is_left_out(path.relative_to(folder))]
    return found
