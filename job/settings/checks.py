"""Checks of settings against each other and against the machine; each yields the faults that it finds."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from job import redaction
from job.errors import Fault
from job.layout import is_bucket
from job.settings.gateway import Pushgateway
from job.template import UrlTemplate

_CLUSTERS = ("KUBERNETES_SERVICE_HOST", "CLOUD_RUN_JOB", "AWS_BATCH_JOB_ID")
_PROXIES = [form for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY") for form in (name, name.lower())]
_PROXY_SCHEMES = {"http", "https", "socks4", "socks4a", "socks5", "socks5h"}
_OUR_HEADERS = (
    *("Accept-Encoding", "Connection", "Content-Length", "Host", "If-Match", "If-Modified-Since", "If-None-Match"),
    *("If-Range", "If-Unmodified-Since", "Range", "Transfer-Encoding"),
)
"""What would change how an answer must be read; headers that are copied from a browser hold some of them."""
_SUM = re.compile(r"([0-9A-Fa-f]{64}) [ *](.+)")
_LINES_TOLD = 10
"""A list of anything else, codes say, may have a million lines."""


@dataclass(frozen=True, slots=True)
class Given:
    """Text that was given for a setting, and by which name."""

    name: str
    text: str


def contradictions(given: Mapping[str, Given], *, has_arguments: bool) -> Iterator[Fault]:
    """Find settings that exclude each other."""
    if "url" in given and "server" in given:
        yield _both(given["server"], given["url"])
    if "codes" in given and "codes_file" in given and not has_arguments:
        yield _both(given["codes_file"], given["codes"])


def _both(one: Given, other: Given) -> Fault:
    return Fault(one.name, redaction.plain(one.text), f"and {other.name} exclude each other: set one of them")


def shards(given: Mapping[str, Given], parsed: Mapping[str, object]) -> Iterator[Fault]:
    """Find a share that cannot be, or that nobody chose: each of eight runs would take the first, and call it all."""
    index, count = given.get("shard_index"), given.get("shard_count")
    number, of = parsed["shard_index"], parsed["shard_count"]
    if not isinstance(number, int) or not isinstance(of, int):
        return  # which was told already
    if index is None:
        if count and of > 1:
            problem = "says how many shares, but FLAGJOB_SHARD_INDEX does not say which is this"
            yield Fault(count.name, count.text, problem)
    elif count is None:
        yield Fault(index.name, index.text, "says which share, but FLAGJOB_SHARD_COUNT does not say of how many")
    elif number >= of:
        yield Fault(index.name, index.text, f"must be below {count.name}, which is {count.text}: shares count from 0")


def sets(given: Mapping[str, Given], parsed: Mapping[str, object]) -> Iterator[Fault]:
    """Find sets where there can be none: readers see a directory's link, and one run has all of the files."""
    publish, dest = given.get("publish"), given.get("dest")
    if not publish or parsed["publish"] != "set":
        return
    if dest and _is_bucket(dest):
        yield Fault(publish.name, publish.text, f"needs a directory, but {dest.name} is a bucket")
    if parsed["shard_count"] not in {None, 1}:
        yield Fault(publish.name, publish.text, "cannot be divided into shards: no run has the whole set")


def buckets(given: Mapping[str, Given]) -> Iterator[Fault]:
    """Find what directories may have and buckets may not."""
    dest, authorities = given.get("dest"), given.get("ca_bundle")
    if dest and authorities and _is_bucket(dest) and Path(authorities.text).is_dir():
        problem = f"must be a file of certificates, not a directory, where {dest.name} is a bucket"
        yield Fault(authorities.name, redaction.plain(authorities.text), problem)


def _is_bucket(dest: Given) -> bool:
    return is_bucket(dest.text)


def demonstration(given: Mapping[str, Given], environ: Mapping[str, str]) -> Iterator[Fault]:
    """Find a run from the built-in origin that nobody asked for, where it would pass for the real one."""
    cluster = next((name for name in _CLUSTERS if environ.get(name)), None)
    url_is_faulty = "FLAGJOB_URL" in environ or "FLAGJOB_URL_FILE" in environ
    if cluster and not {"url", "server"} & set(given) and not url_is_faulty:
        problem = f"must be set where {cluster} is; to run on the built-in origin, ask for it by FLAGJOB_SERVER=local"
        yield Fault("FLAGJOB_URL", None, problem)


def files(given: Mapping[str, Given]) -> Iterator[Fault]:
    """Find paths that cannot be what their settings need."""
    codes, authorities = given.get("codes_file"), given.get("ca_bundle")
    if codes and codes.text != "-" and not _is_readable_file(codes.text):
        yield Fault(codes.name, redaction.plain(codes.text), "must be a file that can be read, or - for standard input")
    if authorities and not Path(authorities.text).is_dir() and not _is_readable_file(authorities.text):
        problem = "must be a file or directory of certificates that can be read"
        yield Fault(authorities.name, redaction.plain(authorities.text), problem)
    for target in filter(None, map(given.get, ("metrics_file", "termination_log"))):
        if not Path(target.text).parent.is_dir() or Path(target.text).is_dir():
            yield Fault(target.name, redaction.plain(target.text), "must be a file in a directory that exists")


def proxies(environ: Mapping[str, str]) -> Iterator[Fault]:
    """Find proxies that are no URLs; the rest of requests' rules for them is requests' own."""
    for variable in _PROXIES:
        value = environ.get(variable, "")
        if value and not _is_proxy(value):
            yield Fault(variable, redaction.url(value), "must be a proxy's URL, such as http://proxy.example.org:3128")


def secret_text(path: str) -> str:
    """Return what a file holds; raise ValueError, which shows none of it, where that is no text."""
    try:
        return Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("must be a file of UTF-8 text") from None
    except OSError as error:
        raise ValueError(f"must be a file that can be read ({error.strerror})") from error


def secret_headers(given: Given | None) -> tuple[Mapping[str, str], list[Fault]]:
    """Return the headers of a file, and what is wrong with it, without showing what it holds."""
    if given is None:
        return {}, []
    headers: dict[str, str] = {}
    problems: list[str] = []
    try:
        lines = secret_text(given.text).splitlines()
    except ValueError as error:
        lines, problems = [], [str(error)]
    for number, line in enumerate(map(str.strip, lines), 1):
        found = redaction.HEADER.fullmatch(line)
        if found and not (problem := _header_problem(found[1], headers)):
            headers[found[1]] = found[2]
        elif line:
            problems.append(f"line {number} {problem if found else 'must be `Name: value` in printable ASCII'}")
    return headers, [Fault(given.name, redaction.path(given.text), problem) for problem in problems]


def checksums(given: Given | None) -> tuple[Mapping[str, str], list[Fault]]:
    """Return the digests of a SHA256SUMS file, by path, as sha256sum writes it, and what is wrong with it."""
    if given is None:
        return {}, []
    sums: dict[str, str] = {}
    problems: list[str] = []
    try:
        lines = secret_text(given.text).splitlines()
    except ValueError as error:
        return {}, [Fault(given.name, redaction.plain(given.text), str(error))]
    for number, line in enumerate(lines, 1):
        if line.strip() and (problem := _sum_problem(line, sums)):
            problems.append(f"line {number} {problem}")
    if not sums and not problems:
        problems = ["must list a file: an empty list would let everything pass"]
    told = problems[:_LINES_TOLD]
    told += [f"has {len(problems) - _LINES_TOLD} more lines that are wrong"] if len(problems) > _LINES_TOLD else []
    return sums, [Fault(given.name, redaction.plain(given.text), problem) for problem in told]


def _sum_problem(line: str, sums: dict[str, str]) -> str | None:
    """Take in a line, or return what is wrong with it."""
    found = _SUM.fullmatch(line)
    if not found:
        return "must be a sha256 in hex, two blanks and a path, as sha256sum writes it"
    digest = found[1].lower()
    if sums.setdefault(found[2].removeprefix("./"), digest) != digest:
        return "contradicts an earlier line about the same path"
    return None


def _header_problem(name: str, earlier: Mapping[str, str]) -> str | None:
    if name.title() in _OUR_HEADERS:
        return f"must not set what is flagjob's own: {', '.join(_OUR_HEADERS)}"
    return "repeats an earlier line's name" if name.lower() in map(str.lower, earlier) else None


def secrets(parsed: Mapping[str, object], headers: Mapping[str, str], environ: Mapping[str, str]) -> Iterator[str]:
    """Find what must never be printed: secret headers, a template's query, passwords of gateway and proxies."""
    for value in headers.values():
        yield value
        yield from value.split()[1:]  # what follows a scheme, as in `Bearer TOKEN`
    url, gateway = parsed["url"], parsed["pushgateway_url"]
    query = urlsplit(url.text).query if isinstance(url, UrlTemplate) else ""
    yield query
    yield from (value for part in query.split("&") if "{" not in (value := part.partition("=")[2]))
    if isinstance(gateway, Pushgateway):
        yield from (gateway.user, gateway.password)
    for variable in _PROXIES:
        user, _, _ = environ.get(variable, "").rpartition("@")
        yield from user.partition("://")[2].split(":", 1) if "://" in user else user.split(":", 1)


def existing(path: Path) -> str | None:
    """Return the path if there is something."""
    return str(path) if path.exists() else None


def _is_readable_file(path: str) -> bool:
    return os.access(path, os.R_OK) and not Path(path).is_dir()


def _is_proxy(value: str) -> bool:
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        is_url = parts.scheme in _PROXY_SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return is_url and bool(re.fullmatch(r"[\x21-\x7e]+", value))
