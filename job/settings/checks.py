"""Checks of settings against each other, against the files that they name and against the machine."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from job import redaction
from job.errors import Fault
from job.layout import is_bucket, is_local_path
from job.settings.parsers import Pushgateway
from job.template import UrlTemplate

_CLUSTERS = ("KUBERNETES_SERVICE_HOST", "CLOUD_RUN_JOB", "AWS_BATCH_JOB_ID")
_PROXIES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
_PROXY_SCHEMES = {"http", "https", "socks4", "socks4a", "socks5", "socks5h"}
_RESERVED_HEADERS = (
    "Accept-Encoding",
    "Connection",
    "Content-Length",
    "Host",
    "If-Match",
    "If-Modified-Since",
    "If-None-Match",
    "If-Range",
    "If-Unmodified-Since",
    "Range",
    "Transfer-Encoding",
)
"""Headers that change how a response must be read; headers that were copied from a browser contain several of them."""
_CHECKSUM_LINE = re.compile(r"([0-9A-Fa-f]{64}) [ *](.+)")
_HASHED_NAME = "[0-9a-f]" * 8 + ".[0-9]*"
"""Under such a name OpenSSL looks for an authority in a directory."""
_NO_CERTIFICATES = "must hold certificates in PEM (BEGIN CERTIFICATE), not in DER, and at least one"
_KEY_CHARACTERS = 20
"""From this length on a segment of a ping's URL is a key or a UUID."""
_MAXIMUM_REPORTED_LINES = 10
"""A file of something else, such as codes, may have a million lines."""


@dataclass(frozen=True, slots=True)
class RawText:
    """The text of a setting before it is parsed, and the name of the option or variable that it comes from."""

    name: str
    text: str


def check_contradictions(raw: Mapping[str, RawText], *, has_codes: bool) -> Iterator[Fault]:
    """Yield a fault for each pair of settings that exclude each other; codes of the command line win over both."""
    if "url" in raw and "server" in raw:
        yield _exclusion(raw["server"], raw["url"])
    if "codes" in raw and "codes_file" in raw and not has_codes:
        yield _exclusion(raw["codes_file"], raw["codes"])


def _exclusion(one: RawText, other: RawText) -> Fault:
    return Fault(one.name, redaction.plain(one.text), f"and {other.name} exclude each other: set one of them")


def check_shards(raw: Mapping[str, RawText], parsed: Mapping[str, object]) -> Iterator[Fault]:
    """Yield the fault of a shard that does not exist, or of one that is set by half.

    With a count but no index, each of eight runs would download the first shard and report it as complete.
    """
    raw_index = raw.get("shard_index")
    raw_count = raw.get("shard_count")
    index = parsed["shard_index"]
    count = parsed["shard_count"]
    if not isinstance(index, int) or not isinstance(count, int):
        return  # its own fault was reported already
    if raw_index is None:
        if raw_count and count > 1:
            problem = "is set, but FLAGJOB_SHARD_INDEX is not: set the index of this shard, from 0"
            yield Fault(raw_count.name, raw_count.text, problem)
    elif raw_count is None:
        problem = "is set, but FLAGJOB_SHARD_COUNT is not: set the number of shards"
        yield Fault(raw_index.name, raw_index.text, problem)
    elif index >= count:
        problem = f"must be below {raw_count.name}, which is {raw_count.text}: shares count from 0"
        yield Fault(raw_index.name, raw_index.text, problem)


def check_sets(raw: Mapping[str, RawText], parsed: Mapping[str, object]) -> Iterator[Fault]:
    """Yield the faults of sets that cannot be published: only a directory has a link to a set of all files."""
    publish = raw.get("publish")
    dest = raw.get("dest")
    if not publish or parsed["publish"] != "set":
        return
    if dest and is_bucket(dest.text):
        yield Fault(publish.name, publish.text, f"needs a directory, but {dest.name} is a bucket")
    if parsed["shard_count"] not in {None, 1}:
        yield Fault(publish.name, publish.text, "cannot be divided into shards: no run has the whole set")


def check_bucket(raw: Mapping[str, RawText]) -> Iterator[Fault]:
    """Yield the fault of a directory of certificates: the client for buckets reads a file only."""
    dest = raw.get("dest")
    authorities = raw.get("ca_bundle")
    if dest and authorities and is_bucket(dest.text) and Path(authorities.text).is_dir():
        problem = f"must be a file of certificates, not a directory, where {dest.name} is a bucket"
        yield Fault(authorities.name, redaction.plain(authorities.text), problem)


def check_demonstration(raw: Mapping[str, RawText], environ: Mapping[str, str]) -> Iterator[Fault]:
    """Yield the fault of a run on a cluster that would use the built-in origin without having been asked to."""
    cluster = next((name for name in _CLUSTERS if environ.get(name)), None)
    has_origin = "url" in raw or "server" in raw
    has_url_variable = "FLAGJOB_URL" in environ or "FLAGJOB_URL_FILE" in environ  # empty: its own fault is enough
    if cluster and not has_origin and not has_url_variable:
        problem = f"must be set where {cluster} is; for the built-in origin, set FLAGJOB_SERVER=local"
        yield Fault("FLAGJOB_URL", None, problem)


def check_input_files(raw: Mapping[str, RawText]) -> Iterator[Fault]:
    """Yield a fault for each file that a run reads and cannot read."""
    codes = raw.get("codes_file")
    if codes and codes.text != "-" and not _is_readable_file(codes.text):
        yield Fault(codes.name, redaction.plain(codes.text), "must be a file that can be read, or - for standard input")


def check_certificates(raw: Mapping[str, RawText]) -> Iterator[Fault]:
    """Yield a fault for authorities that are none, and for a client certificate that cannot be used without asking."""
    authorities = raw.get("ca_bundle")
    certificate = raw.get("client_cert")
    if authorities:
        problem = _authorities_problem(Path(authorities.text))
        if problem:
            yield Fault(authorities.name, redaction.plain(authorities.text), problem)
    if certificate:
        problem = _client_certificate_problem(certificate.text)
        if problem:
            yield Fault(certificate.name, redaction.path(certificate.text), problem)


def _authorities_problem(path: Path) -> str | None:
    """Return what is wrong with a file or directory of certificate authorities, if anything is."""
    if path.is_dir():
        is_indexed = any(path.glob(_HASHED_NAME))
        return None if is_indexed else "must hold certificates under the names that `openssl rehash` makes"
    if not _is_readable_file(str(path)):
        return "must be a file or directory of certificates that can be read"
    import ssl  # noqa: PLC0415  (most runs name no authorities, and it takes its time)

    store = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        store.load_verify_locations(path)
    except (ssl.SSLError, OSError):
        return _NO_CERTIFICATES
    return None if store.cert_store_stats()["x509"] else _NO_CERTIFICATES


def _client_certificate_problem(path: str) -> str | None:
    """Return what is wrong with a file of a client certificate and its key, if anything is."""
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        return f"must be a file that can be read ({error.strerror})"
    if b"CERTIFICATE-----" not in text:
        return "must hold a certificate in PEM (BEGIN CERTIFICATE)"
    if b"PRIVATE KEY-----" not in text:
        return "must hold the certificate's key, too, in PEM (BEGIN PRIVATE KEY)"
    return _key_problem(path)


def _key_problem(path: str) -> str | None:
    """Return why OpenSSL cannot use the certificate and the key of a file, if it cannot."""
    import ssl  # noqa: PLC0415  (as above)

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(path, password=_refuse_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return "must hold the key of its first certificate, not another one"
        return f"must hold a certificate and a key that OpenSSL can read ({error.reason or error.strerror})"
    except ValueError as error:
        return str(error)
    return None


def _refuse_password() -> str:
    """Raise ValueError: nobody is there whom OpenSSL could ask for the passphrase of a key."""
    raise ValueError("must hold a key without a passphrase: nobody is there to type it (openssl pkey removes it)")


def check_output_files(raw: Mapping[str, RawText]) -> Iterator[Fault]:
    """Yield a fault for each file that a run writes at its end and cannot create."""
    for name in ("metrics_file", "termination_log"):
        target = raw.get(name)
        if target and (not Path(target.text).parent.is_dir() or Path(target.text).is_dir()):
            yield Fault(target.name, redaction.plain(target.text), "must be a file in a directory that exists")


def report_faults(name: str, text: str) -> list[Fault]:
    """Return the faults of a report that could not be made, or not be written where it is wanted."""
    problems: list[str] = []
    if find_spec("jinja2") is None:
        problems.append("needs Jinja2: pip install 'flagjob[report]'")
    if is_local_path(text) and not _can_be_written(Path(text)):
        problems.append("must be a file in a directory that exists and can be written")
    return [Fault(name, redaction.plain(text), problem) for problem in problems]


def check_proxies(environ: Mapping[str, str]) -> Iterator[Fault]:
    """Yield a fault for each proxy variable that is no URL; all other rules for proxies are those of requests."""
    for variable in _PROXIES:
        value = environ.get(variable, "")
        if value and not _is_proxy(value):
            yield Fault(variable, redaction.url(value), "must be a proxy's URL, such as http://proxy.example.org:3128")


def read_text(path: str) -> str:
    """Return the text of a file; raise ValueError, which contains nothing of the text, if it cannot be read."""
    try:
        return Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("must be a file of UTF-8 text") from None
    except OSError as error:
        raise ValueError(f"must be a file that can be read ({error.strerror})") from error


def read_headers(raw: RawText | None) -> tuple[Mapping[str, str], list[Fault]]:
    """Return the secret headers of a file by name, and the faults of the file, which contain none of its text."""
    if raw is None:
        return {}, []
    headers: dict[str, str] = {}
    problems: list[str] = []
    try:
        lines = read_text(raw.text).splitlines()
    except ValueError as error:
        return {}, [Fault(raw.name, redaction.path(raw.text), str(error))]
    for number, line in enumerate(map(str.strip, lines), 1):
        if line:
            problem = _add_header(line, headers)
            problems += [f"line {number} {problem}"] if problem else []
    return headers, [Fault(raw.name, redaction.path(raw.text), problem) for problem in problems]


def _add_header(line: str, headers: dict[str, str]) -> str | None:
    """Add the header of a line, or return the line's problem."""
    match = redaction.HEADER.fullmatch(line)
    if not match:
        return "must be `Name: value` in printable ASCII"
    name = match[1]
    if name.title() in _RESERVED_HEADERS:
        return f"must not set what is flagjob's own: {', '.join(_RESERVED_HEADERS)}"
    if name.lower() in map(str.lower, headers):
        return "repeats an earlier line's name"
    headers[name] = match[2]
    return None


def read_checksums(raw: RawText | None) -> tuple[Mapping[str, str], list[Fault]]:
    """Return the digests of a SHA256SUMS file by path, as sha256sum writes them, and the faults of the file."""
    if raw is None:
        return {}, []
    digests: dict[str, str] = {}
    problems: list[str] = []
    try:
        lines = read_text(raw.text).splitlines()
    except ValueError as error:
        return {}, [Fault(raw.name, redaction.plain(raw.text), str(error))]
    for number, line in enumerate(lines, 1):
        if line.strip():
            problem = _add_digest(line, digests)
            problems += [f"line {number} {problem}"] if problem else []
    if not digests and not problems:
        problems = ["must list a file: an empty list would let everything pass"]
    omitted = len(problems) - _MAXIMUM_REPORTED_LINES
    if omitted > 0:
        problems = [*problems[:_MAXIMUM_REPORTED_LINES], f"has {omitted} more lines that are wrong"]
    return digests, [Fault(raw.name, redaction.plain(raw.text), problem) for problem in problems]


def _add_digest(line: str, digests: dict[str, str]) -> str | None:
    """Add the digest of a line, or return the line's problem."""
    match = _CHECKSUM_LINE.fullmatch(line)
    if not match:
        return "must be a sha256 in hex, two blanks and a path, as sha256sum writes it"
    digest = match[1].lower()
    path = match[2].removeprefix("./")
    if digests.setdefault(path, digest) != digest:
        return "contradicts an earlier line about the same path"
    return None


class HeadersFile:
    """The file of secret headers, which another program may replace while the run goes on.

    It is known by what `stat` says of the file that its path leads to, so that a link that is set to another file, as
    Kubernetes does it, counts. Not thread-safe.
    """

    def __init__(
        self, path: str | None, headers: Mapping[str, str], report: Callable[[Mapping[str, str] | str], None]
    ) -> None:
        """Take the headers that were read at the start, and what is called with others, or with a problem."""
        self._path = path
        self._headers = headers
        self._report = report
        self._version: tuple[int, ...] = ()
        """Of the file as it was read last here; nothing until then, as it may have changed since the start."""

    def read_if_changed(self) -> Mapping[str, str] | None:
        """Return the headers if they are others by now; None also for a file that is not usable at the moment.

        They are reported before they are returned, so that they are masked in the log before they are sent.
        """
        headers = self._read_changed()
        if headers is None or headers == self._headers:
            return None
        if not headers:  # it may be that somebody is just writing the file
            self._report("must have a header: it is empty")
            return None
        self._headers = headers
        self._report(headers)
        return headers

    def _read_changed(self) -> Mapping[str, str] | None:
        if self._path is None:
            return None
        try:
            found = Path(self._path).stat()
        except OSError as error:
            self._report(f"must be a file that can be read ({error.strerror})")
            return None
        # The time of the last change, too: a file that is written in place may keep its size, and its mtime is coarse.
        version = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if version == self._version:
            return None
        self._version = version
        headers, faults = read_headers(RawText("FLAGJOB_HEADERS_FILE", self._path))
        for fault in faults:
            self._report(fault.problem)
        return None if faults else headers


def header_secrets(headers: Mapping[str, str]) -> Iterator[str]:
    """Yield the values of secret headers, and the credentials after a scheme, as in `Bearer TOKEN`."""
    for value in headers.values():
        yield value
        yield from value.split()[1:]


def secrets(parsed: Mapping[str, object], headers: Mapping[str, str], environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the texts that must never be printed.

    These are the secret headers, the query of the URL template, the passwords of Pushgateway and proxies, and what
    nobody could guess of the pings' URL.
    """
    yield from header_secrets(headers)
    url = parsed["url"]
    query = urlsplit(url.text).query if isinstance(url, UrlTemplate) else ""
    yield query
    for parameter in query.split("&"):
        value = parameter.partition("=")[2]
        if "{" not in value:
            yield value
    pushgateway = parsed["pushgateway_url"]
    if isinstance(pushgateway, Pushgateway):
        yield pushgateway.user
        yield pushgateway.password
    ping = parsed["ping_url"]
    if isinstance(ping, str):
        # A segment may also be a word that occurs by chance, such as the name of the job.
        yield from re.findall(rf"[^/?]{{{_KEY_CHARACTERS},}}", urlsplit(ping).path)
        yield urlsplit(ping).query
    for variable in _PROXIES:
        credentials, _, _ = environ.get(variable, "").rpartition("@")
        if "://" in credentials:
            credentials = credentials.partition("://")[2]
        yield from credentials.split(":", 1)


def existing(path: Path) -> str | None:
    """Return the path as text, or None if nothing exists there."""
    return str(path) if path.exists() else None


def _can_be_written(path: Path) -> bool:
    try:
        return not path.is_dir() and os.access(path.parent, os.W_OK | os.X_OK)
    except OSError:  # such as a name that is too long
        return False


def _is_readable_file(path: str) -> bool:
    return os.access(path, os.R_OK) and not Path(path).is_dir()


def _is_proxy(value: str) -> bool:
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        is_url = parts.scheme in _PROXY_SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return is_url and bool(re.fullmatch(r"[\x21-\x7e]+", value))
