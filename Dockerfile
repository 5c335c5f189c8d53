# Hopmesh as an image: one node a container. `docker build -t hopmesh:local .`; docker-compose.yml shows three regions of it.
#
# BASE: any image with Python 3.11 or later, its venv module and Debian's useradd. Both stages use it, so that the environment
# finds the interpreter that it was made with.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
WORKDIR /source
# pip stays in an environment of its own: what is copied below has the program and its libraries, and nothing that installs.
RUN python3 -m venv /build && python3 -m venv --without-pip /opt/hopmesh
# The libraries first: they change more seldom than the source, and their layer is kept.
COPY pyproject.toml ./
RUN python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > /build/libraries.txt \
    && /build/bin/pip --python /opt/hopmesh/bin/python install --no-cache-dir --no-compile -r /build/libraries.txt
COPY README.md LICENSE ./
COPY mesh mesh
COPY federation federation
COPY registry registry
# Compiled here, once: a read-only root keeps nothing that is compiled later. Names inside stay as they will be at run time.
RUN /build/bin/pip --python /opt/hopmesh/bin/python install --no-cache-dir --no-compile --no-deps . \
    && /opt/hopmesh/bin/python -m compileall -q -j 0 /opt/hopmesh/lib

FROM ${BASE}
LABEL org.opencontainers.image.title="Hopmesh" \
      org.opencontainers.image.description="A federated event mesh: one node" \
      org.opencontainers.image.licenses="Apache-2.0"
# Fixed numbers: a volume's owner, and orchestrators that ask for a number to see that it is not root.
RUN groupadd --gid 10001 hopmesh \
    && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin hopmesh \
    && install -d -o 10001 -g 10001 -m 0750 /data
COPY --from=build /opt/hopmesh /opt/hopmesh
ENV PATH=/opt/hopmesh/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/data \
    MESH_NODE__DATA=/data
# The only place that a node writes to: its name, its epoch. The root may be read-only.
VOLUME /data
WORKDIR /data
USER 10001:10001
# Clients, and links of other nodes. The admin port (8222) stays on the container's loopback: `docker exec NAME mesh ...`.
EXPOSE 7222 7946
# Ready means that clients should be sent here. Without urllib, which would take the way of a proxy that the engine sets.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 \
    CMD ["/opt/hopmesh/bin/python", "-I", "-S", "-c", "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 8222, timeout=4); c.request('GET', '/readyz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["mesh"]
CMD ["run"]
