#!/bin/sh
# stop.sh: the stop program that belongs to start.sh.
#
# It succeeds when the instance is gone, also when it was gone before or never came to be. A real one finds what a start
# has left without a line by LATENT_WORKER_KEY: a tag, a label, a name.

pid=$LATENT_WORKER_INSTANCE
[ -n "$pid" ] || exit 0

# The number may belong to another process by now. The agent is the one that has the key in its environment.
is_the_agent() {
    if [ -e /proc/self/environ ]; then
        tr '\0' '\n' 2>/dev/null <"/proc/$pid/environ" | grep -qx "LATENT_WORKER_KEY=$LATENT_WORKER_KEY"
    else
        ps -E -ww -p "$pid" 2>/dev/null | grep -q "LATENT_WORKER_KEY=$LATENT_WORKER_KEY"
    fi
} 2>/dev/null

# A process that is just becoming another program has no environment for a moment.
is_the_agent || { sleep 0.1; is_the_agent; } || exit 0

if [ "$LATENT_WORKER_FAST" = 0 ] && kill -TERM "$pid" 2>/dev/null; then
    tries=50 # a grace of 5 s, unless somebody waits
    while [ $tries -gt 0 ] && is_the_agent; do
        sleep 0.1
        tries=$((tries - 1))
    done
fi
if is_the_agent; then
    kill -KILL "$pid" || exit 1
fi
exit 0
