"""Configure the JupyterLab of `make lab`: this project, its one kernel, and an export after each save."""

import os
import socket
import sys
import warnings
from pathlib import Path

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

c = get_config()  # noqa: F821
ROOT = Path(__file__).resolve().parents[1]

# The project's own package comes first, in this process and in every kernel.
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


class OneKernel(KernelSpecManager):
    """Offer the kernel of this environment, and use it for every name that a notebook asks for."""

    def find_kernel_specs(self):
        """Return the one name that is offered."""
        from ipykernel.kernelspec import RESOURCES

        return {"python3": RESOURCES}

    def get_kernel_spec(self, kernel_name):  # noqa: ARG002
        """Return the kernel of this environment."""
        from ipykernel.kernelspec import RESOURCES, get_kernel_dict

        return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())


def call(name, contents_manager, *arguments):
    """Call a hook of the library and log its errors: none of them may keep a notebook from being saved."""
    try:
        from mlops_pkg.authoring import saving

        getattr(saving, name)(ROOT, *arguments)
    except Exception as error:
        contents_manager.log.warning("Not cleaned or exported: %s", error)


def clean_before_save(model, path, contents_manager, **_):
    """Clean the notebook that is about to be written."""
    if model["type"] == "notebook" and model["content"]["nbformat"] == 4:
        call("before_save", contents_manager, Path(contents_manager._get_os_path(path)), model["content"])


def export_after_save(model, os_path, contents_manager, **_):
    """Export the notebook that was written, and log the result."""
    if model["type"] == "notebook":
        log = contents_manager.log
        call("after_save", contents_manager, Path(os_path), lambda line, ok: (log.info if ok else log.warning)(line))


warnings.filterwarnings("ignore", "Overriding existing .*_save_hook")  # this file is read twice
c.FileContentsManager.pre_save_hook = clean_before_save
c.FileContentsManager.post_save_hook = export_after_save

c.ServerApp.kernel_spec_manager_class = OneKernel
c.ServerApp.root_dir = str(ROOT)
c.FileContentsManager.preferred_dir = "nbs"
c.LanguageServerManager.autodetect = False  # it runs npm, which writes to the home folder
c.LabApp.app_settings_dir = str(ROOT / ".jupyter")  # overrides.json: no updates or news are fetched

# By default JupyterLab takes the next free port. A port that was asked for is taken, or the start fails.
if port := os.environ.get("PORT"):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(port)))
        except OSError as error:
            sys.exit(f"PORT={port}: {error.strerror.lower()}; give another one, or none for the next that is free")
        except (ValueError, OverflowError):
            sys.exit(f"PORT={port}: not a port; give a number from 1024 to 65535")
    c.ServerApp.port = int(port)
    c.ServerApp.port_retries = 0
