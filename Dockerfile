# syntax=docker/dockerfile:1

# The gateway alone, without the simulator and the demo, which only tests and `teamgate dev` need:
#
#   docker build --build-arg TEAMGATE_COMMIT="$(git rev-parse --short HEAD)" --tag teamgate .
#   docker run --publish 8080:8080 --volume teamgate:/var/lib/teamgate \
#     --volume ./teamgate.yaml:/etc/teamgate/teamgate.yaml:ro --env-file environment teamgate
#
# In the configuration: `secret_file` and `store.path` below /var/lib/teamgate, `listen` on 0.0.0.0:8080,
# `admin` left alone. The container takes as long as `shutdown_grace` to stop: `docker stop --time 45`.

FROM rust:1.95-bookworm AS build
# aws-lc is C, and its build wants CMake. No versions: they follow the image of the compiler.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends cmake \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# What `teamgate version` calls this build.
ARG TEAMGATE_COMMIT=unknown
ENV TEAMGATE_COMMIT=${TEAMGATE_COMMIT}
RUN cargo build --release --locked --no-default-features --package teamgate \
 && install -D --mode=0755 target/release/teamgate /out/teamgate \
 && install -d --mode=0700 /out/state

# A C library and CA certificates; no shell, no package manager, nothing else to keep up to date.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out/teamgate /usr/local/bin/teamgate
# A new volume takes its owner from here. The number, because Kubernetes' runAsNonRoot cannot look up names.
COPY --from=build --chown=65532:65532 /out/state /var/lib/teamgate
USER 65532:65532
WORKDIR /var/lib/teamgate
VOLUME ["/var/lib/teamgate"]
ENV TEAMGATE_CONFIG=/etc/teamgate/teamgate.yaml
# What the configuration listens on; the admin address stays on the container's loopback.
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
  CMD ["/usr/local/bin/teamgate", "health"]
ENTRYPOINT ["/usr/local/bin/teamgate"]
CMD ["run"]
