# shellcheck shell=bash
# A site's modules: what the batch script sources before it starts anything. An example to adapt; the
# names are a site's own (`module avail`).
#
# The MPI must be the one that the program was built with: `ldd build/release/launch/trestle` shows
# where its libmpi comes from once these are loaded.

# Lmod's functions read variables that may not be set.
set +u
module purge
module load gcc/12 openmpi/4.1.4 hdf5/1.10   # <-- as when it was built
# LibTorch and CUDA come from .venv. A site's own CUDA or Python modules only get in the way.
set -u

# Slurm's PMIx and the MPI's must understand each other: Open MPI 4.1 wants pmix (v3 or v4), which
# `srun --mpi=list` must name.
