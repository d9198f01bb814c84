"""Commands that serve: ``serve`` over HTTP, ``study`` and ``ui`` as web pages."""

import os
import signal
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional

from faceshifter.cli.options import NETWORKS, Networks, Optional, Site, check_folder, default
from faceshifter.cli.say import say
from faceshifter.errors import DataError, OutputError


def serve(
    *,
    folder: Annotated[Path | None, default("the user's own")] = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    max_mb: int = 32,
    max_video_mb: int = 1024,
    max_megapixels: int = 40,
    queue: int = 16,
    jobs: int = 16,
    keep_hours: float = 24.0,
    networks: OmitArgPrefixes[Networks] = NETWORKS,
) -> None:
    """Swap faces over HTTP: photos at once, videos as jobs; serves until interrupted.

    With FACESHIFTER_TOKEN in the environment, clients have to send it as Authorization: Bearer.
    GET /openapi.json describes all requests. A restarted server resumes its jobs.

    Args:
        folder: Private folder for jobs and temporary files.
        host: Address to serve from; others than this machine's need a token.
        port: Port to serve from; 0 takes a free one.
        max_mb: Most MiB of the photos of one swap together.
        max_video_mb: Most MiB of a job's video and photos together.
        max_megapixels: Most million pixels of each photo.
        queue: Most swaps of photos that wait; further ones are refused with 429.
        jobs: Most videos that wait.
        keep_hours: Hours for which the result of a job is kept.
        networks: Trained networks, how faces are found, and the device.
    """
    from faceshifter.apps import http
    from faceshifter.files import user_folder

    token = os.environ.get("FACESHIFTER_TOKEN") or None
    http.check_host(host, token)
    if min(max_mb, max_video_mb, max_megapixels, queue, jobs) < 1 or keep_hours <= 0:
        raise OutputError("limits of zero leave nothing to serve; give numbers above it")
    from faceshifter.apps.serve.app import create_app, server_folder
    from faceshifter.apps.serve.photos import Limits
    from faceshifter.apps.worker import VIDEO_SECONDS, Worker

    folder = folder or user_folder("state") / "serve"
    with server_folder(folder), http.listen(host, port) as listening:
        limits = Limits(max_mb, max_video_mb, max_megapixels, queue, jobs, keep_hours)
        app = create_app(
            Worker(networks.load),
            Worker(networks.load, patient=True),
            Worker(networks.load, seconds=VIDEO_SECONDS, patient=True),
            folder,
            limits,
            token,
        )
        say(f"serving at {http.address(listening)}; stop with Ctrl+C")
        http.serve(app, listening)


def study(
    results: Positional[Path],
    /,
    *,
    votes: Path,
    table: Optional = None,
    pairs: int = 20,
    host: str = "127.0.0.1",
    port: int = 8000,
    site: Site = None,
) -> None:
    """Let people compare swaps on a web page, or print their votes (Table 2).

    Serves until interrupted; the same command resumes with all votes.

    Args:
        results: CSV file with the columns source, target, result (paths relative to its folder) and
            method.
        votes: SQLite file for raters and votes.
        table: Instead of serving, print the share of votes of each method, and write it to this
            JSON file.
        pairs: Number of pairs shown to each rater, drawn at random.
        host: Address to serve from; 0.0.0.0 admits other machines.
        port: Port to serve from; 0 takes a free one.
        site: Name in the raters' address bar, such as study.example.org, if it is not this
            machine's.
    """
    check_folder(votes, "--votes")
    check_folder(table, "--table")
    if pairs < 1:
        raise DataError(f"--pairs must be at least 1, got {pairs}")
    from faceshifter.apps.study.study import read_study
    from faceshifter.apps.study.votes import Votes, share_table, shares

    read = read_study(results)
    if table is not None and not votes.exists():
        raise DataError(f"{votes} does not exist; run the study first, without --table")
    if table is not None:
        from dataclasses import asdict

        from faceshifter.files import write_json

        collected = Votes(votes, read)
        result, (raters, finished) = shares(collected.counts(), read.methods), collected.raters()
        methods = {
            method: {question: share and asdict(share) for question, share in by_question.items()}
            for method, by_question in result.items()
        }
        write_json(table, {"raters": raters, "finished": finished, "methods": methods})
        say(f"{raters} raters, {finished} of them with all questions answered; percent of votes")
        say("", *share_table(result).splitlines())
        return
    from faceshifter.apps.http import listen, names, serve
    from faceshifter.apps.study.server import create_app

    with listen(host, port) as where:
        app = create_app(Votes(votes, read), pairs, names(host, site))
        say(f"{len(read.units)} pairs, methods {', '.join(read.methods)}")
        say(f"http://{host}:{where.getsockname()[1]}, until Ctrl-C")
        serve(app, where)


def ui(
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    site: Site = None,
    networks: OmitArgPrefixes[Networks] = NETWORKS,
) -> None:
    """Swap faces in photos and videos on a web page.

    Serves until interrupted, without any request to other machines. Files that are sent to the page
    are deleted when it is closed.

    Args:
        host: Address to serve from; 0.0.0.0 admits other machines, without a password.
        port: Port to serve from; 0 takes a free one.
        site: Name in the browser's address bar, if it is not this machine's.
        networks: Trained networks, how faces are found, and the device.
    """
    from faceshifter.apps.http import listen, names, serve
    from faceshifter.apps.ui.server import create_app, private_folder
    from faceshifter.apps.worker import VIDEO_SECONDS, Worker

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that files are deleted
    with (
        private_folder() as folder,
        listen(host, port) as where,
        closing(Worker(networks.load)) as photos,
        closing(Worker(networks.load, seconds=VIDEO_SECONDS, patient=True)) as videos,
    ):
        app = create_app(photos, videos, folder, names(host, site))
        say(f"http://{host}:{where.getsockname()[1]}, until Ctrl-C")
        serve(app, where)
