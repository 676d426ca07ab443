#include "trainers/plan.h"

#include "base/error.h"
#include "checkpoint/plan.h"
#include "checkpoint/staging.h"
#include "data/loader.h"
#include "data/sampler.h"
#include "dist/bucket_plan.h"
#include "dist/flat_group.h"
#include "trainers/engine.h"
#include "trainers/options.h"
#include "trainers/summation.h"

#include <algorithm>
#include <deque>
#include <map>
#include <numeric>
#include <set>

namespace trestle::trainers {
namespace {

std::int64_t bytes_of(at::ScalarType dtype) { return std::int64_t(c10::elementSize(dtype)); }

/// What the engine makes of a group's parameters of one dtype: a ShardedGroup, and a group of its
/// objective's reducer.
struct FlatPlan {
  std::string group;
  at::ScalarType dtype, sum_dtype;
  std::vector<std::int64_t> numels;
  dist::BucketPlan buckets;
  bool is_sharded;            ///< masters, optimizer's planes and averages
  bool gets_whole_sums;       ///< of gradients
  std::int64_t state_planes;  ///< of its optimizer
  std::int64_t averages;

  std::int64_t value_bytes() const { return bytes_of(dtype); }
  std::int64_t sum_bytes() const { return bytes_of(sum_dtype); }
  std::int64_t held_elements(int world) const { return buckets.numel() / (is_sharded ? world : 1); }
  /// Tensors of a checkpoint for each parameter.
  std::int64_t planes() const { return 1 + state_planes + averages; }
};

std::vector<FlatPlan> flat_plans(const std::vector<ParameterGroup>& groups,
                                 const EngineOptions& options, int world) {
  std::vector<FlatPlan> plans;
  for (const ParameterGroup& group : groups) {
    const auto optimizer = options.make_optimizer(options.of_group(group.name));
    std::map<at::ScalarType, std::vector<std::int64_t>> by_dtype;
    for (const NamedParameter& parameter : group.parameters)
      by_dtype[parameter.tensor.scalar_type()].push_back(parameter.tensor.numel());
    for (auto& [dtype, numels] : by_dtype) {
      const auto sum_dtype = dist::sum_dtype_of(dtype);
      const bool whole = group.project || options.reducer.shard == dist::ShardMode::none;
      dist::BucketPlan buckets(numels, {.ranks = world,
                                        .element_bytes = bytes_of(sum_dtype),
                                        .bucket_bytes = options.bucket_bytes});
      plans.push_back({.group = group.name,
                       .dtype = dtype,
                       .sum_dtype = sum_dtype,
                       .numels = std::move(numels),
                       .buckets = std::move(buckets),
                       .is_sharded = !whole && world > 1,
                       .gets_whole_sums = whole,
                       .state_planes = std::ssize(optimizer->state_names()),
                       .averages = std::ssize(options.averages_of(group))});
    }
  }
  return plans;
}

/// A bucket of one of an objective's flat buffers.
struct Part {
  const FlatPlan* flat;
  const dist::Bucket* bucket;
};

/// In the order in which the objective's reducer takes them.
std::vector<Part> parts_of(const Objective& objective, const std::vector<FlatPlan>& flats) {
  std::vector<Part> parts;
  for (const FlatPlan& flat : flats) {
    if (std::ranges::count(objective.groups, flat.group) == 0) continue;
    for (const dist::Bucket& bucket : flat.buckets.buckets()) parts.push_back({&flat, &bucket});
  }
  std::ranges::stable_sort(
      parts, {}, [](const Part& part) { return part.flat->buckets.way_to(*part.bucket); });
  return parts;
}

bool rounds(const FlatPlan& flat, const EngineOptions& options, int world) {
  return options.reducer.wire == dist::WireDtype::bf16 && flat.sum_dtype == at::kFloat && world > 1;
}

/// The reducer's pools: the smallest buffer that is large enough is lent again.
class Pool {
 public:
  std::int64_t lend(std::int64_t bytes) {
    const auto best = free_.lower_bound(bytes);
    if (best == free_.end()) {
      total_bytes_ += bytes;
      return bytes;
    }
    const std::int64_t size = *best;
    free_.erase(best);
    return size;
  }
  void take_back(std::int64_t bytes) { free_.insert(bytes); }
  std::int64_t total_bytes() const { return total_bytes_; }

 private:
  std::multiset<std::int64_t> free_;
  std::int64_t total_bytes_ = 0;
};

/// What the reducer of an objective holds besides the sums, once it has seen two micro steps.
std::int64_t bytes_on_their_way(const std::vector<Part>& parts, const EngineOptions& options,
                                int world) {
  const bool pooled = options.reducer.shard == dist::ShardMode::gradients;
  Pool floats, doubles, wires;
  struct Lent {
    Pool* pool;
    std::int64_t buffer, wire;
  };
  std::deque<Lent> lent;
  const auto retire = [&] {
    if (lent.front().pool != nullptr) lent.front().pool->take_back(lent.front().buffer);
    if (lent.front().wire > 0) wires.take_back(lent.front().wire);
    lent.pop_front();
  };
  for (int micro_step = 0; micro_step < 2; ++micro_step) {
    for (const auto& [flat, bucket] : parts) {
      if (pooled && lent.size() >= dist::kPoolDepth) retire();
      Lent& mine = lent.emplace_back(Lent{.pool = nullptr, .buffer = 0, .wire = 0});
      if (pooled) {
        mine.pool = flat->sum_dtype == at::kDouble ? &doubles : &floats;
        mine.buffer = mine.pool->lend(bucket->size() * flat->sum_bytes());
      }
      if (rounds(*flat, options, world))
        mine.wire = wires.lend(bucket->size() * bytes_of(at::kBFloat16));
    }
    while (!lent.empty()) retire();
  }
  return floats.total_bytes() + doubles.total_bytes() + wires.total_bytes();
}

std::vector<Transfer> transfers_of(const std::vector<Part>& parts, const EngineOptions& options,
                                   int world, std::int64_t reductions, std::size_t objective) {
  using When = Transfer::When;
  std::vector<Transfer> reduced, gathered;
  if (world == 1) return {};
  std::int64_t elements = 0, behind = 0;
  for (const auto& [flat, bucket] : parts) elements += bucket->size();
  for (const auto& [flat, bucket] : parts) {
    Transfer transfer{.objective = objective,
                      .begin = double(behind) / double(elements),
                      .end = double(behind + bucket->size()) / double(elements)};
    behind += bucket->size();
    const auto add = [&](std::vector<Transfer>& to, When when, std::string_view operation,
                         std::int64_t bytes, std::int64_t times) {
      transfer.when = when;
      transfer.operation = operation;
      transfer.bytes = bytes;
      transfer.times = times;
      to.push_back(transfer);
    };
    const std::int64_t sums = bucket->size() * flat->sum_bytes();
    if (rounds(*flat, options, world)) {
      const std::int64_t wire = bucket->size() * bytes_of(at::kBFloat16);
      add(reduced, When::reduction, "reduce_scatter", wire, reductions);
      if (flat->gets_whole_sums) add(reduced, When::reduction, "all_gather", sums, 1);
    } else {
      const auto operation = flat->gets_whole_sums ? "all_reduce" : "reduce_scatter";
      add(reduced, When::reduction, operation, sums, reductions);
    }
    if (flat->is_sharded)
      add(gathered, When::gather, "all_gather", bucket->size() * flat->value_bytes(), 1);
  }
  reduced.insert(reduced.end(), gathered.rbegin(), gathered.rend());
  return reduced;
}

/// By rank, as checkpoint/shard_plan.cpp divides it.
std::vector<std::int64_t> checkpoint_bytes(const std::vector<FlatPlan>& flats, int world) {
  std::vector<std::int64_t> bytes(static_cast<std::size_t>(world), 0);
  std::vector<checkpoint::TensorSize> replicated;
  for (const FlatPlan& flat : flats) {
    for (std::int64_t plane = 0; plane < flat.planes(); ++plane) {
      for (std::size_t i = 0; i < flat.numels.size(); ++i) {
        if (!flat.is_sharded) {
          replicated.push_back({std::uint64_t(flat.numels[i]), std::uint64_t(flat.sum_bytes())});
          continue;
        }
        const dist::Placement& place = flat.buckets.placements()[i];
        const dist::Bucket& bucket = flat.buckets.buckets()[place.bucket];
        for (int rank = 0; rank < world; ++rank) {
          bytes[std::size_t(rank)] +=
              overlap(place, flat.buckets.shard(bucket, rank)).size() * flat.sum_bytes();
        }
      }
    }
  }
  for (int rank = 0; rank < world; ++rank) {
    const auto shares = checkpoint::share_of(replicated, rank, world);
    for (std::size_t i = 0; i < shares.size(); ++i) {
      bytes[std::size_t(rank)] +=
          std::int64_t((shares[i].end - shares[i].begin) * replicated[i].element_bytes);
    }
  }
  return bytes;
}

void add_state(const FlatPlan& flat, const EngineOptions& options, int world, MemoryPlan& memory) {
  const bool shards_only =
      options.reducer.shard == dist::ShardMode::gradients && !flat.gets_whole_sums;
  const std::int64_t held_bytes = flat.held_elements(world) * flat.sum_bytes();
  memory.parameters += flat.buckets.numel() * flat.value_bytes();
  if (flat.dtype != flat.sum_dtype) memory.masters += held_bytes;
  memory.gradients += flat.buckets.numel() / (shards_only ? world : 1) * flat.sum_bytes();
  memory.optimizer += flat.state_planes * held_bytes;
  memory.ema += flat.averages * held_bytes;
}

/// Bytes of tensors that ranks pass to each other in a step, of which each takes a way through all
/// of them: gathered once, or scattered once.
std::int64_t passed_bytes(const Plan& plan, Transfer::When when) {
  std::int64_t sum = 0;
  for (const Transfer& transfer : plan.transfers) {
    const std::int64_t halves = transfer.operation == "all_reduce" ? 2 : 1;
    if (transfer.when == when) sum += transfer.times * halves * transfer.bytes;
  }
  return sum;
}

}  // namespace

std::vector<std::string> hosts_of_ranks(int ranks, int hosts) {
  std::vector<std::string> names;
  for (int rank = 0; rank < ranks; ++rank)
    names.push_back(fmt::format("host-{}", std::int64_t{rank} * hosts / ranks));
  return names;
}

std::int64_t Plan::sent_bytes(Transfer::When when) const {
  const std::int64_t n = world(), local = two_level ? ranks.ranks_per_host() : n;
  // Tensors are padded to multiples of n elements.
  const std::int64_t slice = passed_bytes(*this, when) / n;
  return two_level ? slice * ((local - 1) * ranks.hosts() + ranks.hosts() - 1) : slice * (n - 1);
}

std::int64_t Plan::sent_between_hosts_bytes(Transfer::When when) const {
  const std::int64_t n = world(), slice = passed_bytes(*this, when) / n;
  if (two_level) return slice * ranks.ranks_per_host() * (ranks.hosts() - 1);
  std::vector<std::int64_t> of_host(static_cast<std::size_t>(ranks.hosts()));
  for (int rank = 0; rank < n; ++rank) ++of_host[static_cast<std::size_t>(ranks.host_of(rank))];
  std::int64_t most = 0;
  for (const std::int64_t local : of_host) most = std::max(most, slice * local * (n - local));
  return most;
}

std::int64_t Plan::checkpoint_total_bytes() const {
  return std::accumulate(checkpoint_bytes.begin(), checkpoint_bytes.end(), std::int64_t{0});
}

Plan make_plan(const configs::Recipe& recipe, Task& task, const std::vector<std::string>& hosts) {
  const auto branches = static_cast<std::size_t>(task.branches());
  const Summation summation(recipe.section<DistOptions>("dist").two_level, hosts, task.branches());
  const auto of_branch = hosts.begin() + static_cast<std::ptrdiff_t>(hosts.size() / branches);
  const auto train = recipe.section<TrainOptions>("train");
  const EngineOptions options = EngineOptions::of(recipe, task);
  const std::vector<ParameterGroup> groups = task.groups();
  Plan plan;
  plan.ranks = dist::Topology({hosts.begin(), of_branch});
  plan.two_level = summation.two_level().has_value();
  const int world = plan.world();
  const data::BatchPlan batches(train.global_batch, train.micro_batch, 0, world);
  plan.micro_steps = batches.micro_steps();
  plan.samples = (train.global_batch + world - 1) / world;
  plan.reduces_every_micro_step = options.reducer.shard == dist::ShardMode::gradients;
  for (const ParameterGroup& group : groups) {
    for (const NamedParameter& parameter : group.parameters) {
      ++plan.tensors;
      plan.parameters += parameter.tensor.numel();
    }
  }
  const std::vector<FlatPlan> flats = flat_plans(groups, options, world);
  for (const FlatPlan& flat : flats) {
    plan.held_elements += flat.held_elements(world);
    add_state(flat, options, world, plan.memory);
  }
  for (const FrozenPart& part : task.frozen()) {
    for (const NamedParameter& parameter : part.parameters)
      plan.memory.frozen += std::int64_t(parameter.tensor.nbytes());
  }
  const auto objectives = task.objectives();
  plan.objectives = objectives.size();
  for (std::size_t i = 0; i < objectives.size(); ++i) {
    const std::vector<Part> parts = parts_of(objectives[i], flats);
    plan.memory.buckets += bytes_on_their_way(parts, options, world);
    const auto made = transfers_of(parts, options, world,
                                   plan.reduces_every_micro_step ? plan.micro_steps : 1, i);
    plan.transfers.insert(plan.transfers.end(), made.begin(), made.end());
  }
  plan.checkpoint_bytes = checkpoint_bytes(flats, world);
  const auto most = std::uint64_t(std::ranges::max(plan.checkpoint_bytes));
  plan.staging_bytes = std::int64_t(checkpoint::staging_bytes(
      std::uint64_t(recipe.section<CheckpointOptions>("checkpoint").staging_bytes), most));
  plan.updates_wait_for_disk = std::uint64_t(plan.staging_bytes) < most;

  plan.activation = trace_activations(task, std::min(train.micro_batch, plan.samples));
  plan.memory.activations = plan.activation.peak_bytes;
  // Objectives that share a step go over its micro batches one after the other.
  const std::int64_t kept = objectives.size() > 1 ? plan.micro_steps : 0;
  plan.memory.data =
      plan.activation.dataset_bytes +
      plan.activation.batch_bytes * (recipe.section<data::LoaderOptions>("data").prefetch + kept);
  return plan;
}

}  // namespace trestle::trainers
