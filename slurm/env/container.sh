# shellcheck shell=bash
# The program from an image (slurm/apptainer.def): srun starts a container a rank. An example to adapt.
#
# Only the ranks run inside. This script, srun and slurm/requeue.sh stay outside, because an image has
# no scontrol. The image's Open MPI and the site's Slurm must share a PMIx version.
#
# Source it before read_arguments.

image=$HOME/trestle.sif   # <-- apptainer build trestle.sif slurm/apptainer.def
binds=$PWD,/scratch       # <-- data and run directories, under the same names inside

# A program of one word, which the batch scripts start in place of build/release/launch/trestle.
TRESTLE_PROGRAM=${TMPDIR:-/tmp}/trestle-$SLURM_JOB_ID
cat >"$TRESTLE_PROGRAM" <<WRAPPER
#!/usr/bin/env bash
exec apptainer exec --nv --bind "$binds" "$image" trestle "\$@"
WRAPPER
chmod +x "$TRESTLE_PROGRAM"
# Every node needs it under this name.
if ((SLURM_JOB_NUM_NODES > 1)); then sbcast --force "$TRESTLE_PROGRAM" "$TRESTLE_PROGRAM"; fi
export TRESTLE_PROGRAM

# squeue is not in the image: the run cannot ask when the job ends, and says so once. The signal of
# #SBATCH --signal=USR2@300 stops it in time; --set train.stop_before_end_s=0 keeps it from asking.
