"""The command line in this process."""

import sys
from types import SimpleNamespace

import pytest

from a1_sgl import cli


@pytest.fixture
def here(monkeypatch, capfd, tmp_path):
    """The command in this process and in an empty folder, which spares it the start of a new one."""

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["a1", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capfd.readouterr()
        return SimpleNamespace(returncode=ended.value.code or 0, stdout=said.out, stderr=said.err)

    return run
