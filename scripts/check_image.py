#!/usr/bin/env python3
"""Runs the last stage of the Dockerfile by hand in a clean Debian root, and what comes of it as a container would run.

    scripts/check_image.py --binary target/release/driftline --brokers localhost:19092

For machines without a container engine; it needs root, debootstrap and a Debian mirror. The steps are read from the Dockerfile, so that
what is proven is what is written there; only the binary comes from outside. Proven are: the steps themselves, that every shared library
is found, the entry point as pid 1 under the image's user with a read-only root and deploy/driftline.toml, the health check (when it is
ready, and when it is not), and that the stop signal drains in time. Layers, caches and networks of an engine are not.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from check_deploy import CACHE, ROOT, seconds, skip

SUITE = "bookworm"
GRACE = "40s"  # docker-compose.yml's stop_grace_period
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Each instruction with its arguments: comments are gone, continued lines joined."""
    text = "\n".join(line for line in dockerfile.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    return [(word.upper(), rest.strip()) for word, _, rest in (line.strip().partition(" ") for line in joined.splitlines() if line.strip())]


def last_stage(found: list[tuple[str, str]]) -> list[tuple[str, str]]:
    start = max(index for index, (word, _) in enumerate(found) if word == "FROM")
    return found[start:]


def exec_form(arguments: str) -> list[str]:
    words = json.loads(arguments)
    if not isinstance(words, list):
        raise TypeError(f"not in exec form: {arguments}")
    return words


def call(command, **more) -> subprocess.CompletedProcess:
    return subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, text=True, check=False, **more)


def must(what: str, done: subprocess.CompletedProcess) -> str:
    print(f"{'ok    ' if done.returncode == 0 else 'FAILED'} {what}", flush=True)
    if done.returncode != 0:
        raise SystemExit(f"exit {done.returncode}\n{done.stdout or ''}{done.stderr or ''}")
    return done.stdout or ""


def expect(what: str, holds: bool, detail: str = "") -> None:
    print(f"{'ok    ' if holds else 'FAILED'} {what}", flush=True)
    if not holds:
        raise SystemExit(detail)


def clean_root(into: pathlib.Path) -> None:
    """What debian:bookworm-slim is made from: a minimal Debian. Bootstrapped once, unpacked for each run."""
    packed = CACHE / "image" / f"{SUITE}.tar"
    if not packed.exists():
        packed.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=packed.parent) as folder:
            made = call(["debootstrap", "--variant=minbase", SUITE, f"{folder}/root"], capture_output=True)
            must(f"debootstrap {SUITE}", made)
            must("pack it", call(["tar", "-C", f"{folder}/root", "-cf", f"{folder}/root.tar", "."], capture_output=True))
            pathlib.Path(f"{folder}/root.tar").rename(packed)
    must("a clean root", call(["tar", "-C", into, "-xf", packed], capture_output=True))
    # An engine lends these to a container too.
    for name in ("resolv.conf", "hosts"):
        shutil.copy(f"/etc/{name}", into / "etc" / name)


class Image:
    """A root folder, and what the Dockerfile says of how it is run."""

    def __init__(self, root: pathlib.Path):
        self.root = root
        self.environment = {"PATH": PATH}
        self.user = "0:0"
        self.folder = "/"
        self.entry: list[str] = []
        self.command: list[str] = []
        self.health: list[str] = []
        self.stop_signal = "SIGTERM"

    def inside(self, command: list[str], user: str | None = None, environment: dict | None = None) -> list:
        """The command line that runs a command in the root, as `docker exec` would."""
        variables = [f"{key}={value}" for key, value in {**self.environment, **(environment or {})}.items()]
        chroot = ["chroot", f"--userspec={user or self.user}", self.root, "/usr/bin/env", "-i", f"--chdir={self.folder}"]
        return [*chroot, *variables, *command]

    def run(self, command: list[str], **more) -> subprocess.CompletedProcess:
        return call(self.inside(command, **more), capture_output=True)

    def build(self, stage: list[tuple[str, str]], binary: pathlib.Path) -> None:
        for word, rest in stage:
            if word == "RUN":
                must(f"RUN {rest[:90]}", self.run(["/bin/sh", "-c", rest], environment={"DEBIAN_FRONTEND": "noninteractive"}))
            elif word == "COPY":
                flags, (source, target) = [p for p in rest.split() if p.startswith("--")], [p for p in rest.split() if not p.startswith("--")]
                mode = next((flag.removeprefix("--chmod=") for flag in flags if flag.startswith("--chmod=")), "755")
                origin = binary if any(flag.startswith("--from=") for flag in flags) else ROOT / source
                must(f"COPY {rest}", call(["install", f"-m{mode}", origin, f"{self.root}{target}"], capture_output=True))
            elif word == "ENV":
                self.environment |= dict(pair.split("=", 1) for pair in shlex.split(rest))
            elif word == "USER":
                self.user = rest
            elif word == "WORKDIR":
                self.folder = rest
                (self.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
            elif word == "ENTRYPOINT":
                self.entry = exec_form(rest)
            elif word == "CMD":
                self.command = exec_form(rest)
            elif word == "HEALTHCHECK":
                self.health = exec_form(rest.partition(" CMD ")[2])
            elif word == "STOPSIGNAL":
                self.stop_signal = rest
            elif word not in ("FROM", "EXPOSE"):
                raise SystemExit(f"this script does not know {word}")

    @contextlib.contextmanager
    def container(self, command: list[str], environment: dict, log: pathlib.Path, temporary: pathlib.Path):
        """Pid 1 of its own namespace, on a read-only root, with a /tmp to write to and without capabilities."""
        root = shlex.quote(str(self.root))
        mounts = f"""set -e
            mount --make-rprivate /
            mount --bind {root} {root}
            mount --bind {shlex.quote(str(temporary))} {root}/tmp
            mount --bind /dev/null {root}/dev/null
            mount -t proc proc {root}/proc
            mount -o remount,bind,ro {root}
            exec "$@" """
        # Capabilities go last, from inside: chroot needs one.
        uid, gid = self.user.split(":")
        inner = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs", "--bounding-set=-all", *command]
        full = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", mounts, "sh", *self.inside(inner, user="0:0", environment=environment)]
        with log.open("wb") as out:
            child = subprocess.Popen([str(part) for part in full], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        try:
            yield child
        finally:
            child.kill()
            child.wait()


def pid_one(unshare: int) -> int:
    """The process that is pid 1 inside, as it is numbered outside."""
    for _ in range(100):
        children = pathlib.Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.05)
    raise SystemExit("unshare has no child")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def await_health(image: Image, environment: dict, page: str, healthy: bool, log: pathlib.Path) -> str:
    deadline = time.monotonic() + 60
    while True:
        said = image.run([image.health[0], page], environment=environment)
        if (said.returncode == 0) == healthy:
            return said.stdout
        if time.monotonic() > deadline:
            raise SystemExit(f"{page} is not {healthy} within a minute: {said.stdout}\n{log.read_text()[-3000:]}")
        time.sleep(0.3)


def check(image: Image, brokers: str, folder: pathlib.Path) -> None:
    libraries = image.run(["ldd", f"/usr/local/bin/{image.entry[0]}"])
    expect("every shared library is found", libraries.returncode == 0 and "not found" not in libraries.stdout, libraries.stdout)
    print("       " + ", ".join(sorted(re.findall(r"^\s*(\S+\.so\S*)", libraries.stdout, re.M))))
    print("       " + must("--version", image.run([*image.entry, "--version"])).strip())
    expect("the user is not root", image.user.split(":")[0] not in ("0", "root"), image.user)
    wrote = image.run(["/bin/sh", "-c", "touch /usr/local/bin/x /etc/x 2>/dev/null"])
    expect("the user cannot write outside its folder", wrote.returncode != 0)

    shutil.copy(ROOT / "deploy/driftline.toml", image.root / image.folder.lstrip("/") / "driftline.toml")
    shutil.copytree(ROOT / "data", image.root / "data")
    temporary = folder / "tmp"
    temporary.mkdir(mode=0o1777)
    temporary.chmod(0o1777)
    port = free_port()
    tag = f"image-{os.getpid()}"
    environment = {
        "DRIFTLINE__SERVE__LISTEN": f"0.0.0.0:{port}",
        "DRIFTLINE__STORE__URL": "/tmp/store",
        "DRIFTLINE__KAFKA__BROKERS": brokers,
        "DRIFTLINE__KAFKA__PREDICTIONS_TOPICS": f'["{tag}.predictions"]',
        "DRIFTLINE__KAFKA__LABELS_TOPICS": f'["{tag}.labels"]',
        "DRIFTLINE__KAFKA__CREATE_TOPICS": "true",
        "DRIFTLINE__KAFKA__GROUP": tag,
        "DRIFTLINE__KAFKA__PROPERTIES__BROKER_ADDRESS_FAMILY": "v4",
    }
    log = folder / "log"
    expect("the health check fails while nothing runs", image.run(image.health, environment=environment).returncode != 0)

    # Kafka away: alive, and not ready.
    away = {**environment, "DRIFTLINE__KAFKA__BROKERS": f"127.0.0.1:{free_port()}", "DRIFTLINE__STORE__URL": "/tmp/away"}
    with image.container([*image.entry, *image.command], away, log, temporary) as child:
        await_health(image, away, "livez", True, log)
        said = await_health(image, away, "readyz", False, log)
        expect("without Kafka it is alive, and not ready: " + " ".join(said.split())[:80], "brokers do not answer" in said, said)
        stop(image, child, log)

    with image.container([*image.entry, *image.command], environment, log, temporary) as child:
        await_health(image, environment, "readyz", True, log)
        one = pid_one(child.pid)
        status = pathlib.Path(f"/proc/{one}/status").read_text()
        expect("it is pid 1 in its namespace", status.split("NSpid:")[1].splitlines()[0].split()[-1] == "1", status)
        expect(f"it runs as {image.user}", status.split("Uid:")[1].split()[0] == image.user.split(":")[0], status)
        expect("ready: its health check answers", image.run(image.health, environment=environment).returncode == 0)
        # The store is a folder under /tmp, which only the namespace of the container shows.
        publish = ["driftline", "produce", "/data/ma_employment/predictions.jsonl.gz", "--topic", f"{tag}.predictions"]
        print("       " + must("driftline produce", image.run(publish, environment=environment)).strip())
        time.sleep(2)
        stop(image, child, log)
    with image.container([*image.entry, "run", "--until-caught-up"], environment, log, temporary) as child:
        expect("what was left is caught up with", child.wait(timeout=240) == 0, log.read_text()[-3000:])
    with image.container([*image.entry, "sql", "--format", "csv", "-c", "SELECT count(*) AS n FROM history"], environment, log, temporary) as child:
        child.wait(timeout=120)
        expect("each prediction is there once: 41779", "41779" in log.read_text().split(), log.read_text())
    with image.container([*image.entry, "audit"], environment, log, temporary) as child:
        expect("driftline audit", child.wait(timeout=120) == 0, log.read_text()[-3000:])


def stop(image: Image, child: subprocess.Popen, log: pathlib.Path) -> None:
    """`docker stop`: the stop signal to pid 1, and what it says and does."""
    os.kill(pid_one(child.pid), signal.Signals[image.stop_signal])
    started = time.monotonic()
    try:
        code = child.wait(timeout=seconds(GRACE))
    except subprocess.TimeoutExpired:
        code = None
    took = time.monotonic() - started
    expect(f"{image.stop_signal} drains: exit {code} after {took:.1f} s", code == 0 and "draining" in log.read_text(), log.read_text()[-3000:])


def may_be_a_container() -> bool:
    """Whether namespaces can be made and mounts changed in them, as an engine does."""
    with tempfile.TemporaryDirectory() as folder:
        tried = "mount --make-rprivate / && mount --bind /dev/null /dev/null && chroot / true && mount -t proc proc " + shlex.quote(folder)
        return shutil.which("unshare") is not None and call(["unshare", "--mount", "--pid", "--fork", "/bin/sh", "-c", tried], capture_output=True).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True, type=pathlib.Path)
    parser.add_argument("--brokers", required=True)
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        return skip("this is not run as root", can_be_brought=False)
    if not may_be_a_container():
        return skip("root may make no namespaces here, as inside most containers", can_be_brought=False)
    missing = [tool for tool in ("debootstrap", "chroot", "unshare", "setpriv") if not shutil.which(tool)]
    if missing:
        return skip(f"{', '.join(missing)} is missing: scripts/setup.sh --tests brings it", can_be_brought=True)
    stage = last_stage(instructions((ROOT / "Dockerfile").read_text()))
    with tempfile.TemporaryDirectory(prefix="driftline-image-") as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        root = folder / "root"
        root.mkdir()
        clean_root(root)
        image = Image(root)
        image.build(stage, arguments.binary)
        said = image.run([*image.entry, "--version"])
        if "GLIBC_" in said.stderr:
            return skip(f"this binary needs a newer C library than {SUITE}'s, where the image's own is built: {said.stderr.strip()[:200]}", can_be_brought=False)
        size = must("its size", call(["du", "-sm", "--exclude=./proc", root], capture_output=True)).split()[0]
        print(f"       {size} MB unpacked, of which the binary {arguments.binary.stat().st_size // 2**20} MB")
        check(image, arguments.brokers, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
