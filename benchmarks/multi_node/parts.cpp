#include "benchmarks/multi_node/parts.h"

#include "base/exact_sum.h"
#include "benchmarks/rounds.h"
#include "trainers/optim/gradient_norm.h"

#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <array>

namespace trestle::benchmarks {
namespace {

std::vector<dist::NamedLeaf> leaves_of(BridgeOnPairs& task) {
  const std::vector<trainers::ParameterGroup> groups = task.groups();
  std::vector<dist::NamedLeaf> leaves;
  for (const auto& [name, tensor] : groups.front().parameters) leaves.push_back({name, tensor});
  return leaves;
}

}  // namespace

Parts::Parts(const nlohmann::json& workload, const trainers::EngineOptions& options,
             dist::Collectives& collectives, std::int64_t batch)
    : collectives_(collectives),
      batch_(batch),
      whole_(options.reducer.shard == dist::ShardMode::none),
      task_(workload),
      flat_("alone", leaves_of(task_),
            {.ranks = world().size(), .element_bytes = 4, .bucket_bytes = options.bucket_bytes}),
      alone_(dist::make_collectives(dist::Communicator::self())),
      reducer_({{.flat = &flat_}}, *alone_, options.reducer),
      sums_(at::zeros({flat_.plan().numel()})),
      wire_(options.reducer.wire == dist::WireDtype::bf16 ? sums_.to(at::kBFloat16) : sums_),
      parameters_(at::zeros({flat_.plan().numel()})),
      adamw_(options.of_group(task_.groups().front().name).adamw) {
  make_shards();
}

void Parts::make_shards() {
  for (const dist::Bucket& bucket : flat_.plan().buckets()) {
    const std::int64_t numel = whole_ ? bucket.size() : bucket.size() / world().size();
    const auto plane = [&](double scale) { return at::randn({numel}).mul_(scale); };
    shards_.push_back({.master = plane(1),
                       .gradient = plane(1e-3),
                       .state = {plane(1e-3), plane(1e-3).square_()},
                       .averages = {{.values = plane(1), .decay = 0.999}},
                       .parameter = {}});
  }
}

double Parts::timed_ms(std::int64_t repetitions, const Part& part) const {
  world().barrier();
  const Stopwatch watch;
  for (std::int64_t i = 0; i < repetitions; ++i) part();
  double ms = 1e3 * watch.wall_s() / double(repetitions);
  world().all_reduce(std::span(&ms, 1), dist::ReduceOp::max);
  return ms;
}

nlohmann::json Parts::measure(std::int64_t repetitions) {
  std::array<double, 2> compute_ms{};
  world().barrier();
  for (std::int64_t i = 0; i < repetitions; ++i) {
    const Stopwatch watch;
    forward();
    const double forward_ms = 1e3 * watch.wall_s();
    backward();
    compute_ms[0] += forward_ms / double(repetitions);
    compute_ms[1] += (1e3 * watch.wall_s() - forward_ms) / double(repetitions);
  }
  world().all_reduce(std::span(compute_ms), dist::ReduceOp::max);
  return {{"forward_ms", compute_ms[0]},
          {"backward_ms", compute_ms[1]},
          {"optimizer_ms", timed_ms(repetitions, [&] { optimizer_step(); })},
          {"reduce_scatter_ms", timed_ms(repetitions, [&] { reduce_scatter(); })},
          {"all_gather_ms", whole_ ? 0 : timed_ms(repetitions, [&] { all_gather(parameters_); })}};
}

void Parts::forward() {
  const Draws draws(4);
  const trainers::KindCounts kinds = {{"all", batch_}};
  const data::BatchPlan plan(batch_, batch_, 0, 1);
  const trainers::StepContext context{.step = {step_}, .draws = draws};
  const data::Batch batch = task_.batch(plan.micro_batch({step_++}, 0));
  loss_ = trainers::local_loss(task_, task_.objectives().front(), context, kinds, batch,
                               task_.groups().front().parameters);
}

void Parts::backward() {
  reducer_.begin_step({});
  reducer_.begin_backward();
  torch::autograd::backward({std::exchange(loss_.graph, {})}, {});
  reducer_.end_backward();
  reducer_.finish();
}

void Parts::reduce_scatter() {
  std::vector<dist::Work> works;
  for (const dist::Bucket& bucket : flat_.plan().buckets()) {
    const dist::ElementSpan shard = flat_.plan().shard(bucket, world().rank());
    at::Tensor own = sums_.slice(0, shard.begin, shard.end);
    works.push_back(collectives_.reduce_scatter(wire_.slice(0, bucket.begin, bucket.end), own,
                                                dist::ReduceOp::sum));
  }
  for (dist::Work& work : works) work.wait();
  if (whole_) all_gather(sums_);
}

void Parts::all_gather(at::Tensor& flat) {
  std::vector<dist::Work> works;
  for (const dist::Bucket& bucket : flat_.plan().buckets()) {
    const dist::ElementSpan shard = flat_.plan().shard(bucket, world().rank());
    at::Tensor all = flat.slice(0, bucket.begin, bucket.end);
    works.push_back(collectives_.all_gather(flat.slice(0, shard.begin, shard.end), all));
  }
  for (dist::Work& work : works) work.wait();
}

void Parts::optimizer_step() {
  ExactSum squares;
  for (const trainers::Shard& shard : shards_) trainers::add_squares(shard.gradient, squares);
  const trainers::StepScalars scalars{.learning_rate = 1e-4,
                                      .gradient_scale = 0.5,
                                      .count = step_ + 1,
                                      .zero_gradient = false,
                                      .sums = {}};
  for (const trainers::Shard& shard : shards_) adamw_.step(shard, scalars);
}

}  // namespace trestle::benchmarks
