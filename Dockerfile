# The digest names the index of all platforms; moving to a newer one is a change of this line that shows in review.
ARG PYTHON_IMAGE=python:3.13.15-slim-trixie@sha256:9d2e5553305c7c7b0097999bb17187c69b921ccd6bc9d40e4bb5ebe652c00285

FROM ${PYTHON_IMAGE} AS build
# What the base holds, for the inventory, before anything is added to this stage.
RUN dpkg-query --show --showformat '${Package}\t${Version}\t${Architecture}\n' >/base.tsv
# Only its `strip` is wanted, of whichever version the base has: nothing of this stage's system is kept.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends binutils && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv --without-pip /app
COPY requirements.lock requirements-report.lock /
# EXTRAS=report: with what FLAGJOB_REPORT needs, 1.4 MB.
ARG EXTRAS=
# Behind a package mirror: --secret id=pip.conf,src=/etc/pip.conf, and id=pip.crt for its authority. No layer keeps secrets.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=secret,id=pip.crt,target=/run/pip.crt \
    python3 -m pip --python /app/bin/python3 install --no-cache-dir --no-compile --require-hashes --only-binary=:all: \
    --report /installed.json --requirement /requirements.lock ${EXTRAS:+--requirement /requirements-report.lock}
COPY job /app/job
RUN if [ -z "$EXTRAS" ]; then rm -r /app/job/report; fi
ARG PYTHON_IMAGE
# The inventory is written before the pruning, as pip left things. Of django-countries only the flags are used, and
# nothing of the two packages that it alone requires; of others, nothing for notebooks, browsers and web frameworks.
# The lists of the packages' files would be wrong after that.
# A checkout may keep its files to itself, by its owner's umask; here any user reads them.
RUN --mount=type=bind,source=.ci/inventory.py,target=/inventory.py \
    PYTHONPATH=/app /app/bin/python3 -B /inventory.py /installed.json /base.tsv "${PYTHON_IMAGE}" >/app/flagjob.cdx.json && \
    find /app/lib -path '*/django_countries/*' ! -path '*/django_countries/static/flags/*' ! -type d -delete && \
    find /app/lib \( -path '*/asgiref/*' -o -name typing_extensions.py \) ! -type d -delete && \
    find /app/lib -path '*/greenlet/*' ! -name '*.py' ! -name '*.so' ! -type d -delete && \
    find /app/lib -path '*/greenlet/tests/*' ! -type d -delete && \
    find /app/lib \( -path '*/urllib3/contrib/emscripten/*' -o -path '*/site-packages/curl/*' -o -path '*/tqdm/contrib/*' \
        -o -regex '.*/tqdm/\(dask\|keras\|notebook\|rich\|tk\|completion\|tqdm\)\.\(py\|sh\|1\)' \
        -o -regex '.*/prometheus_client/\(aiohttp\|bridge\|django\|twisted\|openmetrics/parser\.py\).*' \) ! -type d -delete && \
    find /app/lib -path '*.dist-info/RECORD' -delete && \
    find /app/lib -name '*.pyi' -delete && find /app/lib -type d -empty -delete && \
    find /app/lib -type f -name '*.so*' -exec strip --strip-unneeded {} + && \
    chmod --recursive a+rX /app

FROM ${PYTHON_IMAGE}
# SAFEPATH: what lies in the working directory, which is where downloads go, must never be imported.
ENV PATH=/app/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY --from=build /app /app
# Without debug ranges bytecode is smaller; tracebacks lose their carets, but neither files nor lines.
# Group 0 and group-writable: any user id may run this image, as some clusters give out their own, all of that group.
RUN --mount=type=bind,source=.ci/precompile.py,target=/precompile.py \
    python3 -X no_debug_ranges /precompile.py && install -d -m 0775 -o 65532 -g 0 /data
ARG PYTHON_IMAGE
ARG VERSION=0.0.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
ARG SOURCE=
ARG DOCUMENTATION=
LABEL org.opencontainers.image.title="flagjob" \
      org.opencontainers.image.description="A headless batch job: a list of ids x a URL template -> whole, accepted files" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.url="${SOURCE}" \
      org.opencontainers.image.documentation="${DOCUMENTATION}" \
      org.opencontainers.image.licenses="MIT"
ENV FLAGJOB_DEST=/data \
    FLAGJOB_METRICS_ADDRESS=:9464 \
    SOURCE_REVISION=${REVISION}
USER 65532:0
WORKDIR /data
ENTRYPOINT ["python3", "-m", "job"]
