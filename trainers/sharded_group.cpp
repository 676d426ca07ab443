#include "trainers/sharded_group.h"

#include "base/error.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

namespace trestle::trainers {

ShardedGroup::ShardedGroup(std::unique_ptr<dist::FlatGroup> flat, const Optimizer& optimizer,
                           dist::Collectives& collectives, const ShardedGroupOptions& options)
    : flat_(std::move(flat)),
      optimizer_(optimizer),
      collectives_(collectives),
      mode_(collectives.communicator().size() == 1 ? dist::ShardMode::none : options.shard),
      average_names_(options.averages),
      stages_(flat_->plan().buckets().size(), checkpoint::kUnstaged) {
  const std::size_t buckets = stages_.size();
  if (!masters_are_values()) {
    masters_ = make_plane();
    for (std::size_t b = 0; b < buckets; ++b) {
      const dist::ElementSpan span = held(b);
      piece(masters_, b).copy_(flat_->values().slice(0, span.begin, span.end));
    }
  }
  for (std::size_t i = 0; i < optimizer_.state_names().size(); ++i) planes_.push_back(make_plane());
  for (std::size_t k = 0; k < average_names_.size(); ++k) {
    averages_.push_back(make_plane());
    for (std::size_t b = 0; b < buckets; ++b) piece(averages_[k], b).copy_(master(b));
  }
}

dist::ElementSpan ShardedGroup::held(std::size_t bucket) const {
  const dist::Bucket& whole = flat_->plan().buckets()[bucket];
  if (mode_ == dist::ShardMode::none) return {whole.begin, whole.end};
  return flat_->plan().shard(whole, collectives_.communicator().rank());
}

ShardedGroup::Plane ShardedGroup::make_plane() const {
  const int parts = mode_ == dist::ShardMode::none ? 1 : collectives_.communicator().size();
  return at::zeros({flat_->plan().numel() / parts},
                   flat_->values().options().dtype(flat_->sum_dtype()));
}

at::Tensor ShardedGroup::piece(const Plane& plane, std::size_t bucket) const {
  const int parts = mode_ == dist::ShardMode::none ? 1 : collectives_.communicator().size();
  const dist::Bucket& whole = flat_->plan().buckets()[bucket];
  return plane.slice(0, whole.begin / parts, whole.end / parts);
}

at::Tensor ShardedGroup::master(std::size_t bucket) const {
  if (!masters_are_values()) return piece(masters_, bucket);
  const dist::ElementSpan span = held(bucket);
  return flat_->values().slice(0, span.begin, span.end);
}

std::vector<at::Tensor> ShardedGroup::averages(std::size_t bucket) const {
  std::vector<at::Tensor> pieces;
  for (const Plane& plane : averages_) pieces.push_back(piece(plane, bucket));
  return pieces;
}

void ShardedGroup::step(std::size_t bucket, const at::Tensor& gradient, const StepScalars& scalars,
                        std::span<const double> decays, const Project& project) {
  Shard shard{
      .master = master(bucket), .gradient = gradient, .state = {}, .averages = {}, .parameter = {}};
  for (const Plane& plane : planes_) shard.state.push_back(piece(plane, bucket));
  if (!project) {
    for (std::size_t k = 0; k < averages_.size(); ++k)
      shard.averages.push_back({.values = piece(averages_[k], bucket), .decay = decays[k]});
  }
  const dist::ElementSpan span = held(bucket);
  if (!masters_are_values()) shard.parameter = flat_->values().slice(0, span.begin, span.end);
  optimizer_.step(shard, scalars);
  if (!project) return;

  for (const std::size_t i : flat_->plan().buckets()[bucket].parameters) {
    const dist::Placement& place = flat_->plan().placements()[i];
    const std::int64_t begin = place.offset - span.begin;
    at::Tensor whole =
        shard.master.slice(0, begin, begin + place.numel).view(flat_->leaves()[i].tensor.sizes());
    project(flat_->leaves()[i].name, whole);
  }
  if (shard.parameter.defined()) shard.parameter.copy_(shard.master);
  for (std::size_t k = 0; k < averages_.size(); ++k)
    piece(averages_[k], bucket).lerp_(shard.master, 1.0 - decays[k]);
}

Shard ShardedGroup::own_shard(std::size_t bucket, const at::Tensor& gradient) const {
  const dist::ElementSpan here = held(bucket);
  const dist::ElementSpan own =
      flat_->plan().shard(flat_->plan().buckets()[bucket], collectives_.communicator().rank());
  const auto mine = [&](const at::Tensor& plane) {
    return plane.slice(0, own.begin - here.begin, own.end - here.begin);
  };
  Shard shard{.master = mine(master(bucket)),
              .gradient = gradient,
              .state = {},
              .averages = {},
              .parameter = {}};
  for (const Plane& plane : planes_) shard.state.push_back(mine(piece(plane, bucket)));
  return shard;
}

void ShardedGroup::start_gather(std::size_t bucket) {
  if (mode_ == dist::ShardMode::none) return;
  const dist::ElementSpan span = held(bucket);
  at::Tensor all = flat_->values(flat_->plan().buckets()[bucket]);
  gathers_.insert_or_assign(
      bucket, collectives_.all_gather(flat_->values().slice(0, span.begin, span.end), all,
                                      fmt::format("{} bucket {}", flat_->name(), bucket)));
}

void ShardedGroup::join_gathers() {
  for (auto gathers = std::exchange(gathers_, {}); auto& [bucket, gather] : gathers) gather.wait();
}

void ShardedGroup::wait_for(const dist::ElementSpan& elements) {
  TRESTLE_ASSERT(!stale_, "group {} is waited for in parts while it is stale", flat_->name());
  const auto& buckets = flat_->plan().buckets();
  const auto first = std::ranges::partition_point(
      buckets, [&](const dist::Bucket& bucket) { return bucket.end <= elements.begin; });
  for (auto bucket = first; bucket != buckets.end() && bucket->begin < elements.end; ++bucket) {
    auto gather = gathers_.extract(static_cast<std::size_t>(bucket - buckets.begin()));
    if (gather) gather.mapped().wait();
  }
}

void ShardedGroup::wait() {
  join_gathers();
  if (stale_) publish();
}

void ShardedGroup::gather_all() {
  for (std::size_t b = 0; b < flat_->plan().buckets().size(); ++b) start_gather(b);
  join_gathers();
  stale_ = false;
}

void ShardedGroup::plane_state(const checkpoint::Scope& scope, std::string_view suffix,
                               const std::function<at::Tensor(std::size_t)>& piece_of) {
  for (std::size_t i = 0; i < flat_->leaves().size(); ++i) {
    const dist::NamedLeaf& leaf = flat_->leaves()[i];
    const dist::Placement& place = flat_->plan().placements()[i];
    const dist::ElementSpan span = held(place.bucket);
    // Of a tensor that other ranks hold this one names no elements, and still its name and shape.
    const dist::ElementSpan here = overlap(place, span);
    at::Tensor local =
        piece_of(place.bucket).slice(0, here.begin - span.begin, here.end - span.begin);
    const std::string name = leaf.name + std::string(suffix);
    checkpoint::Scope staged = scope.at_stage(stages_[place.bucket]);
    if (mode_ == dist::ShardMode::none) {
      local = local.view(leaf.tensor.sizes());
      staged.tensor(name, local);
    } else {
      staged.piece(name, local, leaf.tensor.sizes().vec(),
                   here.size() > 0 ? static_cast<std::uint64_t>(here.begin - place.offset) : 0);
    }
  }
}

void ShardedGroup::state(checkpoint::Scope& root) {
  join_gathers();
  const checkpoint::Scope model = root.child("model"), optim = root.child("optim");
  plane_state(model, "", [&](std::size_t b) { return master(b); });
  for (std::size_t i = 0; i < planes_.size(); ++i) {
    plane_state(optim, fmt::format("/{}", optimizer_.state_names()[i]),
                [&](std::size_t b) { return piece(planes_[i], b); });
  }
  for (std::size_t k = 0; k < averages_.size(); ++k) {
    plane_state(root.child(average_names_[k]), "",
                [&](std::size_t b) { return piece(averages_[k], b); });
  }
}

void ShardedGroup::publish() {
  for (std::size_t b = 0; b < flat_->plan().buckets().size(); ++b) {
    if (masters_are_values()) break;
    const dist::ElementSpan span = held(b);
    flat_->values().slice(0, span.begin, span.end).copy_(piece(masters_, b));
  }
  gather_all();
}

void ShardedGroup::show_average(std::string_view name) {
  wait();
  const auto named = std::ranges::find(average_names_, name);
  if (named == average_names_.end()) return;
  TRESTLE_ASSERT(aside_.empty(), "an average of group {} is shown already", flat_->name());
  const Plane& average = averages_[static_cast<std::size_t>(named - average_names_.begin())];
  for (std::size_t b = 0; b < flat_->plan().buckets().size(); ++b) {
    aside_.push_back(masters_are_values() ? master(b).clone() : at::Tensor());
    const dist::ElementSpan span = held(b);
    flat_->values().slice(0, span.begin, span.end).copy_(piece(average, b));
  }
  gather_all();
}

void ShardedGroup::show_masters() {
  if (aside_.empty()) return;
  for (std::size_t b = 0; b < aside_.size(); ++b) {
    if (aside_[b].defined()) master(b).copy_(aside_[b]);
  }
  aside_.clear();
  stale_ = true;
}

}  // namespace trestle::trainers
