// Reductions and gathers by hosts: inside each host, and then between hosts, where every sum
// travels once instead of every rank's contribution. The same slices end in the same hands as in
// one level (dist/operations.h).
//
//   two_level::all_reduce(channel, topology, {.kind = "all_reduce"}, arithmetic, bytes,
//   op)->wait();
//
// On H hosts x L ranks, let rank (h, l) be the l-th of host h.
//   reduce_scatter: (h, l) collects from the ranks of its host what they have for each (h', l), and
//     adds it in the order of these ranks: what host h has for (h', l). That goes to (h', l), which
//     adds what it gets in the order of hosts.
//   all_gather: (h, l) sends its slice to (h', l) of the other hosts and inside its own, and passes
//     on inside what comes from the others.
//   all_reduce: the one after the other.
// A host sends (H - 1)/H of the tensor in each half, L times less than in one level; all_reduce on
// 2 hosts sends the tensor's size once, a ring sends it (2L - 1)/L times.
//
// RESULTS: sum over hosts of (sum over the host's ranks), in the type of the result: the same bits
// on every rank, in every run of the same topology, in all slices and chunks alike. Another
// topology, or one level, is another order. WIRE: between hosts the sums have the type of `in`. Of
// bfloat16 contributions the sum of each host is therefore rounded to bfloat16 once, that of the
// own host, too, so that an element's bits do not depend on who holds it; the sum over hosts is
// float32. (Sums in float32 would cost as many bytes as one level on hosts of 2 ranks.)
//
// COLLECTIVE, one call of the channel each. Call::two_level is of the channel's ranks, has two
// levels (Topology::why_one_level() is empty) and is the same on all of them; the functions of
// dist/operations.h come here where it is set. THREADS: as dist/channel.h.
#pragma once
#include "dist/operations.h"

namespace trestle::dist::two_level {

Pending all_reduce(Channel& channel, const Call& call, Arithmetic arithmetic,
                   std::span<std::byte> data, ReduceOp op);
Pending reduce_scatter(Channel& channel, const Call& call, Arithmetic arithmetic,
                       std::span<const std::byte> in, std::span<std::byte> out, ReduceOp op);
Pending all_gather(Channel& channel, const Call& call, std::span<const std::byte> mine,
                   std::span<std::byte> all);

}  // namespace trestle::dist::two_level
