#!/bin/sh
# Start SeaweedFS with the identities of identities.json: start.sh FOLDER weed [OPTION …]. The file with the keys goes to
# FOLDER, which others can't read. S3_ACCESS_KEY_ROLE and S3_SECRET_KEY_ROLE are the keys of a role; one without gets keys
# that nobody knows, and its process uses the operator's.
set -eu

here=$(dirname "$0")
file=$1/identities.json
shift

key() { # NAME: the value of variable NAME, or a random one
  eval "value=\${$1:-}"
  case $value in
    *[!A-Za-z0-9+/=_-]*) echo "$1 holds other characters than A-Z a-z 0-9 + / = _ -" >&2 && exit 1 ;;
  esac
  printf %s "${value:-$(head -c 20 /dev/urandom | sha256sum | cut -c1-40)}"
}

umask 077
cp "$here/identities.json" "$file"
for role in $(sed -n 's/.*"@\([A-Z]*\)_ACCESS_KEY@".*/\1/p' "$file"); do
  access=$(key "S3_ACCESS_KEY_$role")
  secret=$(key "S3_SECRET_KEY_$role")
  sed -i -e "s|@${role}_ACCESS_KEY@|$access|" -e "s|@${role}_SECRET_KEY@|$secret|" "$file"
  unset "S3_ACCESS_KEY_$role" "S3_SECRET_KEY_$role"
done
exec "$@" "-s3.config=$file"
