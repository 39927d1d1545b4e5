"""MovieLens from its publisher, once, with a checked hash (extra ``download``: pooch)."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple


class Archive(NamedTuple):
    """Where a data set is published, and the hash that public lists of checksums give for it."""

    url: str
    hash: str


_MOVIELENS = "https://files.grouplens.org/datasets/movielens"
ARCHIVES = {
    "ml-1m": Archive(
        f"{_MOVIELENS}/ml-1m.zip", "sha256:a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20"
    ),
    "ml-100k": Archive(
        f"{_MOVIELENS}/ml-100k.zip", "sha256:50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"
    ),
    "ml-latest-small": Archive(
        f"{_MOVIELENS}/ml-latest-small.zip", "sha256:696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436"
    ),
}


def members(name: str, files: tuple[str, ...], terms: str) -> list[zipfile.Path]:
    """Files of a published archive, read where they lie: nothing is unpacked.

    Parameters
    ----------
    name : one of `ARCHIVES`
    files : names inside the archive
    terms : what the data may be used for; said when they are fetched

    Raises
    ------
    ModuleNotFoundError
        pooch is not installed.
    ConnectionError
        The publisher cannot be reached.
    ValueError
        What came does not have the hash, is no archive, or lacks a file.

    Notes
    -----
    The archive is kept in the folder that the environment variable REGARD_CACHE names, else in the user's cache.
    """
    try:
        import pooch  # type: ignore[import-untyped]  # noqa: PLC0415
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{name}: set the environment variable REGARD_DATA, or folder=, to the folder of data sets; or "
            "pip install 'regard[download]' to fetch it from its publisher"
        ) from None
    archive = ARCHIVES[name]
    folder = Path(os.environ.get("REGARD_CACHE") or pooch.os_cache("regard"))
    path = folder / archive.url.rpartition("/")[2]
    if not path.exists():
        print(f"regard: fetching {archive.url} into {folder}. Terms: {terms}", file=sys.stderr)
    pooch.get_logger().setLevel("ERROR")
    try:
        pooch.retrieve(archive.url, archive.hash, path.name, folder)
    except OSError as error:  # those of requests among them
        if (response := getattr(error, "response", None)) is not None:
            response.close()  # pooch leaves it open
        raise ConnectionError(f"{name}: {archive.url} cannot be fetched ({error}); set REGARD_DATA to a copy") from None
    except ValueError as error:
        raise ValueError(f"{name}: {archive.url} is not what its publisher described ({error})") from None
    try:
        opened = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: not a zip archive ({error})") from None
    found = [zipfile.Path(opened, file) for file in files]
    for member in found:
        if not member.is_file():
            raise ValueError(f"{path}: the archive has no file {member.at}")
    return found
