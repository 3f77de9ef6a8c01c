FROM a
RUN <<X
never ends
