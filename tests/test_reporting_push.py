"""The push at the end of a run: its target, its content, its failures and its time limit."""

import base64
import signal
import socket
import ssl
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from time import monotonic

import pytest
import trustme
from command import TIMEOUT, Done, flagjob, start_flagjob
from images import GIF
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from scripted import Answer, Drip, Raw, Request, ScriptedServer, Stall, Step

from job import __version__
from job.cancellation import Cancellation
from job.errors import Reason
from job.metrics import Metrics, Push
from job.model import Status, Summary
from job.reporting import Reporting
from job.settings import Pushgateway, load, parse_arguments

GROUP = "/metrics/job/flagjob"
JOB = {"job": "flagjob"}
SECRET = "hunter2/and:more"  # noqa: S105  (an example of one)
HEAD = b"HTTP/1.1 200 OK\r\nX-Drops: "


def push(
    url: str, user: str = "", password: str = "", *, ca_bundle: str | None = None, group: Mapping[str, str] = JOB
) -> Push:
    """Return a push of new metrics."""
    return Push(Metrics("1.2.3", "abc").registry, Pushgateway(url, user, password), group, ca_bundle)


def countdown(seconds: float) -> Callable[[], float]:
    """Return a function that returns the seconds left of this time, from now on."""
    until = monotonic() + seconds
    return lambda: until - monotonic()


def families(request: Request) -> dict[str, Metric]:
    """Return the metrics of a push, as Prometheus' own parser reads them."""
    return {family.name: family for family in text_string_to_metric_families(request.body.decode())}


def value(request: Request, name: str) -> float:
    """Return the value of a pushed metric that has one sample."""
    (sample,) = families(request)[name].samples
    return float(sample.value)


@pytest.mark.parametrize(
    ("labels", "group"),
    [
        (JOB, GROUP),
        ({**JOB, "shard": "7"}, f"{GROUP}/shard/7"),
        ({"job": "maps", "team": "geo", "env": "prod", "shard": "0"}, "/metrics/job/maps/env/prod/shard/0/team/geo"),
        ({**JOB, "team": "a/b"}, f"{GROUP}/team@base64/YS9i"),
    ],
)
def test_all_series_are_pushed_into_their_group(labels: Mapping[str, str], group: str) -> None:
    """Every series is sent by POST to the group of the job and its labels, below the gateway's path."""
    with ScriptedServer({f"/prefix{group}": Answer(202)}) as server:
        assert push(server.url("/prefix"), group=labels).send_within(countdown(TIMEOUT)) is None
    (request,) = server.requests
    expected = {family.name for family in Metrics("1.2.3", "abc").registry.collect()}
    assert (request.method, set(families(request))) == ("POST", expected)
    assert request.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert request.headers["user-agent"] == f"flagjob/{__version__}"
    assert "authorization" not in request.headers


@pytest.mark.parametrize(("user", "password"), [("me", SECRET), ("", SECRET), ("me", ""), ("m\u00e9", "p\u00e4ss")])
def test_credentials_are_sent_as_basic_authentication(user: str, password: str) -> None:
    """User and password of the URL are sent as basic authentication, and not in the request's target."""
    with ScriptedServer({GROUP: Answer()}) as server:
        assert push(server.url("").rstrip("/"), user, password).send_within(countdown(TIMEOUT)) is None
    (request,) = server.requests
    scheme, _, token = request.headers["authorization"].partition(" ")
    assert (scheme, base64.b64decode(token).decode()) == ("Basic", f"{user}:{password}")
    assert (request.target, request.headers["host"]) == (GROUP, f"127.0.0.1:{server.port}")


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        (Answer(400, body=b"pushed metrics are\n invalid: help differs\n"), "pushed metrics are invalid: help differs"),
        (Answer(400, body=b"x" * 10_000), "x" * 500),
        (Answer(401), "Unauthorized"),
        (Answer(503, body=b" "), "Service Unavailable"),
        (Raw(b"HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\nzz"), "Bad Request"),
        (Answer(307, {"Location": "/elsewhere"}), "a redirect to /elsewhere, which is not followed"),
        (Answer(301, {"Location": "/elsewhere"}), "a redirect to /elsewhere, which is not followed"),
        (Answer(302, {"Location": "/elsewhere"}), "a redirect to /elsewhere, which is not followed"),
        (Answer(303, {"Location": "/elsewhere"}), "a redirect to /elsewhere, which is not followed"),
        (Answer(308, {"Location": "/elsewhere"}), "a redirect to /elsewhere, which is not followed"),
        (Answer(302, {"Location": "file:///etc/passwd"}), "a redirect to file:///etc/passwd, which is not followed"),
        (Answer(302, {"Location": "http://["}), "a redirect to http://[, which is not followed"),
        (Answer(302), "Found"),
    ],
)
def test_an_error_response_is_the_problem(step: Step, problem: str) -> None:
    """The problem has the HTTP status and the gateway's message; no redirect is followed."""
    with ScriptedServer({GROUP: step}) as server:
        found = push(server.url("")).send_within(countdown(TIMEOUT)) or ""
    status = step.status if isinstance(step, Answer) else 400
    assert found.replace(", a", ": a") == f"HTTP {status}: {problem}"
    assert [request.target for request in server.requests] == [GROUP]


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        (Raw(b""), "Remote end closed connection without response"),
        (Raw(b"", reset=True), "Connection reset by peer"),
        (Raw(b"hello\r\n\r\n"), "hello"),
    ],
)
def test_a_response_that_is_not_http_is_the_problem(step: Step, problem: str) -> None:
    """A server that does not speak HTTP is described as the problem."""
    with ScriptedServer({GROUP: step}) as server:
        assert problem in (push(server.url("")).send_within(countdown(TIMEOUT)) or "")


def test_a_refused_connection_is_the_problem() -> None:
    """A gateway that is down is reported at once."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert push(f"http://127.0.0.1:{port}").send_within(countdown(TIMEOUT)) == "[Errno 111] Connection refused"


@pytest.mark.parametrize("step", [Stall(), Stall(HEAD), Drip(HEAD), Drip()])
def test_a_slow_gateway_is_abandoned_at_the_time_limit(step: Step) -> None:
    """The push ends at its time limit, also if the gateway goes on sending single bytes."""
    with ScriptedServer({GROUP: step}) as server:
        late = push(server.url(""))
        problem = late.send_within(countdown(0.2)) or ""
        assert problem.startswith("no answer within 0.")  # a busy machine adds to the 0.2 s
        assert late.is_alive()
        server.wait_for(1)
    late.join(TIMEOUT)


def test_the_thread_of_an_abandoned_push_ends() -> None:
    """The thread that waits for a silent gateway ends a moment later; a push runs only once."""
    with ScriptedServer({GROUP: Stall()}) as server:
        late = push(server.url(""))
        late.send_within(countdown(0.1))
        late.join(TIMEOUT)
        assert (late.is_alive(), late.send_within(countdown(0))) == (False, "threads can only be started once")


def test_the_time_limit_may_shrink_during_the_push() -> None:
    """A signal during the push starts the grace period, which may end earlier than the push's own limit."""
    times = iter([3600.0, 3600.0, 0.0])
    with ScriptedServer({GROUP: Stall()}) as server:
        late = push(server.url(""))
        assert (late.send_within(lambda: next(times)) or "").startswith("no answer within 0.")


def tls_for(authority: trustme.CA, name: str) -> ssl.SSLContext:
    """Return a server's context with a certificate for a name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def test_a_trusted_gateway(tmp_path: Path) -> None:
    """The push trusts the certificate authorities that the downloads trust."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with ScriptedServer({GROUP: Answer()}, tls_for(authority, "127.0.0.1")) as server:
        assert push(server.url(""), ca_bundle=str(tmp_path / "ca.pem")).send_within(countdown(TIMEOUT)) is None
    assert len(server.requests) == 1


@pytest.mark.parametrize(("name", "trusted"), [("127.0.0.1", False), ("gateway.test", True)])
def test_a_gateway_that_cannot_be_trusted(tmp_path: Path, name: str, *, trusted: bool) -> None:
    """A gateway with an unknown authority or a certificate for another name receives no request."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with ScriptedServer({GROUP: Answer()}, tls_for(authority, name)) as server:
        bundle = str(tmp_path / "ca.pem") if trusted else None
        found = push(server.url(""), "me", SECRET, ca_bundle=bundle).send_within(countdown(TIMEOUT))
    assert "CERTIFICATE_VERIFY_FAILED" in (found or "")
    assert server.requests == []


def test_the_end_of_a_good_run_is_pushed(tmp_path: Path) -> None:
    """The push has the final values: items, exit code and time of success, and no series of the process."""
    with ScriptedServer({GROUP: Answer()}) as gateway:
        done = flagjob("BR", "CN", cwd=tmp_path, settings={"FLAGJOB_PUSHGATEWAY_URL": gateway.url()})
    (request,) = gateway.requests
    downloads = {sample.labels["status"]: sample.value for sample in families(request)["flagjob_downloads"].samples}
    assert (done.code, done.events_named("metrics_push_failed")) == (0, [])
    assert downloads == {"ok": 2, "unchanged": 0, "not_found": 0, "error": 0, "cancelled": 0}
    assert value(request, "flagjob_last_run_exit_code") == 0
    assert value(request, "flagjob_last_success_timestamp_seconds") == value(
        request, "flagjob_last_run_timestamp_seconds"
    )
    assert [name for name in families(request) if not name.startswith("flagjob_")] == []


def test_a_run_that_failed_leaves_the_last_success_alone(tmp_path: Path) -> None:
    """A failed run pushes no time of success, and by POST, so the gateway keeps the last one."""
    with ScriptedServer({f"{GROUP}/shard/1": Answer()}) as gateway:
        settings = {"FLAGJOB_SHARD_INDEX": "1", "FLAGJOB_SHARD_COUNT": "2", "FLAGJOB_CODES": "ZZ ZX ZY"}
        done = flagjob(cwd=tmp_path, settings={**settings, "FLAGJOB_PUSHGATEWAY_URL": gateway.url()})
    (request,) = gateway.requests
    assert (done.code, value(request, "flagjob_last_run_exit_code")) == (4, 4)
    assert (request.method, "flagjob_last_success_timestamp_seconds" in families(request)) == ("POST", False)
    assert value(request, "flagjob_shards") == 2


def test_a_name_and_labels_are_the_group_of_a_push(tmp_path: Path) -> None:
    """The name is the job and a field of every line; the labels and the shard stand beside it."""
    group = "/metrics/job/maps/namespace/geo/shard/0/team/tiles"
    with ScriptedServer({group: Answer()}) as gateway:
        settings = {"FLAGJOB_NAME": "maps", "FLAGJOB_PUSHGATEWAY_LABELS": "team=tiles, namespace=geo"}
        settings |= {"FLAGJOB_SHARD_INDEX": "0", "FLAGJOB_SHARD_COUNT": "2"}
        done = flagjob("BR", "US", cwd=tmp_path, settings={**settings, "FLAGJOB_PUSHGATEWAY_URL": gateway.url()})
    assert [request.target for request in gateway.requests] == [group]
    assert {line["job"] for line in done.events} == {"maps"}
    assert failed(done) == []
    verified = flagjob("verify", cwd=tmp_path, settings={"FLAGJOB_NAME": "maps", "FLAGJOB_DEST": "downloads"})
    assert {line["job"] for line in verified.events} == {"maps"}


def failed(done: Done) -> list[tuple[str, str]]:
    """Return target and error of each push that failed; the summary must be the last line."""
    assert done.summary["exit_code"] == done.code
    return [(line["target"], line["error"]) for line in done.events_named("metrics_push_failed")]


def test_a_push_that_fails_changes_nothing(tmp_path: Path) -> None:
    """A failed push is one warning, without the password; the exit code stays that of the run."""
    with ScriptedServer({GROUP: Answer(400, body=b"inconsistent")}) as gateway:
        url = gateway.url().replace("//", "//me:hunter2%2Fand%3Amore@")
        done = flagjob("BR", cwd=tmp_path, settings={"FLAGJOB_PUSHGATEWAY_URL": url})
    assert (done.code, done.stderr) == (0, "")
    assert failed(done) == [(gateway.url("").rstrip("/"), "HTTP 400: inconsistent")]
    assert (b"hunter2" in done.stdout, len(gateway.requests)) == (False, 1)


@pytest.mark.slow
def test_a_gateway_cannot_hold_the_process(tmp_path: Path) -> None:
    """A gateway that sends a byte now and then, forever, costs the run five seconds, and the process ends."""
    with ScriptedServer({GROUP: Drip(HEAD)}) as gateway:
        done = flagjob("BR", cwd=tmp_path, settings={"FLAGJOB_PUSHGATEWAY_URL": gateway.url()})
        assert failed(done) == [(gateway.url("").rstrip("/"), "no answer within 5.0 s")]
    assert (done.code, done.stderr) == (0, "")


@pytest.mark.parametrize(("step", "grace", "abandoned"), [(Drip(HEAD), "0.5", 1), (Answer(), "20", 0)])
def test_an_abandoned_push_is_counted(step: Step, grace: str, abandoned: int) -> None:
    """The command needs the number of threads that cannot be joined, to end the process without them."""
    cancellation = Cancellation()
    cancellation.request(Reason.SIGNAL, 15)
    with ScriptedServer({GROUP: step}) as gateway:
        arguments = parse_arguments(["BR", f"--pushgateway-url={gateway.url()}", f"--shutdown-grace={grace}"])
        settings = load(arguments, {})
        reporting = Reporting(settings, cancellation, BytesIO(), terminal=False)
        reporting.report_end(Summary(dict.fromkeys(Status, 0), 0, 0, 0.0, 5, "storage"))
        assert reporting.abandoned == abandoned


def interrupted(tmp_path: Path, gateway: ScriptedServer, grace: str) -> Done:
    """Send SIGTERM to a run whose only item never ends, and return how it ended."""
    with ScriptedServer({"/br.gif": Stall()}) as server:
        settings = {"FLAGJOB_URL": server.url("/{cc}.gif"), "FLAGJOB_PUSHGATEWAY_URL": gateway.url()}
        settings |= {"FLAGJOB_SHUTDOWN_GRACE": grace, "FLAGJOB_METRICS_ADDRESS": "127.0.0.1:0"}
        with start_flagjob("BR", cwd=tmp_path, settings={**settings, "FLAGJOB_METRICS_LINGER": "1h"}) as process:
            server.wait_for(1)
            process.send_signal(signal.SIGTERM)
            stdout, stderr = process.communicate(timeout=TIMEOUT)
            return Done(process.returncode, stdout, stderr.decode())


def test_an_interrupted_run_pushes_and_does_not_linger(tmp_path: Path) -> None:
    """After SIGTERM the metrics are still pushed, but the run does not wait for a scrape."""
    with ScriptedServer({GROUP: Answer()}) as gateway:
        done = interrupted(tmp_path, gateway, "4")
    (request,) = gateway.requests
    assert (done.code, failed(done)) == (143, [])
    assert value(request, "flagjob_last_run_exit_code") == 143


@pytest.mark.slow
def test_an_interrupted_run_pushes_in_what_is_left_of_the_grace(tmp_path: Path) -> None:
    """The drain may use half of the grace period; the push gets the rest, and not five seconds."""
    with ScriptedServer({GROUP: Stall()}) as gateway:
        done = interrupted(tmp_path, gateway, "4")
    ((_, error),) = failed(done)
    seconds = float(error.removeprefix("no answer within ").removesuffix(" s"))
    assert (done.code, seconds < 5) == (143, True)


def test_there_is_no_push_after_the_grace_period(tmp_path: Path) -> None:
    """After the grace period the process may be killed at any time, so the push is skipped."""
    with ScriptedServer({GROUP: Answer()}) as gateway:
        done = interrupted(tmp_path, gateway, "0.1")
    assert (done.code, [error for _, error in failed(done)]) == (143, ["no time was left in FLAGJOB_SHUTDOWN_GRACE"])
    assert gateway.requests == []


def test_a_destination_that_cannot_be_written_is_pushed(tmp_path: Path) -> None:
    """A run that could not write its destination pushes its exit code, too."""
    (tmp_path / "file").touch()
    with ScriptedServer({GROUP: Answer()}) as gateway:
        settings = {"FLAGJOB_PUSHGATEWAY_URL": gateway.url(), "FLAGJOB_METRICS_FILE": "run.prom"}
        done = flagjob("BR", "--dest=file", cwd=tmp_path, settings=settings)
    (request,) = gateway.requests
    assert (done.code, value(request, "flagjob_last_run_exit_code")) == (5, 5)
    assert value(request, "flagjob_last_run_start_timestamp_seconds") > 0
    assert "flagjob_last_run_exit_code 5.0\n" in (tmp_path / "run.prom").read_text()


@pytest.mark.parametrize("argv", [["--workers=0"], ["--dry-run"], ["--version"]])
def test_only_a_run_is_pushed(tmp_path: Path, argv: list[str]) -> None:
    """Wrong settings, a dry run and --version push nothing."""
    with ScriptedServer({GROUP: Answer()}) as gateway:
        flagjob("BR", *argv, cwd=tmp_path, settings={"FLAGJOB_PUSHGATEWAY_URL": gateway.url()})
    assert gateway.requests == []


def test_the_push_uses_the_proxy(tmp_path: Path) -> None:
    """The proxy variables apply to the push as they do to the downloads."""
    with ScriptedServer({"/br.gif": Answer(body=GIF)}) as server, ScriptedServer({}) as proxy:
        settings = {"FLAGJOB_URL": server.url("/{cc}.gif"), "FLAGJOB_PUSHGATEWAY_URL": "http://gateway.test/prefix"}
        settings |= {"http_proxy": proxy.url(), "no_proxy": "127.0.0.1"}
        done = flagjob("BR", cwd=tmp_path, settings=settings)
    assert [request.target for request in proxy.requests] == [f"http://gateway.test/prefix{GROUP}"]
    assert (done.code, failed(done)) == (0, [("http://gateway.test/prefix", "HTTP 404: Not Found")])


def test_a_socks_proxy_is_the_problem(tmp_path: Path) -> None:
    """A push supports no SOCKS proxy, and does not bypass it."""
    with ScriptedServer({"/br.gif": Answer(body=GIF)}) as server, ScriptedServer({GROUP: Answer()}) as gateway:
        settings = {"FLAGJOB_URL": server.url("/{cc}.gif").replace("127.0.0.1", "localhost")}
        settings |= {"http_proxy": "socks5h://127.0.0.1:9", "no_proxy": "localhost"}
        done = flagjob("BR", cwd=tmp_path, settings={**settings, "FLAGJOB_PUSHGATEWAY_URL": gateway.url()})
    assert (done.code, [error for _, error in failed(done)]) == (0, ["unknown url type: socks5h"])
    assert gateway.requests == []
