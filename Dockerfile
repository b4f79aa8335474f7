# One image for the harness and for the phases that it starts beside itself; docs/docker.md says how it is pinned.
ARG BASE_IMAGE=nvidia/cuda:13.0.1-cudnn-devel-ubuntu24.04@sha256:8b2705ea7a8653ad3451b46ab835eced92d77b44e671b9cf3ad4f95fbb2efe5e
# An image or stage with wheels in its root, looked at before the index; a lock's hashes hold for them, too.
ARG WHEELS=no-wheels

FROM scratch AS no-wheels

FROM ${WHEELS} AS wheels

# The base, and Python if it has none: on Ubuntu as the release came out, which is the only version that its archive keeps.
# Of the -dev package only the headers (Triton compiles a launcher): it asks for one exact zlib, and the base has its own.
FROM ${BASE_IMAGE} AS base
RUN if ! python3 -c 'import ensurepip' 2>/dev/null; then \
        . /etc/os-release && \
        printf 'Package: *\nPin: release a=%s\nPin-Priority: 990\n' "$VERSION_CODENAME" >/etc/apt/preferences.d/as-released && \
        apt-get update -qq && \
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends ca-certificates python3 python3-venv && \
        cd /tmp && apt-get download -qq "lib$(readlink /usr/bin/python3)-dev" && dpkg-deb -x lib*-dev_*.deb headers && \
        cp -a headers/usr/include/. /usr/include/ && \
        rm -rf /tmp/* /etc/apt/preferences.d/as-released /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old \
            /var/cache/ldconfig /var/log/*; \
    fi

# Every package comes from the lock, with its hash, as a wheel; pip itself stays behind in this stage. Of the project only
# a pointer to its place is installed, so that whoever covers that place has covered all of it.
FROM base AS venv
ARG LOCK=record
ARG LOCK_SHA256
# Where PyTorch publishes its CPU builds, if the lock asks for one and WHEELS has none.
ARG TORCH_INDEX=
COPY requirements/${LOCK}.lock /tmp/lock
RUN echo "${LOCK_SHA256:?give --build-arg LOCK_SHA256, the sha256 of the lock}  /tmp/lock" | sha256sum --check --quiet && \
    python3 -m venv /tmp/tools && python3 -m venv --without-pip /opt/venv
RUN --mount=type=secret,id=ca --mount=type=bind,from=wheels,target=/wheels \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi && \
    /tmp/tools/bin/pip --python /opt/venv/bin/python --disable-pip-version-check --no-cache-dir --no-input --quiet install \
        --no-deps --require-hashes --only-binary :all: --find-links /wheels ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
        --requirement /tmp/lock
WORKDIR /opt/parameter-golf
COPY pyproject.toml README.md ./
COPY harness/__init__.py harness/
RUN /tmp/tools/bin/pip --python /opt/venv/bin/python --disable-pip-version-check --no-cache-dir --no-input --quiet install \
        --no-deps --no-index --no-build-isolation --editable .

# The project, and what the image says of itself: the commit is what the caller says, or what is checked out.
FROM base AS project
ARG LOCK_SHA256
ARG REVISION=
COPY . /opt/parameter-golf
RUN cd /opt/parameter-golf && revision=${REVISION:-$(scripts/revision .)} && rm -rf .git && \
    printf '{"revision": "%s", "lock_sha256": "%s"}\n' "$revision" "$LOCK_SHA256" >/etc/parameter-golf-image.json

# The default user is nobody's: compose.yaml makes the harness root, and the harness gives each phase a uid of its own.
FROM base
RUN if user=$(getent passwd 1000); then userdel "${user%%:*}"; fi && \
    groupadd --gid 1000 phase && useradd --uid 1000 --gid 1000 --no-create-home --no-log-init --shell /usr/sbin/nologin phase && \
    rm -f /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow-
COPY --from=venv /opt/venv /opt/venv
COPY harness/scoring/wire.py /wire/harness/scoring/wire.py
COPY --from=project /opt/parameter-golf /opt/parameter-golf
COPY --from=project /etc/parameter-golf-image.json /etc/
ARG BASE_IMAGE
ARG LOCK_SHA256
ARG REVISION=
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LABEL org.opencontainers.image.title="parameter-golf" \
      org.opencontainers.image.revision="${REVISION:-unknown}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}" \
      parameter-golf.lock-sha256="${LOCK_SHA256}"
WORKDIR /workspace
USER 1000:1000
CMD ["harness", "--help"]
