# Build libnghttp2.a with $CC and $CFLAGS from the source in NGHTTP2_SOURCE (a release, with lib/ in it): for wheels, and
# for testing the native transport with another version of nghttp2, or with sanitizers in it.
#     CC=clang CFLAGS=... NGHTTP2_SOURCE=nghttp2-1.68.1 sh tools/build_nghttp2.sh DIRECTORY
# Writes include/ and lib/ into DIRECTORY. Sources: https://github.com/nghttp2/nghttp2, `apt-get source nghttp2`, or the
# crate libnghttp2-sys.
set -eu
into=$1
mkdir -p "$into/include/nghttp2" "$into/lib" "$into/objects"
version=$(sed -n 's/^AC_INIT(\[nghttp2\], \[\([0-9.]*\).*/\1/p' "$NGHTTP2_SOURCE/configure.ac")
number=$(printf '0x%02x%02x%02x' $(echo "$version" | tr . ' '))
cp "$NGHTTP2_SOURCE/lib/includes/nghttp2/nghttp2.h" "$into/include/nghttp2"
sed "s/@PACKAGE_VERSION@/$version/; s/@PACKAGE_VERSION_NUM@/$number/" \
    "$NGHTTP2_SOURCE/lib/includes/nghttp2/nghttp2ver.h.in" >"$into/include/nghttp2/nghttp2ver.h"
for file in "$NGHTTP2_SOURCE"/lib/*.c; do
    # The result of its configure script on every system that these tools support.
    # shellcheck disable=SC2086
    "$CC" $CFLAGS -fPIC -DHAVE_ARPA_INET_H -DHAVE_NETINET_IN_H -DHAVE_CLOCK_GETTIME -DHAVE_DECL_CLOCK_MONOTONIC=1 -DHAVE_TIME_H \
        -DNGHTTP2_STATICLIB -I"$into/include" -c "$file" -o "$into/objects/$(basename "$file" .c).o"
done
rm -f "$into/lib/libnghttp2.a"
ar rc "$into/lib/libnghttp2.a" "$into"/objects/*.o
echo "nghttp2 $version, with $CC $CFLAGS"
