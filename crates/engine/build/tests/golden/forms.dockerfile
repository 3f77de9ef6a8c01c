# syntax = docker/dockerfile:1.7-labs

# Build what the stage is for
ARG A
ARG B=1 C="two words"
# build what the stage is for
from a as Build
env K v w  x
env K=v L='$x' "M N"=o
Cmd [ "a", "b\u0041" ]
CMD [ "not json' ]
entrypoint []
HEALTHCHECK --interval=1m --timeout=2s --start-period=3s --start-interval=4s --retries=5 CMD ["x", "y"]
HEALTHCHECK NONE
ONBUILD copy --from=0 ["a b", "/d"]
RUN --network=none --security=sandbox --mount=type=bind,from=b,target=/x,rw --mount=type=ssh x
COPY --from=b --link=false --chown=1:2 --exclude=a --exclude=b x y z/
ADD --checksum=sha256:0 --unpack=false http://h/x /
VOLUME a b
VOLUME ["c"]
EXPOSE 1 2/udp $P
USER u
WORKDIR "a b"
LABEL a=b "c d"=e
STOPSIGNAL 9
SHELL ["s"]
MAINTAINER m <m@h>
