"""Debian's nginx with the file of a deployment, in front of a server."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlops_pkg.browser.page import render
from mlops_pkg.deployment import manifests
from mlops_pkg.serving.settings import Settings
from tests.serving.conftest import DEADLINE, until
from tests.serving.wire import Wire, request
from tests.slow.needs import need
from tests.slow.servers import free_port


@contextmanager
def behind_nginx(settings: Settings, scratch: Path, *ports: int) -> Iterator[int]:
    """The port of nginx, in front of the ports of some servers."""
    need("nginx")
    front, scratch = free_port(), scratch / "nginx"
    scratch.mkdir()
    template = Path(manifests.__file__).parent / "static" / "nginx.conf"
    text = render(template, settings=settings, connections=2 * settings.max_connections + 64)
    servers = " ".join(f"server 127.0.0.1:{port} max_fails=0;" for port in ports)
    here = {
        "server serve:8000 max_fails=0;": servers,
        "listen 8080": f"listen 127.0.0.1:{front}",
        "/tmp/": f"{scratch}/",
    }
    for old, new in here.items():
        assert old in text
        text = text.replace(old, new)
    (scratch / "nginx.conf").write_text(text)
    command = ["/usr/sbin/nginx", "-c", str(scratch / "nginx.conf"), "-g", "daemon off; user root;"]
    with (scratch / "errors").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            until(lambda: _answers(front))
            yield front
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait(DEADLINE)


def _answers(port: int) -> bool:
    with suppress(OSError), Wire(port) as wire:
        wire.send(request(path="/health"))
        return bool(wire.reply().status)
    return False
