# Name the licence of nghttp2, whose source is in NGHTTP2_SOURCE, in the tree in DIRECTORY: for wheels that have nghttp2 in them.
#     NGHTTP2_SOURCE=nghttp2-1.68.1 sh tools/licence_of_nghttp2.sh DIRECTORY
set -eu
cd "$1"
cp "$NGHTTP2_SOURCE/COPYING" LICENSE.nghttp2
sed 's|^license = .*|license = "Apache-2.0 AND MIT"|; s|^license-files = .*|license-files = ["LICENSE", "LICENSE.nghttp2"]|' \
    pyproject.toml >pyproject.new
mv pyproject.new pyproject.toml
