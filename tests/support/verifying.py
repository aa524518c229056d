"""What `verify` says of a table, and that it only reads."""

from pathlib import Path

from pipelines.maintenance import verify as verify_module
from tests.support.jobs import Said


def verdict(config, sample=1000):
    """Verify with a sample as large as the table; says that nothing was written to it."""
    before = {path: path.stat().st_mtime_ns for path in files_of(config)}
    result = verify_module.verify(config, Said(), sample)
    assert {path: path.stat().st_mtime_ns for path in files_of(config)} == before
    return result


def files_of(config):
    return [path for path in Path(config.table.location).rglob("*") if path.is_file()]


def doubts(config):
    result = verdict(config)
    assert result.ok == (not [check for check in result.checks if not check.ok])
    return {check.name: check.found for check in result.checks if not check.ok}
