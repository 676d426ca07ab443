// The operations of a channel, on plain memory: what Communicator and Collectives are made of, and
// what runs on the progress thread. Free of torch; nothing above dist/ includes it.
//
//   all_gather(channel, {.kind = "all_gather"}, mine, all)->wait();
//
// Each function issues one call and returns at once; memory belongs to the operation until it has
// ended, also when the returned handle is dropped (Call::keep keeps it alive then).
// COLLECTIVE, but for send and receive. THREADS: as dist/channel.h.
#pragma once
#include "dist/channel.h"
#include "dist/communicator.h"
#include "dist/reduce.h"
#include "dist/topology.h"

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::dist {

/// How a call appears to observers, what it keeps alive, and the way it goes.
struct Call {
  std::string_view kind;
  std::string_view name = {};
  std::shared_ptr<const void> keep = nullptr;
  /// Of the channel's ranks: all_reduce, reduce_scatter and all_gather go by hosts then, as
  /// dist/two_level.h says. Null: in one level, sums in rank order.
  std::shared_ptr<const Topology> two_level = nullptr;
};

using Pending = std::shared_ptr<Operation>;

/// In place.
Pending all_reduce(Channel& channel, const Call& call, Arithmetic arithmetic,
                   std::span<std::byte> data, ReduceOp op);
/// `out` is this rank's part of the sum of the ranks' `in`; it may be exactly that part of `in`.
Pending reduce_scatter(Channel& channel, const Call& call, Arithmetic arithmetic,
                       std::span<const std::byte> in, std::span<std::byte> out, ReduceOp op);
/// Everyone's `mine`, all of one size, in rank order. `mine` may be this rank's part of `all`.
Pending all_gather(Channel& channel, const Call& call, std::span<const std::byte> mine,
                   std::span<std::byte> all);
/// Everyone's `mine`, of any sizes, in rank order.
Pending gather_texts(Channel& channel, const Call& call, std::string_view mine,
                     std::vector<std::string>& all);
/// The root's bytes to every rank, along a binomial tree.
Pending broadcast(Channel& channel, const Call& call, std::span<std::byte> bytes, int root);
/// Ends once every rank has issued it; log2(size) rounds of one-byte messages.
Pending barrier(Channel& channel, const Call& call);

Pending send(Channel& channel, const Call& call, std::span<const std::byte> bytes, int to);
Pending receive(Channel& channel, const Call& call, std::span<std::byte> bytes, int from);
/// For what may come at any time of the run, or never: looked after at leisure, and not observed.
Pending send_at_leisure(Channel& channel, std::shared_ptr<const void> keep,
                        std::span<const std::byte> bytes, int to);
Pending receive_at_leisure(Channel& channel, std::shared_ptr<const void> keep,
                           std::span<std::byte> bytes, int from);

}  // namespace trestle::dist
