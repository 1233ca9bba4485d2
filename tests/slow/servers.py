"""Remotes of each kind: real servers on loopback, each a process of its own, behind a wire that can be cut."""

import getpass
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil

from tests.slow.needs import lack

LOOPBACK = "127.0.0.1"
MIDDLE = 1_000_000  # bytes: the sample's objects are 1.4 MB in all, and one is 450 kB
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    """A port of this machine that nothing listens at."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        return int(listener.getsockname()[1])


class Server:
    """One server process, which answers at its port from the first moment that one has it."""

    def __init__(self, command: list[str], port: int, log: Path, environment: dict[str, str] | None = None) -> None:
        self.port = port
        with log.open("ab") as output:
            self.process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        deadline = time.monotonic() + 180
        while not self.answers():
            running = self.process.poll() is None and time.monotonic() < deadline
            assert running, f"{command} does not answer:\n{log.read_text()}"
            time.sleep(0.02)

    def answers(self) -> bool:
        """Whether the port takes a connection."""
        with socket.socket() as client:
            return client.connect_ex((LOOPBACK, self.port)) == 0

    def kill(self) -> None:
        """SIGKILL for the server and for every session that it started."""
        with suppress(psutil.NoSuchProcess):
            for session in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    session.kill()
        self.process.kill()
        self.process.wait()


class Wire:
    """A relay in front of a server. Clients know its port alone, so a server that is started anew keeps its address."""

    def __init__(self) -> None:
        self.listener = socket.create_server((LOOPBACK, 0))
        self.port = int(self.listener.getsockname()[1])
        self.lock = threading.Lock()
        self.ends: list[socket.socket] = []
        self.mend(0)
        threading.Thread(target=self._accept, daemon=True).start()

    def mend(self, target: int) -> None:
        """Let everything pass to this port from now on."""
        with self.lock:
            self.target, self.cut, self.passed = target, False, {"up": 0, "down": 0}
            self.trap: tuple[str, Callable[[], object]] | None = None

    def cut_in_the_middle(self, way: str, action: Callable[[], object]) -> None:
        """Do this and hang up for good once so much has passed `up` to the server, or `down` from it."""
        self.mend(self.target)
        self.trap = (way, action)

    def close(self) -> None:
        """Take no connection any more, and end those that are open."""
        self.cut = True
        self.listener.close()
        self._hang_up()

    def _hang_up(self) -> None:
        for end in self.ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self.ends.clear()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.socket()
                if self.cut or server.connect_ex((LOOPBACK, self.target)):
                    client.close()
                    continue
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.ends += [client, server]
                for source, sink, way in ((client, server, "up"), (server, client, "down")):
                    threading.Thread(target=self._pass, args=(source, sink, way), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        with suppress(OSError):
            while block := source.recv(16384):
                with self.lock:
                    self.passed[way] += len(block)
                    if self.trap and not self.cut and self.passed[self.trap[0]] > MIDDLE:
                        self.cut = True
                        self.trap[1]()
                        self._hang_up()
                sink.sendall(block)
            sink.shutdown(socket.SHUT_WR)


class Remote:
    """A place for DVC's objects, told to DVC by settings alone. This one is a plain folder."""

    in_place = False  # whether half an upload can stand under the name of the whole

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.objects = scratch, scratch / "storage" / "files" / "md5"
        self.secret: dict[str, str] = {}  # settings that belong into .dvc/config.local
        self.environment: dict[str, str] = {}  # or secrets that stand in the environment
        self.wrong: dict[str, str] = {}  # what replaces either to be refused
        self.refusal = ""  # and what DVC says then

    def settings(self) -> dict[str, str]:
        """What `dvc remote modify` is told."""
        return {"url": str(self.scratch / "storage")}

    def break_down(self, way: str, name: str) -> None:
        """Fail in the middle of the next transfer: this object cannot be written (`up`), or not be read (`down`)."""
        self.blocked, self.aside = self.path(name), self.scratch / name
        if way == "up":
            self.blocked.mkdir(parents=True)
        else:
            self.blocked.rename(self.aside)
            self.blocked.symlink_to("/proc/self/mem")  # whoever reads it gets an input/output error

    def recover(self) -> None:
        """Be there again."""
        if self.blocked.is_symlink():
            self.aside.replace(self.blocked)
        else:
            self.blocked.rmdir()

    def vanish(self) -> None:
        """Be gone."""
        self.objects.parent.rename(self.scratch / "gone")

    def stop(self) -> None:
        """End what was started."""

    def names(self) -> set[str]:
        """The object of each name that is there."""
        found = {path.relative_to(self.objects) for path in self.objects.rglob("*") if path.is_file()}
        return {"".join(path.parts) for path in found if not path.name.endswith(".tmp")}

    def path(self, name: str) -> Path:
        """Where an object stands."""
        return self.objects / name[:2] / name[2:]

    def read(self, name: str) -> bytes:
        """What an object holds."""
        return self.path(name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Replace an object behind DVC's back."""
        mode = self.path(name).stat().st_mode
        self.path(name).chmod(0o644)
        self.path(name).write_bytes(content)
        self.path(name).chmod(mode)

    def remove(self, name: str) -> None:
        """Lose an object."""
        self.path(name).unlink()

    def damaged(self) -> set[str]:
        """The objects that do not hold what their names say."""
        return {name for name in self.names() if hashlib.md5(self.read(name)).hexdigest() != name.removesuffix(".dir")}


class Served(Remote):
    """A remote behind a server."""

    def __init__(self, scratch: Path) -> None:
        super().__init__(scratch)
        self.log, self.wire = scratch / "log", Wire()
        self.recover()

    def serve(self, port: int) -> Server:
        """Start the server."""
        raise NotImplementedError

    def recover(self) -> None:
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            port = int(probe.getsockname()[1])
        self.server = self.serve(port)
        self.wire.mend(port)

    def break_down(self, way: str, name: str) -> None:  # noqa: ARG002
        """Kill the server when most of the sample has passed."""
        self.wire.cut_in_the_middle(way, self.server.kill)

    def vanish(self) -> None:
        self.server.kill()

    def stop(self) -> None:
        self.wire.close()
        self.server.kill()


class Sftp(Served):
    """OpenSSH's own server, with a configuration, a host key and user keys that stand in the scratch folder alone."""

    allowed = "ForceCommand internal-sftp\n"

    def __init__(self, scratch: Path) -> None:
        if SSHD is None:
            lack("OpenSSH's server is not here: apt-get install openssh-server")
        for name in ("host", "colleague", "stranger"):
            key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(scratch / name)]
            subprocess.run(key, check=True)
        (scratch / "storage").mkdir()
        super().__init__(scratch)
        self.secret = {"keyfile": str(scratch / "colleague")}
        self.wrong, self.refusal = {"keyfile": str(scratch / "stranger")}, "Permission denied"

    def serve(self, port: int) -> Server:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # sshd as root confines its helper to this empty folder
        config = self.scratch / "sshd_config"
        config.write_text(
            f"ListenAddress {LOOPBACK}:{port}\nHostKey {self.scratch / 'host'}\nPidFile none\n"
            "UsePAM no\nStrictModes no\n"
            f"AuthorizedKeysFile {self.scratch / 'colleague.pub'}\nAuthenticationMethods publickey\n"
            f"Subsystem sftp internal-sftp\n{self.allowed}"
        )
        return Server([str(SSHD), "-D", "-e", "-f", str(config)], port, self.log)

    def settings(self) -> dict[str, str]:
        address = f"{getpass.getuser()}@{LOOPBACK}:{self.wire.port}"
        return {"url": f"ssh://{address}{self.scratch / 'storage'}", "timeout": "10"}


class Shell(Sftp):
    """The same, where commands may be run: what git needs."""

    allowed = ""

    def command(self) -> str:
        """Return the ssh of a colleague."""
        known = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o IdentitiesOnly=yes"
        return f"ssh -F none -i {self.scratch / 'colleague'} {known}"

    def address(self, path: Path) -> str:
        """Return the address of a repository."""
        return f"ssh://{getpass.getuser()}@{LOOPBACK}:{self.wire.port}{path}"


class WebDav(Served):
    """WsgiDAV on the server of CherryPy, over a folder."""

    in_place = True  # WsgiDAV writes an upload straight to its place

    def __init__(self, scratch: Path) -> None:
        super().__init__(scratch)
        self.secret = {"user": "colleague", "password": "right"}
        self.wrong, self.refusal = {"password": "wrong"}, "401 Not Authorized"

    def serve(self, port: int) -> Server:
        self.objects.parent.parent.mkdir(exist_ok=True)
        config = self.scratch / "wsgidav.json"
        content = {
            "provider_mapping": {"/team": str(self.objects.parent.parent)},
            "simple_dc": {"user_mapping": {"*": {"colleague": {"password": "right"}}}},
            "http_authenticator": {"accept_basic": True, "accept_digest": False, "default_to_digest": False},
        }
        config.write_text(json.dumps(content))
        command = [sys.executable, "-m", "wsgidav.server.server_cli", "--server", "cheroot", "--config", str(config)]
        return Server([*command, "--host", LOOPBACK, "--port", str(port)], port, self.log)

    def settings(self) -> dict[str, str]:
        return {"url": f"webdav://{LOOPBACK}:{self.wire.port}/team", "timeout": "10"}


class S3(Served):
    """Moto's S3, which checks signatures and policies, and keeps objects in memory: one started anew is empty."""

    bucket = "team"

    def __init__(self, scratch: Path) -> None:
        super().__init__(scratch)
        self.wrong, self.refusal = {"AWS_SECRET_ACCESS_KEY": "wrong"}, "Forbidden"

    def serve(self, port: int) -> Server:
        server = Server([sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", str(port)], port, self.log)
        self.address = f"http://{LOOPBACK}:{port}"
        self._post("seed?a=1")  # the same key after each start
        self._client("s3").create_bucket(Bucket=self.bucket)
        iam = self._client("iam")
        iam.create_user(UserName="colleague")
        where = [f"arn:aws:s3:::{self.bucket}", f"arn:aws:s3:::{self.bucket}/*"]
        allowed = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": where}]}
        iam.put_user_policy(UserName="colleague", PolicyName="share", PolicyDocument=json.dumps(allowed))
        key = iam.create_access_key(UserName="colleague")["AccessKey"]
        self.environment = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
        self.environment["AWS_MAX_ATTEMPTS"] = "1"  # what asks again at most five times is asked again itself
        self._post("reset-auth", b"0")  # from here on every request is checked
        return server

    def _post(self, action: str, content: bytes = b"") -> None:
        headers = {"Content-Type": "text/plain"}
        urlopen(Request(f"{self.address}/moto-api/{action}", data=content, headers=headers)).close()

    def _client(self, service: str) -> Any:
        import boto3

        key = self.environment.get("AWS_ACCESS_KEY_ID", "none"), self.environment.get("AWS_SECRET_ACCESS_KEY", "none")
        return boto3.client(
            service,
            endpoint_url=self.address,
            region_name="us-east-1",
            aws_access_key_id=key[0],
            aws_secret_access_key=key[1],
        )

    def settings(self) -> dict[str, str]:
        return {
            "url": f"s3://{self.bucket}/project",
            "endpointurl": f"http://{LOOPBACK}:{self.wire.port}",
            "connect_timeout": "10",
            "read_timeout": "10",
        }

    def break_down(self, way: str, name: str) -> None:  # noqa: ARG002
        """Kill the server, or where it holds all that there is in its memory, put it out of reach."""
        self.wire.cut_in_the_middle(way, self.server.kill if way == "up" else bool)

    def recover(self) -> None:
        if hasattr(self, "server") and self.server.answers():
            self.wire.mend(self.server.port)
        else:
            super().recover()

    def names(self) -> set[str]:
        listed = self._client("s3").list_objects_v2(Bucket=self.bucket, Prefix="project/files/md5/")
        return {"".join(found["Key"].split("/")[-2:]) for found in listed.get("Contents", [])}

    def _object(self, name: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": f"project/files/md5/{name[:2]}/{name[2:]}"}

    def read(self, name: str) -> bytes:
        return bytes(self._client("s3").get_object(**self._object(name))["Body"].read())

    def write(self, name: str, content: bytes) -> None:
        self._client("s3").put_object(**self._object(name), Body=content)

    def remove(self, name: str) -> None:
        self._client("s3").delete_object(**self._object(name))
