#!/bin/sh -e
# Starts a stock worker and says its process group: stock.sh PLACE. When it ends, PLACE/ended.GROUP appears.
directory=$1/$LATENT_WORKER_KEY
"$TEST_BUILDBOT_WORKER" create-worker --protocol msgpack_experimental_v7 "$directory" \
    "$LATENT_WORKER_MASTER" "$LATENT_WORKER_NAME" "$LATENT_WORKER_SECRET" >"$directory.log" 2>&1
# It tells the master its whole environment.
env -i PATH="$PATH" HOME="$HOME" setsid sh -c '"$@"; : >"$0/ended.$$"' "$1" \
    "$TEST_BUILDBOT_WORKER" start --nodaemon "$directory" </dev/null >>"$directory.log" 2>&1 &
echo $! >"$1/$LATENT_WORKER_NAME.group"
echo $!
