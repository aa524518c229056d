"""Which files a corpus is made of: one file, a folder, a glob or an s3 prefix, by one rule of what is taken.

Names that begin with `_` or `.` are left out, as Spark and Arrow do. Paths are relative to the root: the folder
itself, the folder of a single file, or the last folder before a glob's first wildcard.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipelines.config import CorpusConfig, StorageConfig
from pipelines.corpus.beside import is_object
from pipelines.corpus.broken import BrokenFile
from pipelines.corpus.foreign_tables import ForeignTables
from pipelines.corpus.formats.registry import format_of
from pipelines.corpus.shard_file import extension
from pipelines.errors import CorpusError
from pipelines.storage.faults import translate
from pipelines.storage.files import Found, head, list_s3, local_stamp
from pipelines.storage.places import is_s3, local_path
from pipelines.units import Listing

HIDDEN = (".", "_")
WILDCARDS = re.compile(r"[*?\[]")
LINKS_MAX = 4  # one below the other: twelve folders that link to one another have 12! ways through them
Components = tuple[re.Pattern[str] | None, ...]  # None stands for `**`


@dataclass(frozen=True)
class Place:
    """Where the files lie. root: uri of the folder that paths are relative to. name: set for a single file."""

    root: str
    name: str | None = None
    pattern: str | None = None

    def uri(self, path: str) -> str:
        return f"{self.root.rstrip('/')}/{path}"


def resolve(uri: str, storage: StorageConfig) -> Place:
    """Raises CorpusError when nothing is there (a missing s3 prefix shows when it is listed), StorageError."""
    where = uri if is_s3(uri) else local_path(uri)
    if is_s3(uri) and where.count("/") < 3:
        return Place(where)
    if not uri.endswith("/") and (is_object(where, storage) if is_s3(uri) else os.path.isfile(where)):
        folder, _, name = where.rpartition("/")
        return Place(folder or "/", name=name)
    if WILDCARDS.search(where) and not (not is_s3(uri) and os.path.isdir(where)):
        fixed = where[: WILDCARDS.search(where).start()].rpartition("/")[0]  # type: ignore[union-attr]
        return Place(fixed or "/", pattern=where[len(fixed) + 1 :])
    if not is_s3(uri) and not os.path.isdir(where):
        if os.path.exists(where):
            raise CorpusError(f"corpus.uri: {where} {_NO_FILE}")
        raise CorpusError(f"corpus.uri: there is nothing at {where}; check the path")
    return Place(where.rstrip("/") or "/")


def find(place: Place, storage: StorageConfig, broken: list[BrokenFile], tables: ForeignTables) -> Iterator[Found]:
    """(path, size, stamp) of every file that the place names, in no order. What is neither file nor folder, and folders
    that cannot be opened, are added to `broken`; all that a store lists is shown to `tables`.

    Raises CorpusError, StorageError."""
    components = _compiled(place.pattern) if place.pattern else None
    if place.name is not None:
        status = head(place.uri(place.name), storage)
        if status is None:
            raise CorpusError(f"corpus.uri: there is nothing at {place.uri(place.name)}; check the path")
        yield (place.name, *status)
    elif is_s3(place.root):
        for found in list_s3(place.root, storage):
            tables.see(found[0])
            parts = found[0].split("/")
            if not any(part.startswith(HIDDEN) for part in parts) and (
                components is None or _matches(parts, components)
            ):
                yield found
    else:
        yield from _walk(place.root, components, broken)


def _walk(root: str, components: Components | None, broken: list[BrokenFile]) -> Iterator[Found]:
    pending: list[tuple[str, str, frozenset[tuple[int, int]], int]] = [(root, "", frozenset(), 0)]
    while pending:
        folder, below, ancestors, links = pending.pop()
        try:
            status = os.stat(folder)
            here = (status.st_dev, status.st_ino)
            if here in ancestors:
                continue  # a link back to a folder that this one lies in
            with os.scandir(folder) as entries:
                for entry in entries:
                    path = below + entry.name
                    is_folder = _is_folder(entry)
                    if not _is_wanted(entry.name, path, components, is_folder):
                        continue
                    if is_folder:
                        through = links + entry.is_symlink()
                        _check_links(through, path)
                        pending.append((entry.path, path + "/", ancestors | {here}, through))
                    elif (found := _file(entry, path)) is not None:
                        yield found
                    else:
                        broken.append(BrokenFile(entry.path, _no_file(entry)))
        except OSError as bad:
            failure = translate(bad, folder)
            if folder == root:
                raise failure from bad
            broken.append(BrokenFile(folder, str(failure)))


def _is_wanted(name: str, path: str, components: Components | None, is_folder: bool) -> bool:
    if name.startswith(HIDDEN):
        return False
    return components is None or _matches(path.split("/"), components, leads=is_folder)


def _check_links(links: int, path: str) -> None:
    if links > LINKS_MAX:
        raise CorpusError(
            f"{path}: {links} links to folders lie one below the other, so the same files would be found on many ways; "
            "take links out of the corpus, or point corpus.uri below them"
        )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as bad:
        if bad.errno == errno.ELOOP:
            return False  # a link to itself
        raise


_NO_FILE = "is neither a file nor a folder but a pipe, a socket or a device; take it out of the corpus"


def _file(entry: os.DirEntry[str], path: str) -> Found | None:
    """None for what is no file, or is gone since it was listed."""
    try:
        status = os.stat(entry.path)
    except OSError as bad:
        if bad.errno in (errno.ENOENT, errno.ELOOP):
            return None
        raise
    return (path, status.st_size, local_stamp(status)) if stat.S_ISREG(status.st_mode) else None


def _no_file(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink() and not os.path.exists(entry.path):
        return f"{entry.path} is a link to nothing; mend it or take it out of the corpus"
    return f"{entry.path} {_NO_FILE}"


def _compiled(pattern: str) -> Components:
    return tuple(None if part == "**" else re.compile(_translated(part), re.DOTALL) for part in pattern.split("/"))


def _translated(part: str) -> str:
    def one(token: re.Match[str]) -> str:
        text = token[0]
        if text in "*?":
            return ".*" if text == "*" else "."
        if text[0] == "[" and len(text) > 1:
            body = text[1:-1].replace("\\", "\\\\").replace("[", "\\[")
            return f"[^{body[1:]}]" if body[0] == "!" else f"[{body}]"
        return re.escape(text)

    return re.sub(r"\*|\?|\[!?[^\]]+\]|.", one, part, flags=re.DOTALL) + r"\Z"


def _matches(parts: list[str], components: Components, leads: bool = False) -> bool:
    """Whether the pattern matches the path; with `leads`, whether files below this folder could match."""
    if not parts or not components:
        return not parts and ((leads and bool(components)) or all(one is None for one in components))
    first = components[0]
    if first is None:
        return _matches(parts, components[1:], leads) or _matches(parts[1:], components, leads)
    return first.match(parts[0]) is not None and _matches(parts[1:], components[1:], leads)


def choose(
    found: Iterable[Found], place: Place, corpus: CorpusConfig, broken: list[BrokenFile], tables: ForeignTables
) -> list[Listing]:
    """The files to read, sorted by path; those whose names cannot be used are added to `broken`, none may lie in one of
    the tables.

    With `format: auto` all must have one and the same known format. With a format set, a single file and what a glob
    matches are taken whatever their extension; of a folder or prefix, files are left out whose extension is that of
    another format (a README.md beside Parquet), and files of unknown extension are taken. Raises CorpusError."""
    taken: list[Listing] = []
    counts: Counter[tuple[str | None, str]] = Counter()
    for path, size, stamp in found:
        if wrong := _wrong_name(path):
            # As it may be printed: with the bytes that are no text escaped.
            broken.append(BrokenFile(ascii(place.uri(path))[1:-1], wrong))
            continue
        kind = format_of(path)
        counts[kind, extension(path)] += 1
        named = place.name is not None or place.pattern is not None
        if corpus.format == "auto" or named or kind in (corpus.format, None):
            taken.append(Listing(path, size, stamp))
    tables.check(listing.path for listing in taken)
    if corpus.format == "auto":
        _check_one_format(counts, corpus)
    if not taken and not broken:
        raise CorpusError(_nothing(place, corpus, sum(counts.values())))
    return sorted(taken, key=lambda listing: listing.path)


def _wrong_name(path: str) -> str | None:
    try:
        path.encode()
    except UnicodeEncodeError:
        return f"{path!r}: the file name is not valid UTF-8; rename the file"
    if "" in path.split("/"):  # Arrow's file systems know no such path
        return f"{path!r}: the key has an empty part (`//`, or a `/` too many); rename the object"
    return None


def _check_one_format(counts: Counter[tuple[str | None, str]], corpus: CorpusConfig) -> None:
    kinds = {kind for kind, _ in counts}
    if "lance" in kinds:
        raise CorpusError(f"{corpus.uri} holds Lance files; point corpus.uri at one dataset's folder, <name>.lance")
    if len(kinds) <= 1 and None not in kinds:
        return
    shown = ", ".join(
        f"{count:,} {suffix or 'without extension'} ({kind or 'unknown format'})"
        for (kind, suffix), count in sorted(counts.items(), key=lambda item: -item[1])[:12]
    )
    raise CorpusError(
        f"{corpus.uri} holds files of more than one format or of an unknown one: {shown}. Set corpus.format, or narrow "
        "corpus.uri to a glob such as folder/**/*.parquet"
    )


def _nothing(place: Place, corpus: CorpusConfig, others: int) -> str:
    if place.pattern is not None:
        return f"corpus.uri: no file below {place.root} matches {place.pattern}; `*` stays in one folder, `**` does not"
    kind = "data" if corpus.format == "auto" else corpus.format
    rest = f", only {others:,} of other formats" if others else ""
    return f"corpus.uri: there are no {kind} files below {place.root}{rest} (names beginning with _ or . do not count)"
