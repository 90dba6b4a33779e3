#!/bin/sh
# stop.sh: the stop program that belongs to start.sh.
#
# It succeeds when the instance is gone, also when it was gone before or never came to be. A real one finds what a start
# has left without a line by LATENT_WORKER_KEY: a tag, a label, a name.

pid=$LATENT_WORKER_INSTANCE
[ -n "$pid" ] || exit 0

if [ "$LATENT_WORKER_FAST" = 0 ] && kill -TERM "$pid" 2>/dev/null; then
    tries=50 # a grace of 5 s, unless somebody waits
    while [ $tries -gt 0 ] && kill -0 "$pid" 2>/dev/null; do
        sleep 0.1
        tries=$((tries - 1))
    done
fi
kill -KILL "$pid" 2>/dev/null
exit 0
