# The images of `cargo xtask image`, where Docker is: the same files, each image from nothing.
#
#   docker build --target pilot -t HUB/pilot:TAG .
#   docker build --target proxyv2 -t HUB/proxyv2:TAG .
#   docker build --target ztunnel -t HUB/ztunnel:TAG .
#   docker build --target install-cni -t HUB/install-cni:TAG .

FROM docker.io/library/rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends nftables && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo xtask image --unpacked /images

FROM scratch AS pilot
COPY --from=build /images/pilot/ /
USER 1337:1337
ENTRYPOINT ["pilot-discovery"]

FROM scratch AS proxyv2
COPY --from=build /images/proxyv2/ /
USER 1337:1337
ENTRYPOINT ["pilot-agent"]

FROM scratch AS ztunnel
COPY --from=build /images/ztunnel/ /
ENTRYPOINT ["ztunnel"]

FROM scratch AS install-cni
COPY --from=build /images/install-cni/ /
ENTRYPOINT ["install-cni"]
