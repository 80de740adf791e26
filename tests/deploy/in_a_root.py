"""Run every step of a Dockerfile in a folder instead of a container, where no container engine is.

    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm BASE
    python -m tests.deploy.in_a_root shared/deploy/Dockerfile BASE WORK

Needs root. BASE stands for every base image, so its Python is Debian's; layers, the registry and the clock of
HEALTHCHECK are not there. At the end ENTRYPOINT and CMD run as USER, the root file system read-only, /data and /tmp
writable, until the health check succeeds; then SIGTERM must end it with status 0. Prints what each step took, and the
size of the image.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

CONTEXT = Path(__file__).resolve().parents[2]


def steps(file: Path) -> list[tuple[str, str]]:
    """Return (instruction, argument) of each step; continued lines are joined, comments left out."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [
        (word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines()) if word
    ]


class Image:
    """One stage: a folder, its environment, its working folder, its user."""

    def __init__(self, base: Path, root: Path) -> None:
        shutil.rmtree(root, ignore_errors=True)
        subprocess.run(["cp", "-a", str(base), str(root)], check=True)
        (root / "usr/local/bin").mkdir(parents=True, exist_ok=True)
        (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
        certificates = Path("/etc/ssl/certs/ca-certificates.crt")
        shutil.copy(certificates, root / certificates.relative_to("/"))
        self.root, self.folder, self.user, self.said = root, "/", "0:0", {}
        self.environment = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        passed = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "PIP_INDEX_URL", "PIP_TRUSTED_HOST")
        self.outside = {name: os.environ[name] for name in passed if name in os.environ}

    def set(self, text: str) -> None:
        for name, value in re.findall(r"(\w+)=(\S+)", text):
            self.environment[name] = re.sub(r"\$(\w+)", lambda found: self.environment.get(found[1], ""), value)

    def run(self, command: str) -> None:
        script = f"mount -t proc proc /proc; cd {self.folder} && {command}"
        enter = ["unshare", "--mount", "--pid", "--fork", "chroot", str(self.root), "sh", "-c", script]
        subprocess.run(enter, check=True, env={**self.outside, **self.environment})

    def copy(self, words: list[str], source: Path) -> None:
        *froms, to = words
        target = self.root / (Path(self.folder) / to).as_posix().lstrip("/")
        for name in froms:
            whole = source / name.lstrip("/")
            target.mkdir(parents=True, exist_ok=True) if to.endswith("/") else target.parent.mkdir(
                parents=True, exist_ok=True
            )
            subprocess.run(["cp", "-a", str(whole), str(target)], check=True)

    def serve(self) -> None:
        """Run ENTRYPOINT and CMD as in a container with a read-only root, wait for health, end by SIGTERM."""
        command = json.loads(self.said["ENTRYPOINT"]) + json.loads(self.said["CMD"])
        health = json.loads(self.said["HEALTHCHECK"].partition("CMD")[2])
        uid, gid = self.user.split(":")
        shell = (
            f"mount --bind {self.root} {self.root} && mount -t tmpfs none {self.root}/tmp && "
            f"mount -t tmpfs -o uid={uid},gid={gid} none {self.root}/data && mount -t proc proc {self.root}/proc && "
            f"mount --bind /dev {self.root}/dev && mount -o remount,ro,bind {self.root} {self.root} && exec "
        )
        inside = ["chroot", f"--userspec={self.user}", str(self.root), *command]
        server = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", shell + '"$@"', "sh", *inside], env=self.environment
        )
        ask = ["chroot", f"--userspec={self.user}", str(self.root), *health]
        try:
            for _ in range(120):
                time.sleep(1)
                if not subprocess.run(ask, check=False, env=self.environment, stderr=subprocess.DEVNULL).returncode:
                    break
            else:
                raise SystemExit("the health check never succeeded")
            status = Path(f"/proc/{server.pid}/status").read_text(encoding="utf-8")
            print("healthy;", *re.findall(r"^(?:Uid|VmHWM):.*$", status, re.M), flush=True)
        finally:
            server.send_signal(signal.SIGTERM)
        print("status after SIGTERM:", server.wait(60), flush=True)


def main() -> None:
    """Run the steps of the Dockerfile given."""
    file, base, work = (Path(word).resolve() for word in sys.argv[1:4])
    work.mkdir(parents=True, exist_ok=True)
    stages: dict[str, Image] = {}
    for number, (word, rest) in enumerate(steps(file)):
        begun = time.monotonic()
        if word == "FROM":
            name = rest.partition(" AS ")[2] or f"stage{number}"
            image = stages[name] = Image(base, work / name)
        elif word == "RUN":
            image.run(rest)
        elif word == "COPY":
            words = rest.split()
            source = stages[words.pop(0).partition("=")[2]].root if words[0].startswith("--from=") else CONTEXT
            image.copy(words, source)
        elif word == "ENV":
            image.set(rest)
        elif word == "WORKDIR":
            image.folder = rest
            (image.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif word == "USER":
            image.user = rest
        else:
            image.said[word] = rest
        print(f"{time.monotonic() - begun:6.1f} s  {word} {rest[:100]}", flush=True)
    subprocess.run(["du", "-sm", "--apparent-size", str(image.root), str(base)], check=True)
    image.serve()


if __name__ == "__main__":
    main()
