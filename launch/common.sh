# shellcheck shell=bash
# What the scripts of launch/ share; sourced, never run. Sets `root` (the checkout) and makes the
# surroundings plain: only .venv decides which Python, CMake and CUDA toolkit are used.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
# The name people typed, so that a sentence says which script speaks.
script=launch/$(basename "$0")

say() { printf '%s: %s\n' "$script" "$*"; }

# fail SENTENCE [EXIT_CODE]: 2 usage, 4 environment (the codes of the program).
fail() {
  printf '%s: %s\n' "$script" "$1" >&2
  exit "${2:-4}"
}

# A machine's own CUDA or a loaded Python module must not get between .venv and its packages.
unset PYTHONPATH PYTHONHOME CUDA_HOME CUDA_PATH CUDACXX CUDA_TOOLKIT_ROOT_DIR CUDAToolkit_ROOT
export PATH=$venv/bin:$PATH

# Compiler caches go to the home folder; an account without a usable one keeps its cache here.
if [[ -z ${CCACHE_DIR:-} && ! -w ${HOME:-/nonexistent} ]]; then
  export CCACHE_DIR=$root/build/ccache
fi

# elapsed BEGIN: the time since $SECONDS was BEGIN, as "4 s" or "3 min 20 s".
elapsed() {
  local seconds=$((SECONDS - $1))
  if ((seconds < 60)); then echo "$seconds s"; else echo "$((seconds / 60)) min $((seconds % 60)) s"; fi
}

# log_file NAME: an empty file build/logs/NAME.log; prints its path.
log_file() {
  mkdir -p "$root/build/logs"
  : >"$root/build/logs/$1.log"
  echo "$root/build/logs/$1.log"
}

# read_machine: sets cpus, cores and jobs from what this process may really use.
read_machine() {
  local line
  line=$("$venv/bin/python3" "$root/launch/machine.py")
  read -r cpus cores jobs <<<"$line"
  : "$cpus" "$cores" "$jobs"
}

# build PRESET TARGET LOG: compiles with one line of progress on a terminal, every tenth of the way
# in a file; the compiler's own words are in LOG and are shown when it fails.
build() {
  local preset=$1 target=$2 log=$3 status=0 begin=$SECONDS
  NINJA_STATUS='[%f/%t] ' nice cmake --build --preset "$preset" --target "$target" \
    --parallel "${CMAKE_BUILD_PARALLEL_LEVEL:-$jobs}" 2>&1 |
    tee -a "$log" | show_progress || status=$?
  if ((status)); then
    grep -E -m 12 'error|FAILED|No space left|Killed' "$log" >&2 || tail -n 12 "$log" >&2
    fail "the build failed after $(elapsed "$begin") (its first errors are above). The whole log: $log"
  fi
}

show_progress() {
  if [[ -t 1 ]]; then
    awk '/^\[[0-9]+\/[0-9]+\]/ { printf "\r\033[K%s", substr($0, 1, 78); fflush(); open = 1 }
         END { if (open) printf "\r\033[K" }'
  else
    awk -F '[][/]' '/^\[[0-9]+\/[0-9]+\]/ && int(10 * $2 / $3) > tenth {
           tenth = int(10 * $2 / $3); print "  compiled " $2 " of " $3; fflush() }'
  fi
}

# configure PRESET LOG [CMAKE ARGUMENTS]
configure() {
  local preset=$1 log=$2
  shift 2
  (cd "$root" && cmake --preset "$preset" "$@") >>"$log" 2>&1 || {
    grep -A 8 -m 2 'CMake Error' "$log" >&2 || tail -n 12 "$log" >&2
    fail "CMake could not configure the build (the reason is above). The whole log: $log"
  }
}

# Settings that let mpirun work on a laptop, in a container and as root. OpenMPI reads them; other
# MPI libraries ignore them. What the caller has set already stays.
prepare_mpi() {
  local ranks=$1 threads
  threads=$((cores / ranks > 0 ? cores / ranks : 1))
  # The pictures are small: more than 8 threads a rank only wait for each other.
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads < 8 ? threads : 8))}
  if ((EUID == 0)); then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  fi
  # Containers often forbid a process to read another's memory, which OpenMPI would do and report.
  export OMPI_MCA_btl_vader_single_copy_mechanism=${OMPI_MCA_btl_vader_single_copy_mechanism:-none}
  export OMPI_MCA_rmaps_base_oversubscribe=${OMPI_MCA_rmaps_base_oversubscribe:-1}
  if ((cores >= ranks)); then
    # Unless told, OpenMPI pins a rank with all its threads to one core.
    export OMPI_MCA_rmaps_base_mapping_policy=${OMPI_MCA_rmaps_base_mapping_policy:-slot:PE=$threads}
    export OMPI_MCA_hwloc_base_binding_policy=${OMPI_MCA_hwloc_base_binding_policy:-core}
  else
    export OMPI_MCA_hwloc_base_binding_policy=${OMPI_MCA_hwloc_base_binding_policy:-none}
  fi
}

# run_ranks N COMMAND...: mpirun, and Ctrl-C or SIGTERM to this script reaches the ranks as SIGUSR2.
# mpirun's own answer to both would kill them within two seconds, saved or not. Exit code: mpirun's.
run_ranks() {
  local ranks=$1 pid status=0 again=0
  shift
  export TRESTLE_PATIENT_STOP=yes
  set -m  # a process group of its own: the terminal's Ctrl-C must not reach mpirun as well
  mpirun -n "$ranks" "$@" &
  pid=$!
  set +m
  trap 'kill -USR2 "$pid" 2>/dev/null || true' INT TERM USR2
  while true; do
    status=0
    wait "$pid" || status=$?
    # A trap interrupts `wait` with a status above 128, and mpirun may end at the same moment.
    if ((status <= 128)); then break; fi
    if ! kill -0 "$pid" 2>/dev/null; then
      wait "$pid" || again=$?
      if ((again != 127)); then status=$again; fi
      break
    fi
  done
  trap - INT TERM USR2
  return "$status"
}

# A test of launch/test moves a task's folder here for a moment; when it was killed, put it back.
moved_away=$root/.moved_away
put_tasks_back() {
  local folder
  [[ -d $moved_away ]] || return 0
  for folder in "$moved_away"/*/; do
    [[ -d $folder ]] || continue
    if [[ -e $root/trainers/$(basename "$folder") ]]; then
      fail "trainers/$(basename "$folder") and $folder both exist (a test moved the second away and was killed). Keep one of them."
    fi
    mv "$folder" "$root/trainers/"
  done
  rmdir "$moved_away"
}
