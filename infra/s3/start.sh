#!/bin/sh
# Start SeaweedFS with the identities of identities.json: start.sh FOLDER weed [OPTION …]. The file with the keys goes to
# FOLDER, which others can't read. TILEQ_S3_ACCESS_KEY and TILEQ_S3_SECRET_KEY are the operator's, S3_ACCESS_KEY_ROLE and
# S3_SECRET_KEY_ROLE a role's; a role without keys of its own is left out, and its process uses the operator's.
