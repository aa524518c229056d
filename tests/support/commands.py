"""The command line called in this process, and a job file for it."""

from __future__ import annotations

import json

import yaml
from typer.testing import CliRunner

from pipelines.cli import app as cli


def write_job(path, config):
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
    return str(path)


def call(*arguments):
    result = CliRunner().invoke(cli.app, [str(one) for one in arguments])
    assert isinstance(result.exception, SystemExit | None), result.exception
    assert "Traceback" not in result.output
    return result


def refused(code, words, *arguments):
    """The call ends with this code and one message on stderr that has these words; on stdout with --json the same as
    an object, else nothing."""
    result = call(*arguments)
    assert result.exit_code == code, result.output
    if "--json" in arguments:
        told = json.loads(result.stdout)
        assert told.keys() == {"error", "code", "retry"}
        assert (told["code"], told["retry"]) == (code, code == 1)
        assert f"vectormill: {told['error']}\n" in result.stderr
    else:
        assert result.stdout == ""
    assert result.stderr.count("vectormill:") == 1
    assert words in " ".join(result.stderr.split())
    return result.stderr


def object_of(*arguments):
    result = call(*arguments, "--json")
    assert result.stdout.count("\n") == 1, "one line"
    return result.exit_code, json.loads(result.stdout)
