#!/bin/sh
# Starts a stock buildbot-worker on Debian 12 or Ubuntu 24.04. It runs once, as root, at the first boot of a machine; the driver
# fills in what stands between @ and @. The machine is gone when its agent has ended, and after a day in any case.
shutdown -h +1440
apt-get update && apt-get install -y python3-venv && useradd --create-home worker
python3 -m venv /opt/agent && /opt/agent/bin/pip install 'buildbot-worker>=4.2'
su worker -c "/opt/agent/bin/buildbot-worker create-worker --protocol msgpack_experimental_v7 /home/worker/w \
    '@LATENT_WORKER_MASTER@' '@LATENT_WORKER_NAME@' '@LATENT_WORKER_SECRET@'"
su worker -c "/opt/agent/bin/buildbot-worker start --nodaemon /home/worker/w"
poweroff
