"""A prefix in a bucket: an object is there whole, and the last good one survives any failure."""

import os
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex

from job.atomic_write import map_os_errors
from job.body import Body
from job.errors import Fault, UsageError
from job.layout import OWN_DIRECTORY
from job.model import Stored
from job.storage.listing import Listing
from job.storage.parts import Parts
from job.storage.place import USUAL, BucketTimeouts, check_credentials, location_of

_PROBE = f"{OWN_DIRECTORY}/probe-"


class BucketStorage:
    """A prefix in a bucket of S3, Google Cloud Storage or Azure Blob Storage.

    `new_body`, `publish` and `has` may be called by any thread, once `open` has returned.

    Credentials, region and endpoint come from each cloud's environment variables, as obstore reads them:
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION or AWS_DEFAULT_REGION, AWS_ENDPOINT_URL
    or AWS_ENDPOINT_URL_S3, the roles of EKS, ECS and EC2 (no profiles from ~/.aws); GOOGLE_APPLICATION_CREDENTIALS
    or the metadata server; AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN, a
    client secret or a federated token. An endpoint without TLS is used where its variable begins with http://.
    HTTPS_PROXY and NO_PROXY are honoured.
    """

    def __init__(
        self, url: str, scratch: Path, *, patience: BucketTimeouts = USUAL, ca_bundle: Path | None = None
    ) -> None:
        """Take the URL, a local directory for bodies above 64 KiB, and certificate authorities beside the system's.

        Raises UsageError for a URL that is none, for credentials that cannot be sent, and where obstore is missing.
        """
        self._location = location_of(url)
        check_credentials(self._location, os.environ)
        if find_spec("obstore") is None:
            raise UsageError(Fault("FLAGJOB_DEST", url, "buckets need obstore: pip install 'flagjob[objects]'"))
        self._scratch = scratch
        self._patience = patience
        self._ca_bundle = ca_bundle
        self._there = Listing()

    def open(self) -> None:
        """Show by an object that the bucket can be written, and list what there is; raise StorageError if not.

        Listing takes a request for every 1,000 objects below the prefix, and 8 bytes of memory for each of them.
        """
        from job.storage.bucket import Bucket  # noqa: PLC0415  (takes 20 ms and 7 MB, which only buckets need)

        with map_os_errors(self._scratch):
            self._scratch.mkdir(parents=True, exist_ok=True)
        self._bucket = Bucket(self._location, self._patience, self._ca_bundle)
        probe = f"{_PROBE}{token_hex(8)}"
        self._bucket.put(probe, b"flagjob\n")
        probes = {probe}
        for found in self._bucket.objects():
            if found.path.startswith(_PROBE):
                probes.add(found.path)  # of a run that was killed here, or of one beside this that does without
            else:
                self._there.add(found.path, found.size, found.etag)
        self._bucket.delete(sorted(probes))

    @property
    def parts(self) -> Parts:
        """Where flagjob keeps what it must remember, beside the objects."""
        return Parts(self._bucket)

    def new_body(self) -> Body:
        """Begin an object; it is nowhere in the bucket yet."""
        return Body(self._scratch / token_hex(8))

    def publish(self, body: Body, file: str, media_type: str | None) -> str:
        """Put a body into the bucket and return the object's ETag: it appears whole, or, with StorageError, not at all.

        An older object of that name is replaced. All of the body is in memory meanwhile. After an error whose
        answer was lost the new object may be there nonetheless, whole.
        """
        body.rewind()
        with map_os_errors(self._scratch):
            data = body.read()
        etag = self._bucket.put(file, data, media_type, body.sha256)
        self._there.add(file, body.size, etag)
        return etag

    def has(self, stored: Stored) -> bool:
        """Tell whether an object was there just as it was stored, by its size and ETag, when `open` or `publish` ran.

        Asks the memory, not the bucket: a million items would be a million requests.
        """
        return stored.version is not None and self._there.has(stored.path, stored.bytes, stored.version)

    def sync(self) -> None:
        """Do nothing: an object is durable when its put is answered."""
