"""status, verify and optimize over a table in a bucket."""

import uuid

import boto3
import pytest

from pipelines.errors import TableError
from pipelines.maintenance import optimize as maintain
from pipelines.maintenance import verify as verify_module
from pipelines.maintenance.status import status
from pipelines.search.query import Query
from pipelines.search.searcher import Searcher
from tests.support.jobs import Said, address, job, run, text_of, write_parquet


def test_all_commands_on_s3(tmp_path, s3_endpoint):
    bucket = f"b-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1").create_bucket(Bucket=bucket)
    write_parquet(tmp_path / "corpus", shards=1)
    storage = {"endpoint_url": s3_endpoint, "region": "us-east-1"}
    config = job(tmp_path, table={"uri": f"s3://{bucket}/db"}, storage=storage)
    with pytest.raises(TableError, match="there is no table"):
        status(address(config))
    run(config)
    found = status(address(config)).to_dict()
    assert (found["rows"], found["versions_kept"]) == (40, found["version"])
    assert verify_module.verify(config, Said(), 100).ok
    assert maintain.optimize(address(config), Said()).to_dict()["fragments_after"] == 1
    assert verify_module.verify(config, Said(), 100).ok
    assert Searcher(address(config)).search(text_of(7), Query(limit=1))[0].id == "d7"
