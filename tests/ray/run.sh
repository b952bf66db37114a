#!/bin/bash
# A Ray cluster of two nodes of one core each, on this machine, for as long as a command runs:
#
#   tests/ray/run.sh COMMAND [ARGUMENT...]
#
# `ray` must be on the PATH or in the checkout's .venv/bin. RAY_ADDRESS is set for the command. State and logs go to a temporary
# folder that is removed at the end, unless KEEP=1. Exits with 77 where ray is missing, and with the command's code otherwise.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export PATH="$PATH:$root/.venv/bin"
command -v ray > /dev/null || { echo "run.sh: ray is not installed (pip install 'tinylm-ablate[ray]')" >&2; exit 77; }
export RAY_USAGE_STATS_ENABLED=0 RAY_DISABLE_IMPORT_WARNING=1

folder=$(mktemp -d)
port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
nodes=()

finish() {
  code=$?
  trap - EXIT
  # Each `ray start --block` ends the processes of its own node, and only these.
  for node in "${nodes[@]}"; do kill "$node" 2> /dev/null || true; done
  for node in "${nodes[@]}"; do wait "$node" 2> /dev/null || true; done
  [ $code -eq 0 ] || tail -n 20 "$folder"/*.log >&2 || true
  [ "${KEEP:-0}" = 1 ] && echo "run.sh: kept $folder" >&2 || rm -rf "$folder"
  exit $code
}
trap finish EXIT
trap 'exit 130' INT TERM

start() {
  local name=$1
  shift
  ray start --block --num-cpus=1 --disable-usage-stats --object-store-memory=100000000 "$@" > "$folder/$name.log" 2>&1 &
  nodes+=($!)
}

start head --head --node-ip-address=127.0.0.1 --port="$port" --include-dashboard=false --temp-dir="$folder/ray"
export RAY_ADDRESS="127.0.0.1:$port"
start second --address="$RAY_ADDRESS" --node-ip-address=127.0.0.1

python=$(head -n 1 "$(command -v ray)" | cut -c3-)
for attempt in $(seq 60); do
  alive=$("$python" -c 'import ray
ray.init(address="auto", logging_level="ERROR", log_to_driver=False)
print(sum(node["Alive"] for node in ray.nodes()))' 2> /dev/null || echo 0)
  [ "$alive" -ge 2 ] && break
  [ "$attempt" -lt 60 ] || { echo "run.sh: the nodes did not come up" >&2; exit 1; }
  sleep 1
done
"$@"
