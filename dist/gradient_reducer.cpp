#include "dist/gradient_reducer.h"

#include "base/torch/finite.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <sstream>
#include <utility>

namespace trestle::dist {
namespace {

/// Tells that a leaf's gradient has arrived in .grad.
class ArrivalHook : public torch::autograd::FunctionPostHook {
 public:
  explicit ArrivalHook(std::function<void()> arrived) : arrived_(std::move(arrived)) {}
  torch::autograd::variable_list operator()(const torch::autograd::variable_list& outputs,
                                            const torch::autograd::variable_list&) override {
    arrived_();
    return outputs;
  }

 private:
  std::function<void()> arrived_;
};

/// Flat buffers of one dtype that are lent again and again, the smallest that is large enough.
class BufferPool {
 public:
  explicit BufferPool(at::ScalarType dtype) : dtype_(dtype) {}

  at::Tensor lend(std::int64_t numel) {
    auto best = free_.end();
    for (auto it = free_.begin(); it != free_.end(); ++it) {
      if (it->numel() >= numel && (best == free_.end() || it->numel() < best->numel())) best = it;
    }
    if (best == free_.end()) return at::empty({numel}, dtype_);
    at::Tensor buffer = std::move(*best);
    free_.erase(best);
    return buffer;
  }
  /// All of it, though the borrower may have kept only a slice.
  void take_back(const at::Tensor& lent) {
    free_.push_back(at::empty({0}, lent.options()).set_(lent.storage()));
  }

 private:
  at::ScalarType dtype_;
  std::vector<at::Tensor> free_;
};

}  // namespace

class GradientReducer::Impl {
 public:
  Impl(const std::vector<ReducedGroup>& groups, Collectives& collectives,
       const ReducerOptions& options, std::vector<Part>& parts)
      : options_(options), collectives_(collectives), parts_(parts) {
    for (const auto& [flat, whole] : groups) {
      Group& group = groups_.emplace_back(*flat, whole || options_.shard == ShardMode::none);
      const BucketPlan& plan = flat->plan();
      group.leaves.resize(flat->leaves().size());
      group.buckets.resize(plan.buckets().size());
      const bool shards_only = pooled() && !group.whole;
      group.sums = at::zeros({plan.numel() / (shards_only ? ranks() : 1)}, flat->sum_dtype());
    }
    for (std::size_t g = 0; g < groups_.size(); ++g) add_hooks(g);
    active_.assign(groups_.size(), true);
    order_parts();
  }

  ~Impl() {
    for (Group& group : groups_) {
      for (Leaf& leaf : group.leaves) leaf.accumulator->del_post_hook(leaf.hook);
    }
  }

  void begin_step(const StepPlan& plan) {
    TRESTLE_ASSERT(plan.active.empty() || plan.active.size() == groups_.size(), "{} of {} groups",
                   plan.active.size(), groups_.size());
    const std::vector<bool> active =
        plan.active.empty() ? std::vector<bool>(groups_.size(), true) : plan.active;
    if (active != active_) {
      active_ = active;
      order_parts();
      counts_known_ = false;
    }
    in_step_ = true;
    micro_steps_ = plan.micro_steps;
    micro_ = 0;
    first_fill_ = true;
    not_finite.clear();
    late_.clear();
    begin_micro();
    for (Group& group : groups_) {
      for (Leaf& leaf : group.leaves) leaf.most_arrivals = 0;
    }
  }

  void begin_backward() {
    TRESTLE_ASSERT(in_step_ && micro_ < micro_steps_, "backward {} of {} micro steps", micro_,
                   micro_steps_);
    listening_ = true;
    for (Group& group : groups_) {
      for (Leaf& leaf : group.leaves) leaf.arrivals = 0;
    }
  }

  void end_backward() {
    listening_ = false;
    for (Group& group : groups_) {
      for (Leaf& leaf : group.leaves)
        leaf.most_arrivals = std::max(leaf.most_arrivals, leaf.arrivals);
    }
    if (reduces_in(micro_)) start_rest();
    next_micro();
  }

  void begin_counting() {
    begin_backward();
    counting_ = true;
  }

  void end_counting() {
    listening_ = counting_ = false;
    for (Group& group : groups_) {
      for (Leaf& leaf : group.leaves) leaf.most_arrivals = leaf.arrivals;
    }
    learn_counts();
  }

  void finish() {
    listening_ = false;
    for (; micro_ < micro_steps_; next_micro()) {
      if (reduces_in(micro_)) start_rest();
    }
    for (const Part& part : parts_) retire(part);
    if (options_.wire == WireDtype::bf16) gather_sums();
    in_step_ = false;
    if (!counts_known_) learn_counts();
  }

  bool must_count() const { return pooled() && !counts_known_; }
  bool has_late() const { return !late_.empty(); }

  std::vector<std::string> add_late() {
    std::string mine;
    for (const auto& [leaf, gradient] : late_)
      mine += fmt::format("{} {}\n", leaf.first, leaf.second);
    std::set<std::pair<std::size_t, std::size_t>> all;
    for (const std::string& theirs : collectives_.communicator().all_gather_bytes(mine)) {
      std::istringstream in(theirs);
      for (std::size_t g = 0, i = 0; in >> g >> i;) all.insert({g, i});
    }
    std::vector<std::string> names;
    for (const auto& [g, i] : all) {
      const FlatGroup& flat = groups_[g].flat;
      const Placement& place = flat.plan().placements()[i];
      const auto mine_of = late_.find({g, i});
      at::Tensor sum =
          mine_of != late_.end() ? mine_of->second : at::zeros({place.numel}, flat.sum_dtype());
      collectives_.all_reduce(sum, ReduceOp::sum, "late gradient").wait();
      add_to_sums({g, place.bucket}, place, sum);
      names.push_back(flat.leaves()[i].name);
    }
    late_.clear();
    counts_known_ = false;
    return names;
  }

  at::Tensor whole(const Part& part) const {
    const Bucket& bucket = bucket_of(part);
    if (groups_[part.group].whole)
      return groups_[part.group].sums.slice(0, bucket.begin, bucket.end);
    return own(part);
  }

  at::Tensor own(const Part& part) const {
    const Group& group = groups_[part.group];
    const Bucket& bucket = bucket_of(part);
    if (pooled() && !group.whole) {
      const std::int64_t begin = bucket.begin / ranks();
      return group.sums.slice(0, begin, begin + bucket.size() / ranks());
    }
    const ElementSpan shard = group.flat.plan().shard(bucket, rank());
    return group.sums.slice(0, shard.begin, shard.end);
  }

  const std::string* leaf_in_use() const {
    for (const Group& group : groups_) {
      for (std::size_t i = 0; i < group.leaves.size(); ++i) {
        if (group.leaves[i].accumulator.use_count() > 1) return &group.flat.leaves()[i].name;
      }
    }
    return nullptr;
  }

  std::string not_finite;
  std::vector<std::string> unused;

 private:
  struct Leaf {
    std::shared_ptr<torch::autograd::Node> accumulator;  // autograd itself holds it weakly
    std::uintptr_t hook = 0;
    int expected = 1;       ///< arrivals in one backward
    int arrivals = 0;       ///< in this backward
    int most_arrivals = 0;  ///< in any backward of this step
    bool filled = false;    ///< its place in the buffer holds something of this sum
  };
  struct InFlight {
    at::Tensor buffer;  ///< of the bucket's gradients; lent in mode gradients
    at::Tensor wire;    ///< lent, where they travel in another dtype
    std::size_t leaves_done = 0;
    bool started = false, retired = false;
    bool rounded = false;  ///< reduced from a wire of another dtype
    Work work;
  };
  struct Group {
    Group(FlatGroup& f, bool w) : flat(f), whole(w) {}
    FlatGroup& flat;
    bool whole;  ///< all sums on every rank
    std::vector<Leaf> leaves;
    std::vector<InFlight> buckets;
    at::Tensor sums;  ///< flat; in mode gradients only the shards, unless whole
  };

  /// Gradients are gathered up in lent buffers, and each micro batch is reduced.
  bool pooled() const { return options_.shard == ShardMode::gradients; }
  int ranks() const { return collectives_.communicator().size(); }
  int rank() const { return collectives_.communicator().rank(); }
  const Bucket& bucket_of(const Part& part) const {
    return groups_[part.group].flat.plan().buckets()[part.bucket];
  }
  /// Micro batches are added up first, unless nobody may hold all gradients.
  bool reduces_in(std::int64_t micro) const { return pooled() || micro + 1 == micro_steps_; }

  void add_hooks(std::size_t g) {
    Group& group = groups_[g];
    for (std::size_t i = 0; i < group.leaves.size(); ++i) {
      at::Tensor leaf = group.flat.leaves()[i].tensor;
      const bool required = leaf.requires_grad();
      leaf.requires_grad_(true);  // a leaf at rest has no accumulator otherwise
      group.leaves[i].accumulator = torch::autograd::impl::grad_accumulator(leaf);
      leaf.requires_grad_(required);
      group.leaves[i].hook = group.leaves[i].accumulator->add_post_hook(
          std::make_unique<ArrivalHook>([this, g, i] { arrived(g, i); }));
    }
  }

  /// Groups run side by side through the depth of the model: buckets at the same part of their
  /// group's way stand together.
  void order_parts() {
    parts_.clear();
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      if (!active_[g]) continue;
      for (std::size_t b = 0; b < groups_[g].buckets.size(); ++b) parts_.push_back({g, b});
    }
    std::ranges::stable_sort(parts_, {}, [&](const Part& part) {
      return groups_[part.group].flat.plan().way_to(bucket_of(part));
    });
  }

  void begin_micro() {
    next_part_ = 0;
    for (Group& group : groups_) {
      for (InFlight& bucket : group.buckets) {
        bucket.started = bucket.retired = false;
        bucket.leaves_done = 0;
      }
      if (first_fill_ || pooled()) {
        for (Leaf& leaf : group.leaves) leaf.filled = false;
      }
      for (Leaf& leaf : group.leaves) leaf.arrivals = 0;
    }
    first_fill_ = false;
  }

  void next_micro() {
    if (pooled()) {
      for (const Part& part : parts_) retire(part);
    }
    if (++micro_ < micro_steps_) begin_micro();
  }

  /// The hook.
  void arrived(std::size_t g, std::size_t i) {
    const std::lock_guard lock(mutex_);
    if (!listening_) return;  // somebody else's backward: the gradient stays in .grad
    Group& group = groups_[g];
    Leaf& leaf = group.leaves[i];
    at::Tensor& grad = group.flat.leaves()[i].tensor.mutable_grad();
    const at::Tensor gradient = std::exchange(grad, at::Tensor());
    ++leaf.arrivals;
    if (counting_ || !active_[g]) return;

    const Placement& place = group.flat.plan().placements()[i];
    InFlight& bucket = group.buckets[place.bucket];
    if (bucket.started) {  // its use changed since the counts were learned
      at::Tensor& late = late_[{g, i}];
      late = late.defined() ? late + gradient.flatten()
                            : gradient.flatten().to(group.flat.sum_dtype()).clone();
      return;
    }
    at::Tensor slice = place_of(g, i);
    if (leaf.filled)
      slice.add_(gradient.flatten());
    else
      slice.copy_(gradient.flatten());
    leaf.filled = true;
    if (leaf.arrivals == leaf.expected) ++bucket.leaves_done;
    if (counts_known_ && reduces_in(micro_)) start_ready();
  }

  /// Where the gradients of a bucket are gathered up.
  at::Tensor& buffer_of(const Part& part) {
    InFlight& flight = groups_[part.group].buckets[part.bucket];
    if (flight.buffer.defined()) return flight.buffer;
    const Group& group = groups_[part.group];
    const Bucket& bucket = bucket_of(part);
    if (pooled()) {
      while (lent_.size() >= kPoolDepth && groups_[lent_[0].group].buckets[lent_[0].bucket].started)
        retire(lent_.front());
      flight.buffer = pool_of(group).lend(bucket.size()).slice(0, 0, bucket.size());
      lent_.push_back(part);
    } else {
      flight.buffer = group.sums.slice(0, bucket.begin, bucket.end);
    }
    return flight.buffer;
  }

  at::Tensor place_of(std::size_t g, std::size_t i) {
    const BucketPlan& plan = groups_[g].flat.plan();
    const Placement& place = plan.placements()[i];
    const std::int64_t begin = place.offset - plan.buckets()[place.bucket].begin;
    return buffer_of({g, place.bucket}).slice(0, begin, begin + place.numel);
  }

  bool ready(const Part& part) const {
    const Bucket& bucket = bucket_of(part);
    const InFlight& flight = groups_[part.group].buckets[part.bucket];
    return flight.leaves_done + unused_in(part) == bucket.parameters.size();
  }

  std::size_t unused_in(const Part& part) const {
    const Group& group = groups_[part.group];
    return std::ranges::count_if(bucket_of(part).parameters,
                                 [&](std::size_t i) { return group.leaves[i].expected == 0; });
  }

  void start_ready() {
    while (next_part_ < parts_.size() && ready(parts_[next_part_])) start(parts_[next_part_++]);
  }
  void start_rest() {
    while (next_part_ < parts_.size()) start(parts_[next_part_++]);
  }

  void start(const Part& part) {
    Group& group = groups_[part.group];
    InFlight& flight = group.buckets[part.bucket];
    at::Tensor& buffer = buffer_of(part);
    zero_the_rest(part, buffer);
    flight.started = true;
    if (ranks() == 1) return;
    note_not_finite(part, buffer);

    const std::string name = fmt::format("{} bucket {}", group.flat.name(), part.bucket);
    at::Tensor own = own_of(buffer);
    flight.rounded = rounds(group);
    if (flight.rounded) {
      flight.wire = wire_pool_.lend(buffer.numel());
      at::Tensor wire = flight.wire.slice(0, 0, buffer.numel());
      wire.copy_(buffer);
      flight.work = collectives_.reduce_scatter(wire, own, ReduceOp::sum, name);
    } else if (group.whole) {
      flight.work = collectives_.all_reduce(buffer, ReduceOp::sum, name);
    } else {
      flight.work = collectives_.reduce_scatter(buffer, own, ReduceOp::sum, name);
    }
  }

  bool rounds(const Group& group) const {
    return options_.wire == WireDtype::bf16 && group.flat.sum_dtype() == at::kFloat;
  }

  at::Tensor own_of(const at::Tensor& buffer) const {
    const std::int64_t length = buffer.numel() / ranks();
    return buffer.slice(0, rank() * length, (rank() + 1) * length);
  }

  /// What no gradient reached, and, in a lent buffer, what lies between the parameters.
  void zero_the_rest(const Part& part, at::Tensor& buffer) {
    const Group& group = groups_[part.group];
    const Bucket& bucket = bucket_of(part);
    std::int64_t end = 0;
    const auto zero = [&](std::int64_t from, std::int64_t to) {
      if (from < to) buffer.slice(0, from, to).zero_();
    };
    for (const std::size_t i : bucket.parameters) {
      const Placement& place = group.flat.plan().placements()[i];
      const std::int64_t begin = place.offset - bucket.begin;
      zero(end, begin);
      end = begin + place.numel;
      if (!group.leaves[i].filled) zero(begin, end);
    }
    zero(end, bucket.size());
  }

  void note_not_finite(const Part& part, const at::Tensor& buffer) {
    if (!not_finite.empty() || all_finite(buffer)) return;
    for (const std::size_t i : bucket_of(part).parameters) {
      if (all_finite(place_of(part.group, i))) continue;
      not_finite = groups_[part.group].flat.leaves()[i].name;
      return;
    }
  }

  /// Waits for a bucket's reduction and takes its sum where it belongs. Once a reduction.
  void retire(const Part part) {
    Group& group = groups_[part.group];
    InFlight& flight = group.buckets[part.bucket];
    if (!flight.started || flight.retired) return;
    flight.work.wait();
    flight.retired = true;
    if (flight.wire.defined()) wire_pool_.take_back(flight.wire);
    flight.wire.reset();
    if (pooled()) {
      // With a rounded wire only the own slice is a sum yet; gather_sums() brings the others.
      const bool summed = group.whole && !flight.rounded;
      at::Tensor sum = summed ? whole(part) : own(part);
      const at::Tensor arrived = summed ? flight.buffer : own_of(flight.buffer);
      if (micro_ == 0)
        sum.copy_(arrived);
      else
        sum.add_(arrived);
      pool_of(group).take_back(flight.buffer);
      std::erase_if(
          lent_, [&](const Part& p) { return p.group == part.group && p.bucket == part.bucket; });
    }
    flight.buffer.reset();
  }

  /// Adds a whole parameter's sum to what this rank holds of it.
  void add_to_sums(const Part& part, const Placement& place, const at::Tensor& sum) {
    const Group& group = groups_[part.group];
    const Bucket& bucket = bucket_of(part);
    const ElementSpan held = group.whole ? ElementSpan{bucket.begin, bucket.end}
                                         : group.flat.plan().shard(bucket, rank());
    const ElementSpan here = overlap(place, held);
    if (here.size() == 0) return;
    whole(part)
        .slice(0, here.begin - held.begin, here.end - held.begin)
        .add_(sum.slice(0, here.begin - place.offset, here.end - place.offset));
  }

  void gather_sums() {
    std::vector<Work> works;
    for (const Part& part : parts_) {
      const Group& group = groups_[part.group];
      if (!group.whole || !rounds(group) || ranks() == 1) continue;
      at::Tensor all = whole(part);
      works.push_back(collectives_.all_gather(own(part), all, "gradient sums"));
    }
    for (Work& work : works) work.wait();
  }

  /// COLLECTIVE. What this step saw, the largest number of any rank.
  void learn_counts() {
    std::vector<std::int64_t> most;
    for (const Part& part : parts_) {
      for (const std::size_t i : bucket_of(part).parameters)
        most.push_back(groups_[part.group].leaves[i].most_arrivals);
    }
    collectives_.communicator().all_reduce(std::span(most), ReduceOp::max);
    unused.clear();
    std::size_t at = 0;
    for (const Part& part : parts_) {
      Group& group = groups_[part.group];
      for (const std::size_t i : bucket_of(part).parameters) {
        if (most[at] == 0) unused.push_back(group.flat.leaves()[i].name);
        group.leaves[i].expected = static_cast<int>(most[at++]);
      }
    }
    counts_known_ = true;
  }

  BufferPool& pool_of(const Group& group) {
    return group.flat.sum_dtype() == at::kDouble ? double_pool_ : pool_;
  }

  ReducerOptions options_;
  Collectives& collectives_;
  std::deque<Group> groups_;
  std::vector<Part>& parts_;
  std::vector<bool> active_;

  std::mutex mutex_;  // hooks come from backward's threads
  bool in_step_ = false, listening_ = false, counting_ = false, counts_known_ = false;
  bool first_fill_ = true;
  std::int64_t micro_ = 0, micro_steps_ = 0;
  std::size_t next_part_ = 0;
  std::map<std::pair<std::size_t, std::size_t>, at::Tensor> late_;  // by group and leaf

  BufferPool pool_{at::kFloat}, double_pool_{at::kDouble}, wire_pool_{at::kBFloat16};
  std::vector<Part> lent_;
};

GradientReducer::GradientReducer(const std::vector<ReducedGroup>& groups, Collectives& collectives,
                                 const ReducerOptions& options)
    : impl_(std::make_unique<Impl>(groups, collectives, options, parts_)) {}
GradientReducer::~GradientReducer() = default;

void GradientReducer::begin_step(const StepPlan& plan) { impl_->begin_step(plan); }
void GradientReducer::begin_backward() { impl_->begin_backward(); }
void GradientReducer::end_backward() { impl_->end_backward(); }
bool GradientReducer::must_count() const { return impl_->must_count(); }
void GradientReducer::begin_counting() { impl_->begin_counting(); }
void GradientReducer::end_counting() { impl_->end_counting(); }
void GradientReducer::finish() { impl_->finish(); }
bool GradientReducer::has_late() const { return impl_->has_late(); }
std::vector<std::string> GradientReducer::add_late() { return impl_->add_late(); }
at::Tensor GradientReducer::gradients(const Part& part) const { return impl_->whole(part); }
at::Tensor GradientReducer::own_gradients(const Part& part) const { return impl_->own(part); }
const std::string& GradientReducer::not_finite() const { return impl_->not_finite; }
const std::vector<std::string>& GradientReducer::unused() const { return impl_->unused; }
const std::string* GradientReducer::leaf_in_use() const { return impl_->leaf_in_use(); }

}  // namespace trestle::dist
