"""A bucket of its own for a test, and corpora in it."""

from __future__ import annotations

import uuid
from typing import Any

import boto3

from pipelines.config import CorpusConfig, StorageConfig
from pipelines.corpus.corpus import Corpus


class Bucket:
    def __init__(self, endpoint: str):
        self.storage = StorageConfig(endpoint_url=endpoint, region="us-east-1")
        self.name = f"b-{uuid.uuid4().hex[:12]}"
        self.client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        self.client.create_bucket(Bucket=self.name)
        self.uri = f"s3://{self.name}"

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=content)

    def corpus(self, path: str = "", **fields: Any) -> Corpus:
        return Corpus(CorpusConfig(uri=f"{self.uri}/{path}", id="id", columns=("n",), **fields), self.storage)
