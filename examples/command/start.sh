#!/bin/sh
# start.sh AGENT [ARGUMENT]...: the start program of a CommandLatentWorker whose instances are processes on this machine.
#
# The agent finds what it needs in its environment: LATENT_WORKER_NAME, LATENT_WORKER_SECRET and LATENT_WORKER_MASTER.

if ! command -v "$1" >/dev/null; then
    echo "there is no agent '$1'" >&2 # the last line of standard error is the message
    exit 1                           # 65: the build's own fault; 75: no room now; anything else: failed
fi

# What is left in the background is the instance. Its output goes elsewhere, so that nobody has to read it.
"$@" >/dev/null 2>&1 &

# The first line of standard output is what the stop program is told as LATENT_WORKER_INSTANCE.
echo $!
