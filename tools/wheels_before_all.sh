# What cibuildwheel runs in each of its containers before it builds wheels, in its copy of this tree: build libnghttp2.a into
# /opt/nghttp2, and name its licence. The source of nghttp2 was fetched before (`make wheels`).
set -eu
NGHTTP2_SOURCE=$(sh tools/nghttp2_source.sh)
export NGHTTP2_SOURCE
CC=cc CFLAGS='-O2 -g0 -fstack-protector-strong' sh tools/build_nghttp2.sh /opt/nghttp2
sh tools/licence_of_nghttp2.sh .
