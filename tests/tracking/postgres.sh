#!/bin/bash
# A PostgreSQL server on loopback, on this machine, for as long as a command runs:
#
#   tests/tracking/postgres.sh COMMAND [ARGUMENT...]
#
# The address of an empty database is in TRACKING_DATABASE for the command, in the form that MLflow takes. PostgreSQL's programs
# must be on the PATH or in /usr/lib/postgresql (Debian: postgresql); run by root, the server runs as the user nobody. All of it
# is in a temporary folder that is removed at the end. Exits with 77 where a program is missing, and with the command's code
# otherwise.
set -euo pipefail

for folder in /usr/lib/postgresql/*/bin; do [ -d "$folder" ] && PATH="$folder:$PATH"; done
for name in initdb pg_ctl createdb; do
  command -v "$name" > /dev/null || { echo "postgres.sh: $name is not on the PATH" >&2; exit 77; }
done

home=$(mktemp -d)
as=()
if [ "$(id -u)" = 0 ]; then
  chown nobody "$home"
  as=(setpriv --reuid=nobody --clear-groups)
fi
port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')

finish() {
  code=$?
  trap - EXIT
  (cd "$home" && "${as[@]}" pg_ctl -D "$home/data" -m immediate -s stop) || true
  [ $code -eq 0 ] || tail -n 20 "$home/log" >&2 || true
  rm -rf "$home"
  exit $code
}
trap finish EXIT
trap 'exit 130' INT TERM

(
  cd "$home"
  "${as[@]}" initdb -D "$home/data" -U tracking -A trust --no-sync > /dev/null
  "${as[@]}" pg_ctl -D "$home/data" -l "$home/log" -s -w start \
    -o "-c listen_addresses=127.0.0.1 -p $port -c unix_socket_directories=$home -c fsync=off"
  "${as[@]}" createdb -h 127.0.0.1 -p "$port" -U tracking tracking
)
export TRACKING_DATABASE="postgresql+psycopg://tracking@127.0.0.1:$port/tracking"
"$@"
