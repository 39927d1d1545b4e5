"""MovieLens from its publisher: here a server on this machine, with archives of a few lines."""

import gzip
import hashlib
import io
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from regard import datasets, download

pytest.importorskip("pooch")

RATINGS = "\n".join(f"{user}::{movie}::5::{100 - user}" for movie in (7, 3) for user in range(1, 6))
ARCHIVES = {
    "ml-1m": {
        "ml-1m/ratings.dat": RATINGS + "\n1::9::4::1\n",
        "ml-1m/movies.dat": "3::Café (1990)::Drama\n7::B::War\n",
    },
    "ml-100k": {
        "ml-100k/u.data": "1\t3\t5\t20\n1\t2\t5\t10\n",
        "ml-100k/u.item": f"2|A{'|0' * 18}|1\n3|B{'|0' * 18}|1\n",
    },
    "ml-latest-small": {
        "ml-latest-small/ratings.csv": "userId,movieId,rating,timestamp\r\n1,2,4.5,20\r\n1,10,4.0,10\r\n",
        "ml-latest-small/movies.csv": 'movieId,title,genres\r\n2,"Trial, The",Drama\r\n10,B,War\r\n',
    },
}
COUNTS = {"ml-1m": (5, 2, 10), "ml-100k": (1, 2, 2), "ml-latest-small": (1, 2, 2)}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is served; the cards have the counts of the small archives."""
    folder = tmp_path / "published"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("REGARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("REGARD_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name, files in ARCHIVES.items():
        content = archive(files)
        (folder / f"{name}.zip").write_bytes(content)
        publish(monkeypatch, name, f"http://127.0.0.1:{server.server_port}/{name}.zip", content)
        users, items, events = COUNTS[name]
        card = datasets.card(name)
        counts = {"n_users": users, "n_items": items, "n_events": events}
        monkeypatch.setitem(datasets._CARDS, name, type(card)(**(vars(card) | counts)))
    yield folder
    server.shutdown()
    thread.join()
    server.server_close()


def archive(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        for name, text in files.items():
            out.writestr(name, text.encode("latin-1"))
    return buffer.getvalue()


def publish(monkeypatch: pytest.MonkeyPatch, name: str, url: str, content: bytes) -> None:
    monkeypatch.setitem(download.ARCHIVES, name, download.Archive(url, f"md5:{hashlib.md5(content).hexdigest()}"))


def test_movies_with_five_ratings_are_kept_in_the_order_of_time_and_rows(publisher: Path) -> None:
    data = datasets.load("ml-1m")
    assert data.item_ids.tolist() == [3, 7] and data.titles is not None and data.titles.tolist() == ["Café (1990)", "B"]
    assert data.sequences.tolist() == [[1, 0]] * 5  # equal seconds: 7 stands before 3 in the file


def test_the_other_sets_are_read_from_their_archives(publisher: Path) -> None:
    assert datasets.load("ml-100k").sequences.tolist() == [[0, 1]]
    small = datasets.load("ml-latest-small")
    assert small.sequences.tolist() == [[1, 0]] and small.titles is not None and small.titles[0] == "Trial, The"


def test_it_is_fetched_once_and_the_terms_are_said(publisher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    datasets.load("ml-100k")
    assert "fetching" in (said := capsys.readouterr().err) and "no commercial use" in said
    (publisher / "ml-100k.zip").unlink()
    datasets.load("ml-100k")
    assert capsys.readouterr().err == ""


def test_a_folder_that_is_given_comes_first(publisher: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="ml-100k: no file"):
        datasets.load("ml-100k", folder=tmp_path)


def test_what_does_not_have_the_hash_is_refused_and_not_kept(publisher: Path, tmp_path: Path) -> None:
    (publisher / "ml-100k.zip").write_bytes(archive(ARCHIVES["ml-latest-small"]))
    with pytest.raises(ValueError, match=r"ml-100k: http://.* is not what its publisher described"):
        datasets.load("ml-100k")
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_archive_without_the_file_or_none_at_all_is_named(publisher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = download.ARCHIVES["ml-100k"].url
    for content, message in (
        (archive({"x": ""}), "the archive has no file ml-100k/u.data"),
        (b"PK", "not a zip archive"),
    ):
        (publisher / "ml-100k.zip").write_bytes(content)
        publish(monkeypatch, "ml-100k", url, content)
        with pytest.raises(ValueError, match=message):
            datasets.load("ml-100k")


def test_a_torn_archive_in_the_cache_is_fetched_again(publisher: Path, tmp_path: Path) -> None:
    datasets.load("ml-100k")
    (tmp_path / "cache" / "ml-100k.zip").write_bytes(b"torn")
    assert datasets.load("ml-100k").n_events == 2


def test_members_that_point_outside_are_never_written(
    publisher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = {"../outside.txt": "x", "/absolute.txt": "x", "ml-100k/../../up.txt": "x"}
    content = archive(hostile | ARCHIVES["ml-100k"])
    (publisher / "ml-100k.zip").write_bytes(content)
    publish(monkeypatch, "ml-100k", download.ARCHIVES["ml-100k"].url, content)
    before = {path for path in tmp_path.rglob("*")}
    assert datasets.load("ml-100k").n_events == 2
    assert {path for path in tmp_path.rglob("*")} - before == {tmp_path / "cache", tmp_path / "cache" / "ml-100k.zip"}


def test_ml_1m_in_its_original_form_has_the_sequences_of_the_known_file(
    publisher: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users 1 to 2,998, all of whose times are known, event by event; the others by what they rated."""
    table = data_folder / "ml-1m" / "ratings.tsv.gz"
    if not table.is_file():
        pytest.skip(f"no file {table}")
    rows = [line.split("\t") for line in gzip.decompress(table.read_bytes()).decode().splitlines()[1:]]
    ratings = "".join(f"{user}::{movie}::{rating}::{time}\n" for user, movie, rating, time, _ in rows)
    movies = (data_folder / "ml-1m" / "movies.dat").read_text("latin-1")
    content = archive({"ml-1m/ratings.dat": ratings, "ml-1m/movies.dat": movies})
    (publisher / "ml-1m.zip").write_bytes(content)
    publish(monkeypatch, "ml-1m", download.ARCHIVES["ml-1m"].url, content)
    counts = {"n_users": 6_040, "n_items": 3_416, "n_events": 999_611}
    card = datasets.card("ml-1m")
    monkeypatch.setitem(datasets._CARDS, "ml-1m", type(card)(**(vars(card) | counts)))
    data, known = datasets.load("ml-1m"), datasets.load("ml-1m", folder=data_folder)
    assert data.item_ids.tolist() == known.item_ids.tolist() and data.titles is not None and known.titles is not None
    assert (data.titles == known.titles).all()
    assert data.sequences[:2998] == known.sequences[:2998]
    assert (data.sequences.offsets == known.sequences.offsets).all()
    for ours, theirs in zip(data.sequences, known.sequences, strict=True):
        assert (np.sort(ours) == np.sort(theirs)).all()


def test_without_a_connection_the_way_out_is_said(publisher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("http://127.0.0.1:9/ml-100k.zip", download.ARCHIVES["ml-100k"].url.replace("100k", "none")):
        publish(monkeypatch, "ml-100k", url, b"")
        with pytest.raises(ConnectionError, match=r"ml-100k: http://.* cannot be fetched .*; set REGARD_DATA"):
            datasets.load("ml-100k")


def test_without_pooch_the_extra_is_named(publisher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ModuleNotFoundError, match=r"ml-1m: set .* REGARD_DATA.* or pip install 'regard\[download\]'"):
        datasets.load("ml-1m")
