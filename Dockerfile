ARG BASE_IMAGE=nvidia/cuda:13.0.1-cudnn-devel-ubuntu24.04@sha256:8b2705ea7a8653ad3451b46ab835eced92d77b44e671b9cf3ad4f95fbb2efe5e
ARG WHEELS=no-wheels

FROM scratch AS no-wheels
FROM ${WHEELS} AS wheels

FROM ${BASE_IMAGE} AS base
RUN python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'

FROM base AS venv
ARG LOCK=record
WORKDIR /opt/parameter-golf
COPY requirements/${LOCK}.lock /tmp/lock
RUN --mount=type=secret,id=ca --mount=type=bind,from=wheels,target=/wheels \
    python3 -m venv /tmp/tools && python3 -m venv --without-pip /opt/venv && \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi && \
    /tmp/tools/bin/pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check --no-input \
        --no-deps --require-hashes --only-binary :all: --find-links /wheels -r /tmp/lock
COPY . .
RUN /tmp/tools/bin/pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check --no-input \
        --no-deps --no-index --no-build-isolation --editable . && rm -rf build *.egg-info

FROM base
ARG REVISION=unknown
ARG LOCK_SHA256=unknown
LABEL org.opencontainers.image.revision=${REVISION} parameter-golf.lock-sha256=${LOCK_SHA256}
COPY --from=venv /opt/venv /opt/venv
COPY . /opt/parameter-golf
COPY harness/scoring/wire.py /wire/harness/scoring/wire.py
RUN groupadd --gid 1000 phase && useradd --uid 1000 --gid 1000 --no-create-home --shell /usr/sbin/nologin phase && \
    printf '{"revision": "%s", "lock_sha256": "%s"}\n' "$REVISION" "$LOCK_SHA256" >/etc/parameter-golf-image.json
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
WORKDIR /workspace
USER 1000:1000
CMD ["harness", "--help"]
