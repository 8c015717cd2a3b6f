"""The sources of each setting, and the exact message of each wrong one."""

import os
import re
import ssl
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from certifi import where
from command import flagjob
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import row

from job.errors import UsageError
from job.model import Budget, FileType, Refresh
from job.settings import (
    OPTIONS,
    Executor,
    LogFormat,
    LogResults,
    NewOrigin,
    Order,
    Publish,
    Pushgateway,
    Server,
    Settings,
    checks,
    parse_arguments,
)
from job.settings import load as load_settings
from job.settings.options import LogLevel
from job.settings.parsers import Address
from job.template import FileTemplate, UrlTemplate

SECRET = "hunter2-and-more"  # noqa: S105  (an example of one)
URL = "https://example.org/{cc}.gif"
NAME = "must be up to 63 letters, digits, hyphens, dots or underscores, and must not end in -live"
LABELS = "must be labels, each once, such as team=maps,env=prod"
OWN_LABELS = "must not begin with __, and be none of job, le, outcome, python, reason, revision, shard, status, version"
WHOLE = "must be a whole number from"
TIME = "seconds, such as 30, 1.5, 500ms, 5m or 1h"
SIZE = "must be a size from 1 byte to 1TiB, such as 5242880, 500kB or 5MiB"
BUDGET = "must be a whole number of items or a percentage of them up to 100%, such as 3 or 5%"
TYPES = "must be one or more of gif, png, jpeg, webp, svg, avif, ico, pdf, zip, gzip, json, xml, binary, any"
HOSTS = "must be host names without scheme or port, such as cdn.example.org"
ADDRESS = "must be HOST:PORT or :PORT, such as :9464 or 127.0.0.1:9464"
PARAMETERS = "must be names of query parameters, such as token or hdnts, separated by commas or blanks"
DIGESTS = "must be sha256 digests of 64 hexadecimal digits, separated by commas or blanks"
LINE = "must be one line of printable ASCII"
UTF_8 = "must be UTF-8 text"
REPORT = "must be a name such as report.html, which is one below the destination, or a path with a /"
WRITABLE = "must be a file in a directory that exists and can be written"
IN_A_DIRECTORY = "must be a file in a directory that exists"
MALFORMED = "must be a URL with a host, and if it names a port, one from 1 to 65535"
PLACEHOLDER = (
    "must hold {cc} or {CC} (a code in lower or upper case), or {id} (verbatim); "
    "other {...} only where the list is a table (.csv, .tsv, .jsonl)"
)
FILE_PLACEHOLDER = "must hold a placeholder of the URL, or all items would have one file"
FILE_BRACES = "must hold no braces but those of placeholders, as {id}, or {id:.2} for two characters"
FILE_PATH = "must be a path below the destination, of letters, digits and ._@+~'():=,%- between slashes"
NO_USER = "must hold no user and password: put an Authorization line into FLAGJOB_HEADERS_FILE"
ASCII = "must be a URL in ASCII, with other characters percent-encoded"
NO_QUERY = "must have no query and no fragment: ? in a password is %3F, # is %23"
IN_PATH = "must have no @ in its path: / in a password is %2F"
HTTP = "must begin with http:// or https:// and name a host"
RATE = "must be a number of requests a second, up to 1000000, or 0 for no limit"
PROXY = "must be a proxy's URL, such as http://proxy.example.org:3128"
NO_BUCKET = "must be a directory of this machine, or a bucket: s3://bucket/prefix, gs://... or az://..."
BUCKET = "must be s3://bucket/prefix, gs://bucket/prefix or az://container/prefix, of letters, digits and . _ = -"
SUM = "must be a sha256 in hex, two blanks and a path, as sha256sum writes it"
DIGEST = "1f" * 32

REJECTED = [
    ("codes", ",", "','", "must be codes or names of sets, such as BR CN or ALL"),
    ("codes", "BR \udcff", r"'BR \\xff'", UTF_8),
    ("codes_file", "/nowhere/codes", "'/nowhere/codes'", "must be a file that can be read, or - for standard input"),
    ("codes_file", "/", "'/'", "must be a file that can be read, or - for standard input"),
    ("codes_file", "\udcff", r"'\\xff'", UTF_8),
    ("limit", "0", "'0'", f"{WHOLE} 1 to 1000000000"),
    ("limit", "1000000001", "'1000000001'", f"{WHOLE} 1 to 1000000000"),
    ("server", "remotely", "'remotely'", "must be one of local, delay, error, remote"),
    ("url", "example.org/{cc}", "'***'", HTTP),
    ("url", "ftp://example.org/{cc}", "'ftp://example.org/{cc}'", HTTP),
    ("url", "https:///{cc}", "'https:///{cc}'", HTTP),
    ("url", "https://example.org/", "'https://example.org/'", PLACEHOLDER),
    ("url", "https://example.org/{code}", "'https://example.org/{code}'", PLACEHOLDER),
    ("url", "https://example.org/{cc}/{id}", "'https://example.org/{cc}/{id}'", PLACEHOLDER),
    (
        "url",
        "https://example.org/{cc}}",
        "'https://example.org/{cc}}'",
        "must hold no braces but those of its placeholder",
    ),
    (
        "url",
        "https://{cc}.example.org/",
        "'https://{cc}.example.org/'",
        "must have its placeholder in the path or the query, never in the host",
    ),
    (
        "url",
        f"https://example.org/{{cc}}#{SECRET}",
        "'https://example.org/{cc}#***'",
        "must have no fragment (#...): it is never sent",
    ),
    (
        "url",
        "https://example.org/\u00e9/{cc}",
        "'https://example.org/\u00e9/{cc}'",
        ASCII,
    ),
    ("url", f"https://me:{SECRET}@example.org/{{cc}}", "'https://***@example.org/{cc}'", NO_USER),
    ("url", f"https://me:{SECRET}/@example.org/{{cc}}", "'https://***@example.org/{cc}'", MALFORMED),
    ("url", f"https://me@[{SECRET}]/{{cc}}?key={SECRET}", f"'https://***@[{SECRET}]/{{cc}}?***'", MALFORMED),
    ("url", "https://example.org:port/{cc}", "'https://example.org:port/{cc}'", MALFORMED),
    ("url", f"ftp://me@example.org/{{cc}}?{SECRET}", "'ftp://***@example.org/{cc}?***'", HTTP),
    ("dest", "https://bucket.example.org/flags", "'https://bucket.example.org/flags'", NO_BUCKET),
    ("dest", "S3://bucket", "'S3://bucket'", NO_BUCKET),
    ("dest", "s3a://bucket", "'s3a://bucket'", NO_BUCKET),
    ("dest", "s3:/bucket/flags", "'s3:/bucket/flags'", NO_BUCKET),
    ("dest", "gs:bucket", "'gs:bucket'", NO_BUCKET),
    ("dest", "~/flags", "'~/flags'", "must be the full path: flagjob does not expand ~"),
    ("dest", "s3://", "'s3://'", BUCKET),
    ("dest", "gs:///flags", "'gs:///flags'", BUCKET),
    ("dest", "az://container/../flags", "'az://container/../flags'", BUCKET),
    ("file", "{id", "'{id'", FILE_PLACEHOLDER),
    ("file", "flag.gif", "'flag.gif'", FILE_PLACEHOLDER),
    ("file", "{cc:2}.gif", "'{cc:2}.gif'", FILE_PLACEHOLDER),
    ("file", "{cc}{", "'{cc}{'", FILE_BRACES),
    ("file", "{cc:.2}}", "'{cc:.2}}'", FILE_BRACES),
    ("file", "{cc}/{}", "'{cc}/{}'", FILE_BRACES),
    ("file", "/{cc}", "'/{cc}'", FILE_PATH),
    ("file", "../{cc}", "'../{cc}'", FILE_PATH),
    ("file", "{cc}/", "'{cc}/'", FILE_PATH),
    ("file", "SHA256SUMS/{cc}", "'SHA256SUMS/{cc}'", FILE_PATH),
    ("file", ".flagjob/{cc}", "'.flagjob/{cc}'", FILE_PATH),
    ("file", "a\\{cc}", r"'a\\{cc}'", FILE_PATH),
    (
        "file",
        "{id}.gif",
        "'{id}.gif'",
        "must hold {cc} or {CC}, as the URL does; other {...} only where the list is a table (.csv, .tsv, .jsonl)",
    ),
    (
        "file",
        "{cc}/{name}.gif",
        "'{cc}/{name}.gif'",
        "must hold {cc} or {CC}, as the URL does; other {...} only where the list is a table (.csv, .tsv, .jsonl)",
    ),
    ("dest", "s3://bucket/a b", "'s3://bucket/a b'", BUCKET),
    ("dest", f"s3://key:{SECRET}@bucket/flags", "'s3://***@bucket/flags'", BUCKET),
    ("dest", f"s3://bucket/flags?key={SECRET}", "'s3://bucket/flags?***'", BUCKET),
    ("dest", "a\0b", r"'a\x00b'", "must be a path"),
    ("dest", "\udcff", r"'\\xff'", UTF_8),
    ("workers", "0", "'0'", f"{WHOLE} 1 to 1000"),
    ("workers", "1001", "'1001'", f"{WHOLE} 1 to 1000"),
    ("workers", "-1", "'-1'", f"{WHOLE} 1 to 1000"),
    ("workers", "+1", "'+1'", f"{WHOLE} 1 to 1000"),
    ("workers", "1.5", "'1.5'", f"{WHOLE} 1 to 1000"),
    ("workers", "1_0", "'1_0'", f"{WHOLE} 1 to 1000"),
    ("workers", "many", "'many'", f"{WHOLE} 1 to 1000"),
    ("workers", "\u0663", "'\u0663'", f"{WHOLE} 1 to 1000"),
    ("workers", "\u00b2", "'\u00b2'", f"{WHOLE} 1 to 1000"),
    ("workers", "\udcff", r"'\\xff'", f"{WHOLE} 1 to 1000"),
    ("workers", "9" * 5000, f"'{'9' * 200}...'", f"{WHOLE} 1 to 1000"),
    ("executor", "processes", "'processes'", "must be one of threads, greenlets, sequential"),
    ("order", "alphabetical", "'alphabetical'", "must be one of completed, submitted"),
    ("rate_limit", "-1", "'-1'", RATE),
    ("rate_limit", "1000001", "'1000001'", RATE),
    ("rate_limit", "5/s", "'5/s'", RATE),
    ("rate_limit", "1e3", "'1e3'", RATE),
    ("rate_limit", "nan", "'nan'", RATE),
    ("rate_limit", "\u0663", "'\u0663'", RATE),
    ("max_attempts", "101", "'101'", f"{WHOLE} 1 to 100"),
    ("connect_timeout", "0", "'0'", f"must be a time from 0.1 to 3600 {TIME}"),
    ("connect_timeout", "-1", "'-1'", f"must be a time from 0.1 to 3600 {TIME}"),
    ("connect_timeout", "nan", "'nan'", f"must be a time from 0.1 to 3600 {TIME}"),
    ("connect_timeout", "1e3", "'1e3'", f"must be a time from 0.1 to 3600 {TIME}"),
    ("connect_timeout", "\u0663", "'\u0663'", f"must be a time from 0.1 to 3600 {TIME}"),
    ("read_timeout", "500ms", "'500ms'", f"must be a time from 1 to 3600 {TIME}"),
    ("attempt_timeout", "inf", "'inf'", f"must be a time from 0.1 to 86400 {TIME}"),
    ("item_timeout", "2d", "'2d'", f"must be a time from 0.1 to 86400 {TIME}"),
    ("deadline", "1 week", "'1 week'", f"must be a time from 1 to 864000 {TIME}"),
    ("shutdown_grace", "2h", "'2h'", f"must be a time from 0.1 to 3600 {TIME}"),
    ("origin_patience", "-1", "'-1'", f"must be a time from 0 to 86400 {TIME}"),
    ("origin_patience", "25h", "'25h'", f"must be a time from 0 to 86400 {TIME}"),
    ("max_bytes", "0", "'0'", SIZE),
    ("max_bytes", "0.5", "'0.5'", SIZE),
    ("max_bytes", "1.001TiB", "'1.001TiB'", SIZE),
    ("max_bytes", "5iB", "'5iB'", SIZE),
    ("max_bytes", "5 \u212aB", "'5 \u212aB'", SIZE),
    ("max_bytes", "5 apples", "'5 apples'", SIZE),
    ("accept", "gif,bmp", "'gif,bmp'", TYPES),
    ("accept", ",", "','", TYPES),
    ("redirect_hosts", "https://cdn.example.org", "'https://cdn.example.org'", HOSTS),
    ("redirect_hosts", "cdn.example.org:443", "'cdn.example.org:443'", HOSTS),
    ("redirect_hosts", "*.example.org", "'*.example.org'", HOSTS),
    ("redirect_hosts", ",", "','", HOSTS),
    ("url_ignore_query", "token=", "'token='", PARAMETERS),
    ("url_ignore_query", "x-oss-*", "'x-oss-*'", PARAMETERS),
    ("url_ignore_query", ",", "','", PARAMETERS),
    ("refresh", "sometimes", "'sometimes'", "must be one of conditional, missing, always"),
    ("not_found_ttl", "-1", "'-1'", f"must be a time from 0 to 31536000 {TIME}"),
    ("min_codes", "-1", "'-1'", "must be a whole number from 0 to 1000000000"),
    ("recheck_after", "1w", "'1w'", f"must be a time from 0 to 31536000 {TIME}"),
    ("not_found_ttl", "366d", "'366d'", f"must be a time from 0 to 31536000 {TIME}"),
    ("checksums", "/nowhere", "'/nowhere'", "must be a file that can be read (No such file or directory)"),
    ("checksums", "/", "'/'", "must be a file that can be read (Is a directory)"),
    ("checksums", "/dev/null", "'/dev/null'", "must list a file: an empty list would let everything pass"),
    ("checksums", "\udcff", r"'\\xff'", UTF_8),
    ("placeholders", "f" * 63, f"'{'f' * 63}'", DIGESTS),
    ("placeholders", ",", "','", DIGESTS),
    ("publish", "all", "'all'", "must be one of each, set"),
    ("keep", "0", "'0'", f"{WHOLE} 1 to 1000"),
    ("keep", "1001", "'1001'", f"{WHOLE} 1 to 1000"),
    ("new_origin", "yes", "'yes'", "must be one of refuse, accept"),
    ("shard_index", "-1", "'-1'", f"{WHOLE} 0 to 99999"),
    ("shard_index", "100000", "'100000'", f"{WHOLE} 0 to 99999"),
    ("shard_index", "\udcff", r"'\\xff'", f"{WHOLE} 0 to 99999"),
    ("shard_count", "0", "'0'", f"{WHOLE} 1 to 100000"),
    ("shard_count", "100001", "'100001'", f"{WHOLE} 1 to 100000"),
    ("max_changed", "100.1%", "'100.1%'", BUDGET),
    ("max_changed", "-1", "'-1'", BUDGET),
    ("max_errors", "-1", "'-1'", BUDGET),
    ("max_errors", "1.5", "'1.5'", BUDGET),
    ("max_not_found", "101%", "'101%'", BUDGET),
    ("max_errors", "3 apples", "'3 apples'", BUDGET),
    ("max_not_found", "5%%", "'5%%'", BUDGET),
    ("max_not_found", "some", "'some'", BUDGET),
    ("user_agent", "a\nb", r"'a\nb'", LINE),
    ("user_agent", "\u00e9", "'\u00e9'", LINE),
    ("headers_file", "/nowhere", "'/nowhere'", "must be a file that can be read (No such file or directory)"),
    ("headers_file", "/", "'/'", "must be a file that can be read (Is a directory)"),
    (
        "headers_file",
        f"Authorization: Bearer {SECRET}",
        "'***'",
        "must be a file that can be read (No such file or directory)",
    ),
    ("headers_file", "\udcff", r"'\\xff'", UTF_8),
    ("ca_bundle", "/nowhere", "'/nowhere'", "must be a file or directory of certificates that can be read"),
    ("client_cert", "/nowhere", "'/nowhere'", "must be a file that can be read (No such file or directory)"),
    ("client_cert", "/", "'/'", "must be a file that can be read (Is a directory)"),
    ("client_cert", "X: -----BEGIN", "'***'", "must be a file that can be read (No such file or directory)"),
    ("client_cert", "\udcff", r"'\\xff'", UTF_8),
    ("metrics_address", "9464", "'9464'", ADDRESS),
    ("metrics_address", ":65536", "':65536'", ADDRESS),
    ("metrics_address", ":0000000009999", "':0000000009999'", ADDRESS),
    ("metrics_address", ":\u00b2", "':\u00b2'", ADDRESS),
    ("metrics_address", "::1:9464", "'::1:9464'", ADDRESS),
    ("metrics_address", "http://localhost:9464", "'http://localhost:9464'", ADDRESS),
    ("metrics_linger", "-1", "'-1'", f"must be a time from 0 to 3600 {TIME}"),
    ("metrics_linger", "61m", "'61m'", f"must be a time from 0 to 3600 {TIME}"),
    ("metrics_file", "/nowhere/flagjob.prom", "'/nowhere/flagjob.prom'", IN_A_DIRECTORY),
    ("metrics_file", "/tmp", "'/tmp'", IN_A_DIRECTORY),  # noqa: S108  (a directory that is there)
    ("pushgateway_url", "gateway:9091", "'***'", HTTP),
    ("pushgateway_url", "gateway", "'***'", HTTP),
    ("pushgateway_url", "ftp://gateway", "'ftp://gateway'", HTTP),
    ("pushgateway_url", f"http://me:{SECRET}@", "'http://***@'", HTTP),
    ("pushgateway_url", "http://gateway:0", "'http://gateway:0'", MALFORMED),
    ("pushgateway_url", "http://gateway:65536", "'http://gateway:65536'", MALFORMED),
    ("pushgateway_url", "http://gateway:port", "'http://gateway:port'", MALFORMED),
    ("pushgateway_url", "http://[::1", "'http://[::1'", MALFORMED),
    ("pushgateway_url", f"http://me:{SECRET}/@gateway", "'http://***@gateway'", MALFORMED),
    ("pushgateway_url", "http://me:9091/@gateway", "'http://***@gateway'", IN_PATH),
    ("pushgateway_url", f"http://gateway?{SECRET}", "'http://gateway?***'", NO_QUERY),
    ("pushgateway_url", f"http://me:9091#{SECRET}@gateway", "'http://***@gateway'", NO_QUERY),
    ("pushgateway_url", "http://gate way", "'http://gate way'", ASCII),
    ("pushgateway_url", f"http://me:{SECRET}\u00e9@gateway", "'http://***@gateway'", ASCII),
    ("name", "maps live", "'maps live'", NAME),
    ("name", "maps-live", "'maps-live'", NAME),
    ("name", "m" * 64, f"'{'m' * 64}'", NAME),
    ("name", "-maps", "'-maps'", NAME),
    ("pushgateway_labels", "team", "'team'", LABELS),
    ("pushgateway_labels", "team=", "'team='", LABELS),
    ("pushgateway_labels", "team=a,team=b", "'team=a,team=b'", LABELS),
    ("pushgateway_labels", "te-am=a", "'te-am=a'", LABELS),
    ("pushgateway_labels", "team=ä", "'team=ä'", LABELS),
    ("pushgateway_labels", "team=a,job=b", "'team=a,job=b'", OWN_LABELS),
    ("pushgateway_labels", "__team=a", "'__team=a'", OWN_LABELS),
    ("ping_url", "hc-ping.com/x", "'***'", HTTP),
    ("ping_url", f"ftp://host/{SECRET}", "'ftp://host/***'", HTTP),
    ("ping_url", f"https://me:{SECRET}@host/x", "'https://***@host/***'", MALFORMED),
    ("ping_url", f"https://host/{SECRET}#x", "'https://host/***'", "must have no fragment"),
    ("log_format", "yaml", "'yaml'", "must be one of auto, json, console, gcp"),
    ("log_level", "warn", "'warn'", "must be one of debug, info, warning, error"),
    ("report", "page.txt", "'page.txt'", REPORT),
    ("report", "manifest.jsonl", "'manifest.jsonl'", REPORT),
    ("report", ".html", "'.html'", REPORT),
    ("report", "\udcff/x", r"'\\xff/x'", UTF_8),
    ("report", "/nowhere/page.html", "'/nowhere/page.html'", WRITABLE),
    ("report", "/", "'/'", WRITABLE),
    ("log_results", "none", "'none'", "must be one of all, changed, problems"),
    ("termination_log", "/nowhere/log", "'/nowhere/log'", IN_A_DIRECTORY),
    ("termination_log", "/", "'/'", IN_A_DIRECTORY),
]
GOOD: dict[str, tuple[str, object]] = {
    "codes": ("BR, CN", "BR, CN"),
    "codes_file": ("-", "-"),
    "limit": ("5", 5),
    "server": ("ERROR", Server.ERROR),
    "url": (URL, UrlTemplate.parse(URL)),
    "min_codes": ("70000", 70_000),
    "dest": ("/data", "/data"),
    "file": ("{cc:.1}/{cc}.gif", FileTemplate.parse("{cc:.1}/{cc}.gif")),
    "workers": ("1000", 1000),
    "executor": ("Sequential", Executor.SEQUENTIAL),
    "order": ("submitted", Order.SUBMITTED),
    "rate_limit": ("2.5", 2.5),
    "max_attempts": ("1", 1),
    "connect_timeout": ("100ms", 0.1),
    "read_timeout": ("1", 1.0),
    "attempt_timeout": ("1m", 60.0),
    "item_timeout": ("1d", 86400.0),
    "deadline": ("10d", 864000.0),
    "shutdown_grace": ("1h", 3600.0),
    "origin_patience": ("10m", 600.0),
    "max_bytes": ("1kB", 1000),
    "accept": ("any,gif", (FileType.ANY, FileType.GIF)),
    "redirect_hosts": ("cdn.example.org", ("cdn.example.org",)),
    "url_ignore_query": ("hdnts, Token x[1]", ("hdnts", "Token", "x[1]")),
    "refresh": ("Missing", Refresh.MISSING),
    "not_found_ttl": ("365d", 31_536_000.0),
    "recheck_after": ("7d", 604_800.0),
    "placeholders": (f"{'0' * 64}, {'F' * 64}", ("0" * 64, "f" * 64)),
    "publish": ("set", Publish.SET),
    "keep": ("1000", 1000),
    "new_origin": ("accept", NewOrigin.ACCEPT),
    "shard_index": ("7", 7),
    "shard_count": ("8", 8),
    "max_changed": ("20%", Budget(0.2, is_share=True)),
    "max_errors": ("3", Budget(3)),
    "max_not_found": ("5%", Budget(0.05, is_share=True)),
    "user_agent": ("mirror/1.0", "mirror/1.0"),
    "headers_file": ("/dev/null", "/dev/null"),
    "ca_bundle": (where(), where()),
    "metrics_address": (":9464", Address("", 9464)),
    "metrics_linger": ("1m", 60.0),
    "metrics_file": ("flagjob.prom", "flagjob.prom"),
    "pushgateway_url": ("http://gateway:9091", Pushgateway("http://gateway:9091")),
    "name": ("Maps_2.eu-west", "Maps_2.eu-west"),
    "pushgateway_labels": ("team=maps, env=prod", (("team", "maps"), ("env", "prod"))),
    "ping_url": ("https://hc-ping.com/key/slug?create=1", "https://hc-ping.com/key/slug?create=1"),
    "log_format": ("json", LogFormat.JSON),
    "log_level": ("Debug", LogLevel.DEBUG),
    "report": ("report.html", "report.html"),
    "log_results": ("changed", LogResults.CHANGED),
    "termination_log": ("summary.json", "summary.json"),
}
BESIDE = {"shard_index": {"FLAGJOB_SHARD_COUNT": "8"}, "shard_count": {"FLAGJOB_SHARD_INDEX": "7"}}
"""The variable that a setting needs beside it."""
VARIABLES = {option.name: option.variable for option in OPTIONS}
FLAGS = {option.name: option.flag for option in OPTIONS}


def load(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Return the settings of this command line and these variables."""
    return load_settings(parse_arguments(argv), environ)


def faults(*argv: str, environ: Mapping[str, str] | None = None, **variables: str) -> list[str]:
    """Return the messages of all faults of these arguments and variables."""
    with pytest.raises(UsageError) as caught:
        load(argv, {**(environ or {}), **variables})
    return [str(fault) for fault in caught.value.faults]


def file(path: Path, content: str | bytes) -> str:
    """Write a file and return its path."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize(("name", "text", "shown", "problem"), REJECTED)
def test_rejected_variables(name: str, text: str, shown: str, problem: str) -> None:
    """A wrong variable is one fault: its name, its redacted value, and a description of a valid value."""
    assert faults(environ={VARIABLES[name]: text}) == [f"{VARIABLES[name]} {shown}: {problem}"]


@pytest.mark.parametrize(("name", "text", "shown", "problem"), REJECTED)
def test_rejected_options(name: str, text: str, shown: str, problem: str) -> None:
    """A wrong option is the same fault, by the option's name."""
    assert faults(f"{FLAGS[name]}={text}") == [f"{FLAGS[name]} {shown}: {problem}"]


def test_every_setting_has_rejected_values() -> None:
    """No setting accepts every text."""
    assert {name for name, *_ in REJECTED} == set(VARIABLES)


@pytest.mark.parametrize("name", [option.name for option in OPTIONS if option.name not in {"codes", "user_agent"}])
def test_empty_options(name: str) -> None:
    """An empty option is a fault: unlike an empty variable, it is no accident."""
    assert [fault.partition(": ")[0] for fault in faults(FLAGS[name], "")] in (
        [f"{FLAGS[name]} ''"],
        [f"{FLAGS[name]} '***'"],
    )


@pytest.fixture
def good(tmp_path: Path) -> dict[str, tuple[str, object]]:
    """Return a valid text of each setting, and its value."""
    sums = file(tmp_path / "SHA256SUMS", f"{DIGEST}  br.gif\n")
    certificate = file(tmp_path / "client.pem", CERTIFICATE + KEY)
    return {**GOOD, "checksums": (sums, sums), "client_cert": (certificate, certificate)}


@pytest.mark.parametrize("name", VARIABLES)
def test_every_setting_is_a_variable(name: str, good: Mapping[str, tuple[str, object]]) -> None:
    """Each setting can be given by its variable; blanks around the text have no effect."""
    text, value = good[name]
    assert getattr(load([], {**BESIDE.get(name, {}), VARIABLES[name]: f" {text}\n"}), name) == value


@pytest.mark.parametrize("name", VARIABLES)
def test_every_setting_is_an_option(name: str, good: Mapping[str, tuple[str, object]]) -> None:
    """Each setting can be given by its option in both notations; the option wins over the variable."""
    text, value = good[name]
    beside = BESIDE.get(name, {})
    assert getattr(load([FLAGS[name], text], {**beside, VARIABLES[name]: "\0"}), name) == value
    assert getattr(load([f"{FLAGS[name]}={text}"], beside), name) == value


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["-m", "7"], "workers", 7),
        (["-m7"], "workers", 7),
        (["--max-req", "7"], "workers", 7),
        (["-l", "7"], "limit", 7),
        (["-s", "DELAY"], "server", Server.DELAY),
        (["-o", "flags"], "dest", "flags"),
        (["-v"], "verbose", True),
        (["--dry-run"], "dry_run", True),
    ],
)
def test_short_options(argv: list[str], name: str, value: object) -> None:
    """The short options of the book and the switches work."""
    assert getattr(load(argv, {}), name) == value


def test_defaults() -> None:
    """Without any setting a run has every documented default, and no changed or secret text."""
    found = load([], {})
    assert {
        option.name: getattr(found, option.name)
        for option in OPTIONS
        if option.default is None and option.name != "termination_log"
    }
    assert (found.workers, found.max_bytes, found.deadline) == (30, 5 * 1024**2, 3600)
    assert (found.executor, found.order, found.rate_limit) == (Executor.THREADS, Order.COMPLETED, 0)
    assert (found.refresh, found.not_found_ttl, found.new_origin) == (Refresh.CONDITIONAL, 0, NewOrigin.REFUSE)
    assert (found.publish, found.keep, found.max_changed) == (Publish.EACH, 3, Budget(1, is_share=True))
    assert (found.shard_index, found.shard_count, found.checksums, found.expected_digests) == (0, 1, None, {})
    assert (found.origin_patience, found.metrics_linger, found.pushgateway_url) == (None, 0, None)
    assert (found.name, found.pushgateway_labels) == ("flagjob", ())
    assert (found.url, found.server, found.codes, found.codes_file, found.redirect_hosts) == (
        None,
        None,
        None,
        None,
        (),
    )
    assert (found.arguments, found.changed, found.secrets, found.secret_headers) == ((), {}, (), {})
    assert (found.verbose, found.dry_run) == (False, False)


def test_empty_variables_are_not_set() -> None:
    """A variable that is empty or blank counts as not set."""
    dangerous = {"FLAGJOB_URL", "FLAGJOB_CODES", "FLAGJOB_CODES_FILE"}
    assert load([], {name: " " for name in VARIABLES.values() if name not in dangerous}) == load([], {})


@pytest.mark.parametrize("variable", ["FLAGJOB_URL", "FLAGJOB_URL_FILE", "FLAGJOB_CODES", "FLAGJOB_CODES_FILE"])
@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_code_or_url_is_a_fault(variable: str, text: str) -> None:
    """Codes or a URL that are set but empty are one fault, also on a cluster: no demonstration runs in their place."""
    expected = f"{variable} {text!r}: is set but empty: give it a value, or do not set it"
    assert faults(environ={variable: text}) == [expected]
    asked = {} if "URL" in variable else {"FLAGJOB_SERVER": "local"}
    assert faults(environ={variable: text, "KUBERNETES_SERVICE_HOST": "10.0.0.1", **asked}) == [expected]


def test_the_last_of_two_options_counts() -> None:
    """The last value of an option that is given twice counts, so that an alias can be overridden."""
    assert load(["--workers", "5", "-m", "6"], {}).workers == 6


def test_arguments_and_options_mix() -> None:
    """Codes may be before, between and after options; after -- they may begin with a dash."""
    assert load(["BR", "-m", "5", "CN", "--dest=x", "US"], {}).arguments == ("BR", "CN", "US")
    assert load(["-m", "5", "--", "-x"], {}).arguments == ("-x",)


def test_switches_choose_sets() -> None:
    """The book's --all and --every are the sets of these names, before other codes."""
    assert load(["-a"], {}).arguments == ("ALL",)
    assert load(["GB-ENG", "-ae"], {}).arguments == ("ALL", "EVERY", "GB-ENG")


def test_every_fault_at_once() -> None:
    """Eight wrong settings are eight faults, each with its name, its value and a description of a valid value."""
    found = faults(
        "--limit=none",
        "--wrokers=5",
        FLAGJOB_URL="",
        FLAGJOB_WORKERS="0",
        FLAGJOB_DEADLIN="5m",
        FLAGJOB_ACCEPT="bmp",
        FLAGJOB_HEADERS_FILE="/nowhere",
        https_proxy="http://u:p@",
    )
    assert sorted(found) == [
        "--limit 'none': must be a whole number from 1 to 1000000000",
        "--wrokers: is not a known option; did you mean --workers?",
        f"FLAGJOB_ACCEPT 'bmp': {TYPES}",
        "FLAGJOB_DEADLIN: is not a known setting; did you mean FLAGJOB_DEADLINE?",
        "FLAGJOB_HEADERS_FILE '/nowhere': must be a file that can be read (No such file or directory)",
        "FLAGJOB_URL '': is set but empty: give it a value, or do not set it",
        "FLAGJOB_WORKERS '0': must be a whole number from 1 to 1000",
        f"https_proxy 'http://***@': {PROXY}",
    ]


def test_every_row_at_once() -> None:
    """All settings may be wrong at once, and all are reported."""
    wrong = {VARIABLES[name]: text for name, text, *_ in reversed(REJECTED) if "FILE" not in VARIABLES[name]}
    events = {fault.split()[0] for fault in faults(environ=wrong)}
    assert events == {*wrong}


def test_malformed_arguments_hide_nothing() -> None:
    """An option without its value does not hide a wrong variable."""
    assert faults("--workers", FLAGJOB_LIMIT="0") == [
        "arguments: argument -m/--max-req/--workers: expected one argument",
        "FLAGJOB_LIMIT '0': must be a whole number from 1 to 1000000000",
    ]


@pytest.mark.parametrize(
    ("word", "fault"),
    [
        ("--xyzzy", "--xyzzy: is not a known option"),
        (f"--ulr=https://{SECRET}@example.org", "--ulr: is not a known option; did you mean --url?"),
        ("--work=5", "--work: is not a known option; did you mean --workers?"),
        (f"--all={SECRET}", "arguments: argument -a/--all: ignored explicit argument"),
        ("-x\udcff", "-x\\xff: is not a known option"),
    ],
)
def test_unknown_options(word: str, fault: str) -> None:
    """An unknown or abbreviated option is a fault without its value; it names the option that was probably meant."""
    assert faults(word) == [fault]


def test_unknown_variables() -> None:
    """An unknown variable is a fault without its value, which may be a secret; it names the one that was meant."""
    unknown = {
        "FLAGJOB_HEADERS": f"X-Key: {SECRET}",
        "FLAGJOB_TOKEN": SECRET,
        "FLAGJOB_ULR": f"{URL}?{SECRET}",
        "FLAGJOB_USER_PASS": SECRET,
        "FLAGJOB_WORKRES": "5",
        "FLAGJOB_\udcff": "1",
        "FLAGJOBS": "1",
    }
    assert faults(environ=unknown) == [
        "FLAGJOB_HEADERS: is not a known setting; did you mean FLAGJOB_HEADERS_FILE?",
        "FLAGJOB_TOKEN: is not a known setting",
        "FLAGJOB_ULR: is not a known setting; did you mean FLAGJOB_URL?",
        "FLAGJOB_USER_PASS: is not a known setting",
        "FLAGJOB_WORKRES: is not a known setting; did you mean FLAGJOB_WORKERS?",
        "FLAGJOB_\\xff: is not a known setting",
    ]


@pytest.mark.parametrize("service", ["FLAGJOB", "FLAGJOB_METRICS", "FLAGJOB_2"])
@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
def test_services(service: str, protocol: str) -> None:
    """The variables that Kubernetes injects for Services such as flagjob and flagjob-metrics are no faults."""
    port = f"{service}_PORT_9464_{protocol.upper()}"
    injected = {
        f"{service}_SERVICE_HOST": "10.0.0.7",
        f"{service}_SERVICE_PORT": "9464",
        f"{service}_SERVICE_PORT_HTTP_METRICS": "9464",
        f"{service}_PORT": f"{protocol}://10.0.0.7:9464",
        port: f"{protocol}://10.0.0.7:9464",
        f"{port}_PROTO": protocol,
        f"{port}_PORT": "9464",
        f"{port}_ADDR": "10.0.0.7",
    }
    assert load([], injected) == load([], {})


def test_a_port_that_was_not_injected() -> None:
    """A bare number in a variable that Kubernetes could inject is a fault: it was meant as a setting."""
    assert faults(FLAGJOB_METRICS_PORT="9464") == [
        "FLAGJOB_METRICS_PORT: is not a known setting; did you mean FLAGJOB_METRICS_LINGER?"
    ]
    assert faults(FLAGJOB_SERVICE_PORT="9464 or so") == [
        "FLAGJOB_SERVICE_PORT: is not a known setting; did you mean FLAGJOB_SERVER?"
    ]


def test_url_or_server() -> None:
    """A URL and a server exclude each other, as variables and as options, and no secret is shown."""
    assert faults(FLAGJOB_URL=f"{URL}?{SECRET}", FLAGJOB_SERVER="local") == [
        "FLAGJOB_SERVER 'local': and FLAGJOB_URL exclude each other: set one of them"
    ]
    assert faults("--url", URL, "-s", "delay") == ["--server 'delay': and --url exclude each other: set one of them"]


def test_codes_or_file(tmp_path: Path) -> None:
    """Codes and a file of codes exclude each other."""
    path = file(tmp_path / "codes", "BR")
    assert faults(FLAGJOB_CODES="BR", FLAGJOB_CODES_FILE=path) == [
        f"FLAGJOB_CODES_FILE '{path}': and FLAGJOB_CODES exclude each other: set one of them"
    ]
    assert load([], {"FLAGJOB_CODES_FILE": path}).codes_file == path


@pytest.mark.parametrize("argument", ["CN", "-a", "-"])
def test_arguments_win(argument: str) -> None:
    """Arguments, also - alone, win over variables with codes or files of codes."""
    found = load([argument], {"FLAGJOB_CODES": "BR", "FLAGJOB_CODES_FILE": "/dev/null"})
    is_stdin = argument == "-"
    assert found.arguments == ({"CN": ("CN",), "-a": ("ALL",), "-": ()}[argument])
    assert ((found.codes, found.codes_file) == (None, "-")) is is_stdin


def test_standard_input_is_the_only_argument() -> None:
    """A - among other codes is a fault, not a code."""
    expected = ["-: must be the only argument: codes come from standard input or from the arguments"]
    assert (faults("BR", "-"), faults("-a", "-")) == (expected, expected)


@pytest.mark.parametrize("variable", ["KUBERNETES_SERVICE_HOST", "CLOUD_RUN_JOB", "AWS_BATCH_JOB_ID"])
def test_a_cluster_needs_an_origin(variable: str) -> None:
    """On a cluster the built-in origin must be set explicitly: a demonstration is no success there."""
    cluster = {variable: "x"}
    problem = f"must be set where {variable} is; for the built-in origin, set FLAGJOB_SERVER=local"
    assert faults(environ=cluster) == [f"FLAGJOB_URL: {problem}"]
    assert load(["-s", "local"], cluster).server is Server.LOCAL
    assert load([], {**cluster, "FLAGJOB_URL": URL}).url == UrlTemplate.parse(URL)
    assert len(faults(environ={**cluster, "FLAGJOB_URL": "nonsense"})) == 1


def test_a_file_name_has_the_placeholder_of_the_url() -> None:
    """`{id}` is for a URL with `{id}`; a URL that is wrong itself is one fault, not two."""
    ids = {"FLAGJOB_URL": "http://h/{id}"}
    assert load([], {**ids, "FLAGJOB_FILE": "{id:.2}/{id}.png"}).file == FileTemplate.parse("{id:.2}/{id}.png")
    problem = "must hold {id}, as the URL does; other {...} only where the list is a table (.csv, .tsv, .jsonl)"
    assert faults(environ={**ids, "FLAGJOB_FILE": "{cc}"}) == [f"FLAGJOB_FILE '{{cc}}': {problem}"]
    assert len(faults(environ={"FLAGJOB_URL": "nonsense", "FLAGJOB_FILE": "{id}"})) == 1


def test_a_pipe_may_bring_a_table(tmp_path: Path) -> None:
    """The header of a pipe is not known yet, so that no placeholder is wrong; a file that is no table has none."""
    url = {"FLAGJOB_URL": "http://h/{z}"}
    os.mkfifo(tmp_path / "pipe")
    for codes_file in ("-", str(tmp_path / "pipe"), file(tmp_path / "tiles.csv.gz", "")):
        assert load([], {**url, "FLAGJOB_CODES_FILE": codes_file}).codes_file == codes_file
    codes_file = file(tmp_path / "list", "a b")
    assert faults(environ={**url, "FLAGJOB_CODES_FILE": codes_file}) == [f"FLAGJOB_URL 'http://h/{{z}}': {PLACEHOLDER}"]


def test_a_secret_from_a_file(tmp_path: Path) -> None:
    """The URL may come from a file, with or without a byte order mark and a line's end."""
    for content in (URL, f"\ufeff{URL}\r\n"):
        assert load([], {"FLAGJOB_URL_FILE": file(tmp_path / "url", content)}).url == UrlTemplate.parse(URL)


@pytest.mark.parametrize(
    ("text", "gateway"),
    [
        ("HTTPS://Gateway.example.org/", Pushgateway("https://Gateway.example.org")),
        ("http://[::1]:9091/prefix//", Pushgateway("http://[::1]:9091/prefix")),
        (f"http://me:{SECRET}@gateway:1", Pushgateway("http://gateway:1", "me", SECRET)),
        ("http://me%40home:a%2Fb%3A:c@d@gateway", Pushgateway("http://gateway", "me@home", "a/b::c@d")),
        ("http://me@gateway:65535", Pushgateway("http://gateway:65535", "me")),
    ],
)
def test_a_gateway(text: str, gateway: Pushgateway) -> None:
    """A Pushgateway's URL may have a prefix, a user and a password; neither of these is ever printed."""
    found = load([], {"FLAGJOB_PUSHGATEWAY_URL": text})
    assert found.pushgateway_url == gateway
    assert set(found.secrets) == {word for word in (gateway.user, gateway.password) if word}
    assert [word for word in (SECRET, "a/b", "me@") if word in f"{found.changed} {gateway}"] == []


def test_a_gateway_from_a_file(tmp_path: Path) -> None:
    """A Pushgateway's URL may come from a secret file; its faults show nothing of it."""
    path = file(tmp_path / "gateway", f"http://me:{SECRET}@gateway:9091\n")
    found = load([], {"FLAGJOB_PUSHGATEWAY_URL_FILE": path})
    assert found.pushgateway_url == Pushgateway("http://gateway:9091", "me", SECRET)
    assert found.changed == {"pushgateway_url": "http://***@gateway:9091"}
    assert load([], {"FLAGJOB_PUSHGATEWAY_URL_FILE": "", "FLAGJOB_PUSHGATEWAY_URL": " "}).pushgateway_url is None
    wrong = file(tmp_path / "wrong", f"http://me:{SECRET}@gateway:0")
    assert faults(FLAGJOB_PUSHGATEWAY_URL_FILE=wrong) == [
        f"FLAGJOB_PUSHGATEWAY_URL_FILE 'http://***@gateway:0': {MALFORMED}"
    ]


def test_the_order_of_sources(tmp_path: Path) -> None:
    """An option wins over the variable, the variable over the secret file, the file over the default."""
    urls = [f"https://{host}.example.org/{{cc}}" for host in "abc"]
    option, variable, secret = ["--url", urls[0]], {"FLAGJOB_URL": urls[1]}, {"FLAGJOB_URL_FILE": ""}
    secret["FLAGJOB_URL_FILE"] = file(tmp_path / "url", urls[2])
    found = [load(option, {**variable, **secret}), load([], {**variable, **secret}), load([], secret), load([], {})]
    assert [settings.url and settings.url.text for settings in found] == [*urls, None]


def test_secret_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A secret file that is missing, a directory, not UTF-8, empty or wrong is a fault that shows none of its text."""
    binary = file(tmp_path / "binary", b"https://example.org/\xff{cc}")
    empty = file(tmp_path / "empty", "\n")
    wrong = file(tmp_path / "wrong", f"https://me:{SECRET}@example.org/{{cc}}?{SECRET}")
    found = [fault for path in ("/nowhere", "/", binary, empty, wrong, URL) for fault in faults(FLAGJOB_URL_FILE=path)]
    assert found == [
        "FLAGJOB_URL_FILE '/nowhere': must be a file that can be read (No such file or directory)",
        "FLAGJOB_URL_FILE '/': must be a file that can be read (Is a directory)",
        f"FLAGJOB_URL_FILE '{binary}': must be a file of UTF-8 text",
        f"FLAGJOB_URL_FILE '***': {HTTP}",
        f"FLAGJOB_URL_FILE 'https://***@example.org/{{cc}}?***': {NO_USER}",
        "FLAGJOB_URL_FILE '***': must be a file that can be read (No such file or directory)",
    ]


def test_headers(tmp_path: Path) -> None:
    """The values of a file of headers are secrets; blank lines and a byte order mark have no effect."""
    text = f"\ufeffAuthorization: Bearer {SECRET}\r\n\r\n  X-Api-Key:a b\tc  \n"
    found = load(["--headers-file", file(tmp_path / "headers", text)], {})
    assert found.secret_headers == {"Authorization": f"Bearer {SECRET}", "X-Api-Key": "a b\tc"}
    assert {f"Bearer {SECRET}", SECRET, "a b\tc"} <= set(found.secrets)


def test_malformed_headers(tmp_path: Path) -> None:
    """Each wrong line of a file of headers is a fault with its number and none of its text."""
    lines = [
        SECRET,
        f"X-Key: {SECRET}",
        f"X-KEY: {SECRET}",
        f"X Key: {SECRET}",
        f"X-Name: {SECRET}\u00e9",
        "X-Empty:",
        "accept-encoding: gzip",
        f": {SECRET}",
    ]
    path = file(tmp_path / "headers", "\n".join(lines))
    printable = "must be `Name: value` in printable ASCII"
    ours = "Accept-Encoding, Connection, Content-Length, Host, If-Match, If-Modified-Since, If-None-Match"
    ours += ", If-Range, If-Unmodified-Since, Range, Transfer-Encoding"
    assert faults(FLAGJOB_HEADERS_FILE=path) == [
        f"FLAGJOB_HEADERS_FILE '{path}': line {problem}"
        for problem in (
            f"1 {printable}",
            "3 repeats an earlier line's name",
            f"4 {printable}",
            f"5 {printable}",
            f"6 {printable}",
            f"7 must not set what is flagjob's own: {ours}",
            f"8 {printable}",
        )
    ]


def test_binary_headers(tmp_path: Path) -> None:
    """A file of headers that is not UTF-8 is a fault."""
    path = file(tmp_path / "headers", b"X-Key: \xff")
    assert faults(FLAGJOB_HEADERS_FILE=path) == [f"FLAGJOB_HEADERS_FILE '{path}': must be a file of UTF-8 text"]


@pytest.mark.parametrize("text", [f"Authorization: Bearer {SECRET}", f"Bearer {SECRET}"])
def test_a_secret_in_the_place_of_its_file_is_not_shown(text: str) -> None:
    """A header in the place of its file's path is a fault that asks for a file and shows none of the header."""
    (fault,) = faults(FLAGJOB_HEADERS_FILE=text)
    assert fault.startswith("FLAGJOB_HEADERS_FILE '***': must be a file")


def test_certificate_authorities(tmp_path: Path) -> None:
    """Authorities come from FLAGJOB_CA_BUNDLE, else REQUESTS_CA_BUNDLE, else SSL_CERT_FILE, else they are certifi's."""
    names = ["FLAGJOB_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"]
    environ = {name: file(tmp_path / name, Path(where()).read_bytes()) for name in names}
    for name in names:
        assert load([], environ).ca_bundle == environ.pop(name)
    assert load([], {"SSL_CERT_FILE": " "}).ca_bundle is None


@pytest.mark.parametrize("variable", ["FLAGJOB_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_missing_certificate_authorities(variable: str) -> None:
    """Missing authorities are a fault under the name of their variable."""
    problem = "must be a file or directory of certificates that can be read"
    assert faults(environ={variable: "/nowhere"}) == [f"{variable} '/nowhere': {problem}"]
    assert faults(environ={variable: "/\udcff"}) == [f"{variable} '/\\\\xff': {UTF_8}"]


def new_certificate() -> tuple[bytes, bytes]:
    """Return a certificate and its key."""
    made = trustme.CA().issue_cert("me@example.org")
    return made.cert_chain_pems[0].bytes(), made.private_key_pem.bytes()


CERTIFICATE, KEY = new_certificate()
OTHER_CERTIFICATE, OTHER_KEY = new_certificate()


def in_der(pem: bytes) -> bytes:
    """Return a certificate in the form that Windows exports."""
    return ssl.PEM_cert_to_DER_cert(pem.decode())


def revocations() -> bytes:
    """Return an authority's list of revoked certificates, which OpenSSL reads from the same files."""
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder().last_update(now).next_update(now + timedelta(days=1))
    builder = builder.issuer_name(x509.load_pem_x509_certificate(CERTIFICATE).issuer)
    made = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM)


NO_AUTHORITIES = {
    "empty": b"",
    "in DER": in_der(CERTIFICATE),
    "a key": KEY,
    "a list of revocations": revocations(),
    "a page": b"<html>",
    "cut": CERTIFICATE[:100],
    "damaged": CERTIFICATE.replace(b"MII", b"AAA", 1),
}


@row(75)
@pytest.mark.parametrize("variable", ["FLAGJOB_CA_BUNDLE", "SSL_CERT_FILE"])
@pytest.mark.parametrize("content", NO_AUTHORITIES.values(), ids=NO_AUTHORITIES)
def test_authorities_that_are_none(tmp_path: Path, variable: str, content: bytes) -> None:
    """A file of authorities that has no certificate, or is DER, is a fault of the setting that names it."""
    path = file(tmp_path / "ca.pem", content)
    problem = "must hold certificates in PEM (BEGIN CERTIFICATE), not in DER, and at least one"
    assert faults(environ={variable: path}) == [f"{variable} '{path}': {problem}"]


@row(75)
def test_a_directory_without_indexed_authorities(tmp_path: Path) -> None:
    """A directory in which OpenSSL would find no authority is a fault."""
    file(tmp_path / "ca.pem", CERTIFICATE)
    problem = "must hold certificates under the names that `openssl rehash` makes"
    assert faults(FLAGJOB_CA_BUNDLE=str(tmp_path)) == [f"FLAGJOB_CA_BUNDLE '{tmp_path}': {problem}"]


def encrypted(key: bytes) -> bytes:
    """Return a key with a passphrase."""
    encryption = serialization.BestAvailableEncryption(b"hunter2")
    loaded = serialization.load_pem_private_key(key, None)
    return loaded.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


NO_CERTIFICATE = "must hold a certificate in PEM (BEGIN CERTIFICATE)"
NO_KEY = "must hold the certificate's key, too, in PEM (BEGIN PRIVATE KEY)"
ENCRYPTED = "must hold a key without a passphrase: nobody is there to type it (openssl pkey removes it)"
OF_ANOTHER = "must hold the key of its first certificate, not another one"
UNREADABLE = "must hold a certificate and a key that OpenSSL can read"
UNUSABLE = {
    "empty": (b"", NO_CERTIFICATE),
    "in DER": (in_der(CERTIFICATE), NO_CERTIFICATE),
    "only the key": (KEY, NO_CERTIFICATE),
    "without its key": (CERTIFICATE, NO_KEY),
    "encrypted": (CERTIFICATE + encrypted(KEY), ENCRYPTED),
    "another certificate": (OTHER_CERTIFICATE + KEY, OF_ANOTHER),
    "another key": (CERTIFICATE + OTHER_KEY, OF_ANOTHER),
    "a cut key": (CERTIFICATE + KEY[:60], UNREADABLE),
    "a cut certificate": (KEY + CERTIFICATE[:60], UNREADABLE),
}


@row(75)
@pytest.mark.parametrize(("content", "problem"), UNUSABLE.values(), ids=UNUSABLE)
def test_client_certificates_that_cannot_be_used(tmp_path: Path, content: bytes, problem: str) -> None:
    """A client certificate that is incomplete, encrypted or another key's is one fault, which shows nothing of it."""
    path = file(tmp_path / "client.pem", content)
    (fault,) = faults(FLAGJOB_CLIENT_CERT=path)
    assert fault.partition(" (")[0] == f"FLAGJOB_CLIENT_CERT '{path}': {problem}".partition(" (")[0]


@row(75)
@pytest.mark.parametrize(
    "content", [CERTIFICATE + KEY, KEY + CERTIFICATE + OTHER_CERTIFICATE], ids=["key last", "first"]
)
def test_client_certificates(tmp_path: Path, content: bytes) -> None:
    """A client certificate is one file with its key, before or after it; more certificates are its chain."""
    path = file(tmp_path / "client.pem", content)
    assert load(["--client-cert", path], {}).client_cert == path


@pytest.mark.parametrize("name", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"])
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://u:p@", "http://***@"),
        ("http://[::1", "http://[::1"),
        ("http://proxy:port", "http://proxy:port"),
        ("http://proxy:0", "http://proxy:0"),
        ("ftp://proxy", "ftp://proxy"),
        (f"u:{SECRET}@proxy:port", "***"),
        (f"https://u:{SECRET}@proxy:99999", "https://***@proxy:99999"),
        ("http://", "http://"),
        (" ", "***"),
        ("http://pro xy:3128", "http://pro xy:3128"),
        ("http://proxy/\udcff", r"http://proxy/\\xff"),
    ],
)
def test_malformed_proxies(name: str, text: str, shown: str) -> None:
    """A proxy that is no URL is a fault, in upper and lower case, without its password: no run may bypass it."""
    assert faults(environ={name: text}) == [f"{name} '{shown}': {PROXY}"]


@pytest.mark.parametrize("text", ["", "proxy.example.org:3128", "http://u:p@proxy:3128", "socks5h://[::1]:1080"])
def test_proxies(text: str) -> None:
    """A proxy is a URL with or without a scheme; an empty one is no proxy, and NO_PROXY is not checked."""
    assert load([], {"HTTPS_PROXY": text, "NO_PROXY": "::::"}).changed == {}


@pytest.mark.parametrize("text", ["s3://flags", "gs://flags/", "az://flags/a=1/B_2/.hidden/c.d-e", "flags:/x", "..."])
def test_destinations(text: str) -> None:
    """A destination is a bucket with or without a prefix, or else any path."""
    assert load(["--dest", text], {}).dest == text


def test_sets_need_a_directory_of_all_files() -> None:
    """A set in a bucket has no link to flip, and a set of shards is never complete: each is a fault."""
    assert faults("--publish=set", FLAGJOB_DEST="s3://flags", FLAGJOB_SHARD_COUNT="2", FLAGJOB_SHARD_INDEX="0") == [
        "--publish 'set': needs a directory, but FLAGJOB_DEST is a bucket",
        "--publish 'set': cannot be divided into shards: no run has the whole set",
    ]
    assert load(["--publish=set", "-o", "flags", "--shard-count=1"], {}).publish is Publish.SET
    assert load(["--publish=each", "-o", "s3://flags"], {}).publish is Publish.EACH
    assert len(faults("--publish=set", "--shard-count=none")) == 1


def test_a_bucket_takes_authorities_from_a_file(tmp_path: Path) -> None:
    """A directory of certificates is a fault with a bucket, because the client for buckets reads one file."""
    directory, path = str(tmp_path), file(tmp_path / "0a1b2c3d.0", Path(where()).read_bytes())
    assert faults("--dest=s3://flags", SSL_CERT_FILE=directory) == [
        f"SSL_CERT_FILE '{directory}': must be a file of certificates, not a directory, where --dest is a bucket"
    ]
    assert load(["--dest=s3://flags", "--ca-bundle", path], {}).ca_bundle == path
    assert load(["--dest=flags", "--ca-bundle", directory], {}).ca_bundle == directory


@pytest.mark.parametrize(
    ("index", "count"),
    [
        ("FLAGJOB_SHARD_INDEX", "FLAGJOB_SHARD_COUNT"),
        ("JOB_COMPLETION_INDEX", "FLAGJOB_SHARD_COUNT"),
        ("CLOUD_RUN_TASK_INDEX", "CLOUD_RUN_TASK_COUNT"),
        ("AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE"),
    ],
)
def test_a_shard(index: str, count: str) -> None:
    """A shard comes from the settings or the platform; one beyond the last, or without its count, is a fault."""
    found = load([], {index: "7", count: "8"})
    assert (found.shard_index, found.shard_count) == (7, 8)
    assert faults(environ={index: "8", count: "8"}) == [
        f"{index} '8': must be below {count}, which is 8: shares count from 0"
    ]
    assert faults(environ={index: "0"}) == [
        f"{index} '0': is set, but FLAGJOB_SHARD_COUNT is not: set the number of shards"
    ]
    assert faults(environ={count: "2"}) == [
        f"{count} '2': is set, but FLAGJOB_SHARD_INDEX is not: set the index of this shard, from 0"
    ]
    assert load([], {count: "1"}).shard_count == 1


def test_the_settings_win_over_the_platforms_shard() -> None:
    """A shard that was set wins over the one of the platform."""
    platform = {"JOB_COMPLETION_INDEX": "7", "CLOUD_RUN_TASK_COUNT": "8"}
    found = load(["--shard-count=4"], {**platform, "FLAGJOB_SHARD_INDEX": "3"})
    assert (found.shard_index, found.shard_count) == (3, 4)
    assert found.changed == {"shard_index": "3", "shard_count": "4"}


@pytest.mark.parametrize("text", ["none", "\udcff", ""])
def test_a_malformed_shard_is_reported_once(text: str) -> None:
    """An index or count that is no number is one fault, and is not compared with the other number."""
    assert len(faults(f"--shard-index={text}", "--shard-count=8")) == 1
    assert len(faults("--shard-index=7", f"--shard-count={text}")) == 1


def test_checksums(tmp_path: Path) -> None:
    """A SHA256SUMS file may have text and binary mode, paths with and without ./, and digests in either case."""
    other = "2E" * 32
    text = f"\ufeff{DIGEST}  br.gif\r\n\n{other} *./7/66/42 a.png\n{DIGEST} *br.gif\n"
    found = load(["--checksums", file(tmp_path / "sums", text)], {})
    assert found.expected_digests == {"br.gif": DIGEST, "7/66/42 a.png": other.lower()}


def test_malformed_checksums(tmp_path: Path) -> None:
    """Each wrong line of a list of checksums is a fault with its number."""
    lines = [
        f"{DIGEST}  br.gif",
        f"{DIGEST[1:]}  br.gif",
        f"{DIGEST} br.gif",
        f"{DIGEST}  ",
        f"SHA256 (br.gif) = {DIGEST}",
        f" {DIGEST}  br.gif",
        f"{'2e' * 32}  ./br.gif",
        f"{'zz' * 32}  br.gif",
    ]
    path = file(tmp_path / "sums", "\n".join(lines))
    problems = [f"{number} {SUM}" for number in (2, 3, 4, 5, 6, 8)]
    problems.insert(5, "7 contradicts an earlier line about the same path")
    assert faults(FLAGJOB_CHECKSUMS=path) == [f"FLAGJOB_CHECKSUMS '{path}': line {problem}" for problem in problems]


def test_a_list_of_something_else(tmp_path: Path) -> None:
    """For a file of other text ten lines are reported, and the number of further ones; a binary file is one fault."""
    codes = file(tmp_path / "codes", "BR\n" * 1000)
    binary = file(tmp_path / "binary", b"\xff")
    lines = [f"line {number} {SUM}" for number in range(1, 11)]
    expected = [f"FLAGJOB_CHECKSUMS '{codes}': {problem}" for problem in (*lines, "has 990 more lines that are wrong")]
    assert faults(FLAGJOB_CHECKSUMS=codes) == expected
    assert faults(FLAGJOB_CHECKSUMS=file(tmp_path / "ten", "BR\n" * 10))[10:] == []
    assert faults(FLAGJOB_CHECKSUMS=binary) == [f"FLAGJOB_CHECKSUMS '{binary}': must be a file of UTF-8 text"]


def test_secrets(tmp_path: Path) -> None:
    """All secrets of a run are known, so that no line shows them: headers, the URL's query, proxies' passwords."""
    found = load(
        ["--headers-file", file(tmp_path / "headers", "Authorization: Basic header-secret")],
        {
            "FLAGJOB_URL": f"{URL}?key=query-secret&code={{cc}}&plain",
            "HTTP_PROXY": "http://user:http:secret@proxy",
            "https_proxy": "user:bare:secret@proxy",
            "ALL_PROXY": "http://proxy",
            "FLAGJOB_PING_URL": "https://hc.example.org/ping/0f3a9c1e-1111-2222-3333-444455556666/x?create=yes",
        },
    )
    query = "key=query-secret&code={cc}&plain"
    assert set(found.secrets) == {
        *("Basic header-secret", "header-secret", query, "query-secret"),
        *("user", "http:secret", "bare:secret"),
        *("0f3a9c1e-1111-2222-3333-444455556666", "create=yes"),
    }


def test_changed_settings(tmp_path: Path) -> None:
    """The texts that differ from the defaults are redacted, and long lists are cut."""
    found = load(
        ["-m", "30", "--max-attempts", "5", "--codes", "BR " * 1000],
        {
            "FLAGJOB_URL_FILE": file(tmp_path / "url", f"{URL}?key={SECRET}"),
            "FLAGJOB_HEADERS_FILE": file(tmp_path / "headers", f"X-Key: {SECRET}"),
            "FLAGJOB_LIMIT": "",
            "FLAGJOB_DEST": " /data ",
        },
    )
    assert found.changed == {
        "codes": ("BR " * 1000)[:200] + "...",
        "url": f"{URL}?***",
        "dest": "/data",
        "max_attempts": "5",
        "headers_file": str(tmp_path / "headers"),
    }


def test_the_termination_log(tmp_path: Path) -> None:
    """Without the setting the summary goes to the path of Kubernetes, if that exists."""
    assert checks.existing(tmp_path / "log") is None
    assert checks.existing(Path(file(tmp_path / "log", ""))) == str(tmp_path / "log")
    assert load([], {}).termination_log in {None, "/dev/termination-log"}


def test_settings_are_frozen() -> None:
    """Settings cannot change after they were checked."""
    found = load([], {})
    with pytest.raises(AttributeError):
        found.workers = 5  # type: ignore[misc]  # that it cannot be is the promise
    assert isinstance(found, Settings)


def test_help_fits() -> None:
    """The help page is 80 columns wide, and has each option with its default, and each exit code."""
    page = parse_arguments(["--help"]).page
    assert [option.name for option in OPTIONS if option.default and f"[{option.default}]" not in page] == []
    assert max(map(len, page.splitlines())) <= 80
    assert [option.flag for option in OPTIONS if f"{option.flag} {option.metavar}" not in page] == []
    codes = re.findall(r"(?<=[ \n])(\d+) [a-zS]", page.partition("exit codes:")[2])
    assert codes == "0 1 2 3 4 5 6 7 129 130 143".split()


WORDS = st.one_of(
    st.binary(max_size=20).map(lambda word: word.decode("utf-8", "surrogateescape").replace("\0", "")),
    st.sampled_from([*FLAGS.values(), "-a", "-m", "-l5", "--", "-", "BR", "--workers=5", "-1"]),
)


@settings(deadline=None)
@given(argv=st.lists(WORDS), environ=st.dictionaries(st.sampled_from([*VARIABLES.values(), "HTTP_PROXY"]), WORDS))
def test_any_input(argv: list[str], environ: dict[str, str]) -> None:
    """All arguments and variables lead to settings, or to faults that strict JSON can contain."""
    try:
        found = load(argv, environ)
        texts = [*found.arguments, *found.changed.values()]
    except UsageError as error:
        texts = [text for fault in error.faults for text in (fault.setting, fault.value or "", fault.problem)]
        assert texts
    assert all(text == text.encode().decode() for text in texts)


def test_an_environment_that_is_not_utf_8(tmp_path: Path) -> None:
    """Variables that are not UTF-8 are faults in strict JSON and exit code 2; no download is attempted."""
    wrong = ["FLAGJOB_WORKERS", "FLAGJOB_CODES", "FLAGJOB_DEST", "FLAGJOB_\udcff"]
    done = flagjob(cwd=tmp_path, settings=dict.fromkeys(wrong, "BR \udcff"))
    assert (done.code, done.stderr, list(tmp_path.iterdir())) == (2, "", [])
    assert {line["event"] for line in done.events} == {"usage_error"}
    assert [line["message"] for line in done.events] == [
        r"FLAGJOB_CODES 'BR \\xff': must be UTF-8 text",
        r"FLAGJOB_DEST 'BR \\xff': must be UTF-8 text",
        r"FLAGJOB_WORKERS 'BR \\xff': must be a whole number from 1 to 1000",
        r"FLAGJOB_\xff: is not a known setting",
    ]


def test_a_code_that_is_not_utf_8(tmp_path: Path) -> None:
    """A code that is not UTF-8 is an invalid code like any other, as it is in a file."""
    done = flagjob(b"\xff", "BR", cwd=tmp_path)
    assert (done.code, done.stderr) == (4, "")
    assert {line["code"]: line["reason"] for line in done.events_named("result")} == {
        "\\xff": "invalid_code",
        "BR": None,
    }
