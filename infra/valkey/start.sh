#!/bin/sh
# Start Valkey with the users of users.acl: start.sh FOLDER valkey-server [OPTION …]. The aclfile goes to FOLDER, which
# others can't read. VALKEY_PASSWORD is the operator's, VALKEY_PASSWORD_ROLE a role's; where that is empty, the operator's.
set -eu

here=$(dirname "$0")
file=$1/users.acl
shift

hash() { printf %s "$1" | sha256sum | cut -d' ' -f1; }

umask 077
# A line that begins with a space continues the one before.
sed -e '/^#/d' -e '/^$/d' "$here/users.acl" | awk '/^ / { sub(/^ +/, " "); printf "%s", $0; next } NR > 1 { print "" } { printf "%s", $0 } END { print "" }' |
  sed \
    -e "s/@OPERATOR@/$(hash "$VALKEY_PASSWORD")/" \
    -e "s/@INTAKE@/$(hash "${VALKEY_PASSWORD_INTAKE:-$VALKEY_PASSWORD}")/" \
    -e "s/@BATCHES@/$(hash "${VALKEY_PASSWORD_BATCHES:-$VALKEY_PASSWORD}")/" \
    -e "s/@VISION@/$(hash "${VALKEY_PASSWORD_VISION:-$VALKEY_PASSWORD}")/" \
    -e "s/@WEBHOOKS@/$(hash "${VALKEY_PASSWORD_WEBHOOKS:-$VALKEY_PASSWORD}")/" \
    -e "s/@RECONCILER@/$(hash "${VALKEY_PASSWORD_RECONCILER:-$VALKEY_PASSWORD}")/" >"$file"
unset VALKEY_PASSWORD VALKEY_PASSWORD_INTAKE VALKEY_PASSWORD_BATCHES VALKEY_PASSWORD_VISION VALKEY_PASSWORD_WEBHOOKS VALKEY_PASSWORD_RECONCILER
exec "$@" --aclfile "$file"
