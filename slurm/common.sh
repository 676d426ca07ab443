# shellcheck shell=bash
# What the batch scripts of this folder share; sourced, never run. They set `root`, the checkout, first.
#
# Build on a login node (launch/setup, then the release preset); the checkout, the data and the run
# directory must be on a file system that all nodes see.

: "${root:?the checkout, which the batch scripts set}"

# read_arguments "$@": sets `recipe`, `run_dir` (--run-dir, or runs/<name of the recipe's file>) and
# `arguments`, what is left for `trestle train`. Ends with the program's codes where something is missing.
read_arguments() {
  # In a checkout, or beside bin/ after `cmake --install`.
  program=$root/build/release/launch/trestle
  if [[ ! -x $program && -x $root/../../bin/trestle ]]; then program=$root/../../bin/trestle; fi
  program=${TRESTLE_PROGRAM:-$program}
  recipe=${1:-} run_dir='' arguments=()
  if [[ -z $recipe || $recipe == -* ]]; then
    echo "$0: no recipe was named. Submit with: sbatch SCRIPT RECIPE.toml [arguments for trestle train]" >&2
    exit 2
  fi
  shift
  while (($#)); do
    case $1 in
      --run-dir) run_dir=${2:?--run-dir needs a folder}; shift ;;
      --run-dir=*) run_dir=${1#*=} ;;
      *) arguments+=("$1") ;;
    esac
    shift
  done
  if [[ -z $run_dir ]]; then run_dir=runs/$(basename "$recipe" .toml); fi
  if [[ ! -x $program ]]; then
    echo "$0: $program is not there. Build first (launch/quickstart does), or set TRESTLE_ROOT or TRESTLE_PROGRAM." >&2
    exit 4
  fi
  : "$recipe" "$run_dir"
}

# set_cpu_layout: one thread a core that Slurm gave a rank, and no more. Sets `cpu_options`, which
# srun wants to be told again: it does not take --cpus-per-task over from sbatch.
set_cpu_layout() {
  cpu_options=()
  if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then cpu_options=(--cpus-per-task="$SLURM_CPUS_PER_TASK"); fi
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
  : "${cpu_options[@]}"
}

# pass_signals COMMAND...: runs it, and passes on SIGUSR2 that Slurm sends to this shell alone. A
# SIGTERM (scancel) Slurm sends to everybody. Returns the command's exit code.
pass_signals() {
  local pid status=0 again
  "$@" &
  pid=$!
  trap 'kill -USR2 "$pid" 2>/dev/null || true' USR2
  while true; do
    status=0
    wait "$pid" || status=$?
    # A trap interrupts `wait` with a status above 128, and the command may end at the same moment.
    if ((status <= 128)); then break; fi
    if ! kill -0 "$pid" 2>/dev/null; then
      again=0
      wait "$pid" || again=$?
      if ((again != 127)); then status=$again; fi
      break
    fi
  done
  trap - USR2
  return "$status"
}
