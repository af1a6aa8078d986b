#!/usr/bin/env bash
# Trains on GPUs of a Slurm cluster, one process for each GPU; queued again when it was stopped.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

USAGE="usage: launch/slurm.sh --name NAME --nodes N --gpus N [options] -- TRAIN_OPTIONS

Submits a job that runs \`zipvoice-jax train TRAIN_OPTIONS\` on N nodes with so many GPUs each.

options:
  --partition P   of the cluster (default: its own default)
  --time T        after which Slurm ends the job (default 24:00:00); the run saves a checkpoint
                  two minutes before, and the job is queued again
  --cpus N        cores for each GPU (default 12)
  --env DIR       virtual environment with jax[cuda13], on a shared disk (default: .venv, into
                  which \`make setup\` puts no CUDA: see README, \"Two commands\")
  --dry-run       print the command and the job, do nothing"
OPTIONS="name nodes gpus partition time cpus env"
PARTITION='' TIME=24:00:00 CPUS=12 ENV=$ROOT/.venv
parse_options "$@"
need name nodes gpus
[ ${#TRAIN[@]} -gt 0 ] || fail "give the options of train after --; see --help."

job=$(
  cat <<JOB
#!/usr/bin/env bash
#SBATCH --job-name=$NAME
#SBATCH --nodes=$NODES
#SBATCH --ntasks-per-node=$GPUS
#SBATCH --gpus-per-node=$GPUS
#SBATCH --cpus-per-task=$CPUS
#SBATCH --time=$TIME
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=$NAME-%j.log${PARTITION:+
#SBATCH --partition=$PARTITION}

export JAX_COMPILATION_CACHE_DIR=\${JAX_COMPILATION_CACHE_DIR:-$ROOT/.cache/xla}
status=0
# Since 22.05 srun does not take its cores over from sbatch.
srun --cpus-per-task=$CPUS --kill-on-bad-exit=1 $(quoted "$ENV/bin/zipvoice-jax" train "${TRAIN[@]}" --coordinator auto) || status=\$?
# 75: stopped, or a peer was lost; above 127: killed. Other failures would come again.
if [ "\$status" -eq 75 ] || [ "\$status" -ge 128 ]; then
  scontrol requeue "\$SLURM_JOB_ID"
fi
exit "\$status"
JOB
)
run_with_input "$job" sbatch
