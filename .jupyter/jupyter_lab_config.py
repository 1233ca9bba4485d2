"""What `make lab` opens: this project, its one kernel, and a package that follows each save."""

import os
import socket
import sys
import warnings
from pathlib import Path

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

c = get_config()  # noqa: F821
ROOT = Path(__file__).resolve().parents[1]

# The project's own package, in this process and in every kernel, whatever else is installed.
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


class OneKernel(KernelSpecManager):
    """The kernel of this environment under each name that a notebook may ask for, and no other."""

    def find_kernel_specs(self):
        """The one name that is offered."""
        from ipykernel.kernelspec import RESOURCES

        return {"python3": RESOURCES}

    def get_kernel_spec(self, kernel_name):  # noqa: ARG002
        """The kernel of this environment."""
        from ipykernel.kernelspec import RESOURCES, get_kernel_dict

        return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())


def call(name, contents_manager, *arguments):
    """Call a hook of the package; a broken package, or anything else, must not keep a notebook from being saved."""
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
    """Export the notebook that was written, and say so in the log."""
    if model["type"] == "notebook":
        log = contents_manager.log
        tell = lambda line, well: log.info(line) if well else log.warning(line)  # noqa: E731
        call("after_save", contents_manager, Path(os_path), tell)


warnings.filterwarnings("ignore", "Overriding existing .*_save_hook")  # this file is read twice
c.FileContentsManager.pre_save_hook = clean_before_save
c.FileContentsManager.post_save_hook = export_after_save

c.ServerApp.kernel_spec_manager_class = OneKernel
c.ServerApp.root_dir = str(ROOT)
c.FileContentsManager.preferred_dir = "nbs"
c.LanguageServerManager.autodetect = False  # it runs npm, which writes to the home folder
c.LabApp.app_settings_dir = str(ROOT / ".jupyter")  # overrides.json: nothing is fetched, nobody is asked about news

# JupyterLab takes the next free port where its own is in use; a port that was asked for is taken or refused.
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
