#!/bin/bash
# 64 shells over 4 nodes, 10 minutes.
export NODES=${NODES:-4} SPAWNERS=${SPAWNERS:-64} SECONDS_LONG=${SECONDS_LONG:-600}
exec bash "$(dirname "$0")/epm_storm.sh"
