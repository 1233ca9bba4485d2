"""The project itself keeps the rules that it checks."""

from mlops_pkg.proof.sync import check_sync
from tests.conftest import ROOT


def test_this_project_is_in_sync() -> None:
    checks = check_sync(ROOT)

    assert len(checks) >= 6
    assert [f"{check.name}: {finding}" for check in checks for finding in check.findings] == []
