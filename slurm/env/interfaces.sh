# shellcheck shell=bash
# Which networks the ranks use: only where the libraries choose wrongly (start-up hangs, or all ranks
# are slow). `ip -br addr` on a compute node shows the names; `trestle bench comm` the speed.

# Open MPI over TCP: the network between the nodes, not a container's or a virtual machine's bridge.
export OMPI_MCA_btl_tcp_if_include=10.10.0.0/16   # <-- the fast network
export OMPI_MCA_oob_tcp_if_include=10.10.0.0/16
# InfiniBand and the like: let UCX have it, where the site's Open MPI is built with UCX.
# export OMPI_MCA_pml=ucx UCX_NET_DEVICES=mlx5_0:1

# NCCL: what it must not use is easier to say than what it should.
export NCCL_SOCKET_IFNAME=^lo,docker,virbr
# export NCCL_IB_HCA=mlx5        # <-- the InfiniBand cards
# export NCCL_DEBUG=INFO         # says what it chose; "NET/Socket" beside InfiniBand is a mistake
