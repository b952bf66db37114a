#!/bin/bash
# A Slurm cluster of one node, on this machine, for as long as a command runs:
#
#   tests/slurm/run.sh COMMAND [ARGUMENT...]
#
# Nothing is installed: munged, slurmctld, slurmd and Slurm's clients must be on the PATH (Debian: munge slurmctld slurmd
# slurm-client), or unpacked below the folder SLURM_ROOT (dpkg -x). Configuration, key, state and logs go to a temporary folder.
# It is removed at the end, unless KEEP=1. Exits with 77 where a program is missing, and with the command's code otherwise.
set -euo pipefail

# Debian's packages give the daemons these names, and link the plain ones to them when they are installed.
program() { command -v "$1" || command -v "$1-wlm" || { echo "run.sh: $1 is not on the PATH" >&2; exit 77; }; }

if [ -n "${SLURM_ROOT:-}" ]; then
  libraries=("$SLURM_ROOT"/usr/lib/*-linux-gnu)
  export PATH="$SLURM_ROOT/usr/bin:$SLURM_ROOT/usr/sbin:$PATH"
  export LD_LIBRARY_PATH="${libraries[0]}:${libraries[0]}/slurm-wlm${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
else
  libraries=(/usr/lib/*-linux-gnu)
fi
export PATH="$PATH:/usr/sbin"
munged=$(program munged) slurmctld=$(program slurmctld) slurmd=$(program slurmd) slurmstepd=$(program slurmstepd)
for name in sbatch srun scancel scontrol sinfo squeue; do program "$name" > /dev/null; done

folder=$(mktemp -d)
chmod 755 "$folder"
mkdir "$folder"/state "$folder"/spool "$folder"/bin
host=$(hostname -s)
read -r -a ports < <(python3 -c 'import socket
sockets = [socket.create_server(("", 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in sockets))')

finish() {
  code=$?
  trap - EXIT
  [ $code -eq 0 ] || tail -n 40 "$folder"/*.log >&2 || true
  # Jobs outlive their daemons, so they are ended first.
  if [ -f "$folder/slurmctld.pid" ]; then
    scancel --user="$(id -un)" --full --signal=KILL 2> /dev/null || true
    scancel --user="$(id -un)" 2> /dev/null || true
    for _ in $(seq 40); do
      [ -n "$(squeue --noheader 2> /dev/null)" ] || break
      sleep 0.5
    done
  fi
  for pid in "$folder"/slurmd.pid "$folder"/slurmctld.pid "$folder"/munged.pid; do
    [ -f "$pid" ] && kill "$(cat "$pid")" 2> /dev/null || true
  done
  sleep 1
  [ "${KEEP:-0}" = 1 ] && echo "run.sh: kept $folder" >&2 || rm -rf "$folder"
  exit $code
}
trap finish EXIT
trap 'exit 130' INT TERM

head -c 1024 /dev/urandom > "$folder/munge.key"
chmod 400 "$folder/munge.key"
"$munged" --socket="$folder/munge.socket" --key-file="$folder/munge.key" --log-file="$folder/munged.log" \
  --pid-file="$folder/munged.pid" --seed-file="$folder/munge.seed"

cat > "$folder/slurm.conf" <<CONF
ClusterName=here
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmdPort=${ports[1]}
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
PluginDir=${libraries[0]}/slurm-wlm
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
ReturnToService=2
KillWait=5
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo) State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF="$folder/slurm.conf"

# Accounting needs a database server. submitit asks sacct for no more than the state of its jobs, which scontrol knows as well.
cat > "$folder/bin/sacct" <<'SACCT'
#!/bin/bash
echo 'JobID|State|NodeList'
scontrol --oneliner show job 2> /dev/null | awk '{
  delete v
  for (i = 1; i <= NF; i++) { n = index($i, "="); v[substr($i, 1, n - 1)] = substr($i, n + 1) }
  task = v["ArrayTaskId"]
  if (task ~ /[-,%]/) task = "[" task "]"
  if (v["JobId"]) print (v["ArrayJobId"] ? v["ArrayJobId"] "_" task : v["JobId"]) "|" v["JobState"] "|" v["NodeList"]
}'
SACCT
chmod +x "$folder/bin/sacct"
export PATH="$folder/bin:$PATH"

"$slurmctld" -i
"$slurmd" -d "$slurmstepd"
for attempt in $(seq 60); do
  sinfo --noheader --format=%T 2> /dev/null | grep -q idle && break
  [ "$attempt" -lt 60 ] || { echo "run.sh: the node did not come up" >&2; sinfo >&2 || true; exit 1; }
  sleep 0.5
done
"$@"
