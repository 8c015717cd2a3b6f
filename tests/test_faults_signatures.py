"""The catalogue of faults, row 72: URLs that are signed anew for each run, by themselves or behind a redirect."""

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from images import numbered_gif
from inprocess import files_in, run_here
from rows import line_of, row
from scripted import Answer, Request, ScriptedServer

SIGNATURES = {
    "s3 v4": "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=A%2F2026112{0}&X-Amz-Date=2026112{0}T041700Z"
    "&X-Amz-Expires=600&X-Amz-Security-Token=FwoG{0}%2F%2F&X-Amz-SignedHeaders=host&X-Amz-Signature=hush{0}",
    "s3 v2": "AWSAccessKeyId=ASIA{0}&Signature=hush{0}%3D&x-amz-security-token=FwoG{0}&Expires=179{0}",
    "gcs v4": "X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=a%40b%2F2026112{0}&X-Goog-Date=2026112{0}T041700Z"
    "&X-Goog-Expires=600&X-Goog-SignedHeaders=host&X-Goog-Signature=hush{0}",
    "gcs v2": "GoogleAccessId=a%40b&Expires=179{0}&Signature=hush{0}",
    "cloudfront": "Expires=179{0}&Signature=hush{0}~-&Key-Pair-Id=K{0}",
    "cloudfront policy": "Policy=eyJ{0}__&Signature=hush{0}&Key-Pair-Id=K{0}",
    "azure": "sv=2026-02-0{0}&st=2026-11-2{0}T04%3A17Z&se=2026-11-2{0}T05%3A17Z&sr=b&sp=r&spr=https&sig=hush{0}%3D",
    "azure user delegation": "sv=2026-02-06&skoid=a{0}&sktid=b&skt=2026-11-2{0}&ske=2026-11-3{0}&sks=b&skv=2026-02-06"
    "&se=2026-11-2{0}T05%3A17Z&sr=c&sp=r&sig=hush{0}%3D",
    "azure stored policy": "si=nightly{0}&sv=2026-02-06&sr=c&sig=hush{0}",
    "alibaba": "OSSAccessKeyId=LT{0}&Expires=179{0}&Signature=hush{0}&security-token=CAIS{0}",
    "named": "hdnts=exp%3D179{0}~hmac%3Dhush{0}",
}
"""Queries that sign a URL, by night."""


def picture(request: Request) -> Answer:
    """Return the picture in the size that a query asks for; the validator does not depend on the size."""
    size = parse_qs(urlsplit(request.target).query).get("size", ["1"])[0]
    if request.headers.get("if-none-match") == '"1"':
        return Answer(304)
    return Answer(headers={"ETag": '"1"'}, body=numbered_gif(int(size)))


class SignedOrigin:
    """An origin whose URLs have a signature of the night, in the template or in what a redirect leads to."""

    def __init__(self, signature: str, *, is_behind_redirect: bool) -> None:
        self.night = 0
        self.size = 1
        self._signature = signature
        self._is_behind_redirect = is_behind_redirect
        answer = self._redirect if is_behind_redirect else picture
        self.server = ScriptedServer({"/br.gif": answer, "/s/br.gif": picture})

    def run(self, dest: Path, **settings: str) -> tuple[str, bool]:
        """Run the job in the next night; return the status, and whether the picture was asked for conditionally."""
        self.night += 1
        template = "/{cc}.gif" if self._is_behind_redirect else f"/{{cc}}.gif{self._query}"
        done = run_here("br", dest=dest, url=self.server.url(template), url_ignore_query="hdnts", **settings)
        assert done.code == 0
        assert b"hush" not in done.stdout
        assert not any(b"hush" in path.read_bytes() for path in dest.rglob("*") if path.is_file())
        return done.statuses["BR"], "if-none-match" in self.server.requests[-1].headers

    @property
    def _query(self) -> str:
        return f"?size={self.size}&{self._signature.format(self.night)}"

    def _redirect(self, _: Request) -> Answer:
        return Answer(302, {"Location": f"/s/br.gif{self._query}"})


@row(72)
@pytest.mark.parametrize("is_behind_redirect", [True, False], ids=["redirect", "template"])
@pytest.mark.parametrize("signature", SIGNATURES.values(), ids=SIGNATURES)
@pytest.mark.slow
def test_a_url_that_is_signed_anew_is_the_same(tmp_path: Path, signature: str, *, is_behind_redirect: bool) -> None:
    """The next night's request is conditional; for another size it is not, although its validator is the same."""
    same = line_of("a URL that is signed anew each night")
    other = line_of("another change of a signed URL")
    origin = SignedOrigin(signature, is_behind_redirect=is_behind_redirect)
    with origin.server:
        first = origin.run(tmp_path)
        second = origin.run(tmp_path)
        origin.size = 2
        third = origin.run(tmp_path)
    assert (first, second, third) == (("ok", False), (same.words[0], True), (other.words[0], False))
    assert files_in(tmp_path) == {"br.gif": numbered_gif(2)}


@row(72)
@pytest.mark.parametrize("is_behind_redirect", [True, False], ids=["redirect", "template"])
def test_a_parameter_that_nobody_named_counts(tmp_path: Path, *, is_behind_redirect: bool) -> None:
    """A token under a name that is neither well known nor set is part of the URL: no condition is sent."""
    origin = SignedOrigin("token=hush{0}", is_behind_redirect=is_behind_redirect)
    with origin.server:
        assert [origin.run(tmp_path) for _ in range(2)] == [("ok", False), ("unchanged", False)]


@row(72)
def test_a_404_is_believed_for_a_url_that_is_signed_anew(tmp_path: Path) -> None:
    """FLAGJOB_NOT_FOUND_TTL holds for the next signature, and not for another size."""
    counts = []
    with ScriptedServer({}) as server:
        for night, size in ((1, 1), (2, 1), (3, 2)):
            url = server.url(f"/{{cc}}.gif?size={size}&{SIGNATURES['s3 v4'].format(night)}")
            run_here("br", dest=tmp_path, url=url, not_found_ttl="1h")
            counts.append(len(server.requests))
    assert counts == [1, 1, 2]
