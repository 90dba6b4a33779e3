#!/bin/sh
# Stops the agents of an attempt, however they were started, and removes their directories: stop.sh PLACE.
#
# A number may belong to another group by now. The group of an agent is that whose leader has a directory of the attempt
# among its arguments: a stock worker has no key in its environment.
for group in $LATENT_WORKER_INSTANCE; do
    if tr '\0' '\n' <"/proc/$group/cmdline" 2>/dev/null | grep -qF "$1/$LATENT_WORKER_KEY"; then
        kill -s KILL -- "-$group"
    fi
done 2>/dev/null
# What was just killed may have left something behind us.
rm -rf "$1/$LATENT_WORKER_KEY"* || { sleep 1; rm -rf "$1/$LATENT_WORKER_KEY"*; }
