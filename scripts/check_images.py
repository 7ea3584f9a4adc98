"""Builds the files of images without a container engine, and tries the apps in them; see scripts/check-images.

Each stage is a folder that becomes the root of its processes. The system's /usr, /dev and /proc are mounted into it, and the
Python that runs this at /usr/local, where the base image has its own. All mounts are made in a namespace of their own and are
gone with it, so that the folders can be deleted from outside without a look into them.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dockerfiles import Stage, context_files, parse_dockerfile

ROOT = Path(__file__).resolve().parents[1]
APPS = ("domain", "network", "worker")
READY_TIMEOUT_S = 60.0
_INSIDE = "--inside"
_CHROOT = shutil.which("chroot") or "/usr/sbin/chroot"
_CLONE_NEWNET = 0x40000000
_SECRET = "0123456789abcdef" * 4
_FROM_ETC = (
    "alternatives",
    "group",
    "hosts",
    "ld.so.conf",
    "ld.so.conf.d",
    "nsswitch.conf",
    "passwd",
    "resolv.conf",
    "ssl",
    "xdg",
)
_PASSED_ON = ("PIP_", "SSL_", "REQUESTS_", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")


def main() -> None:
    arguments = sys.argv[1:]
    if arguments[:1] == [_INSIDE]:
        check(arguments[2], Path(arguments[1]))
        return
    if os.geteuid() != 0 or sys.platform != "linux":
        sys.exit("check-images: needs Linux and root, to make root folders for the images")
    for app in arguments or APPS:
        with tempfile.TemporaryDirectory(prefix=f"pygrid-{app}-") as folder:
            os.chmod(folder, 0o755)
            inner = [sys.executable, __file__, _INSIDE, folder, app]
            done = subprocess.run(["unshare", "--mount", "--pid", "--fork", "--kill-child", *inner], check=False)
        if done.returncode:
            sys.exit(f"check-images: the image of {app} does not work")


def check(app: str, folder: Path) -> None:
    """Build the image of ``app`` in ``folder``, and try it. Exits with what went wrong."""
    stages = parse_dockerfile((ROOT / "apps" / app / "Dockerfile").read_text())
    begun = time.monotonic()
    root = build(stages, folder)
    size = sum(path.lstat().st_size for path in (root / "opt").rglob("*") if not path.is_symlink()) / 1e6
    say(f"{app}: built in {time.monotonic() - begun:.0f} s, {size:.0f} MB beside the base")
    image = Image(stages[-1], root)
    image.close()
    # From here on there is no way out but the loopback interface: an image that fetches something when it runs does not work.
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
        sys.exit(f"no network namespace: {os.strerror(ctypes.get_errno())}")
    _raise_loopback()
    for name, attempt in ATTEMPTS[app].items():
        attempt(image)
        say(f"{app}: {name}")


def build(stages: Sequence[Stage], folder: Path) -> Path:
    """Carry the instructions out; gives the folder of the last stage, with everything mounted."""
    roots: dict[str, Path] = {}
    root = folder
    for index, stage in enumerate(stages):
        root = folder / f"stage{index}"
        _mount_base(root)
        roots[stage.name] = root
        _carry_out(stage, root, roots)
    return root


def _mount_base(root: Path) -> None:
    for name in ("usr", "dev", "proc"):
        _bind(Path("/", name), root / name, read_only=name == "usr")
    python = Path(sys.base_prefix)
    if python == Path("/usr"):
        python = root / "python"
        (python / "bin").mkdir(parents=True)
        (python / "bin" / "python").symlink_to(f"/usr/bin/python3.{sys.version_info.minor}")
    _bind(python, root / "usr/local", read_only=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        if Path("/", name).is_symlink():
            (root / name).symlink_to(os.readlink(f"/{name}"))
        elif Path("/", name).is_dir():
            _bind(Path("/", name), root / name, read_only=True)
    for name in _FROM_ETC:
        source, target = Path("/etc", name), root / "etc" / name
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True)
        elif source.exists():
            target.parent.mkdir(exist_ok=True)
            shutil.copy(source, target)
    # Finds the libraries of /usr/local first, as the base image does.
    subprocess.run([_CHROOT, str(root), "/sbin/ldconfig"], check=True)
    (root / "root").mkdir(mode=0o700)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)


def _carry_out(stage: Stage, root: Path, roots: Mapping[str, Path]) -> None:
    environment = {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin", "HOME": "/root"}
    environment |= {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    work = "/"
    for one in stage.instructions:
        if one.name == "ENV":
            environment |= {
                key: value.replace("$PATH", environment["PATH"])
                for key, _, value in (word.partition("=") for word in one.words)
            }
        elif one.name == "WORKDIR":
            work = one.text
            _under(root, work).mkdir(parents=True, exist_ok=True)
        elif one.name == "COPY":
            *sources, target = one.words
            destination = _under(root, target if target.startswith("/") else f"{work}/{target}")
            for source in sources:
                if "from" in one.flags:
                    shutil.copytree(_under(roots[one.flags["from"]], source), destination, symlinks=True)
                else:
                    _copy_from_context(source, destination)
        elif one.name == "RUN":
            for mount in filter(None, [one.flags.get("mount")]):
                terms = dict(term.partition("=")[::2] for term in mount.split(","))
                cache = Path.home() / ".cache" / "pip"
                cache.mkdir(parents=True, exist_ok=True)
                _bind(cache, _under(root, terms["target"]))
            command = [_CHROOT, str(root), "/bin/sh", "-c", f"cd {work} && {one.text}"]
            done = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
            )
            if done.returncode:
                fail(f"RUN {one.text}", done.stdout)


def _copy_from_context(source: str, destination: Path) -> None:
    wanted = [path for path in context_files(ROOT) if str(path) == source or str(path).startswith(f"{source}/")]
    if not wanted:
        sys.exit(f"COPY {source}: the builder is given no such file")
    for path in wanted:
        # A folder's content is copied, not the folder.
        target = destination / path.name if str(path) == source else destination / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, target)


class Image:
    """What was built, run as an engine would with ``--read-only --cap-drop ALL``, no new privileges and the image's user."""

    def __init__(self, stage: Stage, root: Path) -> None:
        self.stage = stage
        self.root = root
        user = stage.last("USER")
        assert user is not None
        self._user, self._group = user.text.split(":")
        path = stage.variables()["PATH"].replace("$PATH", "/usr/local/bin:/usr/bin:/bin")
        self.environment = {**stage.variables(), "PATH": path}

    def close(self) -> None:
        """Make everything read-only but /data, which keeps its owner, and /tmp."""
        data = self.root.parent / "data"
        shutil.copytree(self.root / "data", data)
        shutil.copystat(self.root / "data", data)
        state = (self.root / "data").stat()
        os.chown(data, state.st_uid, state.st_gid)
        _mount("--rbind", str(self.root), str(self.root))
        _mount("-o", "remount,ro,bind", str(self.root))
        _mount("--bind", str(data), str(self.root / "data"))
        _mount("-t", "tmpfs", "-o", "noexec,nosuid,nodev,mode=1777", "tmpfs", str(self.root / "tmp"))
        _mount("-t", "proc", "proc", str(self.root / "proc"))

    def command(self, words: Sequence[str]) -> list[str]:
        """``words`` as a command of the image's user."""
        rights = ["--reuid", self._user, "--regid", self._group, "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
        return [_CHROOT, str(self.root), "/usr/bin/setpriv", *rights, "--inh-caps=-all", "--", *words]

    def run(self, words: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(words), env=self.environment | environment, capture_output=True, text=True, timeout=120, check=False
        )

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        entry = self.stage.last("ENTRYPOINT")
        assert entry is not None
        return subprocess.Popen(
            self.command([*entry.words, *arguments]),
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def health(self) -> list[str]:
        check = self.stage.last("HEALTHCHECK")
        assert check is not None
        return parse_dockerfile(f"FROM x:1\n{check.text}")[0].instructions[0].words


def refuses_to_start_without_a_secret(image: Image) -> None:
    done = image.run([*image_entry(image)])
    if done.returncode != 1 or "SECRET_KEY is not set" not in done.stderr:
        fail("a start without SECRET_KEY", done.stdout + done.stderr)


def becomes_healthy_and_stops(image: Image) -> None:
    process = image.start(SECRET_KEY=_SECRET, PORT="5123")
    try:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while (trouble := image.run(image.health, PORT="5123")).returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                fail("the health check", trouble.stderr + (process.stdout.read() if process.stdout else ""))
            time.sleep(0.2)
        if image.run(image.health, PORT="5124").returncode == 0:
            fail("the health check", "it is content with a port on which nothing listens")
        process.send_signal(getattr(signal, _stop_signal(image)))
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    if process.returncode or "Traceback" in output:
        fail(f"a stop, which ended with {process.returncode}", output)
    kept = sorted(path.name for path in (image.root / "data").iterdir())
    if not any(name.endswith(".db") for name in kept):
        fail("what is kept in /data", ", ".join(kept))


def writes_nowhere_but_where_it_should(image: Image) -> None:
    program = (
        "import os\n"
        "for place in ('/', '/opt', '/opt/pygrid', '/usr/local', '/etc', '/root', '/data', '/tmp'):\n"
        "    try:\n"
        "        open(os.path.join(place, 'trial'), 'w').close()\n"
        "        print(place)\n"
        "    except OSError:\n"
        "        pass\n"
    )
    done = image.run(["python", "-c", program])
    if done.stdout.split() != ["/data", "/tmp"]:
        fail("what can be written", done.stdout + done.stderr)


def locks_plans_in(image: Image) -> None:
    done = image.run(["pygrid", "worker", "doctor"])
    if done.returncode:
        fail("pygrid worker doctor", done.stdout + done.stderr)


def reads_parquet_and_speaks_to_postgresql(image: Image) -> None:
    done = image.run(["python", "-c", "import pyarrow.parquet, psycopg; print(psycopg.pq.__impl__)"])
    if done.stdout.strip() != "binary":
        fail("the extras", done.stdout + done.stderr)


def needs_a_token(image: Image) -> None:
    done = image.run([*image_entry(image), "--domain", "http://127.0.0.1:5000"])
    if done.returncode != 1 or "no token" not in done.stderr:
        fail("a start without a token", done.stdout + done.stderr)


def starts_and_stops(image: Image) -> None:
    process = image.start("--domain", "http://127.0.0.1:5000", PYGRID_WORKER_TOKEN="x" * 40)
    assert process.stdout is not None
    said = ""
    # Nothing listens there, which it says once it is up, and then it tries again.
    while "Domain not reached" not in said:
        if not (line := process.stdout.readline()):
            fail("the Worker", said)
        said += line
    process.send_signal(getattr(signal, _stop_signal(image)))
    output, _ = process.communicate(timeout=30)
    if process.returncode or "/data/pygrid-worker" not in said:
        fail("the Worker", said + output)


ATTEMPTS: Mapping[str, Mapping[str, Callable[[Image], None]]] = {
    "domain": {
        "refuses to start without a secret": refuses_to_start_without_a_secret,
        "becomes healthy, and stops when told": becomes_healthy_and_stops,
        "can write to /data and /tmp only": writes_nowhere_but_where_it_should,
        "can lock plans in": locks_plans_in,
        "has what it needs for Parquet files and PostgreSQL": reads_parquet_and_speaks_to_postgresql,
    },
    "network": {
        "refuses to start without a secret": refuses_to_start_without_a_secret,
        "becomes healthy, and stops when told": becomes_healthy_and_stops,
        "can write to /data and /tmp only": writes_nowhere_but_where_it_should,
    },
    "worker": {
        "says that it needs a token": needs_a_token,
        "starts, and stops when told": starts_and_stops,
        "can write to /data and /tmp only": writes_nowhere_but_where_it_should,
        "can lock plans in": locks_plans_in,
    },
}


def image_entry(image: Image) -> list[str]:
    entry = image.stage.last("ENTRYPOINT")
    assert entry is not None
    return entry.words


def _stop_signal(image: Image) -> str:
    stop = image.stage.last("STOPSIGNAL")
    assert stop is not None
    return stop.text


def _raise_loopback() -> None:
    import fcntl
    import socket
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: IFF_UP, IFF_RUNNING


def _under(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _bind(source: Path, target: Path, *, read_only: bool = False) -> None:
    target.mkdir(parents=True, exist_ok=True)
    _mount("--bind", str(source), str(target))
    if read_only:
        _mount("-o", "remount,ro,bind", str(target))


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def say(text: str) -> None:
    print(text, flush=True)


def fail(what: str, output: str) -> None:
    sys.exit(f"wrong: {what}\n{output}")


if __name__ == "__main__":
    main()
