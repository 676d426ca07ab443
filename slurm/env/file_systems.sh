# shellcheck shell=bash
# Shared file systems: what is worth setting, and where things should lie. An example to adapt.
#
# Run directories belong on a parallel file system that all nodes see (Lustre, GPFS, BeeGFS). Home
# folders on NFS are slow and small; there a save may fail for the quota, which costs the run nothing
# but that save.

# HDF5 asks for file locks that some file systems refuse ("unable to lock file"). Every file of a
# checkpoint has one writer, so nothing is lost without them.
export HDF5_USE_FILE_LOCKING=FALSE

# Lustre: large files over several servers. Applies to what is written from then on; the folder must
# be there. One stripe for each 1 to 2 GB of a shard is plenty.
# mkdir -p "$run_dir/checkpoints" && lfs setstripe --stripe-count 4 "$run_dir/checkpoints"

# NFS: a file that one node wrote may be seen by another only after the attribute cache's time (up to
# a minute). A run that is requeued within that time may not see its newest checkpoint yet; mount with
# actimeo=1, or use another file system.

# Pictures are read over and over. Where nodes have a local disk, copy them there once a start, and
# train with --set data.path="$TMPDIR/pictures".
# srun --ntasks-per-node=1 --nodes="$SLURM_JOB_NUM_NODES" rsync -a /shared/pictures "$TMPDIR/"
