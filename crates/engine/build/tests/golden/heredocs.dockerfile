FROM a
RUN <<ONE cat > /x <<-TWO && cat <<"THREE"
plain $A
ONE
	indented
	TWO
quoted $A
THREE
COPY <<a <<'b' /d/
FROM is text here

b
a
\
b
RUN echo "<<not" a<<b
RUN 3<<EOF cat /dev/fd/3
# no comment
EOF
RUN true
