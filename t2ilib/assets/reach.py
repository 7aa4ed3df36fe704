"""Whether a server can be reached, asked within seconds: the libraries that download try again for a minute."""

import contextlib
import http.client
import os
import queue
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from ..files import reason

PATIENCE = 8.0  # seconds for the first answer; three attempts of TCP to connect fit in


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Take a redirection as an answer."""

    def redirect_request(self, *_):
        return None


def unreachable(urls: Iterable[str]) -> dict[str, str]:
    """Return server -> what is wrong, for each server of these addresses that gives no answer; all are asked at once.

    Any answer counts, an error of HTTP too. Proxies are those of the environment. `HF_HUB_ETAG_TIMEOUT`, with which one
    tells the Hugging Face libraries how many seconds to wait for an answer, holds here too.
    """
    seconds = patience()
    servers = {server_of(url) for url in urls}
    answers: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
    for server in servers:
        # looking up a name cannot be given a limit of time: who takes too long is left behind in its thread
        ask = threading.Thread(target=lambda server: answers.put((server, _problem(server, seconds))), args=(server,),
                               daemon=True)
        ask.start()
    problems = dict.fromkeys(servers, f"no answer within {seconds:g} s")
    deadline = time.monotonic() + seconds
    with contextlib.suppress(queue.Empty):
        for _ in servers:
            server, problem = answers.get(timeout=max(0.0, deadline - time.monotonic()))
            problems[server] = problem
    return {server: problem for server, problem in problems.items() if problem}


def server_of(url: str) -> str:
    """Return an address without its path: "https://example.org/a/b" -> "https://example.org"."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def patience() -> float:
    """Return how many seconds to wait for an answer."""
    try:
        return float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or PATIENCE)
    except ValueError:
        return PATIENCE


def _problem(server: str, seconds: float) -> str:
    """Return why a server gives no answer, "" if it does."""
    if any(proxy.startswith("socks") for proxy in urllib.request.getproxies().values()):
        return ""  # through which nothing can be asked here
    opener = urllib.request.build_opener(_NoRedirect)
    request = urllib.request.Request(f"{server}/", method="HEAD", headers={"User-Agent": "t2ilib"})
    try:
        with opener.open(request, timeout=seconds):
            return ""
    except urllib.error.HTTPError:
        return ""
    except (OSError, http.client.HTTPException, ValueError) as error:
        cause = getattr(error, "reason", error)
        if isinstance(cause, ssl.SSLError):
            return ""  # it answers; whether its certificate is good is for those to say who download
        return reason(cause) if isinstance(cause, Exception) else str(cause)


def hub_endpoint() -> str:
    """Return the address of the Hugging Face hub, or of the mirror that `HF_ENDPOINT` names."""
    from huggingface_hub import constants

    return constants.ENDPOINT


@contextlib.contextmanager
def hub_or_cache(needed: bool = True) -> Iterator[str]:
    """Let the Hugging Face libraries in a block use the hub if it can be reached, else their cache alone.

    Without this they ask a hub that is not there again and again, for a minute and more. Yields what to say if that is
    not enough: "" where the hub is there, else one sentence.

    Args:
        needed: False does nothing, for what is on this disk.
    """
    if not needed:
        yield ""
        return
    from huggingface_hub import constants

    way_out = "give a folder or file on this disk, or let HF_HOME name a cache that holds it"
    if constants.HF_HUB_OFFLINE:
        yield f"HF_HUB_OFFLINE forbids to ask the Hugging Face hub, and the cache does not hold it: {way_out}"
        return
    endpoint = hub_endpoint()
    problem = unreachable([endpoint]).get(server_of(endpoint))
    if not problem:
        yield ""
        return
    with _offline():
        yield (f"the Hugging Face hub cannot be reached at {endpoint} ({problem}), and the cache does not hold it: "
               f"{way_out}; HF_HUB_OFFLINE=1 does not ask at all, HF_ENDPOINT names a mirror")


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Switch the Hugging Face libraries to their caches for the length of a block."""
    from huggingface_hub import constants

    modules = [constants]
    if "datasets.config" in sys.modules:  # it keeps a switch of its own
        modules.append(sys.modules["datasets.config"])
    before = [module.HF_HUB_OFFLINE for module in modules]
    for module in modules:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value
