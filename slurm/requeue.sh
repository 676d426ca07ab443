#!/usr/bin/env bash
# What becomes of a Slurm job whose training has ended. The batch scripts beside this one call it:
#
#   slurm/requeue.sh start RUN_DIR         before the training: notes where it starts
#   slurm/requeue.sh end RUN_DIR CODE      after it: requeues the job or says why not; exits with CODE
#
# The decision, by the training's exit code:
#
#   0         done. Not requeued.
#   75        stopped and saved. Requeued while the job is RUNNING, and if its time limit came before
#             the save was done. A job that is cancelled is COMPLETING by now, too; it stays ended.
#   7, 137    a rank or its machine was lost. Requeued while RUNNING, if a checkpoint newer than the
#             one at the start is there, at most TRESTLE_MAX_REQUEUES times a job (3). The machine
#             that RUN_DIR/verdict.json blames is excluded from then on.
#   others    another start would end the same way. Not requeued.
#
# A job that is told to stop (75) TRESTLE_MAX_REQUEUES times in a row before it could save anything new
# is not requeued either: its time limit is too short for one step.
#
# In the run directory: slurm/history.tsv has a line for each start and end (time, job, restart, event,
# code, step, note); slurm/excluded_hosts a machine a line. Delete a line when that machine is well.
set -uo pipefail

usage() {
  echo "usage: slurm/requeue.sh start RUN_DIR | end RUN_DIR CODE" >&2
  exit 2
}

say() { printf 'requeue.sh: %s\n' "$*"; }

# newest_step: the step of the newest checkpoint, 0 without one.
newest_step() {
  local manifest name newest=0
  for manifest in "$run_dir"/checkpoints/step-*/manifest.json; do
    name=${manifest%/manifest.json}
    name=${name##*/step-}
    if [[ -f $manifest && $name =~ ^[0-9]+$ ]] && ((10#$name > newest)); then newest=$((10#$name)); fi
  done
  echo "$newest"
}

# note EVENT CODE STEP [WORDS]: a line of the history. A full disk must not keep a job from its queue.
note() {
  printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$(date +%FT%T)" "$job" "$restart" "$1" "$2" "$3" "${4:-}" \
    2>/dev/null >>"$state_dir/history.tsv" ||
    say "cannot write $state_dir/history.tsv"
}

# field NAME: of this job, as Slurm knows it; empty where Slurm does not answer.
field() {
  local text try
  for try in 1 2 3; do
    text=$(scontrol -o show job "$job" 2>/dev/null) && [[ -n $text ]] && break
    ((try < 3)) && sleep "${TRESTLE_RETRY_S:-5}"
  done
  grep -oE "(^| )$1=[^ ]*" <<<"$text" | head -n 1 | cut -d = -f 2- | sed 's/^(null)$//'
}

# join: lines as a list with commas, each once.
join() { sort -u | sed '/^$/d' | paste -sd , -; }

# enough_nodes_without LIST: are as many machines in service as the job needs, those of LIST left out?
enough_nodes_without() {
  local left
  left=$(sinfo --noheader --Node --responding --partition="${SLURM_JOB_PARTITION:-}" \
    --states=idle,allocated,mixed,completing,reserved --format=%N 2>/dev/null | sort -u |
    grep -cvxF -f <(tr ',' '\n' <<<"$1")) || true
  ((${left:-0} >= ${SLURM_JOB_NUM_NODES:-1}))
}

# blame: adds the machine that this start's verdict names to the excluded ones; prints its name.
blame() {
  local verdict=$run_dir/verdict.json host
  # One of an earlier start says nothing of this one.
  [[ -f $verdict && $verdict -nt $state_dir/started ]] || return 0
  host=$(grep -oE '"host" *: *"[^"]+"' "$verdict" | head -n 1 | sed 's/.*: *"//; s/"$//')
  # What Slurm does not know as one of the job's machines it cannot exclude.
  if ! scontrol show hostnames "${SLURM_JOB_NODELIST:-}" 2>/dev/null | grep -qxF -- "$host"; then
    host=${host%%.*}
    scontrol show hostnames "${SLURM_JOB_NODELIST:-}" 2>/dev/null | grep -qxF -- "$host" || return 0
  fi
  echo "$host"
  grep -qxF -- "$host" "$excluded" 2>/dev/null || echo "$host" 2>/dev/null >>"$excluded" ||
    say "cannot write $excluded" >&2
}

# requeue WHY [BLAMED HOST]: exits if Slurm takes the job back.
requeue() {
  local why=$1 host=${2:-} hosts='' said
  if [[ -n $host || -s $excluded ]]; then
    hosts=$({ field ExcNodeList | xargs -r scontrol show hostnames; cat "$excluded" 2>/dev/null
              echo "$host"; } | join)
    if ! enough_nodes_without "$hosts"; then
      why+="; without $hosts fewer machines than the job needs would be left, so none is excluded"
      hosts=''
    fi
  fi
  # Slurm ends this script together with the job; there is something left to do.
  trap '' TERM
  if ! said=$(scontrol requeue "$job" 2>&1); then
    leave "Slurm refuses to requeue ($said)"
  fi
  # Only a job that waits can be told what to exclude. This one waits from now on.
  if [[ -n $hosts ]]; then
    if said=$(scontrol update "JobId=$job" "ExcNodeList=$hosts" 2>&1); then
      why+="; excluded: $hosts"
    else
      why+="; $hosts cannot be excluded ($said)"
    fi
  fi
  note requeued "$code" "$step" "$why"
  say "requeued (exit code $code, step $step): $why"
  exit "$code"
}

# leave WHY: the job ends here.
leave() {
  note ended "$code" "$step" "$1"
  say "not requeued (exit code $code, step $step): $1"
  exit "$code"
}

# require_running: a job that is cancelled, or lost its node, must not be raised by us.
require_running() {
  local job_state
  job_state=$(field JobState)
  case $job_state in
    RUNNING) ;;
    '') leave "Slurm does not say what state job $job is in" ;;
    *)
      if ((code == 75)) && [[ $job_state == COMPLETING && $(field Reason) == TimeLimit ]]; then return; fi
      leave "the job is $job_state (cancelled, or requeued by Slurm itself) and is left so"
      ;;
  esac
}

decide() {
  local started most=${TRESTLE_MAX_REQUEUES:-3} count host
  started=$(awk -F '\t' -v job="$job" -v restart="$restart" \
    '$2 == job && $3 == restart && $4 == "start" { step = $6 } END { print step }' \
    "$state_dir/history.tsv" 2>/dev/null)
  case $code in
    0) leave "done" ;;
    75)
      require_running
      # Requeues of this job, back to the last that had saved something new.
      count=$(awk -F '\t' -v job="$job" -v step="$step" '$2 != job { next }
          $4 == "start" { from = $6 }
          $4 == "requeued" { idle = $5 == 75 && $6 == from ? idle + 1 : 0 }
          END { print idle + 0 }' "$state_dir/history.tsv" 2>/dev/null)
      if [[ $step == "$started" ]] && ((${count:-0} >= most)); then
        leave "stopped $((count + 1)) times in a row at step $step before it could save anything new. Is the job's time limit too short for the start, a step and a save?"
      fi
      requeue "stopped and saved" ;;
    7 | 137)
      require_running
      if [[ -z $started ]]; then leave "where this start began is not known"; fi
      if ((step <= started)); then
        leave "a rank or machine was lost, and nothing new was saved since the start at step $started. Look at $run_dir/verdict.json and the log"
      fi
      count=$(awk -F '\t' -v job="$job" \
        '$2 == job && $4 == "requeued" && $5 != 75' "$state_dir/history.tsv" | wc -l)
      if ((count >= most)); then
        leave "a rank or machine was lost, and the job has been requeued $count times for that (TRESTLE_MAX_REQUEUES=$most)"
      fi
      host=$(blame)
      requeue "a rank or machine was lost${host:+: $host}, $((step - started)) steps after the start" "$host" ;;
    2) leave "the command line or the recipe is wrong; the message above says where" ;;
    3) leave "something is wrong with the data; the message above says what" ;;
    4) leave "something is wrong with the machine, its disks or the launch; the first error above says what" ;;
    5) leave "a checkpoint could not be written or read; the message above says which" ;;
    6) leave "losses or gradients are not finite; another start would meet the same numbers" ;;
    *)
      require_running  # an mpirun that is cancelled exits with 1
      leave "nothing is known about this code; look at the log" ;;
  esac
}

command=${1:-} run_dir=${2:-} code=${3:-}
[[ -n $run_dir ]] || usage
# An array's task has a name of its own; the number of its last task is the whole array's.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID:-}}
job=${job:-${SLURM_JOB_ID:-}}
if [[ -z $job ]]; then
  say "not in a Slurm job (SLURM_JOB_ID is not set), so there is nothing to requeue" >&2
  exit "${code:-2}"
fi
restart=${SLURM_RESTART_COUNT:-0}
state_dir=$run_dir/slurm
excluded=$state_dir/excluded_hosts
step=$(newest_step)

case $command in
  start)
    if ! { mkdir -p "$state_dir" && : >"$state_dir/started"; }; then say "cannot write in $state_dir"; fi
    note start - "$step" "${SLURM_JOB_NODELIST:-}"
    bad=$(scontrol show hostnames "${SLURM_JOB_NODELIST:-}" 2>/dev/null |
      grep -xF -f "$excluded" 2>/dev/null | join)
    if [[ -n $bad ]]; then
      say "$bad was to blame for a lost rank before (submit with --exclude=$bad, or delete it from $excluded)"
    fi
    ;;
  end)
    [[ $code =~ ^[0-9]+$ ]] || usage
    decide
    ;;
  *) usage ;;
esac
