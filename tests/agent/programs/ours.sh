#!/bin/sh -e
# Starts our agent and says its process group: ours.sh PLACE AGENT. When it ends, PLACE/ended.GROUP appears.
directory=$1/$LATENT_WORKER_KEY
mkdir "$directory"
setsid sh -c '"$@"; : >"$0/ended.$$"' "$1" "$2" "$directory" </dev/null >"$directory.log" 2>&1 &
echo $! >"$1/$LATENT_WORKER_NAME.group"
echo $!
