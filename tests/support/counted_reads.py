"""Counts the bytes that the readers of a corpus get from the file system."""

import io

import pyarrow as pa

from pipelines.corpus import shard_file


class CountedReads:
    """From when it is made on; `bytes` may be set back."""

    def __init__(self, monkeypatch):
        self.bytes = 0
        real = shard_file.filesystem_for
        monkeypatch.setattr(shard_file, "filesystem_for", lambda uri, storage: (self, real(uri, storage)[1]))

    def open_input_file(self, path):
        return pa.PythonFile(_Counted(path, self), mode="r")


class _Counted(io.FileIO):
    def __init__(self, path, counts):
        super().__init__(path, "rb")
        self._counts = counts

    def read(self, size=-1):
        found = super().read(size)
        self._counts.bytes += len(found)
        return found

    def read_buffer(self, size):
        return self.read(size)
