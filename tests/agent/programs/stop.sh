#!/bin/sh
# Stops the agents of an attempt, however they were started, and removes their directories: stop.sh PLACE.
for group in $LATENT_WORKER_INSTANCE; do
    kill -s KILL -- "-$group" 2>/dev/null
done
# What was just killed may have left something behind us.
rm -rf "$1/$LATENT_WORKER_KEY"* || { sleep 1; rm -rf "$1/$LATENT_WORKER_KEY"*; }
