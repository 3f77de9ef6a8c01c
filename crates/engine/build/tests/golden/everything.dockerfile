# syntax=docker/dockerfile:1
# escape=\
ARG BASE=alpine:3
FROM --platform=$BUILDPLATFORM ${BASE:-x} AS build
ARG V=1 W
ENV A=b "C=d e" F=${V:+$A}
LABEL a="b \
  c" d=e
WORKDIR /src
COPY --from=build --chown=a:b --chmod=u+x --link --parents --exclude=*.md a b*/c ["x y", "z"] /d/
ADD --checksum=sha256:00 https://example.invalid/x.git#main /y
RUN --mount=type=cache,target=/c,sharing=locked --mount=type=secret,id=s,env=S --network=none <<-EOF cat <<'X'
	echo $A ${A#b} ${A%%c} ${A/x/y}
	EOF
raw $A
X
RUN ["a", "b"]
SHELL ["/bin/bash", "-c"]
HEALTHCHECK --interval=1m30s --retries=3 CMD curl -f localhost || exit 1
EXPOSE 80 90-95/udp
VOLUME ["/v", "/w"]
ONBUILD RUN x
STOPSIGNAL SIGTERM
USER 1:2
ENTRYPOINT ["e"]
CMD f
FROM build
MAINTAINER nobody
