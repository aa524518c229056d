"""Where a trial's corpus and table lie: a folder, or a bucket of a moto server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lance
import pyarrow.fs as pafs

KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
SERVER = """
import sys, time
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
sys.stdin.read()  # until whoever started this is gone
"""


@contextmanager
def moto() -> Iterator[str]:
    """The endpoint of a moto server in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    host, port = process.stdout.readline().split()
    try:
        yield f"http://{host}:{port}"
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Place:
    """`root` holds `corpus/` and `db/t.lance`. `endpoint`: of the store as the judge reaches it, None for a folder.

    job_endpoint: as drivers reach it, which may be through a proxy that fails."""

    root: str
    endpoint: str | None = None
    job_endpoint: str | None = None
    files: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        files = pafs.LocalFileSystem() if self.endpoint is None else _s3(self.endpoint)
        object.__setattr__(self, "files", files)

    @classmethod
    def local(cls, folder: Path) -> Place:
        return cls(str(folder))

    @classmethod
    def bucket(cls, name: str, endpoint: str, job_endpoint: str | None = None) -> Place:
        _s3(endpoint, allow_bucket_creation=True).create_dir(name)
        return cls(f"s3://{name}", endpoint, job_endpoint or endpoint)

    @property
    def table(self) -> str:
        return f"{self.root}/db/t.lance"

    @property
    def options(self) -> dict[str, str] | None:
        """Lance's storage options."""
        if self.endpoint is None:
            return None
        keys = {name.lower(): value for name, value in KEYS.items() if "KEY" in name}
        return {"aws_endpoint": self.endpoint, "aws_region": "us-east-1", "allow_http": "true", **keys}

    def open(self, version: int | None = None) -> lance.LanceDataset | None:
        """The table, or one version of it, as anybody can read it; None if there is none."""
        try:
            return lance.dataset(self.table, version=version, storage_options=self.options)
        except (ValueError, OSError) as bad:
            if "not found" in str(bad) or "Dataset at path" in str(bad):
                return None
            raise

    def names(self) -> set[str]:
        """Files of the table, below its folder."""
        folder = self._path(self.table)
        found = self.files.get_file_info(pafs.FileSelector(folder, recursive=True, allow_not_found=True))
        return {info.path.removeprefix(folder) for info in found if info.type == pafs.FileType.File}

    def remove_table(self) -> None:
        """As its owner does who drops it; again while somebody writes into the folder."""
        while self.names():
            with suppress(OSError):  # a file that came just now
                self.files.delete_dir(self._path(self.table))

    @contextmanager
    def without_versions(self) -> Iterator[None]:
        """The table with its data, and nothing that says which of it is in."""
        versions, aside = f"{self._path(self.table)}/_versions", f"{self._path(self.root)}/aside"
        self.files.create_dir(aside)
        pafs.copy_files(versions, aside, source_filesystem=self.files, destination_filesystem=self.files)
        self.files.delete_dir(versions)
        yield
        self.files.create_dir(versions)
        pafs.copy_files(aside, versions, source_filesystem=self.files, destination_filesystem=self.files)
        self.files.delete_dir(aside)

    @staticmethod
    def _path(uri: str) -> str:
        return uri.removeprefix("s3://")

    def put(self, path: str, content: bytes) -> None:
        """A file of the corpus, old or new but never a part of it. Not within one tick of the clock of its last change
        (a stamp that stays the same hides a change), which a real corpus can only do by accident."""
        whole = f"{self._path(self.root)}/corpus/{path}"
        if self.endpoint is not None:
            with self.files.open_output_stream(whole, compression=None) as stream:
                stream.write(content)
            return
        os.makedirs(os.path.dirname(whole), exist_ok=True)
        time.sleep(0.01)
        hidden = f"{os.path.dirname(whole)}/.{os.path.basename(whole)}"
        Path(hidden).write_bytes(content)
        os.replace(hidden, whole)

    def remove(self, path: str) -> None:
        self.files.delete_file(f"{self._path(self.root)}/corpus/{path}")


def _s3(endpoint: str, **options: Any) -> pafs.S3FileSystem:
    host = endpoint.removeprefix("http://")
    return pafs.S3FileSystem(
        access_key="test", secret_key="test", endpoint_override=host, scheme="http", region="us-east-1", **options
    )
