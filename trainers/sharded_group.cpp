#include "trainers/sharded_group.h"

#include "base/error.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace trestle::trainers {

ShardedGroup::ShardedGroup(std::unique_ptr<dist::FlatGroup> flat,
                           std::unique_ptr<const Optimizer> optimizer,
                           dist::Collectives& collectives, const ShardedGroupOptions& options)
    : flat_(std::move(flat)),
      optimizer_(std::move(optimizer)),
      collectives_(collectives),
      mode_(collectives.communicator().size() == 1 ? dist::ShardMode::none : options.shard) {
  const std::size_t buckets = flat_->plan().buckets().size();
  if (!masters_are_values()) {
    masters_ = make_plane();
    for (std::size_t b = 0; b < buckets; ++b) {
      const dist::ElementSpan span = held(b);
      piece(masters_, b).copy_(flat_->values().slice(0, span.begin, span.end));
    }
  }
  for (std::size_t i = 0; i < optimizer_->state_names().size(); ++i)
    planes_.push_back(make_plane());
  for (std::size_t k = 0; k < options.averages; ++k) {
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

at::Tensor ShardedGroup::average(std::size_t bucket) const {
  return averages_.empty() ? at::Tensor() : piece(averages_[0], bucket);
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
  optimizer_->step(shard, scalars);
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

void ShardedGroup::start_gather(std::size_t bucket) {
  if (mode_ == dist::ShardMode::none) return;
  const dist::ElementSpan span = held(bucket);
  at::Tensor all = flat_->values(flat_->plan().buckets()[bucket]);
  gathers_.push_back(collectives_.all_gather(flat_->values().slice(0, span.begin, span.end), all,
                                             fmt::format("{} bucket {}", flat_->name(), bucket)));
}

void ShardedGroup::join_gathers() {
  for (dist::Work& gather : gathers_) gather.wait();
  gathers_.clear();
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

void ShardedGroup::plane_state(checkpoint::Scope& scope, std::string_view suffix,
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
    if (mode_ == dist::ShardMode::none) {
      local = local.view(leaf.tensor.sizes());
      scope.tensor(name, local);
    } else {
      scope.piece(name, local, leaf.tensor.sizes().vec(),
                  here.size() > 0 ? static_cast<std::uint64_t>(here.begin - place.offset) : 0);
    }
  }
}

void ShardedGroup::state(checkpoint::Scope& root) {
  join_gathers();
  checkpoint::Scope model = root.child("model"), optim = root.child("optim"),
                    ema = root.child("ema");
  plane_state(model, "", [&](std::size_t b) { return master(b); });
  for (std::size_t i = 0; i < planes_.size(); ++i) {
    plane_state(optim, fmt::format("/{}", optimizer_->state_names()[i]),
                [&](std::size_t b) { return piece(planes_[i], b); });
  }
  for (std::size_t k = 0; k < averages_.size(); ++k) {
    checkpoint::Scope scope = k == 0 ? ema : ema.child(std::to_string(k));
    plane_state(scope, "", [&](std::size_t b) { return piece(averages_[k], b); });
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

void ShardedGroup::show_average(std::size_t k) {
  if (averages_.empty()) return;
  TRESTLE_ASSERT(k < averages_.size() && aside_.empty(), "average {} of {}", k, averages_.size());
  wait();
  for (std::size_t b = 0; b < flat_->plan().buckets().size(); ++b) {
    aside_.push_back(masters_are_values() ? master(b).clone() : at::Tensor());
    const dist::ElementSpan span = held(b);
    flat_->values().slice(0, span.begin, span.end).copy_(piece(averages_[k], b));
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
