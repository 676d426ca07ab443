#include "checkpoint/shard_plan.h"

#include "base/error.h"
#include "checkpoint/plan.h"
#include "checkpoint/tensor_bytes.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <utility>

namespace trestle::checkpoint {
namespace {

/// What this rank writes of each tensor, in the order of the tree.
std::vector<ElementRange> ranges_to_write(const StateTree& tree, const Holder& holder) {
  std::vector<TensorSize> replicated;
  for (const StateEntry& entry : tree.tensors)
    if (entry.replicated)
      replicated.push_back({entry.end, static_cast<std::uint64_t>(entry.tensor.element_size())});
  const std::vector<ElementRange> shares = share_of(replicated, holder.rank, holder.count);

  std::vector<ElementRange> ranges;
  auto share = shares.begin();
  for (const StateEntry& entry : tree.tensors)
    ranges.push_back(entry.replicated ? *share++ : ElementRange{entry.begin, entry.end});
  return ranges;
}

/// The tensor's record in the manifest, without pieces at first.
TensorRecord& record_of(const StateEntry& entry, Manifest& manifest) {
  const auto dtype = element_type_of(entry.tensor.scalar_type());
  TRESTLE_ASSERT(dtype, "tensor {} has dtype {}, which checkpoints do not hold", entry.name,
                 at::toString(entry.tensor.scalar_type()));
  return manifest.tensors.try_emplace(entry.name, TensorRecord{entry.shape, *dtype, {}})
      .first->second;
}

/// Indices of the tree's entries, those first that change first.
std::vector<std::size_t> order_of_change(const StateTree& tree) {
  std::vector<std::size_t> order(tree.tensors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, {}, [&](std::size_t i) { return tree.tensors[i].stage; });
  return order;
}

}  // namespace

std::string shard_name(const ShardOwner& owner) {
  return fmt::format("shard-{:05}-of-{:05}.h5", owner.rank, owner.world);
}

std::uint64_t ShardPlan::end_of(Stage stage) const {
  const auto found = stages.find(stage);
  return found == stages.end() ? 0 : found->second;
}

ShardPlan ShardPlanner::plan(const StateTree& tree, const ShardOwner& owner) {
  ShardPlan plan;
  Manifest& manifest = plan.manifest;
  manifest.world = owner.world;
  manifest.values = tree.values;

  std::vector<formats::H5Dataset> datasets;
  std::vector<std::size_t> entry_of_dataset;
  const std::vector<ElementRange> ranges = ranges_to_write(tree, owner.holder);
  for (const std::size_t i : order_of_change(tree)) {
    const StateEntry& entry = tree.tensors[i];
    const auto [begin, end] = ranges[i];
    const TensorRecord& record = record_of(entry, manifest);
    const bool empty = record.elements() == 0;  // has no bytes, but somebody has to list it
    if (empty ? owner.holder.rank != 0 : begin == end) continue;
    const bool whole = end - begin == record.elements();
    datasets.push_back(whole ? formats::H5Dataset{entry.name, record.dtype, record.shape}
                             : formats::H5Dataset{fmt::format("{}[{}:{}]", entry.name, begin, end),
                                                  record.dtype,
                                                  {static_cast<std::int64_t>(end - begin)}});
    entry_of_dataset.push_back(i);
  }
  if (layout_.file_bytes == 0 || datasets != datasets_) {
    layout_ = formats::lay_out_h5(datasets);
    datasets_ = datasets;
  }
  plan.layout = layout_;

  for (std::size_t d = 0; d < datasets.size(); ++d) {
    const std::size_t i = entry_of_dataset[d];
    const StateEntry& entry = tree.tensors[i];
    const ElementRange& range = ranges[i];
    const std::uint64_t bytes = datasets[d].bytes();
    const std::uint64_t offset = plan.layout.offsets[d];
    manifest.tensors.at(entry.name)
        .pieces.push_back({.file = 0,
                           .dataset = datasets[d].name,
                           .offset = offset,
                           .bytes = bytes,
                           .begin = range.begin,
                           .end = range.end});
    if (bytes == 0) continue;
    const auto element_bytes = static_cast<std::uint64_t>(entry.tensor.element_size());
    plan.segments.push_back({.source = Segment::Source::tensor,
                             .offset = offset,
                             .bytes = bytes,
                             .index = i,
                             .at_byte = (range.begin - entry.begin) * element_bytes});
    std::uint64_t& end = plan.stages[entry.stage];
    end = std::max(end, offset + bytes);
  }
  for (std::size_t part = 0; part < plan.layout.parts.size(); ++part) {
    plan.segments.push_back({.source = Segment::Source::hdf5,
                             .offset = plan.layout.parts[part].offset,
                             .bytes = plan.layout.parts[part].bytes.size(),
                             .index = part});
  }
  std::ranges::sort(plan.segments, {}, &Segment::offset);
  std::uint64_t at = 0;
  for (const Segment& segment : plan.segments) {
    TRESTLE_ASSERT(segment.offset == at, "the layout of {} has a gap at byte {}", shard_name(owner),
                   at);
    at += segment.bytes;
  }
  TRESTLE_ASSERT(at == plan.file_bytes(), "the layout of {} ends at byte {} of {}",
                 shard_name(owner), at, plan.file_bytes());
  return plan;
}

}  // namespace trestle::checkpoint
